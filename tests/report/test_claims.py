"""Claims: what decides them, what leaves them open, in the paper's campaign and in others; costs by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hydragnn_hpc.atomic import write_json
from hydragnn_hpc.records.dataset import NumberRange
from hydragnn_hpc.report.analysis import costs, paper, together
from hydragnn_hpc.report.analysis.claims import PaperClaim, Verdict, assess
from hydragnn_hpc.report.analysis.statistics import compare_all
from hydragnn_hpc.report.results.ground_truth import GroundTruth
from hydragnn_hpc.report.results.load import load
from hydragnn_hpc.report.results.rows import timing_rows
from hydragnn_hpc.report.tables.timing import timing_table
from tests.report import making

STEADY, LOOSE = (-2, -1, 0, 1, 2, 0), (-30, 25, -5, 30, -25, 5)


def spread(mean: float, steps: tuple[int, ...], unit: float) -> list[float]:
    """Return a value for each step: so many units from the mean."""
    return [mean + k * unit for k in steps]


def campaign(out: Path, errors: dict, seconds: dict | None = None, **shape) -> dict[str, PaperClaim]:
    """Make a campaign whose members have these errors, {(variant, task): values}, and times; assess its claims."""
    replicas = max(len(v) for v in [*errors.values(), *(seconds or {}).values()])
    making.make(out, replicas=replicas, arrays=False, samples=6, **shape)
    for (variant, task), values in errors.items():
        for replica, value in enumerate(values):
            change(out, variant, replica, lambda r, t=task, v=value: r["tasks"][t].update(rmse=v))
    for variant, values in (seconds or {}).items():
        for replica, value in enumerate(values):
            change(out, variant, replica, lambda r, v=value: r.update(seconds=v))
    return {c.key: c for c in assess(load(out))}


def change(out: Path, variant: str, replica: int, how: Callable[[dict], object]) -> None:
    """Change a member's result by ``how``."""
    path = out / "members" / variant / f"{replica:02d}" / "result.json"
    result = json.loads(path.read_text())
    how(result)
    write_json(path, result)


def paper_like(better: float = 7e-3, alone: float = 1e-2) -> dict:
    """Errors of H in the four variants that predict it: steady in HM and HCM, scattered in HC and H."""
    return {
        ("HM", "H"): spread(better, STEADY, 1e-5),
        ("HCM", "H"): spread(better, STEADY, 1e-5),
        ("HC", "H"): spread(2e-2, LOOSE, 1e-5),
        ("H", "H"): spread(alone, LOOSE, 1e-5),
    }


def test_better_and_steadier_together_holds_whatever_hc_does(tmp_path: Path) -> None:
    claim = campaign(tmp_path / "x", paper_like())["a"]
    assert claim.verdict is Verdict.HOLDS, claim
    assert "HCM and HM predict H" in claim.statement and len(claim.evidence) == 4


def test_worse_together_does_not_hold(tmp_path: Path) -> None:
    assert campaign(tmp_path / "x", paper_like(better=1.3e-2))["a"].verdict is Verdict.FAILS


def test_an_interval_that_includes_zero_is_undecided(tmp_path: Path) -> None:
    claim = campaign(tmp_path / "x", paper_like(better=9.99e-3))["a"]
    assert claim.verdict is Verdict.UNDECIDED
    assert {e.reason for e in claim.evidence if "mean RMSE" in e.what} == {"the interval includes zero"}


def test_two_members_decide_nothing(tmp_path: Path) -> None:
    claim = campaign(tmp_path / "x", {k: v[:2] for k, v in paper_like().items()})["a"]
    assert claim.verdict is Verdict.UNDECIDED and len(claim.evidence) == 4
    assert all("too few members" in e.reason for e in claim.evidence)


def test_unfinished_variants_are_undecided_and_missing_ones_not_applicable(tmp_path: Path) -> None:
    waiting = dict.fromkeys(making.PAPER_VARIANTS, "waiting")
    making.make(tmp_path / "a", replicas=3, arrays=False, states=waiting)
    assert {c.verdict for c in assess(load(tmp_path / "a"))} == {Verdict.UNDECIDED}
    making.make(tmp_path / "b", variants=("HM",), replicas=3, arrays=False, samples=6)
    assert {c.verdict for c in assess(load(tmp_path / "b"))} == {Verdict.NOT_APPLICABLE}


def test_node_tasks_better_alone(tmp_path: Path) -> None:
    tasks, variants = {"C": making.FEPT["C"], "M": making.FEPT["M"]}, ("CM", "C", "M")
    errors = {
        ("CM", "C"): spread(6.5e-3, STEADY, 1e-5),
        ("C", "C"): spread(6e-3, STEADY, 1e-5),
        ("CM", "M"): spread(9e-3, STEADY, 1e-5),
        ("M", "M"): spread(8.8e-3, STEADY, 1e-5),
    }
    shape = {"tasks": tasks, "variants": variants}
    found = campaign(tmp_path / "x", errors, **shape)
    assert found["b"].verdict is Verdict.HOLDS and found["b"].statement == "C and M are slightly better alone"
    assert found["a"].verdict is Verdict.NOT_APPLICABLE
    errors["CM", "M"] = spread(8.6e-3, STEADY, 1e-5)
    assert campaign(tmp_path / "y", errors, **shape)["b"].verdict is Verdict.FAILS


@pytest.mark.parametrize(
    ("share", "verdict"),
    [(0.10, Verdict.HOLDS), (0.30, Verdict.FAILS), (0.15, Verdict.UNDECIDED), (-0.1, Verdict.FAILS)],
)
def test_one_head_more(tmp_path: Path, share: float, verdict: Verdict) -> None:
    seconds = {v: spread(600 * (1 + share) ** (len(v) - 1), STEADY, 2.0) for v in making.PAPER_VARIANTS}
    found = campaign(tmp_path / "x", {}, seconds)
    assert found["c"].verdict is verdict, found["c"]
    results = load(tmp_path / "x")
    value, interval = costs.mean_head(results)
    assert value == pytest.approx(share, abs=1e-6) and interval[0] < value < interval[1]
    assert len(costs.heads(results)) == 9  # three ways from a pair to HCM, two from each single


def test_the_time_of_one_stack_is_one_measurement(tmp_path: Path) -> None:
    """Six members that were trained at once say no more about a head's cost than one does."""
    seconds = {v: spread(600 * 1.1 ** (len(v) - 1), (0,) * 6, 0.0) for v in making.PAPER_VARIANTS}
    found = campaign(tmp_path / "x", {}, seconds, stack=6)
    assert found["c"].verdict is found["d"].verdict is Verdict.UNDECIDED
    assert "too few measured times" in found["c"].evidence[0].reason
    results = load(tmp_path / "x")
    value, interval = costs.mean_head(results)
    assert value == pytest.approx(0.1) and interval is None
    assert {(h.n, h.interval) for h in costs.heads(results)} == {((1, 1), None)}
    assert {c.interval for c in costs.costs(results)} == {None}
    shown = timing_table(results, timing_rows(results))
    assert {cells[1] for cells in shown.cells} == {"600.0", "660.0", "726.0"}


@pytest.mark.parametrize(
    ("multi", "verdict"), [(700.0, Verdict.HOLDS), (900.0, Verdict.FAILS), (818.0, Verdict.UNDECIDED)]
)
def test_one_model_against_three(tmp_path: Path, multi: float, verdict: Verdict) -> None:
    seconds = {"HCM": spread(multi, STEADY, 3.0), **{v: spread(600.0, STEADY, 3.0) for v in "HCM"}}
    found = campaign(tmp_path / "x", {}, seconds)
    assert found["d"].verdict is verdict, found["d"]
    cost = next(c for c in costs.costs(load(tmp_path / "x")) if c.variant == "HCM")
    assert cost.ratio == pytest.approx(1800 / multi) and cost.singles == ("H", "C", "M")
    assert cost.device_hours == pytest.approx(6 * multi / 3600)


def test_times_of_different_stacks_decide_nothing(tmp_path: Path) -> None:
    seconds = {v: spread(600.0, STEADY, 3.0) for v in making.PAPER_VARIANTS}
    assert campaign(tmp_path / "x", {}, seconds)["d"].verdict is Verdict.HOLDS
    for replica in range(6):
        change(tmp_path / "x", "HCM", replica, lambda r: r.update(stack=[0, 1, 2]))
    found = {c.key: c for c in assess(load(tmp_path / "x"))}
    for key in ("c", "d"):
        assert found[key].verdict is Verdict.UNDECIDED and "stacks of different sizes" in found[key].remark


def test_device_hours_count_a_stack_once_and_a_shared_device_by_its_share(tmp_path: Path) -> None:
    out = making.make(
        tmp_path / "x", variants=("H",), replicas=4, stack=4, arrays=False, launch={"slots_per_device": 2}
    )
    seconds = json.loads((out / "members/H/00/result.json").read_text())["seconds"]
    assert costs.device_hours(load(out), ["H"]) == pytest.approx(seconds / 3600 / 2)


def test_the_papers_data_are_recognised_by_elements_cell_and_ranges(tmp_path: Path) -> None:
    shape = {"variants": ("HC", "H"), "replicas": 1, "samples": 6, "arrays": False}
    results = load(making.make(tmp_path / "papers", **shape))
    assert paper.has_paper_data(results, None)
    assert not paper.has_paper_data(load(making.make(tmp_path / "other", **shape, papers=False)), None)
    summary = results.summary
    for changes in ({"elements": [26]}, {"elements": [26, 46, 78]}, {"atoms": NumberRange(minimum=16, maximum=32)}):
        results.summary = summary.model_copy(update=changes)
        assert not paper.has_paper_data(results, None), changes
    results.summary = None
    assert not paper.has_paper_data(results, None), "nothing is known of the data"
    ends = {name: np.array(limits)[:, None] for name, limits in paper.RANGES.items()}
    numbers, offsets = np.repeat([26, 78], 32).astype(np.int32), np.array([0, 32, 64])
    names = np.array(["a", "b"])
    assert paper.has_paper_data(results, GroundTruth("", names, numbers, offsets, ends))
    narrower = {**ends, "charge_transfer": 0.9 * ends["charge_transfer"]}
    assert not paper.has_paper_data(results, GroundTruth("", names, numbers, offsets, narrower))


def test_learning_together_against_alone(tmp_path: Path) -> None:
    campaign(tmp_path / "x", paper_like())
    results = load(tmp_path / "x")
    found = {t.together: t for t in together.compare(results, compare_all(results)) if t.task == "H"}
    assert found["HM"].verdict == found["HCM"].verdict == "better" and found["HC"].verdict == "worse"
    assert found["HM"].change == pytest.approx(-0.3, abs=0.01) and found["HC"].change == pytest.approx(1.0, abs=0.01)
    assert {t.alone for t in found.values()} == {"H"} and found["HM"].n == (6, 6)
    campaign(tmp_path / "y", {k: v[:2] for k, v in paper_like().items()})
    results = load(tmp_path / "y")
    assert {t.verdict for t in together.compare(results, compare_all(results))} == {"too few members"}


def test_the_papers_variants_are_recognised_by_their_fields(tmp_path: Path) -> None:
    tasks = {"energy": making.FEPT["H"], "q": making.FEPT["C"], "mine": {"level": "graph", "field": "gap"}}
    variants = ({"name": "both", "tasks": ["q", "energy"]}, {"name": "e", "tasks": ["energy"]}, "mine")
    out = making.make(tmp_path / "x", tasks=tasks, variants=variants, replicas=2, arrays=False, samples=6)
    found = {(b.variant, b.task): (b.paper_mean, b.ratio) for b in paper.compare(load(out))}
    assert found.keys() == {("both", "energy"), ("both", "q"), ("e", "energy")}
    assert found["both", "q"][0] == 7.36e-3 and found["e", "energy"][0] == 1.02e-2
    mean = load(out).table1.set_index(["variant", "task"]).rmse_mean["both", "q"]
    assert found["both", "q"][1] == pytest.approx(mean / 7.36e-3)
