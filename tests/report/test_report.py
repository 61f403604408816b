"""The whole report, of campaigns finished and not: what is written, that it is true and the same everywhere."""

from __future__ import annotations

import errno
import itertools
import json
import re
import resource
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.learned import read_summary
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.report.analysis import content, statistics
from hydragnn_hpc.report.document import body, page
from hydragnn_hpc.report.figures import composition, error_density, learning_curves, parity, rmse, style
from hydragnn_hpc.report.figures.registry import FIGURES
from hydragnn_hpc.report.results.event_log import read_log
from hydragnn_hpc.report.results.ground_truth import GroundTruth
from hydragnn_hpc.report.results.load import load
from hydragnn_hpc.report.results.worker_sessions import read_sessions
from hydragnn_hpc.report.write import write_report
from tests.report import making
from tests.report.rendering import EVIL, Rendered


def names(rendered: Rendered) -> set[str]:
    """Return the names of the figures, each there as PNG and PDF."""
    pictures = {p.stem for p in rendered.folder.figures.glob("*.png")}
    assert pictures == {p.stem for p in rendered.folder.figures.glob("*.pdf")}
    return pictures


def test_an_unfinished_campaign_has_every_figure_that_it_can_have(unfinished: Rendered) -> None:
    assert names(unfinished) == {
        "rmse", "composition_H", "parity_HCM", "parity_HC", "parity_CM", "parity_H", "parity_C",
        "errors_H", "errors_C", "errors_M", "total_M", "training_time", "learning_curves", "schedule",
        "calibration_H", "calibration_C", "calibration_M",
    }  # fmt: skip
    report = unfinished.folder.report
    for name in ("table1.csv", "timing.md", "members.tex", "claims.md", "report.md", "summary.json", "index.html"):
        assert (report / name).stat().st_size > 0, name
    for path in unfinished.folder.figures.glob("*.png"):
        width, height = struct.unpack(">II", path.read_bytes()[16:24])
        assert 300 < width <= style.WIDTH * style.DPI and height > 200, path


def test_every_figure_has_a_section_and_every_section_its_own_key() -> None:
    keys = [outline.key for outline in body.SECTIONS]
    assert len(set(keys)) == len(keys) and {figure.section for figure in FIGURES} <= set(keys)


def test_other_tasks_have_their_own_figures(foreign: Rendered) -> None:
    assert names(foreign) == {
        "rmse", "composition_gap", "parity_gap-and+F", "parity_gap", "parity_F", "errors_gap", "errors_F", "total_F",
        "training_time", "learning_curves", "schedule", "calibration_gap", "calibration_F",
    }  # fmt: skip
    assert not foreign.content.paper, "the paper has no such tasks"
    supplement = foreign.folder.supplement.read_text()
    assert "stacks of up to 4" in supplement and "Total forces, component 0" in supplement


def test_a_tensor_with_missing_values(foreign: Rendered) -> None:
    """Every component has a name, no mean runs over them all, and what is missing is counted."""
    numbers, offsets = np.array([29, 47, 79, 29, 29, 79], np.int32), np.array([0, 3, 5, 6])
    gap = np.arange(27.0).reshape(3, 9)
    gap[1] = np.nan
    known = GroundTruth("all 3 samples", np.array(list("abc")), numbers, offsets, {"band_gap": gap})
    with style.style():
        (drawing,) = composition.draw(replace(foreign.content, all_samples=known))
    legend = drawing.figure.axes[0].get_legend()
    assert [t.get_text() for t in legend.get_texts()] == [f"component {k}" for k in range(9)]
    assert "those with a value (2) among all 3 samples" in drawing.caption
    shown = body.sections(replace(foreign.content, test_set=known), [])
    table1 = next(s for s in shown if s.key == "table1")
    assert "from the known ones: gap 18 of 27." in " ".join(table1.tables[1].notes)


def test_one_replica_of_one_task(single: Rendered) -> None:
    assert names(single) == {
        "rmse", "composition_H", "parity_H", "errors_H", "learning_curves",
    }  # fmt: skip
    for path in single.folder.report.glob("*.*"):
        words = re.sub(r"data:image[^\"]*|<script>.*</script>", "", path.read_text("utf-8"), flags=re.DOTALL)
        assert not re.search(r"\bnan\b", words, re.IGNORECASE), path
    assert single.content.pairs == [] and single.content.uncertainties == []


def test_a_report_without_finished_members_says_so(nothing: Rendered) -> None:
    assert names(nothing) == set()
    assert "4 members: 4 waiting" in nothing.folder.supplement.read_text()
    assert "0 of 2" in nothing.folder.page.read_text()
    assert any("test_set.npz is missing" in r for r in nothing.content.remarks)


def test_the_summary_holds_the_analysis(unfinished: Rendered) -> None:
    found = json.loads(unfinished.folder.summary.read_text("utf-8"))
    assert sum(found["states"].values()) == found["members"] == 21
    assert found["states"]["finished"] == 12 and found["states"]["failed"] == 3 and found["states"]["diverged"] == 1
    pairs = statistics.compare_all(unfinished.content.results)
    assert [p["difference"] for p in found["pairs"]] == [p.difference for p in pairs]
    assert [c["key"] for c in found["claims"]] == ["a", "b", "c", "d"]
    assert {f["name"] for f in found["figures"]} == names(unfinished)
    assert found["provenance"]["devices"].endswith("NVIDIA H200")
    results = [json.loads(p.read_text()) for p in sorted(unfinished.folder.members.glob("HC/*/result.json"))]
    row = next(r for r in found["table1"] if (r["variant"], r["task"]) == ("HC", "H"))
    assert row["rmse_mean"] == pytest.approx(np.mean([r["tasks"]["H"]["rmse"] for r in results]))


def test_page_and_supplement_say_the_same(unfinished: Rendered) -> None:
    html, markdown = unfinished.folder.page.read_text("utf-8"), unfinished.folder.supplement.read_text("utf-8")
    csv = (unfinished.folder.report / "table1.csv").read_text().splitlines()
    assert len(csv) == 1 + 12 + 2 * 3, "a header, the variants' tasks, two baselines for each task"
    for row in unfinished.content.results.table1.itertuples():
        if row.n:
            mantissa = f"{row.rmse_mean:.2e}".replace("e-0", "e-")
            assert mantissa in html and mantissa in markdown, row
    for claim in unfinished.content.claims:
        assert claim.statement in html and claim.statement in markdown
    for words in ("2 of 3", "0 of 3", "3 of 3", "da7a" * 16, "slots_per_device", "node000"):
        assert words in html and words in markdown, words


def test_what_others_wrote_is_escaped(unfinished: Rendered) -> None:
    html = unfinished.folder.page.read_text("utf-8")
    assert "&lt;script&gt;document.title=" in html and EVIL[:20] not in html and "\x1b" not in html
    assert html.count("<script>") == 1
    assert EVIL[:20] not in unfinished.folder.supplement.read_text("utf-8").replace("\\<script\\>", "")


def evil(value: object, key: str = "") -> object:
    """Replace every text of a record by markup, but for those that the program itself interprets."""
    if isinstance(value, dict):
        return {k: evil(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [evil(v, key) for v in value]
    interpreted = ("state", "stopped_by", "variant", "level", "time", "started", "ended", "event", "member")
    return EVIL if isinstance(value, str) and key not in interpreted else value


@pytest.mark.filterwarnings("ignore:Glyph")
def test_no_name_in_any_record_becomes_a_part_of_the_page(tmp_path: Path) -> None:
    """Data sets, fields, units, devices, hosts, versions: others name them. Campaigns have plain names, or none."""
    tasks = {"H": {"level": "graph", "field": "<script>alert(1)</script>"}}
    out = making.make(tmp_path / "x", tasks=tasks, variants=("H",), replicas=2, samples=10, epochs=4, dataset=EVIL[:-5])
    for path in (*out.rglob("result.json"), out / "progress.json"):
        path.write_text(json.dumps(evil(json.loads(path.read_text()))))
    lines = (out / "logs" / "events.jsonl").read_text().splitlines()
    (out / "logs" / "events.jsonl").write_text("".join(json.dumps(evil(json.loads(x))) + "\n" for x in lines))
    write_report(out)
    html = (out / "report" / "index.html").read_text("utf-8")
    assert html.count("<script>") == html.count("</script>") == 1 and "\x1b" not in html
    assert html.count("&lt;script&gt;document.title=") > 3 and "&lt;script&gt;alert(1)" in html
    outside = re.sub(r"(?s)```yaml.*?```", "", (out / "report" / "report.md").read_text("utf-8"))
    assert not re.search(r"(?<!\\)<script", outside) and "\x1b" not in outside
    for changes in ({"name": EVIL}, {"tasks": {EVIL: tasks["H"]}}, {"variants": [{"name": EVIL, "tasks": ["H"]}]}):
        named = {"name": "x", "dataset": "x.bp", "tasks": tasks, "variants": ["H"], **changes}
        with pytest.raises(UserError, match="should match pattern"):
            parse_campaign(named, "file.yaml")


def test_the_page_stands_alone_and_is_small(unfinished: Rendered) -> None:
    html = unfinished.folder.page.read_text("utf-8")
    assert len(html) < 5_000_000
    for words in ("http://", "https://", 'src="figures', "@import", "url("):
        assert words not in html, words
    assert html.count("data:image/png") == len(names(unfinished))


def test_small_curves_follow_the_losses(unfinished: Rendered) -> None:
    found = page.curves(unfinished.content)
    points = [tuple(map(float, p.split(","))) for p in found["HCM/00"].split()]
    loss = unfinished.content.histories["HCM/00"].validation_loss.to_numpy()
    assert len(points) == len(loss) and points[0][1] < points[-1][1]  # downwards on the screen
    assert np.corrcoef([y for _, y in points], -np.log(loss))[0, 1] > 0.99
    assert "M/00" not in found


def test_failed_attempts_are_bars_and_a_stack_is_one(unfinished: Rendered, foreign: Rendered) -> None:
    found = read_sessions(unfinished.content.results)
    assert len([s for s in found if s.failed]) == 3
    assert len([s for s in found if not s.failed]) == 13  # twelve finished and one diverged
    assert len(read_sessions(foreign.content.results)) == 3


def test_a_cut_event_log_is_read_as_far_as_it_goes(unfinished: Rendered, tmp_path: Path) -> None:
    out = tmp_path / "cut"
    shutil.copytree(unfinished.folder.root, out, ignore=shutil.ignore_patterns("report"))
    path = out / "logs" / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-20] + b"\n[1]\n\xff\n")
    log = read_log(CampaignFolder(out))
    assert len(log.entries) > 10 and "3 of " in log.problem and "\n" not in log.problem


def test_variants_with_similar_names_have_figures_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hydragnn_hpc.report.write.FIGURES", [f for f in FIGURES if f.draw is parity.draw])
    variants = [{"name": name, "tasks": ["H"]} for name in ("v1.0", "v1_0", "v1-0+")]
    out = making.make(tmp_path / "x", variants=variants, replicas=1, samples=10, epochs=2)
    _, files = write_report(out)
    assert [p.name for p in files if p.suffix == ".png"] == ["parity_v1-0.png", "parity_v1-0+.png", "parity_v1-0++.png"]


def test_damaged_records_are_left_out_and_named(tmp_path: Path) -> None:
    out = making.make(tmp_path / "x", variants=("H",), replicas=4, samples=10, epochs=4)
    (out / "members/H/00/history.csv").write_text("epoch,loss\n1,2\n")
    (out / "members/H/01/history.csv").write_bytes(b"")
    (out / "members/H/02/history.csv").write_text("epoch,train_loss,validation_loss\n1,0.5,nan\n2,0.4,-1\n")
    (out / "test_set.npz").write_bytes(b"PK")
    gathered = content.gather(out)
    assert gathered.histories.keys() == {"H/02", "H/03"}
    remarks = " ".join(gathered.remarks)
    assert (
        "H/00/history.csv is not a history" in remarks and "H/01/history.csv" in remarks and "test_set.npz" in remarks
    )
    with style.style():
        drawn = [d.name for figure in FIGURES for d in figure.draw(gathered)]
    assert drawn == ["rmse", "learning_curves", "schedule"]
    assert page.curves(gathered).keys() == {"H/03"}


def test_what_may_not_be_read_is_not_to_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    results = load(making.make(tmp_path / "x", variants=("H",), replicas=1, samples=10, epochs=2))
    monkeypatch.setattr("pandas.read_csv", refuse)
    with pytest.raises(UserError, match=r"history.csv: Permission denied; make it readable$"):
        results.history(results.members[0])
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "Permission denied, so errors are not compared" in (problem := read_summary(results.folder, "")[1])
    assert "; make it readable, and run" in problem


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("error", [0.0, 1e6])
def test_predictions_without_an_error_and_those_outside_all_bins_are_drawn(tmp_path: Path, error: float) -> None:
    out = making.make(tmp_path / "x", variants=("H",), replicas=1, samples=10, epochs=2)
    truth = np.load(out / "test_set.npz")["mixing_enthalpy"]
    np.savez(out / "members/H/00/predictions.npz", H=truth + error)
    path = out / "members/H/00/result.json"
    result = json.loads(path.read_text())
    result["tasks"]["H"]["rmse_unit"] = 0.0
    path.write_text(json.dumps(result))
    gathered = content.gather(out)
    with style.style():
        for drawing in (*parity.draw(gathered), *error_density.draw(gathered)):
            style.compressed(drawing.figure)


def test_a_neutral_cell_has_no_figure_of_its_total_and_a_total_without_a_unit_is_per_cell(
    unfinished: Rendered, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = []
    for unit in ("μB", ""):
        monkeypatch.setattr(composition.rows, "unit_of", lambda *_, unit=unit: unit)
        with style.style():
            (drawn,) = composition.draw_totals(unfinished.content)  # charges add up to zero
        assert drawn.name == "total_M"
        labels.append(drawn.figure.axes[0].get_ylabel())
    assert labels == ["total magnetic moment (μB per cell)", "total magnetic moment (per cell)"]


def test_lines_differ_in_two_of_colour_dashes_and_marker() -> None:
    styles = style.line_styles([str(k) for k in range(22)]).values()
    for first, second in itertools.combinations(styles, 2):
        assert sum(first[key] != second[key] for key in ("color", "linestyle", "marker")) >= 2, (first, second)


def test_figures_show_the_numbers(unfinished: Rendered) -> None:
    """What is drawn, read back from the figures' artists."""
    gathered = unfinished.content
    with style.style():
        (errors,) = rmse.draw(gathered)
        (curves,) = learning_curves.draw(gathered)
        densities = {d.name: d for d in error_density.draw(gathered)}
    mean = gathered.results.table1.set_index(["variant", "task"]).rmse_mean["HC", "C"]
    ax = errors.figure.axes[1]
    drawn = [line.get_ydata() for line in ax.lines]
    assert any(len(y) == 1 and y[0] == pytest.approx(1e3 * mean) for y in drawn)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["HCM", "HC", "CM", "C"]
    for figure in (errors, curves, *densities.values()):
        for ax in figure.figure.axes:
            if ax.axison and ax.get_xlabel():
                assert "(" in ax.get_xlabel() or ax.get_xlabel() in ("variant", "epoch"), ax.get_xlabel()
    line = densities["errors_C"].figure.axes[0].lines[0]
    area = np.trapezoid(line.get_ydata(), line.get_xdata())
    assert area == pytest.approx(1, abs=0.03)
    median = np.median([h.validation_loss.iloc[0] for n, h in gathered.histories.items() if n.startswith("HCM/")])
    assert any(line.get_ydata()[0] == pytest.approx(median) for line in curves.figure.axes[0].lines)


def test_the_same_results_give_the_same_report_and_what_no_longer_applies_is_removed(single: Rendered) -> None:
    before = {p: p.read_bytes() for p in single.files}
    stale = [single.folder.figures / "parity_gone.png", single.folder.table("calibration", "csv"), single.folder.claims]
    for path in stale:
        path.write_bytes(b"-")
    write_report(single.folder.root)
    assert [path.exists() for path in stale] == [False] * 3
    assert {p.name for p, content in before.items() if p.read_bytes() != content} == set()


def test_a_report_imports_none_of_torch_mpi4py_and_adios2(single: Rendered) -> None:
    code = "import sys; from hydragnn_hpc.report.analysis import content; content.gather(sys.argv[1]);"
    code += " print([m for m in ('torch', 'mpi4py', 'adios2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, single.folder.root], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param({"replicas": 12, "samples": 1000}, marks=pytest.mark.long),
        {"variants": ("HC", "H"), "replicas": 500, "samples": 100},
    ],
    ids=["paper", "thousand"],
)
def test_the_page_of_many_members_is_small(shape: dict, tmp_path: Path) -> None:
    """Of the paper's 84 members, and of a thousand: within 5 MB."""
    write_report(making.make(tmp_path / "x", **shape, epochs=100))
    assert (tmp_path / "x" / "report" / "index.html").stat().st_size < 5_000_000


def test_tensorboard_receives_every_epoch_of_every_member(single: Rendered) -> None:
    """Read back with the format's own messages: a length, its checksum, an event, its checksum."""
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    from hydragnn_hpc.report.tensorboard import write_scalars

    write_scalars(single.content)
    (path,) = write_scalars(single.content)  # a second time, in place of the first
    assert path.parent == single.folder.report / "tensorboard" / "H" / "00"
    left, found = path.read_bytes(), {}
    while left:
        (length,) = struct.unpack("<Q", left[:8])
        event = Event.FromString(left[12 : 12 + length])
        left = left[16 + length :]
        for value in event.summary.value:
            found[value.tag, event.step] = value.simple_value
    history = single.content.histories["H/00"]
    assert len(found) == 5 * len(history)
    for row in history.itertuples():
        assert found["validation_loss", row.epoch] == pytest.approx(row.validation_loss, rel=1e-6)


def test_curves_that_do_not_fit_on_the_disk_are_one_error(single: Rendered, capfd: pytest.CaptureFixture[str]) -> None:
    """A limit on the size of files takes the place of a full disk; the earlier curves stay."""
    pytest.importorskip("tensorboardX")
    from hydragnn_hpc.report.tensorboard import write_scalars

    before = {path: path.read_bytes() for path in write_scalars(single.content)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*tensorboard: File too large"):
            write_scalars(single.content)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {p: p.read_bytes() for p in (single.folder.report / "tensorboard").rglob("*") if p.is_file()} == before
    assert capfd.readouterr().err == ""
