"""Sweeps and learning curves: their points, what is trained, and what the report makes of them."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.campaign_hash import config_hash
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset.staged.subset import nested
from hydragnn_hpc.ensemble.folder import read_plan
from hydragnn_hpc.ensemble.growth import Changes, changes
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.ledger import Frozen, Member, State, read_frozen, read_members
from hydragnn_hpc.paths import CampaignFolder, write_record
from hydragnn_hpc.records.rungs import Rungs
from hydragnn_hpc.report.analysis.spread import spreads
from hydragnn_hpc.report.analysis.sweep import PowerLaw, fit, power_laws, saved
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.rows import Snapshot
from hydragnn_hpc.report.tables import table1
from hydragnn_hpc.sweeps import Range
from tests import campaigns
from tests.member_records import ERRORS, a_result

RATES = {"minimum": 1e-4, "maximum": 1e-2, "log": True}


def parsed(**changes: Any) -> Campaign:
    return parse_campaign({**campaigns.SMALL, "variants": [], **changes}, "c.yaml")


def write_campaign(folder: Path, data_set: Path, **changes: Any) -> Path:
    """Write ``campaign.yaml`` in ``folder``: the small campaign on a data set, without variants but a sweep's."""
    path = folder / "campaign.yaml"
    path.write_text(campaigns.text(dataset=str(data_set), variants=[], **changes))
    return path


def test_a_grid_has_a_variant_for_each_combination() -> None:
    over = {"model.channels": [4, 8], "training.optimizer.learning_rate": [0.001, 0.003], "tasks.H.weight": [2.0]}
    found = parsed(sweep={"of": ["HM", "H"], "over": over})
    assert [v.name for v in found.variants][:2] == [
        "HM-channels4-weight2.0-learning_rate0.001", "HM-channels4-weight2.0-learning_rate0.003"
    ]  # fmt: skip
    assert len(found.variants) == 8 and found.variants[0].tasks == ("H", "M")
    by_hand = {"name": "by-hand", "tasks": ["H", "M"], "model": {"channels": 4}, "weights": {"H": 2.0},
               "training": {"optimizer": {"learning_rate": 0.001}}}  # fmt: skip
    (other,) = parsed(variants=[by_hand]).variants
    assert found.variants[0].model_copy(update={"name": "by-hand"}) == other
    assert found.seed_of(found.variants[0], 1) == parsed(variants=["HM"]).seed_of(
        parsed(variants=["HM"]).variants[0], 1
    )


def test_points_keep_the_settings_of_a_listed_variant() -> None:
    base = {"name": "wide", "tasks": ["H"], "model": {"channels": 40}}
    found = parsed(variants=[base], sweep={"of": "wide", "over": {"model.layers": [1, 3]}})
    assert [v.name for v in found.variants] == ["wide", "wide-layers1", "wide-layers3"]
    assert [v.model for v in found.variants] == [
        {"channels": 40},
        {"channels": 40, "layers": 1},
        {"channels": 40, "layers": 3},
    ]


@given(st.integers(1, 6), st.integers(0, 5), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_more_random_points_continue_the_same_list(n: int, more: int, seed: int) -> None:
    over = {"model.channels": {"minimum": 3, "maximum": 60}, "training.optimizer.learning_rate": RATES}
    few, many = (parsed(sweep={"of": "HM", "over": over, "sample": k, "seed": seed}).variants for k in (n, n + more))
    assert many[: len(few)] == few and len(many) == n + more
    for v in many:
        assert 3 <= v.model["channels"] <= 60 and 1e-4 <= v.training["optimizer"]["learning_rate"] <= 1e-2


def test_a_frozen_sweep_is_read_as_it_was_and_names_no_other_campaign() -> None:
    swept = parsed(sweep={"of": "HM", "over": {"tasks.H.loss": ["mae", {"name": "huber", "delta": 0.5}]}})
    again = parse_campaign(swept.model_dump(mode="json"), "campaign.yaml")
    assert again == swept
    listed = parse_campaign({**swept.model_dump(mode="json"), "sweep": None}, "c.yaml")
    assert config_hash(listed, "0") == config_hash(swept, "0")


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"of": "HM", "over": {"model.chanels": [1]}}, "unknown key 'chanels'; did you mean 'channels'"),
        ({"of": "HM", "over": {"modle.channels": [1]}}, "'modle.channels' cannot be varied; keys are those of model"),
        ({"of": "HM", "over": {"launch.stack": [1]}}, "'launch.stack' cannot be varied"),
        ({"of": "HM", "over": {"tasks.H.wieght": [1]}}, "did you mean 'weight'"),
        ({"of": "HM", "over": {"tasks.X.weight": [1]}}, "variant 'HM' does not train task 'X'"),
        ({"of": "HX", "over": {"model.channels": [1]}}, "unknown task 'HX'"),
        ({"of": "HM", "over": {}}, "sweep.over: give keys and their values"),
        ({"of": "HM", "over": {"model.channels": []}}, "model.channels: give a list of values"),
        ({"of": "HM", "over": {"model.channels": 8}}, "model.channels: give a list of values"),
        ({"of": "HM", "over": {"model.channels": [8, 8]}}, "'HM-channels8' is named twice"),
        ({"of": "HM", "over": {"model.channels": [0]}}, "channels: Input should be greater than or equal to 1"),
        ({"of": "HM", "over": {"model.channels": {"minimum": 5, "maximum": 3}}}, "minimum=5 is not below maximum=3"),
        ({"of": "HM", "over": {"model.channels": {"minimum": 5, "maximum": 9}}}, "set sample to the number of points"),
        ({"of": "HM", "over": {"model.channels": {"minimum": 0, "maximum": 9, "log": True}}, "sample": 2},
         "a logarithmic range begins above 0"),
        ({"of": "HM", "over": {"seed": list(range(1000))}}, "'seed' cannot be varied"),
        ({"of": "HM", "over": {"training.optimizer": [{"name": "SGD"}], "training.optimizer.learning_rate": [0.1]}},
         "'training.optimizer.learning_rate' is part of 'training.optimizer'; give one of them"),
        ({"of": "HM", "over": {"model.channels": {"minimum": 10, "maximum": 12}}, "sample": 9},
         "only 3 distinct points could be drawn; set sample to that"),
        ({"of": ["HM", "H"], "over": {"tasks.M.weight": [1, 2]}}, "variant 'H' does not train task 'M'"),
        ({"of": "HM", "over": {"model.channels": list(range(1, 1001)), "model.layers": list(range(1, 1001))}},
         "1,000,000 points are more than 20,000"),
    ],
)  # fmt: skip
def test_invalid_sweeps_are_refused_in_a_line(sweep: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        parsed(sweep=sweep)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("variant", "over", "message"),
    [
        ({"name": "H-channels4", "tasks": ["M"]}, {"model.channels": [4]}, "is also a point of the sweep"),
        ({"name": "H", "tasks": ["H"], "training": {"optimizer": "AdamW"}}, {"training.optimizer.learning_rate": [0.1]},
         "variant 'H' gives optimizer a single value"),
        (3, {"model.channels": [4]}, "variants"),
        ({"name": ["H"], "tasks": ["H"]}, {"model.channels": [4]}, "name"),
    ],
)  # fmt: skip
def test_variants_that_do_not_go_with_a_sweep_are_refused(variant: Any, over: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        parsed(variants=[variant], sweep={"of": "H", "over": over})
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_rate_beside_that_of_a_start_is_refused() -> None:
    start = {"from": "/a", "variant": "H", "learning_rate": 0.01}
    for over in ({"training.optimizer.learning_rate": [0.1]}, {"training.optimizer": [{"learning_rate": 0.1}]}):
        with pytest.raises(
            UserError, match=r"start\.learning_rate=0\.01 replaces its own training\.optimizer\.learning_rate"
        ):
            parsed(sweep={"of": "H", "over": over}, start=start)
    assert parsed(sweep={"of": "H", "over": {"training.optimizer": [{"name": "SGD"}]}}, start=start)


def test_points_share_no_settings() -> None:
    edges = [None, {"number": 8, "basis": "bessel"}]
    over = {"model.edges": edges, "model.channels": [4, 8], "training.optimizer.learning_rate": [0.1, 0.2]}
    found = parsed(sweep={"of": "H", "over": over})
    settings = [
        (v.model["edges"], v.model["channels"], v.training["optimizer"]["learning_rate"]) for v in found.variants
    ]
    assert settings == [(e, c, r) for e in edges for c in (4, 8) for r in (0.1, 0.2)]


def test_whole_numbers_of_a_range_are_equally_likely() -> None:
    rng, kind = np.random.default_rng(0), Range(minimum=1, maximum=3)
    drawn = np.bincount([int(kind.draw(rng)) for _ in range(6000)], minlength=4)
    assert drawn[0] == 0 and np.abs(drawn[1:] - 2000).max() < 200  # five standard deviations


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_subsets_are_nested_and_in_proportion(sizes: list[int], seed: int) -> None:
    numbers = np.concatenate([np.repeat([[26] * k + [78] * (9 - k)], n, axis=0).ravel() for k, n in enumerate(sizes)])
    offsets = np.arange(0, len(numbers) + 1, 9)
    part = np.flatnonzero(np.random.default_rng(seed).random(len(offsets) - 1) < 0.8)
    kind = np.repeat(np.arange(len(sizes)), sizes)[part]
    before: set[int] = set()
    for n in range(1, len(part) + 1):
        chosen = nested(part, n, numbers, offsets, seed)
        assert len(chosen) == n and (np.diff(chosen) > 0).all() and before <= set(chosen.tolist())
        before = set(chosen.tolist())
        counts = np.bincount(kind[np.isin(part, chosen)], minlength=len(sizes))
        share = np.bincount(kind, minlength=len(sizes)) * n / len(part)
        assert (np.abs(counts - share) < len(sizes)).all()
    if len(part):
        np.testing.assert_array_equal(chosen, part)
        assert nested(part, 1, numbers, offsets, seed) in part


def law_of(pairs: list[tuple[int, float]], of: str = "H") -> PowerLaw:
    """Return the law of task H that is fitted to pairs of training samples and errors."""
    return fit(pairs, "H", of, {}, alone=of != "HM")


def planted(rng: np.random.Generator, factor: float, of: str) -> PowerLaw:
    """Return the law fitted to errors that scatter by 10 % around a law with the exponent 0.4."""
    pairs = [(n, factor * n**-0.4) for n in (100, 400, 1600) for _ in range(4)]
    return law_of([(n, error * float(np.exp(0.1 * rng.standard_normal()))) for n, error in pairs], of)


def test_a_planted_power_law_and_what_it_saves_are_in_their_intervals() -> None:
    rng, inside, covered = np.random.default_rng(3), 0, 0
    for _ in range(300):
        alone, together = planted(rng, 0.7, "H"), planted(rng, 0.6, "HM")
        assert alone.interval is not None
        inside += alone.interval[0] <= 0.4 <= alone.interval[1]
        share = saved([alone, together], together)
        assert share is not None and share[1] is not None and share[1][0] < share[0] < share[1][1]
        covered += share[1][0] <= 1 - (0.6 / 0.7) ** (1 / 0.4) <= share[1][1]
    assert 270 <= inside <= 298 and 270 <= covered <= 298  # 95 % of 300 are 285, with a standard deviation of 3.8
    exact = law_of([(100, 0.1), (400, 0.05)])
    assert exact.exponent == pytest.approx(0.5) and exact.interval is None
    assert law_of([(250, 0.03), (500, 0.02999), (1000, 0.02998)]).samples(0.015) is None  # flat


def test_the_share_of_data_that_learning_together_saves() -> None:
    alone = law_of([(100, 0.1), (400, 0.05)])
    together = law_of([(100, 0.05), (400, 0.025)], "HM")
    assert together.error(400) == pytest.approx(0.025)
    assert saved([alone, together], together) == (pytest.approx(0.75), None)  # alone, 0.025 takes 1,600
    assert saved([alone, together], alone) is None
    assert saved([together], together) is None
    assert saved([law_of([(100, 0.1), (400, 0.05)], "energy"), together], together) == (pytest.approx(0.75), None)


def test_an_almost_flat_curve_has_a_share_without_an_interval_or_none() -> None:
    alone = law_of([(10, 1.0), (100, 1.01), (1000, 0.9999)])
    assert 0 < alone.exponent < 1e-4
    near, above, below = (law_of([(n, error) for n in (10, 100, 1000)], "HM") for error in (1.0033, 1.2, 0.9))
    assert near.interval is not None and all(map(math.isfinite, near.interval)), "all errors are alike"
    share = saved([alone, near], near)
    assert share is not None and -20 < share[0] < -10 and share[1] is None
    assert saved([alone, above], above) is saved([alone, below], below) is None


def snapshot_of(campaign: Campaign, folder: Path, replicas: int, survivors: tuple[str, ...] = ()) -> Snapshot:
    """Return a campaign of task H, the first ``replicas`` of which have finished."""
    own = CampaignFolder(folder)
    write_record(own.rungs, Rungs(survivors={"H": (survivors,)} if survivors else {}))
    members = []
    for variant in campaign.variants:
        samples = campaign.of_variant(variant).training.trained_on(160)
        for replica in range(replicas):
            errors = ERRORS.model_copy(update={"rmse": (1 + 0.1 * replica) / samples})
            result = a_result(variant=variant.name, replica=replica, tasks={"H": errors}, train_samples=samples)
            members.append(Member(variant.name, replica, State.FINISHED, result))
    return Snapshot(own, Frozen(campaign, "c", "d"), members)


def test_points_that_halving_ended_are_left_out(tmp_path: Path) -> None:
    over = {"training.samples": [20, 40, 80], "training.resample": ["none", "bootstrap"]}
    campaign = parsed(sweep={"of": "H", "over": over, "halving": {"keep": "2/3", "at": [1]}})
    names = [point.name for point in campaign.sweep.points] if campaign.sweep else []
    snapshot = snapshot_of(campaign, tmp_path, 2, tuple(names[2:]))
    assert {tuple(law.sizes) for law in power_laws(snapshot)} == {(40, 80)}
    assert [s.variant for s in spreads(snapshot)] == [names[3], names[5]]
    assert [row.variant for row in rows.table1_rows(snapshot)] == names[2:]
    for table in (table1.paper_form(snapshot), table1.by_task(snapshot)):
        assert len(table.cells) == 4
        assert "Left out: points ended by halving, 2 at epoch 1; see the sweep's points." in table.notes
    whole = snapshot_of(campaign, tmp_path, 2)
    assert {tuple(law.sizes) for law in power_laws(whole)} == {(20, 40, 80)}
    assert len(table1.paper_form(whole).cells) == 6 and not any("halving" in n for n in table1.paper_form(whole).notes)


@pytest.mark.parametrize(
    ("replicas", "finished", "why"),
    [(2, 2, "set replicas=4 or more, or add a variant with"), (4, 2, "too few members of H have finished"), (4, 4, "")],
)
def test_why_a_spread_is_not_separated(tmp_path: Path, replicas: int, finished: int, why: str) -> None:
    campaign = parsed(variants=["H"], replicas=replicas, training={"resample": {"folds": 2}})
    (found,) = spreads(snapshot_of(campaign, tmp_path, finished))
    assert found.why_not.startswith(why) and bool(why) == bool(found.why_not)


@pytest.mark.slow
@pytest.mark.mpi
def test_a_campaign_over_sizes_of_the_training_set(tmp_path: Path) -> None:
    sweep = {"of": ["HM", "H"], "over": {"training.samples": [40, 80, "all"]}}
    campaigns.make(tmp_path, variants=["HM"], sweep=sweep, replicas=2)
    campaigns.done(tmp_path, "run", "campaign.yaml", "out")
    folder = CampaignFolder(tmp_path / "out")
    campaign = read_frozen(folder).campaign
    members = read_members(folder, campaign)
    found = {m.name: m.result for m in members}
    assert len(found) == 14 and all(found.values())
    sizes = {name: result.train_samples for name, result in found.items() if result}
    assert [sizes[f"HM-samples{n}/00"] for n in (40, 80)] == [40, 80]
    assert sizes["HM/00"] == sizes["H-samplesall/01"] > 80
    for k in (0, 1):  # all samples are those of a variant without a choice
        assert found[f"HM-samplesall/0{k}"].weights_sha256 == found[f"HM/0{k}"].weights_sha256
    hashes = {r.weights_sha256 for r in found.values() if r}
    assert len(hashes) == 12

    with campaigns.without_figures(but="sweep"):
        campaigns.done(tmp_path, "report", "out")
    with (tmp_path / "out/report/sweep.csv").open(newline="") as stream:
        points = list(csv.DictReader(stream))
    for of in ("HM", "H"):
        own = [p for p in points if p["of"] == of]
        errors = [float(p["rmse_validation"]) for p in own]
        assert errors == sorted(errors) and [p["rank"] for p in own] == ["1", "2", "3"]
        for p in own:
            tasks = [found[f"{p['variant']}/0{k}"].tasks for k in (0, 1)]
            by_hand = np.mean([[t.rmse_validation for t in task.values()] for task in tasks])
            assert float(p["rmse_validation"]) == pytest.approx(by_hand, rel=1e-12)
    with (tmp_path / "out/report/training_samples.csv").open(newline="") as stream:
        laws = {(r["task"], r["of"]): r for r in csv.DictReader(stream)}
    assert (
        set(laws) == {("H", "HM"), ("M", "HM"), ("H", "H")} and laws["H", "HM"]["saved"] and not laws["H", "H"]["saved"]
    )
    page = (tmp_path / "out/report/index.html").read_text()
    assert "The sweep" in page and "Error against training samples" in page


def test_a_sweep_can_be_extended() -> None:
    """By growth of the campaign, as `tests/ensemble/test_growth.py` shows it: what its points were stays."""
    few, more = (parsed(sweep={"of": "H", "over": {"model.channels": values}}) for values in ([4, 8], [4, 6, 8]))
    assert changes(few, more) == Changes(growth=("variants: + H-channels6",), refused=())
    assert changes(more, few).refused == ("variants: H-channels6 is missing (a campaign can grow, not shrink)",)
    assert [few.seed_of(v, 1) for v in few.variants] == [more.seed_of(more.variant(v.name), 1) for v in few.variants]


@pytest.mark.parametrize(
    ("samples", "message"), [(10**6, "is more than the training set"), (8, "is larger than training.samples")]
)
def test_sizes_that_do_not_fit_the_data_are_refused(small_bp: Path, tmp_path: Path, samples: int, message: str) -> None:
    sweep = {"of": "H", "over": {"training.samples": ["all", samples]}}
    with pytest.raises(UserError, match=message) as error:
        read_plan(write_campaign(tmp_path, small_bp, sweep=sweep), [], CampaignFolder(tmp_path / "out"))
    assert f"'H-samples{samples}'" in str(error.value) and not (tmp_path / "out").exists()


def test_a_reference_of_all_samples_is_remarked(small_bp: Path, tmp_path: Path) -> None:
    def remarks(reference: str, over: dict[str, Any], **changes: Any) -> list[str]:
        tasks = {"H": {"level": "graph", "field": "mixing_enthalpy", "reference": reference}}
        sweep = {"of": "H", "over": {"training.samples": [40, "all"], **over}}
        path = write_campaign(tmp_path, small_bp, tasks=tasks, sweep=sweep, **changes)
        found = read_plan(path, [], CampaignFolder(tmp_path / "out")).remarks
        return [remark for remark in found if "reference-of-all" in remark]

    over = {"tasks.H.reference": ["composition", "none"]}
    (remark,) = remarks("composition", over)
    assert "variant H-referencecomposition-samples40:" in remark
    assert not remarks("composition", over, training={"batch_size": 16, "fitted_to": "samples"})
    assert not remarks("none", {})
