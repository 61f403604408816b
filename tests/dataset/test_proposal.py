"""Campaign files that ``init`` writes: they fit the data, load, and can be trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.io
import pytest
from ase import Atoms
from emt import changed, crystals

from hydragnn_hpc.campaign_file import load_campaign
from hydragnn_hpc.cli.init import init
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset import proposal
from hydragnn_hpc.dataset.build.prepare import prepare
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.dataset.read.targets import parse_targets
from hydragnn_hpc.errors import UserError
from tests.campaigns import called, done

CAMPAIGNS = Path(__file__).parents[2] / "jobs" / "campaigns"
METALS = "Al Ni Cu Pd Ag Pt Au"


def made(folder: Path, structures: list[Atoms], targets: list[str], **options: Any) -> Path:
    """A data set of some structures."""
    ase.io.write(folder / "raw.extxyz", structures)
    out = folder / "mine.bp"
    prepare(folder / "raw.extxyz", out, replace(Options(targets=parse_targets(targets)), **options))
    return out


def written(folder: Path, data: Path, purpose: str = "accuracy") -> Campaign:
    """The campaign that ``init`` writes for a data set."""
    init(data, purpose, folder / "mine.yaml")
    return load_campaign(folder / "mine.yaml")


def rattled(folder: Path) -> Path:
    """One element, one composition, every geometry different."""
    return made(folder, crystals(300), ["energy=graph:e:eV"])


def with_forces(folder: Path) -> Path:
    """Energies, and forces, which rotate."""
    return made(folder, crystals(60), ["energy=graph:e:eV", "forces=node:f:eV/Ang"])


def periodic_lattice(folder: Path) -> Path:
    """Two elements on ideal crystals of two sizes."""
    return made(folder, crystals(90, sizes=(1, 2), symbols="Cu Au", rattle=0.0), ["energy=graph:e:eV"])


def many_compositions(folder: Path) -> Path:
    """Compositions of which most have one sample."""
    return made(folder, crystals(120, symbols=METALS), ["energy=graph:e:eV"])


def ternary(folder: Path) -> Path:
    """Three elements in crystals of two sizes; an energy of the structure, and one of each atom."""
    structures = changed(crystals(300, sizes=(1, 2), symbols="Cu Ag Au"), lambda _, a: a.info["e"] / len(a) - 3, "e1")
    structures = changed(structures, lambda _, a: a.info["e"] - 3 * len(a))
    return made(folder, structures, ["energy=graph:e:eV", "specific=graph:e1:eV/atom"])


CASES: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "rattled": (rattled, {"inputs": ["species", "shells"], "edges": True, "pooling": "mean", "reference": "linear"}),
    "forces": (
        with_forces,
        {
            "inputs": ["species", "shells"],
            "edges": True,
            "pooling": "mean",
            "reference": "species",
            "tasks": ["E", "F"],
        },
    ),
    "periodic": (
        periodic_lattice,
        {"inputs": ["species", "composition", "shells", "ewald"], "edges": False, "pooling": "sum"},
    ),
    "many compositions": (
        many_compositions,
        {"inputs": ["one_hot", "composition", "shells", "ewald"], "edges": True, "reference": "species"},
    ),
    "ternary": (ternary, {"edges": True, "pooling": "sum", "tasks": ["E", "S"]}),
}


@pytest.fixture(scope="module")
def proposed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``proposed(name)``: the folder of a case, with ``mine.bp`` and the campaign that ``init`` writes for it."""
    folders: dict[str, Path] = {}

    def folder_of(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("proposed")
            written(folders[name], CASES[name][0](folders[name]))
        return folders[name]

    return folder_of


@pytest.mark.parametrize("name", CASES)
def test_a_campaign_fits_its_data(name: str, proposed: Callable[[str], Path]) -> None:
    file, wanted = proposed(name) / "mine.yaml", CASES[name][1]
    campaign = load_campaign(file)
    found = {
        "inputs": [entry.name for entry in campaign.inputs],
        "edges": campaign.model.edges is not None,
        "pooling": campaign.model.pooling,
        "reference": next(iter(campaign.tasks.values())).reference,
        "tasks": list(campaign.tasks),
    }
    assert {key: found[key] for key in wanted} == wanted
    text = file.read_text()
    assert text.count("#") > 5 and max(map(len, text.splitlines())) <= 120
    assert ("Vectors rotate with the structure" in text) == (name == "forces") and "Left out" not in text


@pytest.mark.parametrize(
    ("targets", "tasks"),
    [
        (["energy", "E"], ["E", "E_2"]),
        (["energy", "E_2", "E"], ["E", "E_2", "E_3"]),
        (["hardness", "coercivity", "HC"], ["H", "C", "HC"]),
    ],
)
def test_every_target_is_a_task_and_every_variant_has_its_own_name(
    targets: list[str], tasks: list[str], tmp_path: Path
) -> None:
    data = proposal.read(made(tmp_path, crystals(60), [f"{name}=graph:e:eV" for name in targets]))
    content = proposal.propose(data, "x", "x.bp", "paper").content
    assert [(name, task["field"]) for name, task in content["tasks"].items()] == list(zip(tasks, targets, strict=True))
    assert len(set(content["variants"])) == 2 ** len(targets) - 1


def test_vectors_have_a_variant_whose_values_rotate(proposed: Callable[[str], Path], tmp_path: Path) -> None:
    campaign = load_campaign(proposed("forces") / "mine.yaml")
    assert [v.name for v in campaign.variants] == ["E", "F"] and campaign.model.convolution == "PNA"
    assert campaign.of_variant(campaign.variants[1]).model.convolution == "PaiNN"
    assert campaign.tasks["F"].vector and campaign.tasks["F"].reference == "none"
    paper = written(tmp_path, proposed("forces") / "mine.bp", "paper")
    assert list(paper.tasks) == ["E"] and "Left out: forces, which rotates" in (tmp_path / "mine.yaml").read_text()


def test_energies_of_structures_and_of_atoms_are_pooled_apart(proposed: Callable[[str], Path]) -> None:
    campaign = load_campaign(proposed("ternary") / "mine.yaml")
    pooled = {v.tasks: campaign.of_variant(v).model.pooling for v in campaign.variants}
    assert pooled == {("E",): "sum", ("S",): "mean"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n if n in ("forces", "ternary") else pytest.param(n, marks=pytest.mark.long) for n in CASES]
)
def test_a_campaign_can_be_trained_for_a_few_epochs(name: str, proposed: Callable[[str], Path]) -> None:
    folder = proposed(name)
    few = ["training.epochs=2", "replicas=1", "model.channels=8", "model.layers=2"]
    done(folder, "run", "mine.yaml", "out", *[word for setting in few for word in ("--set", setting)])
    results = [json.loads(p.read_text()) for p in (folder / "out" / "members").rglob("result.json")]
    assert results and all(r["state"] == "finished" and r["epochs"] == 2 for r in results)
    kept = {r["name"] for r in json.loads((folder / "out" / "remarks.json").read_text())["remarks"]}
    assert not kept & {"distances", "rotating-target", "mean-pooling", "species-as-number"}


@pytest.mark.parametrize("purpose", proposal.PURPOSES)
def test_the_surrogates_campaigns(small_bp: Path, tmp_path: Path, purpose: str) -> None:
    campaign = written(tmp_path, small_bp, purpose)
    assert list(campaign.tasks) == ["H", "C", "M"] and campaign.dataset == str(small_bp)
    assert campaign.variants[0].name == "HCM" and campaign.model.edges is None
    done(tmp_path, "run", "mine.yaml", "never", "--dry-run")


def differing(campaign: Campaign, file: str) -> dict[str, Any]:
    """The settings in which a campaign differs from one of jobs/campaigns, apart from names of files."""
    mine, theirs = (c.model_dump(exclude={"name", "dataset"}) for c in (campaign, load_campaign(CAMPAIGNS / file)))
    return {key: mine[key] for key in mine if mine[key] != theirs[key]}


def test_for_paper_is_the_papers_campaign(small_bp: Path, tmp_path: Path) -> None:
    assert differing(written(tmp_path, small_bp, "paper"), "paper.yaml") == {}


@pytest.mark.realdata
def test_the_open_data_have_the_papers_and_the_best_campaign(real_bp: Path, tmp_path: Path) -> None:
    assert differing(written(tmp_path, real_bp, "paper"), "paper.yaml") == {}
    (tmp_path / "mine.yaml").unlink()
    best = written(tmp_path, real_bp)
    training = best.training.model_copy(update={"engine": "fused"})
    assert differing(best.model_copy(update={"training": training}), "best.yaml") == {}


def test_what_cannot_be_written_is_refused(small_bp: Path, tmp_path: Path) -> None:
    written(tmp_path, small_bp)
    before = (tmp_path / "mine.yaml").read_bytes()
    for arguments, message in (
        (["--out", "mine.yaml"], "mine.yaml exists; give another name with --out, or remove it"),
        (["--out", "mine.txt"], "ends in .yaml"),
        (["--for", "sped"], "did you mean 'speed'"),
    ):
        failed = called(tmp_path, "init", str(small_bp), *arguments)
        assert failed.returncode == 2 and message in failed.stderr, failed.stderr
    assert (tmp_path / "mine.yaml").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_data_of_which_nothing_can_be_learned_are_refused(tmp_path: Path) -> None:
    data = proposal.read(made(tmp_path, crystals(60), ["stress=graph:s:eV"]))
    with pytest.raises(UserError, match="no target of the data set can be learned: Left out: stress, which rotates"):
        proposal.propose(data, "x", "x.bp", "speed")
    shutil.rmtree(tmp_path / "mine.bp")
    forces = proposal.read(made(tmp_path, crystals(60), ["forces=node:f:eV/Ang"]))
    assert [v["name"] for v in proposal.propose(forces, "x", "x.bp", "speed").content["variants"]] == ["F"]
