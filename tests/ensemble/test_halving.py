"""Successive halving: the same survivors, bit for bit, on any ranks and however often it is interrupted."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.campaign_hash import config_hash
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset.store.manifest import read_manifest
from hydragnn_hpc.ensemble.growth import changes
from hydragnn_hpc.ensemble.rungs import advance
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.halving import best, ended, epoch_limits
from hydragnn_hpc.ledger import Frozen, freeze, read_frozen, read_rungs
from hydragnn_hpc.paths import CampaignFolder, write_record
from hydragnn_hpc.records.rungs import Rungs
from hydragnn_hpc.starts import resolved
from tests import campaigns
from tests.ensemble.test_runs import BIN, as_settings, run
from tests.member_records import ERRORS, a_result
from tests.outcomes import outcome
from tests.submit import data_set

RATES = [0.0001, 0.001, 0.01]
SWEEP: dict[str, Any] = {
    "of": ["H"],
    "over": {"model.channels": [4, 8], "training.optimizer.learning_rate": RATES},
    "halving": {"keep": "1/3", "at": [2, 4]},
}
TRAINING = {"epochs": 6, "batch_size": 16, "early_stopping": None}


def parsed(**changed: Any) -> Campaign:
    content = {**campaigns.SMALL, "variants": [], "training": TRAINING, "sweep": {**SWEEP, **changed.pop("sweep", {})}}
    return parse_campaign({**content, **changed}, "c.yaml")


def test_how_far_each_point_is_trained() -> None:
    campaign = parsed(sweep={"of": ["H", "M"]}, variants=["HM"])
    names = [p.name for p in campaign.sweep.points] if campaign.sweep else []
    first, second = names[:6], names[6:]
    assert set(epoch_limits(campaign, Rungs()).items()) == {("HM", 6), *((name, 2) for name in names)}
    rungs = Rungs(survivors={"H": ((first[1], first[4]), (first[4],)), "M": ((second[0], second[2]),)})
    reached = epoch_limits(campaign, rungs)
    assert [reached[name] for name in first] == [2, 4, 2, 2, 6, 2]
    assert [reached[name] for name in second] == [4, 2, 4, 2, 2, 2]
    assert ended(campaign, rungs) == {name: reached[name] for name in names if name not in (first[4], *second[0:3:2])}


def test_the_best_go_on_and_in_a_tie_the_first() -> None:
    scores = {"a": [0.25, 0.5], "b": [0.1], "c": [0.375], "d": [], "e": [0.375]}
    assert best(scores, Fraction(1, 3)) == ("a", "b")
    assert best(scores, Fraction(2, 5)) == ("a", "b") and best(scores, Fraction(3, 5)) == ("a", "b", "c")
    assert best({"d": []}, Fraction(1, 2)) == ()


def test_members_do_not_start_from_a_point_that_the_sweep_ended(tmp_path: Path) -> None:
    """It will never be finished, even if its campaign is run again."""
    campaign, folder = parsed(), CampaignFolder(tmp_path)
    first, second, *_ = [p.name for p in campaign.sweep.points] if campaign.sweep else []
    freeze(folder, Frozen(campaign, "", ""))
    write_record(folder.rungs, Rungs(survivors={"H": ((first,),)}))
    data_set.write(tmp_path / "data.bp")
    manifest = read_manifest(tmp_path / "data.bp")
    start = {"from": str(folder.root), "variant": second}
    with pytest.raises(UserError, match=f"its sweep ended '{second}' at epoch 2, unfinished; start from a point that"):
        resolved(parsed(sweep={"halving": None}, start=start), manifest)


def test_a_member_that_is_given_up_holds_up_no_rung(tmp_path: Path) -> None:
    campaign, folder = parsed(replicas=2), CampaignFolder(tmp_path)
    names = [p.name for p in campaign.sweep.points] if campaign.sweep else []

    def finished(name: str, replica: int, error: float) -> None:
        files = folder.member(name, replica)
        files.make()
        errors = ERRORS.model_copy(update={"rmse_validation": error})
        result = a_result(variant=name, replica=replica, tasks={"H": errors}, epochs=2, stopped_by="epochs")
        write_record(files.result, result)

    for place, name in enumerate(names[1:]):
        finished(name, 0, 1.0 + place)
        finished(name, 1, 1.0 + place)
    finished(names[0], 0, 1.5)
    assert advance(folder, campaign, ["H"]) == [], "a member may still come"
    assert advance(folder, campaign, [], {(names[0], 1)}) == [], "the rung of another variant"
    assert advance(folder, campaign, ["H"], {(names[0], 1)}) == ["H at epoch 2: 2 of 6 points go on"]
    assert read_rungs(folder).survivors == {"H": ((names[0], names[1]),)}


@pytest.mark.parametrize(
    ("halving", "more", "message"),
    [
        ({"keep": 2, "at": [1]}, {}, "keep=2.0: give a share between 0 and 1, such as 1/3"),
        ({"keep": "1/0", "at": [1]}, {}, "keep=1/0: give a share between 0 and 1, such as 1/3"),
        ({"keep": "1/3", "at": [3, 3]}, {}, "at=[3, 3]: give epochs in ascending order"),
        ({"keep": "1/3", "at": []}, {}, "at: List should have at least 1 item, not 0"),
        ({"keep": "1/3", "at": [2, 6]}, {}, "the last rung, 6, is not below the 6 epochs of 'H-channels4-"),
        ({"kep": "1/3", "at": [2]}, {}, "unknown key 'sweep.halving.kep'; did you mean 'keep'?"),
        ({"keep": "1/3", "at": [2]}, {"training": {**TRAINING, "schedule": "cosine"}}, "spans all epochs"),
    ],
)
def test_invalid_halving_is_refused_in_a_line(halving: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        parsed(sweep={"halving": halving}, **more)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_points_rungs_and_replicas_cannot_change() -> None:
    campaign = parsed()
    assert config_hash(campaign, "0") != config_hash(parsed(sweep={"halving": None}), "0")
    more = {"model.channels": [4, 8, 12], "training.optimizer.learning_rate": RATES}
    for other in (parsed(sweep={"over": more}), parsed(sweep={"halving": None}), parsed(replicas=3),
                  parsed(sweep={"halving": {"keep": 0.5, "at": [2, 4]}})):  # fmt: skip
        assert any("would have let other points go on" in line for line in changes(campaign, other).refused)
    assert not changes(campaign, parsed(training={**TRAINING, "epochs": 9})).refused
    assert not changes(campaign, parsed(variants=["M"])).refused


def options(halving: Any = SWEEP["halving"], epochs: int = 6) -> list[str]:
    settings = {"sweep": {**SWEEP, "halving": halving}, "training": {**TRAINING, "epochs": epochs}, "variants": []}
    return as_settings(f"{key}={json.dumps(value)}" for key, value in settings.items())


@pytest.fixture(scope="module")
def whole(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep, undisturbed, on one rank."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done = run(small / "campaign.yaml", out, *options(), ranks=0)
    assert done.returncode == 0, done.stderr
    assert "H at epoch 2: 2 of 6 points go on" in done.stderr and "H at epoch 4: 1 of 2 points go on" in done.stderr
    return out


@pytest.mark.mpi
@pytest.mark.slow
def test_the_survivors_are_the_best_at_a_rung(small: Path, tmp_path: Path, whole: Path) -> None:
    found = {name: entry for name, entry in outcome(whole).items() if name != "table1"}
    epochs = {name: entry[2] for name, entry in found.items()}
    assert sorted(epochs.values()) == [2] * 8 + [4] * 2 + [6] * 2
    rungs = json.loads((whole / "rungs.json").read_text())["survivors"]["H"]
    assert [len(names) for names in rungs] == [2, 1] and set(rungs[1]) < set(rungs[0])
    assert all(epochs[f"{name}/{r}"] == 6 for name in rungs[1] for r in (0, 1))
    # The same points, all trained to the first rung and no further.
    done = run(small / "campaign.yaml", tmp_path / "out", *options(halving=None, epochs=2), ranks=0)
    assert done.returncode == 0, done.stderr
    scores: dict[str, float] = {}
    for name, entry in outcome(tmp_path / "out").items():
        if name != "table1":
            scores[name[:-2]] = scores.get(name[:-2], 0.0) + entry[1]["H"]["rmse_validation"]
    assert set(rungs[0]) == set(sorted(scores, key=scores.__getitem__)[:2])


@pytest.mark.mpi
@pytest.mark.slow
def test_a_point_that_goes_on_is_as_if_it_had_been_trained_at_once(small: Path, tmp_path: Path, whole: Path) -> None:
    (name,) = json.loads((whole / "rungs.json").read_text())["survivors"]["H"][1]
    point = read_frozen(CampaignFolder(whole)).campaign.variant(name).model_dump(mode="json")
    alone = as_settings([f"variants=[{json.dumps(point)}]", f"training={json.dumps(TRAINING)}", "replicas=1"])
    done = run(small / "campaign.yaml", tmp_path / "out", *alone, ranks=0)
    assert done.returncode == 0, done.stderr
    assert outcome(tmp_path / "out")[f"{name}/0"] == outcome(whole)[f"{name}/0"]


@pytest.mark.mpi
@pytest.mark.slow
@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.long), 2, pytest.param(4, marks=pytest.mark.long)])
def test_killed_three_times_on_any_ranks(small: Path, tmp_path: Path, whole: Path, ranks: int) -> None:
    out, stack = tmp_path / "out", ["--set", f"launch.stack={1 + ranks % 2}"]
    command = [str(BIN / "mpirun"), "-n", str(ranks), str(BIN / "hydragnn-hpc"), "run", str(small / "campaign.yaml")]
    command += [str(out), *options(), *stack]

    def finished() -> int:
        events = out / "logs/events.jsonl"
        return events.read_text().count('"event": "finished"') if events.exists() else 0

    for enough in (5, 12, 15):  # within the first rung, of 12 members, at its end, and within the second
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as running:
            while finished() < enough and running.poll() is None:
                time.sleep(0.01)
            assert running.poll() is None, "it ended before it was killed"
            os.killpg(running.pid, signal.SIGKILL)
    assert subprocess.run(command, stderr=subprocess.DEVNULL, timeout=200).returncode == 0
    assert outcome(out) == outcome(whole)
    assert (out / "rungs.json").read_bytes() == (whole / "rungs.json").read_bytes()


@pytest.mark.mpi
@pytest.mark.slow
def test_the_report_ranks_survivors_and_says_where_others_ended(small: Path, whole: Path) -> None:
    with campaigns.without_figures(but="sweep"):
        campaigns.done(small, "report", str(whole))
    with (whole / "report/sweep.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["rank"], r["ended_at_epoch"]) for r in rows] == [("1", ""), ("", "4"), *[("", "2")] * 4]
    assert [rows[0]["variant"]] == json.loads((whole / "rungs.json").read_text())["survivors"]["H"][1]
    assert "ended at epoch" in (whole / "report/index.html").read_text()
