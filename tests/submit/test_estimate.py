"""The time that a job asks for where nothing has been measured."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from hydragnn_hpc.campaign_file import load_campaign
from hydragnn_hpc.ledger import Member, State
from hydragnn_hpc.records.pace import PaceAnswer
from hydragnn_hpc.records.rungs import Rungs
from hydragnn_hpc.submit import estimate
from hydragnn_hpc.submit.costs import costs
from hydragnn_hpc.submit.plan import Work
from hydragnn_hpc.submit.site import load_site
from tests.member_records import a_result
from tests.submit import data_set
from tests.submit.paper import PAPER, submit, write_campaign


@pytest.mark.parametrize(
    ("engine", "edges", "samples_per_second"),
    [
        ("fused", 206, 16403), ("fused", 620, 13916), ("fused", 714, 15783), ("fused", 2752, 10089),
        ("fused varying", 711, 6300),
        ("torch", 206, 1566), ("torch", 620, 1067), ("torch", 714, 1108), ("torch", 2752, 455),
        ("library", 206, 438), ("library", 620, 185), ("library", 714, 191), ("library", 2752, 54),
    ],
)  # fmt: skip
def test_rates_are_those_of_the_benchmarks(engine: str, edges: int, samples_per_second: float) -> None:
    """The table of engines in tests/benchmarks/RESULTS-speed.md; the library engine is as fast as baseline A."""
    campaign = load_campaign(PAPER)
    contents = data_set.manifest(edges=edges)
    found = estimate.sample_seconds(campaign, contents, estimate.RATES[engine])
    assert 1 / found == pytest.approx(samples_per_second, rel=0.25)


@pytest.mark.parametrize(
    ("site", "settings", "engine"),
    [
        ("frontier", [], "torch"),
        ("frontier", ["launch.device=cpu"], "fused"),
        ("local", [], "fused"),
        ("local", ["training.engine=torch"], "torch"),
        ("local", ["model.edges={number: 8}"], "fused"),
        ("local", ["model.convolution=GIN"], "library"),
    ],
)
def test_the_engine_is_the_one_that_will_train(site: str, settings: list[str], engine: str) -> None:
    assert estimate.engine_of(load_campaign(PAPER, settings), load_site(site)) == engine


@pytest.mark.parametrize(
    ("settings", "sizes", "engine"),
    [
        (["launch.stack=3"], {}, "fused"),
        pytest.param(["model.edges={number: 8}"], {"geometries": 5}, "fused", marks=pytest.mark.long),
        (["model.convolution=GIN"], {"edges": 200}, "library"),
    ],
)
def test_this_host_is_tried_with_the_engine_itself(settings: list[str], sizes: dict[str, int], engine: str) -> None:
    contents, campaign = data_set.manifest(**sizes), load_campaign(PAPER, settings)
    found = estimate.estimate(campaign, contents, load_site("local"))
    assert f"the {engine} engine and this host's speed in a short trial" in found.basis
    assert found.seconds > 0 and not found.for_core


def test_a_trial_that_fails_is_explained() -> None:
    found = estimate.estimate(load_campaign(PAPER), data_set.manifest(), load_site("local"), trial_seconds=0.01)
    assert "benchmarks' processor (this host's is not known: " in found.basis and "no answer" in found.basis


def test_start_and_evaluation_count() -> None:
    pace = PaceAnswer(engine="fused", start=7.0, training=1e-3, evaluation=1e-4)
    assert estimate.seconds_of(pace, (700, 150), 10, 2) == pytest.approx(7 + 20 * (0.7 + 0.015))


def test_an_estimate_says_where_a_core_stands_in_for_a_gpu() -> None:
    for settings, unknown in ([], True), (["launch.device=cpu"], False):
        found = estimate.estimate(load_campaign(PAPER, settings), data_set.manifest(), load_site("frontier"))
        assert found.for_core == unknown
        assert ("one CPU core: a GPU's is unknown" in Work(1, 1, None).estimated(found).basis) == unknown


def test_an_estimate_grows_with_data_network_and_stack() -> None:
    site, contents = load_site("frontier"), data_set.manifest()

    def seconds(*settings: str, **sizes: int) -> float:
        data = data_set.manifest(**sizes) if sizes else contents
        return estimate.estimate(load_campaign(PAPER, list(settings)), data, site).seconds

    base = seconds()
    assert seconds("training.epochs=400") == pytest.approx(2 * base)
    assert seconds("launch.stack=4") == pytest.approx(4 * base)
    assert seconds("launch.stack=40") == pytest.approx(12 * base)
    assert seconds(samples=279_100) == pytest.approx(10 * base, rel=1e-3)
    assert seconds(atoms=64, edges=1428) == pytest.approx(2 * base)
    assert seconds("model.layers=12") > 1.9 * base
    assert seconds("model.channels=200") > 10 * base
    assert seconds("model.node_head=[2000, 2000]") > 2 * base
    longer = seconds("variants=[H, HCM, {name: long, tasks: [H, C, M], training: {epochs: 400}}]")
    assert longer == pytest.approx(2 * base)


def dry_run(folder: Path, site: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Submit the paper's campaign in ``folder`` with ``--dry-run``, where there is no scheduler."""
    write_campaign(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "/nothing")
        return submit(folder, "--site", site, "--account", "abc", "--dry-run", *arguments)


@pytest.mark.parametrize(
    ("site", "samples", "time"),
    [
        ("slurm", 279, "--time=1:10:00"),
        ("slurm", 27_910, "--time=24:00:00"),  # the profile's limit: further jobs continue
        ("frontier", 279, "--time=0:20:00"),
        ("lsf", 279, "#BSUB -W 40\n"),
    ],
)
def test_a_job_asks_for_what_its_data_needs(tmp_path: Path, site: str, samples: int, time: str) -> None:
    data_set.write(tmp_path / "data.bp", data_set.manifest(samples))
    done = dry_run(tmp_path, site)
    assert done.returncode == 0, done.stderr
    assert time in done.stdout, done.stderr
    assert f"not measured, but estimated from {samples * 7 // 10:,} training samples of 32 atoms and 714" in done.stderr


def test_measured_seconds_take_precedence_over_an_estimate(tmp_path: Path) -> None:
    data_set.write(tmp_path / "data.bp")
    done = dry_run(tmp_path, "slurm", "--seconds", "60")
    assert "--time=1:00:00" in done.stdout
    assert "from --seconds" in done.stderr and "not measured" not in done.stderr


def test_without_the_data_set_a_dry_run_says_so(tmp_path: Path) -> None:
    done = dry_run(tmp_path, "slurm")
    assert done.returncode == 0
    assert "unknown without the data set" in done.stderr


def test_a_campaign_that_its_data_set_does_not_fit_is_not_submitted(tmp_path: Path) -> None:
    data_set.write(tmp_path / "data.bp")
    done = dry_run(tmp_path, "slurm", "--set", "training.batch_size=100000")
    assert done.returncode == 2
    assert "training.batch_size=100000 is larger" in done.stderr


def of_members(members: Mapping[tuple[str, int], float | None], epochs: int = 10, stack: int = 1) -> list[Member]:
    """Return members by variant and replica, each with the seconds that it took; None if it has no result."""
    found = []
    for (variant, replica), seconds in members.items():
        more = {"seconds": seconds, "epochs": epochs, "stack": tuple(range(stack))}
        result = None if seconds is None else a_result(variant=variant, replica=replica, **more)
        state = State.WAITING if result is None else State.FINISHED
        found.append(Member(variant, replica, state, result))
    return found


def test_costs_follow_from_finished_members_and_otherwise_from_a_core() -> None:
    campaign = load_campaign(PAPER, ["variants=[HCM, H]", "replicas=2", "training.epochs=100"])
    contents, nothing = data_set.manifest(), {(v, r): None for v in ("HCM", "H") for r in (0, 1)}
    (both, alone), basis = costs(campaign, contents, of_members(nothing))
    assert (both.variant, both.members, alone.variant, alone.members) == ("HCM", 2, "H", 2)
    own = campaign.of_variant(campaign.variant("HCM"))
    by_hand = 2 * 100 * estimate.epoch_seconds(own, contents, load_site("local")) / 3600
    assert both.hours == pytest.approx(by_hand) and "one core" in basis and "a GPU's is not known" in basis
    assert alone.hours is not None and alone.hours < by_hand
    # A stack of two took 30 s for ten epochs of both.
    (known, other), basis = costs(campaign, contents, of_members({**nothing, ("HCM", 0): 30.0}, stack=2))
    assert known.members == 1 and known.hours == pytest.approx(100 * 1.5 / 3600) and "finished members" in basis
    assert other.hours == pytest.approx(alone.hours * 2 * known.hours / by_hand)
    shared = load_campaign(PAPER, ["variants=[H]", "replicas=2", "training.epochs=100", "launch.slots_per_device=4"])
    (found,), _ = costs(shared, contents, of_members({("H", 0): None, ("H", 1): None}))
    assert found.hours == pytest.approx(alone.hours / 4)
    on_gpu = load_campaign(PAPER, ["variants=[HCM, H]", "replicas=2", "launch.device=cuda"])
    unknown, basis = costs(on_gpu, contents, of_members(nothing))
    assert [c.hours for c in unknown] == [None, None] and "until a member has finished" in basis
    assert costs(campaign, contents, of_members(dict.fromkeys(nothing, 1.0)))[0] == []


def test_costs_of_a_halving_are_those_of_its_rungs() -> None:
    over = "{of: [H], over: {model.channels: [4, 8, 12, 16, 20, 24]}, halving: {keep: 1/3, at: [10, 30]}}"
    campaign = load_campaign(PAPER, ["variants=[]", "replicas=2", "training.epochs=100", f"sweep={over}"])
    names, contents = [v.name for v in campaign.variants], data_set.manifest()
    seconds = {v.name: estimate.epoch_seconds(campaign.of_variant(v), contents, load_site("local"))
               for v in campaign.variants}  # fmt: skip

    def check(members: list[Member], rungs: Rungs, epochs: dict[str, int]) -> None:
        found, basis = costs(campaign, contents, members, rungs)
        by_hand = {n: 2 * e * seconds[n] / 3600 for n, e in epochs.items()}
        assert {c.variant: c.hours for c in found} == pytest.approx(by_hand)
        assert ("the most expensive points are assumed to go on" in basis) == (len(rungs.survivors.get("H", ())) < 2)

    def at(epoch: int, chosen: list[str], **more: str) -> list[Member]:
        members = of_members({(name, r): epoch * seconds[name] for name in chosen for r in (0, 1)}, epochs=epoch)
        return [replace(m, result=m.result and m.result.model_copy(update=more)) for m in members]

    waiting = of_members({(name, r): None for name in names for r in (0, 1)})
    check(waiting, Rungs(), dict(zip(names, (10, 10, 10, 10, 30, 100), strict=True)))
    check(at(10, names, stopped_by="epochs"), Rungs(), {names[4]: 20, names[5]: 90})  # not decided yet
    one = Rungs(survivors={"H": (tuple(names[4:]),)})
    check(at(10, names[:4]) + waiting[8:], one, {names[4]: 20, names[5]: 90})
    two = Rungs(survivors={"H": (*one.survivors["H"], (names[5],))})
    check(at(10, names[:4]) + at(30, names[4:5]) + waiting[10:], two, {names[5]: 70})
