"""``Ensemble``: what the command gives, to the last bit, whatever the order, the batch, the origin or the axes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase import Atoms

from hydragnn_hpc import Ensemble, UserError, load
from hydragnn_hpc.dataset.build import unseen
from hydragnn_hpc.ledger import read_member
from hydragnn_hpc.member.predict import Graphs
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.prediction.ensemble import moments
from tests.campaigns import called, command, done
from tests.prediction.campaigns import PLAIN
from tests.prediction.structures import rotated, rows, same, some


@pytest.mark.slow
@pytest.mark.parametrize(("out", "variant"), [("out-plain", "HCM"), ("out", "HCM")])
def test_python_and_the_command_agree_to_the_last_bit(fept: Path, plain: Path, out: str, variant: str) -> None:
    table = rows(fept, out, variant, "--members", run=command)
    predicted = Ensemble(fept / out, variant).predict(some(fept))
    for task, prediction in predicted.items():
        mine = [r for r in table if r["task"] == task]
        assert [r["unit"] for r in mine] == [prediction.unit] * len(mine)
        assert np.array_equal([float(r["mean"]) for r in mine], prediction.mean[:, 0])
        assert np.array_equal([float(r["std"]) for r in mine], prediction.std[:, 0])
        for number, values in enumerate(prediction.members):
            assert np.array_equal([float(r[f"replica_{number:02d}"]) for r in mine], values[:, 0])
    assert len(table) == sum(len(p.mean) for p in predicted.values()) > 100


@pytest.mark.slow
def test_periodic_structures_agree_as_well(ternary: Path) -> None:
    table = rows(ternary, "out", "HF")
    forces = Ensemble(ternary / "out").predict(some(ternary))["F"]
    found = [float(r["mean"]) for r in table if r["task"] == "F"]
    assert forces.mean.shape[1] == 3 and np.array_equal(found, forces.mean.ravel())
    assert np.isnan(forces.std).all()  # one member


@pytest.mark.slow
def test_values_do_not_depend_on_order_or_batch(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    structures = some(plain.parent)
    moved = structures[0].copy()
    moved.positions[0] += 0.05  # a geometry of its own
    structures.append(moved)
    ensemble = Ensemble(plain)
    whole = ensemble.predict(structures)
    backwards = ensemble.predict(structures[::-1])
    monkeypatch.setattr(unseen, "BATCH_ATOMS", 70)
    in_batches = ensemble.predict(iter(structures))
    for task in ensemble.tasks:
        assert same(whole[task], in_batches[task])
        for number, atoms in enumerate(structures):
            one = whole[task].of(number)
            assert same(one, ensemble.predict(atoms)[task])
            assert same(one, backwards[task].of(-1 - number))
            assert len(one.mean) == (len(atoms) if one.level == "node" else 1)
    assert not same(whole["H"].of(0), whole["H"].of(-1))


@pytest.mark.slow
def test_an_ensemble_may_be_used_while_it_predicts(plain: Path) -> None:
    """By what yields its structures, as a search that follows the predictions does, and by other threads."""
    structures, ensemble = some(plain.parent), Ensemble(plain)
    expected = ensemble.predict(structures)

    def one_after_the_other() -> Iterator[Atoms]:
        for atoms in structures:
            yield atoms
            ensemble.predict(atoms)

    with ThreadPoolExecutor(4) as threads:
        found = [*threads.map(ensemble.predict, [structures] * 8), ensemble.predict(one_after_the_other())]
    assert all(same(predicted[task], expected[task]) for predicted in found for task in expected)


@pytest.mark.slow
def test_a_relative_folder_is_that_of_the_start(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    structures = some(plain.parent)
    monkeypatch.chdir(plain.parent)
    ensemble, results = Ensemble(plain.name), load(plain.name)
    monkeypatch.chdir(tmp_path)
    assert (ensemble.distances(structures).distance > 0).all()
    assert results.test_set() and results.errors_of_means() and results.calibration("HCM").tasks
    assert results.history(results.members[0]) is not None and results.predictions(results.members[0])


@pytest.mark.slow
@pytest.mark.parametrize("edges", [False, True], ids=["without edge features", "with them"])
def test_what_has_the_neighbours_of_the_training_is_predicted_as_in_training(
    fept: Path, plain: Path, edges: bool
) -> None:
    out = plain
    if edges:
        model = {**PLAIN["model"], "edges": {"number": 5}}
        (fept / "edges.yaml").write_text(yaml.safe_dump({**PLAIN, "name": "edges", "replicas": 1, "model": model}))
        done(fept, "run", "edges.yaml", "out-edges")
        out = fept / "out-edges"
    structures = some(fept)[:2]
    slightly, far = structures[0].copy(), structures[0].copy()
    slightly.positions[0] += 1e-3  # other lengths of the same edges
    far.positions[0] += 0.05  # other edges
    structures += [slightly, far]
    ensemble = Ensemble(out)
    (prepared,) = ensemble._preparation.batches(ensemble._frames(structures))
    parts = {shared: chosen.tolist() for chosen, _, shared in ensemble._models._groups(Graphs.of(prepared))}
    assert parts == ({True: [0, 1], False: [2, 3]} if edges else {True: [0, 1, 2], False: [3]})
    found = ensemble.predict(structures)
    assert all(same(found["H"].of(k), ensemble.predict(atoms)["H"]) for k, atoms in enumerate(structures))
    ensemble._models._facts = ensemble.facts.model_copy(update={"geometry": ""})  # as where geometries vary
    for task, other in ensemble.predict(structures).items():
        np.testing.assert_allclose(found[task].members, other.members, rtol=1e-4, atol=1e-5, err_msg=task)


@pytest.mark.slow
def test_models_of_several_geometries_have_no_hash_of_one(ternary: Path) -> None:
    assert not Ensemble(ternary / "out").facts.geometry


@pytest.mark.slow
def test_with_references_values_depend_on_the_batch_only_by_rounding(fept: Path) -> None:
    structures = some(fept)
    ensemble = Ensemble(fept / "out", "HCM")
    whole = ensemble.predict(structures)
    for number, atoms in enumerate(structures):
        for task, one in ensemble.predict(atoms).items():
            assert one.mean == pytest.approx(whole[task].of(number).mean, rel=1e-12, abs=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "ternary"])
def test_predictions_are_invariant(name: str, request: pytest.FixtureRequest) -> None:
    """Translation, rotation and another order of the atoms change nothing, with open and with periodic boundaries."""
    out = request.getfixturevalue(name)
    folder, out = (out.parent, out) if name == "plain" else (out, out / "out")
    structures, ensemble = some(folder), Ensemble(out)
    assert bool(structures[0].pbc.all()) == (name == "ternary")
    order = [np.random.default_rng(k).permutation(len(a)) for k, a in enumerate(structures)]
    predicted = ensemble.predict(structures)
    elsewhere = ensemble.predict([rotated(a) for a in structures])
    permuted = ensemble.predict([a[o] for a, o in zip(structures, order, strict=True)])
    for task, values in predicted.items():
        scale = np.abs(values.mean).max()
        assert np.ptp(values.mean) > 1e-3 * scale
        assert elsewhere[task].mean == pytest.approx(values.mean, abs=2e-6 * scale)
        for number, new in enumerate(order):
            known, found = values.of(number).mean, permuted[task].of(number).mean
            assert found == pytest.approx(known[new] if values.level == "node" else known, abs=2e-6 * scale)


@pytest.mark.slow
def test_members_can_be_chosen_and_weighted(plain: Path) -> None:
    structures = some(plain.parent)
    every = Ensemble(plain)
    results = [read_member(CampaignFolder(plain), "HCM", replica).result for replica in every.replicas]
    best = int(np.argmin([r.validation_loss for r in results]))
    one, all_of_them = Ensemble(plain, select=np.int64(1)), every.predict(structures)
    assert one.replicas == (best,)
    weighted = Ensemble(plain, select="validation").predict(structures)
    for task, values in all_of_them.items():
        assert np.array_equal(one.predict(structures)[task].mean, values.members[best])
        weights = np.array([1 / r.tasks[task].rmse_validation ** 2 for r in results])
        assert weighted[task].mean == pytest.approx(np.average(values.members, 0, weights), rel=1e-12)
        assert not same(weighted[task], values)


def test_moments_do_not_depend_on_the_shape_and_equal_weights_change_nothing() -> None:
    values = np.random.default_rng(0).normal(1.0, 0.3, (12, 50, 2))
    mean, std = moments(values)
    assert mean == pytest.approx(values.mean(axis=0)) and std == pytest.approx(values.std(axis=0, ddof=1))
    for row in range(50):
        alone = moments(values[:, row : row + 1, :1])
        assert alone[0] == mean[row, 0] and alone[1] == std[row, 0]
    weighted = moments(values, [1 / 12] * 12)
    assert weighted[0] == pytest.approx(mean, rel=1e-14) and weighted[1] == pytest.approx(std, rel=1e-12)
    assert np.isnan(moments(values[:1])[1]).all() and np.isnan(moments(values[:1], [1.0])[1]).all()


def test_what_cannot_be_used_is_reported_in_one_line(fept: Path, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    ensemble = Ensemble(plain)
    iron = Atoms("Fe2", [(0, 0, 0), (0, 0, 2.5)])
    boxed = Atoms("Fe2", iron.positions, cell=[5, 5, 5], pbc=True)
    for given, message in (
        ([], "there is no structure to predict"),
        ([iron, Atoms("FeCu", iron.positions)], "structure 1: holds Cu, which the models were not trained on"),
        (boxed, r"structure 0: its boundary is \(True, True, True\), .* training is open; set atoms.pbc = False"),
        (Atoms(), "structure 0: no atoms"),
        (Atoms("Fe2", [(0, 0, 0), (0, 0, 0)]), "structure 0: atoms 0 and 1 are at the same position"),
        (["raw"], "structure 0 is of type str; give ase.Atoms"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            ensemble.predict(given)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    assert len(ensemble.predict(iron)["H"].mean) == 1  # it is still usable
    for arguments, message in (
        (("nowhere",), "nowhere holds no campaign"),
        ((fept / "out",), "several variants have finished members; give one: HCM, M"),
        ((fept / "out", "HM"), "no variant 'HM'; did you mean 'HCM'"),
    ):
        with pytest.raises(UserError, match=message):
            Ensemble(*arguments)
    for options, message in (
        ({"select": 4}, "select=4: give 'all', 'validation', or how many of the 3"),
        ({"select": "best"}, "select='best'"),
        ({"device": "gpu"}, "device 'gpu'; known: cpu"),
        ({"device": "xpu"}, "^device=xpu: torch .* sees no GPU"),
    ):
        with pytest.raises(UserError, match=message):
            Ensemble(plain, **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_first_guess_is_what_ase_starts_from(plain: Path) -> None:
    folder = plain.parent
    structures = some(folder)
    predicted = Ensemble(plain).predict(structures)
    done(folder, "predict", "out-plain", "few.extxyz", "--out", "guess.extxyz")
    guesses = ase.io.read(folder / "guess.extxyz", ":")
    assert len(guesses) == len(structures)
    for number, (atoms, guess) in enumerate(zip(structures, guesses, strict=True)):
        assert guess.symbols.get_chemical_formula() == atoms.symbols.get_chemical_formula()
        assert guess.positions == pytest.approx(atoms.positions, abs=1e-12)
        moments_, charges = (predicted[task].of(number).mean[:, 0] for task in ("M", "C"))
        assert np.array_equal(guess.get_initial_magnetic_moments(), moments_)
        assert np.array_equal(guess.get_initial_charges(), -charges)  # electrons gained make it negative
        assert guess.info["H"] == predicted["H"].of(number).mean[0, 0]
        assert guess.info["H_std"] == predicted["H"].of(number).std[0, 0]
        assert np.array_equal(guess.arrays["M_std"], predicted["M"].of(number).std[:, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--out", "guess.txt"), "--out guess.txt: the suffix must be .csv, .extxyz or .xyz"),
        (("--out", "guess.xyz"), "extended XYZ holds one variant; give --variant, one of HCM, M"),
        (("--out", "guess.xyz", "--variant", "M", "--members"), "--members is for csv"),
    ],
)
def test_a_file_that_cannot_hold_it_is_refused(fept: Path, options: tuple[str, ...], message: str) -> None:
    found = called(fept, "predict", "out", "raw", *options)
    assert found.returncode == 2 and message in found.stderr and len(found.stderr.splitlines()) == 1
