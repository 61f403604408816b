"""What the report says first, and what it leaves out because it does not apply."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hydragnn_hpc.report.analysis.content import gather
from hydragnn_hpc.report.analysis.headline import headlines
from hydragnn_hpc.report.document.body import ReportSection, sections
from hydragnn_hpc.report.figures import composition, rmse, style, training_time, worker_timeline
from hydragnn_hpc.report.results.ground_truth import GroundTruth
from hydragnn_hpc.report.results.load import load
from hydragnn_hpc.report.tables.text_table import TextTable
from hydragnn_hpc.report.text import plain, with_spread
from tests.campaigns import without_figures
from tests.report import making
from tests.report.rendering import Rendered, render


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """The paper's variants and fields, two replicas in stacks, on data that are not the paper's."""
    out = tmp_path_factory.mktemp("other") / "other"
    with without_figures():
        return render(out, replicas=2, stack=2, samples=30, epochs=6, papers=False)


def parts(rendered: Rendered) -> dict[str, ReportSection]:
    """Return the sections by key."""
    return {s.key: s for s in sections(rendered.content, [])}


def column(table: TextTable, name: str) -> list[str]:
    """Return a column of a table."""
    return [row[table.header.index(name)] for row in table.cells]


def test_the_best_variant_is_chosen_by_validation_and_shown_with_its_mean(unfinished: Rendered) -> None:
    out, results = unfinished.folder, load(unfinished.folder.root)
    found = {h.task: h for h in unfinished.content.headlines}
    assert {t: h.variant for t, h in found.items()} == {"H": "HC", "C": "C", "M": "CM"}
    truth = dict(np.load(out.test_set))["mixing_enthalpy"]
    predicted = [np.load(p)["H"] for p in sorted(out.members.glob("HC/*/predictions.npz"))]
    of_mean = np.sqrt(((np.mean(predicted, axis=0) - truth) ** 2).mean())
    best = found["H"]
    assert best.rmse_of_mean == pytest.approx(of_mean, rel=1e-9) and best.rmse_of_mean < best.rmse
    assert best.baseline == "composition" and best.rmse_baseline == pytest.approx(0.3 * truth.std())
    assert best.gain == pytest.approx(best.rmse_baseline / of_mean)
    (table,) = parts(unfinished)["learned"].tables
    assert column(table, "task") == ["H", "C", "M"] and column(table, "best variant") == ["HC", "C", "CM"]
    said = " ".join(parts(unfinished)["learned"].paragraphs)
    assert "3 failed and 1 diverged" in said and "of device time for 13 members" in said
    for changed in ({"rmse": 1e-9}, {"rmse": None, "rmse_validation": None}):  # neither makes a variant the best
        for member in results.finished("HCM"):
            tasks = {name: errors.model_copy(update=changed) for name, errors in member.result.tasks.items()}
            member.result = member.result.model_copy(update={"tasks": tasks})
        assert {h.task: h.variant for h in headlines(results)} == {"H": "HC", "C": "C", "M": "CM"}, changed


def test_the_paper_and_its_claims_are_there_for_its_data_alone(unfinished: Rendered, other: Rendered) -> None:
    assert {"claims", "paper"} <= parts(unfinished).keys() and "together" not in parts(unfinished)
    assert not {"claims", "paper"} & parts(other).keys() and not other.folder.claims.exists()
    assert column(parts(other)["together"].tables[0], "together is") == ["too few members"] * 9
    assert other.content.claims == other.content.paper == []
    assert json.loads(other.folder.summary.read_text())["claims"] == []
    html = other.folder.page.read_text("utf-8")
    assert "Lupo Pasini" not in html and "not applicable" not in html and "One additional head costs" in html
    assert "too few measured times, one per stack, for an interval" in html


def test_nothing_that_does_not_apply_is_on_a_page(
    unfinished: Rendered, foreign: Rendered, single: Rendered, other: Rendered
) -> None:
    for rendered in (unfinished, foreign, single, other):
        html = rendered.folder.page.read_text("utf-8")
        assert "not applicable" not in html
        assert not re.search(r"± 0(?![.\d])", html), "a spread of zero"
    assert parts(single).keys() >= {"learned", "table1"}
    assert not {"claims", "together", "variants", "uncertainty", "failures"} & parts(single).keys()
    assert "RMSE of the mean" not in parts(single)["learned"].tables[0].header


def test_two_members_and_the_times_of_one_stack_have_no_interval(other: Rendered) -> None:
    shown = parts(other)
    assert all("interval" not in name for key in ("variants", "costs") for t in shown[key].tables for name in t.header)
    assert all("±" not in cell for cell in column(shown["costs"].tables[0], "seconds"))
    assert not any(p.interval or p.spread_interval for p in other.content.pairs)


def test_figures_of_one_variant_and_of_single_samples_adapt(single: Rendered, unfinished: Rendered) -> None:
    with style.style():
        assert not list(training_time.draw(single.content)) and not list(worker_timeline.draw(single.content))
        assert list(training_time.draw(unfinished.content))
        (errors,) = rmse.draw(single.content)
    assert "stars" not in errors.caption and "bars" not in errors.caption and "the better baseline" in errors.caption
    varied = np.concatenate([np.repeat([26, 78], [k, 32 - k]) for k in range(33)]).astype(np.int32)
    samples = GroundTruth(
        "33 samples", np.arange(33).astype(str), varied, np.arange(34) * 32,
        {"mixing_enthalpy": np.arange(33.0)[:, None]},
    )  # fmt: skip
    with style.style():
        (drawing,) = composition.draw(replace(single.content, all_samples=samples))
    assert "line" not in drawing.caption and not drawing.figure.axes[0].get_legend()


def test_a_baseline_is_a_line_or_in_the_title_and_can_be_left_out(tmp_path: Path) -> None:
    shown = gather(making.make(tmp_path / "x", variants=("H",), replicas=3, samples=30, epochs=4))
    summary = shown.results.summary
    target = summary.targets["mixing_enthalpy"]
    near = target.test.model_copy(update={"composition": target.test.composition.model_copy(update={"rmse": 0.012})})

    def drawn() -> tuple[str, str, list[float]]:
        """Return the caption, the title, and the heights of dashed lines."""
        with style.style():
            (drawing,) = rmse.draw(shown)
        (ax,) = drawing.figure.axes
        levels = [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "--"]
        return drawing.caption, ax.get_title(), levels

    caption, title, levels = drawn()
    assert f"no network: {plain(1e3 * target.test.composition.rmse, 3)}" in title and not levels
    assert "stars" in caption and "in the title where it lies above the axis" in caption
    shown.results.summary = summary.model_copy(
        update={"targets": {"mixing_enthalpy": target.model_copy(update={"test": near})}}
    )
    caption, title, levels = drawn()
    assert levels == [pytest.approx(12.0)] and "no network" not in title and caption.endswith("the better baseline.")
    shown.results.baselines = False
    caption, title, levels = drawn()
    assert not levels and "no network" not in title and "baseline" not in caption


def test_numbers_have_no_more_digits_than_their_spread_allows() -> None:
    assert with_spread(1.62938, 0.0142) == "1.629 ± 0.014" and with_spread(1888.2, 17.3) == "1,888 ± 17"
    assert with_spread(1888.2, 0.0) == with_spread(1888.2, None) == "1,888" and with_spread(None, None) == "–"
    assert with_spread(12345.6, 234.0) == "12,350 ± 230" and with_spread(3e-9, 1e-10) == "3.00e-9 ± 1.0e-10"


def test_a_folder_that_does_not_know_its_data_is_reported_without_them(tmp_path: Path) -> None:
    out = making.make(tmp_path / "x", variants=("H",), replicas=2, samples=10, epochs=4)
    (out / "dataset.json").unlink()
    (best,) = headlines(load(out))
    assert best.rmse_of_mean and best.r2 is best.rmse_baseline is best.gain is best.not_learned is None
