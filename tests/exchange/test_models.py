"""Models go to HydraGNN 3.0 and come from it, and predict there as here."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from hydragnn_hpc import Ensemble
from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.campaign_hash import member_hash
from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.build.prepare import prepare
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.exchange.export import _refuse_other, _scale_by_one_range, degree_histogram, export
from hydragnn_hpc.exchange.models import ImportOptions, import_models
from hydragnn_hpc.exchange.names import from_hydragnn, to_hydragnn
from hydragnn_hpc.exchange.settings import campaign_file
from hydragnn_hpc.ledger import read_frozen, read_members
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.records.model import ModelFacts, ModelTask
from tests.campaigns import SMALL, called, done
from tests.payload import Payload

HYDRAGNN = Path(sys.prefix) / "hydragnn"
CAMPAIGN = {
    **SMALL,
    "replicas": 2,
    "variants": ["HCM", "M"],
    "model": {"layers": 3, "channels": 8, "graph_head": [9, 7], "node_head": [24]},
    "training": {"epochs": 3, "batch_size": 16},
}
KNOWN = ImportOptions(1.0, {"H": "Ry", "C": "e", "M": "μB"}, [26, 78])


def run_hydragnn(action: str, folder: Path) -> None:
    """Run HydraGNN itself on a folder, in a process of its own."""
    if not (HYDRAGNN / "installed").exists():
        pytest.skip("HydraGNN is not installed; bash envs/tests.sh")
    script = Path(__file__).with_name("real.py")
    found = subprocess.run(
        [sys.executable, str(script), action, str(folder)],
        env={**os.environ, "PYTHONPATH": str(HYDRAGNN)}, capture_output=True, text=True, cwd=folder,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-3000:]


def write_graphs(bp: Path, folder: Path) -> None:
    """Write all samples of a data set as one batch of graphs, as HydraGNN takes them."""
    manifest, a = store.read(bp)
    species, x, batch, edges = manifest.species, [], [], []
    for k, g in enumerate(a["sample_geometry"]):
        z = a["atomic_numbers"][slice(*a["atom_offsets"][k : k + 2])]
        first, last = a["geometry_atom_offsets"][g : g + 2]
        degree = np.diff(a["neighbour_offsets"][first : last + 1])
        near = a["neighbours"][a["neighbour_offsets"][first] : a["neighbour_offsets"][last]]
        edges.append(np.stack([near, np.repeat(np.arange(len(z)), degree)]) + sum(map(len, batch)))
        x.append((z - species.minimum) / (species.maximum - species.minimum))
        batch.append(np.full(len(z), k))
    np.savez(
        folder / "graphs.npz", x=np.concatenate(x)[:, None].astype(np.float32), batch=np.concatenate(batch),
        edge_index=np.concatenate(edges, axis=1).astype(np.int64),
    )  # fmt: skip


def outputs_of(folder: Path, name: str) -> list[np.ndarray]:
    """What HydraGNN predicted, scaled."""
    return list(np.load(folder / f"{name}.npz").values())


def scaled(out: Path, variant: str, raw: Path, replica: int) -> list[np.ndarray]:
    """What a member predicts here for LSMS text, scaled as HydraGNN's outputs are."""
    ensemble = Ensemble(out, variant, device="cpu")
    found = []
    for batch in ensemble._preparation.read(raw):
        predicted = ensemble.apply(batch)
        for task, facts in ensemble.facts.tasks.items():
            low, high = np.array(facts.minimum), np.array(facts.maximum)
            found.append((predicted[task].members[replica] - low) / (high - low))
    return found


@pytest.fixture(scope="module")
def trained(surrogate_raw: Callable[[int], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 250 samples of LSMS text, their data set, and a campaign that has run: ``raw, small.bp, out``."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "raw").symlink_to(surrogate_raw(8))
    prepare(folder / "raw", folder / "small.bp", Options())
    (folder / "campaign.yaml").write_text(yaml.safe_dump(CAMPAIGN))
    done(folder, "run", "campaign.yaml", "out")
    return folder


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    """The members of the trained campaign, exported as HydraGNN's models."""
    printed = done(trained, "export", "out", "models", "--to", "hydragnn")
    assert "models: 4 models: HCM-00, HCM-01, M-00, M-01" in printed
    return trained / "models"


def test_hydragnn_predicts_with_exported_models_as_they_do_here(trained: Path, exported: Path) -> None:
    """In float32, PyTorch Geometric's standard deviation of nearly equal values has few digits: a few atoms differ."""
    write_graphs(trained / "small.bp", exported)
    run_hydragnn("predict", exported)
    for name in ("HCM-00", "HCM-01", "M-00", "M-01"):
        ours = scaled(trained / "out", name[:-3], trained / "raw", int(name[-2:]))
        double, single = outputs_of(exported, name), outputs_of(exported, f"{name}-single")
        assert len(ours) == len(double) == len(name) - 3
        for one, exact, rounded in zip(ours, double, single, strict=True):
            assert one.shape == exact.shape and np.abs(one - exact).max() < 1e-5 < np.ptp(exact)
            assert (np.abs(one - rounded) < 1e-5).mean() > 0.995


def test_exported_models_come_back(
    trained: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first layer of the graph-level head is then the identity; the predictions are the same."""
    for variant in ("HCM", "M"):
        (tmp_path / variant).mkdir()
        for replica in (0, 1):
            (tmp_path / variant / f"m{replica}").symlink_to(exported / f"{variant}-0{replica}")
        units = {task: KNOWN.units[task] for task in variant}
        assert import_models(tmp_path / variant, tmp_path / f"out-{variant}", ImportOptions(1.0, units, [26, 78])) == 2
        assert " is left out: all neighbours within the cutoff count" in capsys.readouterr().err
        ours, again = (Ensemble(out, variant, device="cpu") for out in (trained / "out", tmp_path / f"out-{variant}"))
        for batch in ours._preparation.read(trained / "raw"):
            expected, found = ours.apply(batch), again.apply(batch)
            for task in variant:
                assert found[task].unit == expected[task].unit
                width = np.ptp(expected[task].members)
                assert np.abs(found[task].members - expected[task].members).max() < 1e-5 * width
        made = CampaignFolder(tmp_path / f"out-{variant}")
        campaign = read_frozen(made).campaign
        results = [member.result for member in read_members(made, campaign)]
        expected_hash = member_hash(campaign, campaign.variants[0], "")
        assert [result and result.config_hash for result in results] == [expected_hash] * 2
        with pytest.raises(UserError, match=r"select=1: of the 2 finished members .*, 0 have a validation loss"):
            Ensemble(tmp_path / f"out-{variant}", select=1)
        assert len(Ensemble(tmp_path / f"out-{variant}", select=2).replicas) == 2
        export(tmp_path / f"out-{variant}", tmp_path / f"again-{variant}", [])
        content = json.loads((tmp_path / f"again-{variant}" / f"{variant}-00" / "config.json").read_text())
        assert content["NeuralNetwork"]["Architecture"]["max_neighbours"] > 1000, "not known, and no limit"
    assert "2 finished" in done(tmp_path, "status", "out-M")


def configured(folder: Path, name: str, exported: Path, **heads: Any) -> Path:
    """A configuration as HydraGNN saved it, with shared graph layers."""
    content = json.loads((exported / "HCM-00" / "config.json").read_text())
    content["NeuralNetwork"]["Architecture"]["output_heads"]["graph"] |= heads
    (folder / name).mkdir(parents=True)
    (folder / name / "config.json").write_text(json.dumps(content))
    return folder / name


def test_an_exported_configuration_has_no_key_that_an_import_does_not_know(exported: Path) -> None:
    text, unused = campaign_file(exported / "HCM-00" / "config.json")
    assert unused and not [line for line in unused if "unknown" in line]
    assert "--cutoff 7bohr --boundary open" in text and "HydraGNN does not record" not in text


def test_models_of_hydragnn_predict_here_as_they_do_there(trained: Path, exported: Path, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    configured(logs, "one", exported, num_sharedlayers=2, dim_sharedlayers=5)
    configured(logs, "two", exported, num_sharedlayers=2, dim_sharedlayers=5)
    write_graphs(trained / "small.bp", logs)
    run_hydragnn("make", logs)
    units = [w for t, u in KNOWN.units.items() for w in ("--unit", f"{t}={u}")]
    options = ("--length-unit", "bohr", "--elements", "Fe,Pt", *units)
    printed = done(tmp_path, "import", "model", "logs", "out", *options)
    assert "out: 2 finished members" in printed
    for replica, name in enumerate(("one", "two")):
        theirs, ours = outputs_of(logs, name), scaled(tmp_path / "out", "HCM", trained / "raw", replica)
        for one, other in zip(theirs, ours, strict=True):
            assert np.abs(one - other).max() < 1e-5 * max(1.0, np.abs(one).max()) < np.ptp(one)
    rows = done(tmp_path, "predict", "out", str(trained / "raw"))
    assert len(rows.splitlines()) == 1 + 250 * (1 + 2 * 32)


def renamed(state: dict[str, np.ndarray], version: int) -> dict[str, np.ndarray]:
    """Weights under the names of version 2 or 4."""
    rules: dict[int, tuple[tuple[str, str], ...]] = {
        2: ((r"^graph_convs\.(\d+)\.module_0", r"convs.\1"), (r"^feature_layers", "batch_norms")),
        4: ((r"^graph_shared", "graph_shared.branch-0"), (r"^heads_NN\.(\d+)", r"heads_NN.\1.branch-0")),
    }
    found = {}
    for name, value in state.items():
        for pattern, replacement in rules[version]:
            name = re.sub(pattern, replacement, name)
        found[f"module.{name}"] = value
    return found


@pytest.mark.parametrize("version", [2, 4])
def test_names_of_other_versions(version: int, exported: Path) -> None:
    state = {
        name: tensor.numpy()
        for name, tensor in torch.load(exported / "HCM-00" / "HCM-00.pk")["model_state_dict"].items()
    }
    tasks = [("H", "graph"), ("C", "node"), ("M", "node")]
    plain, degrees = from_hydragnn(state, tasks, 3, 1, "x")
    other, also = from_hydragnn(renamed(state, version), tasks, 3, 1, "x")
    assert plain.keys() == other.keys() and degrees == also and len(degrees) == 2
    assert all((plain[name] == other[name]).all() for name in plain)
    with pytest.raises(UserError, match=r"13 tensors, .* belong to no layer of the configured network"):
        from_hydragnn(state, tasks, 2, 1, "x")


def test_the_degrees_that_are_written_have_the_averages_of_the_training() -> None:
    rng = np.random.default_rng(0)
    for most in (3, 11, 40):
        counts = rng.integers(1, 50, most + 1)
        degree = np.arange(most + 1)
        average = [float(counts @ v / counts.sum()) for v in (degree, np.log(degree + 1))]
        found = np.array(degree_histogram(average, most))
        assert len(found) == most + 1
        np.testing.assert_allclose([found @ v / found.sum() for v in (degree, np.log(degree + 1))], average, rtol=1e-5)
    assert degree_histogram([4.0, float(np.log(5))], 4) == [0, 0, 0, 0, 10**6]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"convolution": "SAGE"}}, "model.convolution=SAGE: only PNA"),
        ({"model": {"edges": {"number": 4}}}, "model.edges"),
        ({"model": {"pooling": "max"}}, "model.pooling=max: HydraGNN 3 takes the mean"),
        ({"model": {"graph_head": []}}, "model.graph_head=[]"),
        ({"inputs": ["one_hot"]}, "inputs: HydraGNN computes none beyond the species"),
        ({"tasks": {"H": {"level": "graph", "field": "h", "reference": "species"}}}, "tasks.H.reference=species"),
        ({"tasks": {"H": {"level": "graph", "field": "h", "loss": "nll"}}}, "tasks.H.loss=nll: HydraGNN 3 predicts no"),
    ],
)  # fmt: skip
def test_networks_that_hydragnn_does_not_have_are_refused(changes: dict[str, Any], message: str) -> None:
    content = {"name": "a", "dataset": "a.bp", "tasks": {"H": {"level": "graph", "field": "h"}}, "variants": ["H"]}
    with pytest.raises(UserError, match=re.escape(message)):
        _refuse_other(parse_campaign({**content, **changes}, "x"), "H")


def test_what_is_not_a_usable_model_is_refused(exported: Path, tmp_path: Path) -> None:
    def refused(folder: Path, **units: str) -> str:
        with pytest.raises(UserError) as caught:
            import_models(folder, tmp_path / "out", ImportOptions(1.0, units))
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    assert "holds no config.json" in refused(tmp_path)
    folder = configured(tmp_path, "HCM-00", exported)
    assert "expected one checkpoint (.pk)" in refused(folder)
    whole = (exported / "HCM-00" / "HCM-00.pk").read_bytes()
    (folder / "HCM-00.pk").write_bytes(whole[: len(whole) // 2])
    assert "cannot read" in refused(folder) and "HCM-00.pk" in refused(folder)
    (folder / "HCM-00.pk").write_bytes(pickle.dumps({"model_state_dict": Payload(tmp_path / "ran")}))
    assert "cannot read" in refused(folder) and not (tmp_path / "ran").exists()
    torch.save({"weights": {}}, folder / "HCM-00.pk")
    assert "has no tensors under 'model_state_dict'" in refused(folder)
    (folder / "HCM-00.pk").write_bytes(whole)
    assert "--unit E: the model has no such output; it has H, C, M" in refused(folder, E="eV")
    content = json.loads((folder / "config.json").read_text())
    network = content["NeuralNetwork"]["Architecture"]
    for key, value, message in (
        ("hidden_dim", 9, "has shape"),
        ("num_conv_layers", 4, "has no 'graph_convs.3.module_0.pre_nns.0.0.weight'"),
        ("num_conv_layers", 2, "belong to no layer of the configured network"),
        ("edge_dim", 1, "edge_dim=1: edges have other features here"),
        ("mpnn_type", "GIN", "its convolution is GIN; only PNA is imported"),
        ("output_dim", [1], "output_dim=[1]: expected 3 entries"),
    ):
        network[key], before = value, network[key]
        (folder / "config.json").write_text(json.dumps(content))
        assert message in refused(folder), key
        network[key] = before
    training = content["NeuralNetwork"]["Training"]
    training["loss_function_type"] = "GaussianNLLLoss"
    (folder / "config.json").write_text(json.dumps(content))
    assert 'loss_function_type="GaussianNLLLoss": models of a variance are not imported' in refused(folder)
    training["loss_function_type"] = "mse"
    variables = content["NeuralNetwork"]["Variables_of_interest"]
    for key, given, message in (
        ("y_minmax", [[0, 1]], "expected a minimum and a maximum for each of 3"),
        ("y_minmax", [[0, 1], [0, 1], [1, 0]], "expected a minimum and a maximum for each of 3"),
        ("x_minmax", [[26, 300]], "x_minmax=[26.0, 300.0]: proton numbers are whole, 1 to 118"),
        ("y_minmax", None, "y_minmax is missing, by which values are scaled; add it, or give --unscaled"),
        ("x_minmax", None, "x_minmax is missing, by which values are scaled"),
        ("input_node_features", [0, 1], "inputs are computed from the structure here"),
    ):
        variables[key], earlier = given, variables[key]
        (folder / "config.json").write_text(json.dumps(content))
        assert message in refused(folder), key
        variables[key] = earlier


def test_a_model_of_unscaled_values_is_imported_without_ranges(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported / "HCM-00", tmp_path / "HCM-00"))
    content = json.loads((folder / "config.json").read_text())
    for key in ("x_minmax", "y_minmax"):
        del content["NeuralNetwork"]["Variables_of_interest"][key]
    (folder / "config.json").write_text(json.dumps(content))
    assert import_models(folder, tmp_path / "out", ImportOptions(1.0, {}, [26, 78], unscaled=True)) == 1
    facts = Ensemble(tmp_path / "out", device="cpu").facts
    assert (facts.species.minimum, facts.species.maximum) == (0, 1) and facts.tasks["M"].maximum == [1.0]


def test_models_with_other_neighbours_or_degrees_are_no_replicas(exported: Path, tmp_path: Path) -> None:
    for name in ("HCM-00", "HCM-01"):
        shutil.copytree(exported / name, tmp_path / "models" / name)
    other = tmp_path / "models" / "HCM-01"
    text, checkpoint = (other / "config.json").read_text(), torch.load(other / "HCM-01.pk")
    content = json.loads(text)
    content["NeuralNetwork"]["Architecture"]["radius"] *= 1.1
    (other / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"HCM-01: is another model than .*HCM-00: its neighbours .* differ"):
        import_models(tmp_path / "models", tmp_path / "out", KNOWN)
    (other / "config.json").write_text(text)
    checkpoint["model_state_dict"]["graph_convs.0.module_0.aggr_module.avg_deg_log"] *= 1.001
    torch.save(checkpoint, other / "HCM-01.pk")
    with pytest.raises(UserError, match="its average degrees differ"):
        import_models(tmp_path / "models", tmp_path / "out", KNOWN)


def test_commands_refuse_in_one_line(trained: Path, exported: Path) -> None:
    for words, message in (
        (("export", "out", "models", "--to", "hydragnn"), "models exists; give the name of a new folder"),
        (("export", "out", "m", "--to", "schnet"), "--to schnet"),
        (
            ("import", "model", "models/M-00", "o", "--length-unit", "bohr", "--elements", "Qq"),
            "'Qq' is not",
        ),
        (
            ("import", "model", "models/M-00", "o", "--length-unit", "0bohr"),
            "--length-unit: '0bohr' is not a unit of length; give bohr or angstrom",
        ),
        (("import", "model", "models", "o", "--length-unit", "bohr"), "is another model than"),
        (
            ("import", "model", "models/M-00", "o", "--length-unit", "bohr", "--unit", "M=e", "--unit", "M=μB"),
            "--unit M=μB: M has the unit e already; leave one out",
        ),
    ):
        found = called(trained, *words)
        assert found.returncode == 2 and message in found.stderr and len(found.stderr.splitlines()) == 1, found.stderr
    assert not (trained / "m").exists() and not (trained / "o").exists()


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.long
def test_two_hundred_real_structures(real_samples: Path, tmp_path: Path) -> None:
    prepare(real_samples, tmp_path / "small.bp", Options())
    (tmp_path / "campaign.yaml").write_text(yaml.safe_dump({**CAMPAIGN, "variants": ["HCM"], "replicas": 1}))
    done(tmp_path, "run", "campaign.yaml", "out")
    assert export(tmp_path / "out", tmp_path / "models", []) == ["HCM-00"]
    write_graphs(tmp_path / "small.bp", tmp_path / "models")
    run_hydragnn("predict", tmp_path / "models")
    theirs, ours = outputs_of(tmp_path / "models", "HCM-00"), scaled(tmp_path / "out", "HCM", real_samples, 0)
    for one, other in zip(theirs, ours, strict=True):
        assert len(one) in (200, 6400) and np.abs(one - other).max() < 1e-5 < np.ptp(one)


def test_the_last_layer_of_a_vector_task_is_not_that_of_a_task_with_a_longer_name() -> None:
    task = ModelTask.model_construct(minimum=[0.0, 0.0, 0.0], maximum=[1.0, 2.0, 4.0], width=3)
    weights = {f"heads.{head}.{kind}": np.ones((3, 3) if kind == "weight" else 3, np.float32)
               for head in ("V.0", "V.2.0", "V.2.1") for kind in ("weight", "bias")}  # fmt: skip
    _scale_by_one_range(ModelFacts.model_construct(tasks={"V": task}), weights)
    assert weights["heads.V.0.weight"][:, 0].tolist() == [0.25, 0.5, 1.0]
    assert (weights["heads.V.2.1.weight"] == 1).all()


def test_names_of_weights_there_and_back() -> None:
    weights = {"trunk.0.norm.weight": np.ones(2, np.float32), "heads.a.0.weight": np.ones((1, 2), np.float32)}
    weights |= {f"trunk.0.norm.{n}": np.ones(2, np.float32) for n in ("bias", "running_mean", "running_var")}
    weights |= {f"trunk.0.conv.{n}.{k}": np.ones(2, np.float32) for n in ("pre_nns.0.0", "post_nns.0.0", "lin")
                for k in ("weight", "bias")}  # fmt: skip
    weights["heads.a.0.bias"] = np.ones(1, np.float32)
    state = to_hydragnn(weights, [("a", "node")], 1, [3.0, 1.25])
    assert not any(name.startswith("graph_shared") for name in state)
    back, degrees = from_hydragnn(state, [("a", "node")], 1, 0, "x")
    assert back.keys() == weights.keys() and degrees == [3.0, 1.25]
    with pytest.raises(UserError, match=r"'heads_NN.0.mlp.0.0.bias' holds values that are not finite"):
        from_hydragnn({**state, "heads_NN.0.mlp.0.0.bias": np.array([np.nan])}, [("a", "node")], 1, 0, "x")
