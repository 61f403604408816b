"""Whether members have learned: marked where they have not, with likely remedies, and nowhere else."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from hydragnn_hpc import learned
from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset import store
from hydragnn_hpc.ledger import Member, State
from hydragnn_hpc.records.dataset import DatasetFacts, NumberRange, Target
from hydragnn_hpc.records.summary import BaselineErrors, DatasetSummary, PartSummary, TargetSummary
from tests import campaigns
from tests.member_records import ERRORS, a_result
from tests.outcomes import table1

CLOSING = "not learned, since no better than the baselines"


def part(mean: float = 0.3, composition: float = 0.2, std: float = 0.29, n: int = 100) -> PartSummary:
    """Return a part with these scaled errors of the baselines."""
    errors = [BaselineErrors(rmse=e, mae=e, rmse_unit=2 * e, mae_unit=2 * e, r2=0.5) for e in (mean, composition)]
    return PartSummary(n=n, std=std, std_unit=2 * std, mean=errors[0], composition=errors[1])


def summary(
    form: str = "per cell", sizes: int = 8, distances: bool | None = True, central: float = 0.5
) -> DatasetSummary:
    """Return the summary of a data set with the target ``energy``."""
    level = "node" if form == "species" else "graph"
    target = TargetSummary(
        level=level, unit="eV", minimum=[0.0], maximum=[2.0], central_range=central, form=form, validation=part(),
        test=part(),
    )  # fmt: skip
    atoms = NumberRange(minimum=4, maximum=sizes)
    return DatasetSummary(
        dataset_sha256="d", samples=9, geometries=9, distances_differ=distances, atoms=atoms, elements=[29],
        targets={"energy": target},
    )  # fmt: skip


def campaign(**changes: object) -> Campaign:
    """Return a campaign of one task, E."""
    tasks = {"E": {"level": "graph", "field": "energy"}}
    return parse_campaign({"name": "c", "dataset": "d.bp", "tasks": tasks, "variants": ["E"], **changes}, "test")


def line(rmse: float | None, of: Campaign, data: DatasetSummary, **changes: object) -> str:
    """Return the closing line of one member with this validation error."""
    errors = {"E": ERRORS.model_copy(update={"rmse_validation": rmse})}
    member = Member("E", 0, State.FINISHED, a_result(variant="E", tasks=errors, **changes))
    return learned.closing_line([member], of, data)


@pytest.mark.parametrize(
    ("bars", "rmse", "beaten"),
    [
        ({}, 0.19, True),
        ({}, 0.2, False),
        ({"composition": 0.4}, 0.28, True),  # the mean is the better one
        ({"composition": 0.4}, 0.295, False),  # R² is below zero
        ({"composition": 0.4, "n": 4}, 0.295, True),  # of too few values to say
        ({"composition": 0.4, "std": 1e-17}, 0.28, True),  # all values are alike: there is no R²
        ({"mean": 400.0, "composition": 400.0, "std": 0.01}, 0.02, False),  # an outlier moved both baselines
    ],
)
def test_a_member_has_learned_where_it_beats_both_baselines(bars: dict, rmse: float, beaten: bool) -> None:
    assert part(**bars).is_beaten_by(rmse) is beaten


def test_remedies_are_those_that_apply() -> None:
    default = line(0.5, campaign(), summary(), stopped_by="epochs")
    for words in ("E by 1 of 1 members of E", "model.edges.number", "inputs:", "pooling=sum", "training.epochs is 200"):
        assert words in default, words
    assert default.startswith(CLOSING) and "outliers" not in default and "\n" not in default
    able = {"edges": {"number": 20}, "pooling": "sum"}
    inputs = ["species", "composition"]
    assert line(0.5, campaign(model=able, inputs=inputs), summary()) == f"{CLOSING}: E by 1 of 1 members of E"
    for of, data in (
        (campaign(inputs=inputs), summary(distances=False, sizes=4)),
        (campaign(inputs=inputs), summary("per atom", distances=None)),
        (campaign(inputs=inputs), summary("species", distances=False)),
    ):
        assert "remedies" not in line(0.5, of, data)
    assert "pooling=mean" in line(0.5, campaign(model=able), summary("per atom"))
    assert "outliers in E: 90 % of its values span 1 %" in line(0.5, campaign(), summary(central=0.01))


def test_three_components_may_be_a_vector_and_one_is_none() -> None:
    data = summary("species", distances=False)
    assert "vectors as values" not in line(0.5, campaign(), data)
    force = data.targets["energy"].model_copy(update={"minimum": [0.0] * 3, "maximum": [2.0] * 3})
    data = data.model_copy(update={"targets": {"energy": force}})
    assert "vectors as values, if E rotates" in line(0.5, campaign(), data)
    task = {"level": "node", "field": "energy", "vector": True}
    able = campaign(tasks={"E": task}, model={"convolution": "PaiNN", "edges": {"number": 20}})
    assert "vectors as values" not in line(0.5, able, data)


def test_nothing_is_said_where_it_was_learned_or_is_not_known() -> None:
    assert line(0.1, campaign(), summary()) == ""
    assert line(None, campaign(), summary()) == "", "of a validation set without values"
    assert learned.closing_line([Member("E", 0, State.WAITING)], campaign(), summary()) == ""
    assert learned.closing_line([], campaign(), None) == ""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished campaign that can learn C, and cannot learn N: random numbers."""
    folder = tmp_path_factory.mktemp("learned")
    manifest, arrays = store.read(campaigns.data_set(folder))
    noise = np.random.default_rng(5).normal(size=(manifest.sizes["S"], 1))
    target = Target(
        level="graph", unit="eV", label="noise", width=1, minimum=[noise.min()], maximum=[noise.max()], missing=0
    )
    facts = {name: getattr(manifest, name) for name in DatasetFacts.model_fields if name != "distribution"}
    facts["targets"] = {"charge_transfer": manifest.targets["charge_transfer"], "noise": target}
    kept = {name: a for name, a in arrays.items() if name not in ("target_mixing_enthalpy", "target_magnetic_moment")}
    store.write(folder / "noisy.bp", {**kept, "target_noise": noise}, DatasetFacts(**facts))
    tasks = {"C": campaigns.SMALL["tasks"]["C"], "N": {"level": "graph", "field": "noise"}}
    training = {"epochs": 40, "batch_size": 8, "optimizer": {"learning_rate": 5e-3}, "early_stopping": None}
    changes = {"dataset": "noisy.bp", "tasks": tasks, "variants": ["C", "N"], "training": training}
    (folder / "campaign.yaml").write_text(campaigns.text(**changes))
    done = campaigns.command(folder, "run", "campaign.yaml", "out")
    assert done.returncode == 0, done.stderr
    (folder / "run.log").write_text(done.stderr)
    with campaigns.without_figures():
        campaigns.done(folder, "report", "out")
    return folder


def test_noise_is_marked_everywhere_and_what_was_learned_nowhere(run: Path) -> None:
    lines = (run / "run.log").read_text().splitlines()
    of_members = {name: next(x for x in lines if f"{name} finished" in x) for name in ("C/00", "N/00", "N/01")}
    assert "no better than the baselines: N" in of_members["N/00"] and "no better" not in of_members["C/00"]
    assert f"{CLOSING}: N by 2 of 2 members of N; likely remedies: more inputs" in lines[-1]
    assert "training.epochs is 40" in lines[-1] and "edge lengths" not in lines[-1], "one geometry"
    shown = campaigns.done(run, "status", "out")
    assert "N by 2 of 2 members of N" in shown and "no network: composition" in shown and "R²" in shown
    assert json.loads(campaigns.done(run, "status", "out", "--json"))["not_learned"].startswith(CLOSING)
    summary = json.loads((run / "out/report/summary.json").read_text())
    assert summary["not_learned"] == {"N/00": ["N"], "N/01": ["N"]} and CLOSING in summary["advice"]
    with (run / "out/report/members.csv").open(newline="") as stream:
        marks = {(row["variant"], row["not_learned"]) for row in csv.DictReader(stream)}
    assert marks == {("C", ""), ("N", "N")}
    for name in ("index.html", "report.md", "members.md"):
        assert "Not learned: " in (run / "out/report" / name).read_text("utf-8"), name
    assert CLOSING[1:] in (run / "out/report/index.html").read_text("utf-8")


def test_table_1_has_rows_without_a_network_and_errors_of_means(run: Path) -> None:
    rows, out = table1(run / "out"), run / "out"
    assert list(rows)[2:] == [(f"no network: {b}", t) for t in "CN" for b in ("mean", "composition")]
    truth = dict(np.load(out / "test_set.npz"))
    of_means = {}
    for task, field in (("C", "charge_transfer"), ("N", "noise")):
        predicted = [np.load(out / f"members/{task}/{r:02d}/predictions.npz")[task] for r in (0, 1)]
        errors, row = [p - truth[field] for p in predicted], rows[task, task]
        variance = truth[field].var()
        assert float(row["r2"]) == pytest.approx(np.mean([1 - (e**2).mean() / variance for e in errors]), abs=1e-5)
        assert float(row["mae"]) == pytest.approx(np.mean([np.abs(e).mean() for e in errors]), rel=1e-5)
        of_means[task] = np.sqrt(((np.mean(predicted, axis=0) - truth[field]) ** 2).mean())
        assert float(row["rmse_of_mean"]) == pytest.approx(of_means[task], rel=1e-6)
    assert (
        of_means["C"]
        < float(rows["C", "C"]["rmse_unit_mean"])
        < float(rows["no network: composition", "C"]["rmse_unit_mean"])
    )
    assert [rows[t, t]["not_learned"] for t in "CN"] == ["0", "2"]
    paper_form = (out / "report/table1.md").read_text().splitlines()
    assert next(x for x in paper_form if x.startswith("| no network")).count("e-") == 2


def test_rows_without_a_network_can_be_left_out(run: Path) -> None:
    with campaigns.without_figures():
        campaigns.done(run, "report", "out", "--no-baselines")
    assert table1(run / "out").keys() == {("C", "C"), ("N", "N")}
    for name in ("index.html", "table1.md", "table1.tex"):
        assert "no network" not in (run / "out/report" / name).read_text("utf-8"), name
    with campaigns.without_figures():
        campaigns.done(run, "report", "out")


def test_a_folder_without_the_summary_says_so_and_a_run_writes_it(run: Path) -> None:
    content = (run / "out/dataset.json").read_bytes()
    (run / "out/dataset.json").unlink()
    shown = campaigns.done(run, "status", "out")
    assert "dataset.json is missing" in shown and "no network" not in shown and CLOSING not in shown
    with campaigns.without_figures():
        assert "dataset.json is missing" in campaigns.done(run, "report", "out")
    assert table1(run / "out")["C", "C"]["r2"] == ""
    assert CLOSING in campaigns.command(run, "run", "campaign.yaml", "out").stderr
    assert (run / "out/dataset.json").read_bytes() == content
    (run / "out/dataset.json").write_text("[")
    shown = campaigns.done(run, "status", "out")
    assert "dataset.json" in shown and "remove it" in shown
    (run / "out/dataset.json").write_bytes(content)
    with campaigns.without_figures():
        campaigns.done(run, "report", "out")
    assert yaml.safe_load((run / "out/campaign.yaml").read_text())["dataset_sha256"] in content.decode()
