"""Tables: their numbers against NumPy's, their columns, their bytes, and which members count."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.report import text
from hydragnn_hpc.report.analysis.spread import Spread
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.load import load
from hydragnn_hpc.report.tables import spread
from hydragnn_hpc.report.tables.registry import write_tables
from hydragnn_hpc.report.tables.timing import timing_table
from tests.report import making

MIXED = {"HM": "failed", "C/03": "diverged", "M": "waiting", "CM/01": "running", "CM/03": "interrupted"}


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a table's rows, without those of the baselines."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [row for row in csv.DictReader(stream) if not row["variant"].startswith("no network")]


def results_of(out: Path, variant: str) -> list[dict]:
    """Read the finished results of a variant straight from their files."""
    found = [json.loads(p.read_text()) for p in sorted((out / "members" / variant).glob("*/result.json"))]
    return [r for r in found if r["state"] == "finished"]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = making.make(tmp_path_factory.mktemp("tables") / "mixed", replicas=5, samples=20, epochs=6, states=MIXED)
    diverged = out / "members/C/03/result.json"
    result = json.loads(diverged.read_text())
    result["tasks"]["C"].update(rmse=1e3, rmse_unit=1e3)  # even one with numbers does not count
    diverged.write_text(json.dumps(result))
    write_tables(out)
    return out


def test_table1_has_the_declared_columns_and_the_numbers_of_numpy(mixed: Path) -> None:
    found = read_csv(mixed / "report" / "table1.csv")
    assert list(found[0]) == [
        "variant", "task", "n", "n_total", "rmse_mean", "rmse_std", "unit", "rmse_unit_mean", "rmse_unit_std",
        "r2", "mae", "rmse_of_mean", "not_learned",
    ]  # fmt: skip
    assert [(r["variant"], r["task"]) for r in found] == [(v, t) for v in making.PAPER_VARIANTS for t in v]
    for row in found:
        results = results_of(mixed, row["variant"])
        assert (row["n"], row["n_total"]) == (str(len(results)), "5")
        for name in ("rmse", "rmse_unit"):
            values = [r["tasks"][row["task"]][name] for r in results]
            if not values:
                assert row[f"{name}_mean"] == row[f"{name}_std"] == ""
                continue
            assert float(row[f"{name}_mean"]) == pytest.approx(np.mean(values), rel=1e-14)
            assert float(row[f"{name}_std"]) == pytest.approx(np.std(values, ddof=1), rel=1e-13)
    counts = {r["variant"]: r["n"] for r in found}
    assert counts == {"HCM": "5", "HC": "5", "HM": "0", "CM": "3", "H": "5", "C": "4", "M": "0"}
    assert [r["unit"] for r in found[:3]] == ["Ry", "e", "μB"]


def test_timing_and_members(mixed: Path) -> None:
    found = {r["variant"]: r for r in read_csv(mixed / "report" / "timing.csv")}
    assert list(found["HC"]) == ["variant", "n", "n_total", "seconds_mean", "seconds_std", "epochs_mean", "epochs_std"]
    seconds = [r["seconds"] for r in results_of(mixed, "HC")]
    assert float(found["HC"]["seconds_mean"]) == pytest.approx(np.mean(seconds))
    assert float(found["HC"]["seconds_std"]) == pytest.approx(np.std(seconds, ddof=1))
    assert found["C"]["n"] == "4" and found["CM"]["n"] == "3"
    assert found["M"]["seconds_mean"] == "" and found["M"]["n"] == "0"
    members = read_csv(mixed / "report" / "members.csv")
    assert len(members) == 35
    states = {f"{m['variant']}/{int(m['replica']):02d}": m["state"] for m in members}
    assert (states["HM/00"], states["C/03"], states["CM/03"], states["M/00"]) == (
        "failed", "diverged", "interrupted", "waiting",
    )  # fmt: skip
    assert {m["cause"] for m in members if m["variant"] == "HM"} == {"killed by signal 9 (SIGKILL)"}


def test_one_member_has_no_spread_and_says_so(tmp_path: Path) -> None:
    out = making.make(tmp_path / "one", variants=("H",), tasks={"H": making.FEPT["H"]}, replicas=1, samples=10)
    for path in write_tables(out):
        assert "nan" not in path.read_text().lower(), path
    row = read_csv(out / "report" / "table1.csv")[0]
    assert row["rmse_mean"] and row["rmse_std"] == "" and row["rmse_unit_std"] == ""
    shown = (out / "report" / "table1.md").read_text()
    assert "± – | 1 of 1" in shown and "fewer than two have finished" in shown
    assert load(out).table1.rmse_std.isna().all()


def test_the_same_results_give_the_same_bytes_in_any_order_of_finishing(mixed: Path) -> None:
    before = {p.name: p.read_bytes() for p in write_tables(mixed)}
    paths = sorted(mixed.glob("members/*/*/result.json"))
    for path in reversed(paths):  # written in another order, at another time, with the same content
        content = path.read_text()
        path.unlink()
        path.write_text(content)
        os.utime(path, (1, 1))
    assert {p.name: p.read_bytes() for p in write_tables(mixed)} == before
    assert not list(mixed.rglob(".tmp-*"))


def test_a_sum_does_not_depend_on_the_order_of_its_terms() -> None:
    values = list(np.random.default_rng(0).random(500) * 10.0 ** np.random.default_rng(1).integers(-8, 8, 500))
    assert rows.mean_std(values) == rows.mean_std(values[::-1])


def test_the_timing_table_names_stacked_members(tmp_path: Path) -> None:
    out = making.make(tmp_path / "stacked", variants=("H",), replicas=4, stack=4, samples=10)
    write_tables(out)
    assert "stacks of up to 4: a member's time is that of its stack" in (out / "report" / "timing.md").read_text()


def test_the_time_of_a_variants_only_member_has_no_spread(tmp_path: Path) -> None:
    """Unlike Table 1, the timing table shows no dash there, and its notes promise none."""
    out = making.make(tmp_path / "few", variants=("HM", "H"), replicas=2, samples=10)
    (out / "members" / "H" / "01" / "result.json").unlink()
    snapshot = rows.read(out)
    table = timing_table(snapshot, rows.timing_rows(snapshot))
    assert ["±" in cells[1] for cells in table.cells] == [True, False] and text.MISSING not in table.cells[1]
    assert table.notes[1] == "± is the standard deviation over members (ddof = 1)."


def test_latex_and_markdown_escape_names() -> None:
    assert text.latex("a_b%&#{}→²") == r"a\_b\%\&\#\{\}\ensuremath{\to}\textsuperscript{2}"
    assert text.markdown("a|b<c") == r"a\|b\<c"
    assert text.line("\x1b[31mred\x07\nline") == "[31mred line"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.00754, "7.54e-3"), (12.0, "1.20e1"), (None, "–"), (float("nan"), "–")],
)
def test_scientific(value: float | None, shown: str) -> None:
    assert text.scientific(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1234.5678, "1,235"),
        (0.031772, "0.03177"),
        (99.996, "100.00"),
        (0, "0"),
        (1.5e-7, "1.500e-7"),
        (1e6, "1,000,000"),
    ],
)
def test_plain(value: float, shown: str) -> None:
    assert text.plain(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(None, "–"), (20.0, "20"), (17.49, "17.5"), (1234567.0, "1,234,567")])
def test_mean_count(value: float | None, shown: str) -> None:
    assert text.mean_count(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.98714, "0.9871"), (-1e-9, "0.0000"), (-2.5, "-2.5000"), (-12.3, "-1.2e1"), (-23456.0, "-2.3e4")],
)
def test_r_squared(value: float, shown: str) -> None:
    assert text.r_squared(value) == shown


def test_a_folder_without_a_campaign_is_an_error_and_an_unreadable_result_does_not_count(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no campaign"):
        write_tables(tmp_path)
    out = making.make(tmp_path / "out", variants=("H",), replicas=2, samples=10, epochs=4)
    for content in ("[1, 2", "[1, 2]", '"text"'):
        (out / "members/H/01/result.json").write_text(content)
        write_tables(out)
        (row,) = read_csv(out / "report" / "table1.csv")
        assert (row["n"], row["n_total"]) == ("1", "2") and float(row["rmse_mean"]) > 0


@pytest.mark.parametrize(("number", "more"), [(spread.SHOWN, ""), (spread.SHOWN + 2, ", and 2 more")])
def test_variants_whose_spread_cannot_be_separated_are_all_counted(number: int, more: str) -> None:
    spreads = [Spread(f"v{k}", "H", 1, None, None, "too few") for k in range(number)]
    campaign = SimpleNamespace(training=SimpleNamespace(resample="bootstrap"))
    (sentence,) = spread.sentences(SimpleNamespace(campaign=campaign, spreads=spreads))
    assert sentence.startswith("The spread of v0, v1, ") and f"v{spread.SHOWN - 1}{more} comes from" in sentence
