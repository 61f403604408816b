"""Configurations of HydraGNN become campaigns; what a campaign cannot carry is named, or refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hydragnn_hpc.campaign_file import load_campaign
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.exchange.settings import campaign_file
from tests.campaigns import called, done
from tests.exchange.configurations import LSMS, NOTHING, changed, write

PAPER = Path(__file__).parents[2] / "jobs" / "campaigns" / "paper.yaml"
NETWORK, TRAINING = "NeuralNetwork__Architecture__", "NeuralNetwork__Training__"
VARIABLES, HEADS = "NeuralNetwork__Variables_of_interest__", "NeuralNetwork__Architecture__output_heads__"


def imported(folder: Path, content: Any) -> tuple[Campaign, list[str]]:
    """The campaign that a configuration becomes, and what is not carried over."""
    text, unused = campaign_file(write(folder / "config.json", content))
    (folder / "campaign.yaml").write_text(text)
    return load_campaign(folder / "campaign.yaml"), unused


def differences(one: Any, other: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """The values in which two sections differ, by dotted path."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return {} if one == other else {path: (one, other)}
    found: dict[str, tuple[Any, Any]] = {}
    for key in {**one, **other}:
        found |= differences(one.get(key), other.get(key), f"{path}.{key}".lstrip("."))
    return found


def test_the_lsms_example_is_the_papers_campaign_but_for_what_it_states_otherwise(tmp_path: Path) -> None:
    campaign, _ = imported(tmp_path, LSMS)
    paper = load_campaign(PAPER).model_dump(mode="json", exclude={"name", "dataset", "variants"})
    found = differences(campaign.model_dump(mode="json", exclude={"name", "dataset", "variants"}), paper)
    assert found == {
        "replicas": (1, 12),
        "model.channels": (5, 20),
        "model.graph_head": ([5, 5, 50, 25], [50, 25]),  # the shared graph layers lead it
        "training.optimizer.name": ("AdamW", "Adam"),
        "training.optimizer.weight_decay": (0.01, 0.0),
        "training.early_stopping.patience": (10, 30),
    }
    assert [variant.tasks for variant in campaign.variants] == [("H", "C", "M")]


def test_the_command_writes_the_file_and_names_what_it_does_not_carry(tmp_path: Path) -> None:
    write(tmp_path / "lsms.json", LSMS)
    printed = done(tmp_path, "import", "config", "lsms.json")
    text = (tmp_path / "lsms.yaml").read_text()
    assert "--cutoff 7bohr --boundary open\n# --fractions 0.7,0.15,0.15 --split-by composition" in text
    for line in (
        "Verbosity.level=2: concerns printing only",
        "NeuralNetwork.Architecture.max_neighbours=100: all neighbours within the cutoff count",
        "NeuralNetwork.Variables_of_interest.denormalize_output=true: predictions are in the targets' units",
        "Visualization.create_plots=true: the report draws its own figures",
    ):
        assert line in printed and line in text
    again = called(tmp_path, "import", "config", "lsms.json")
    assert again.returncode == 2 and "lsms.yaml exists; give another name, or remove it" in again.stderr


def values_of(content: Any, path: str = "") -> list[str]:
    """The dotted path of every value."""
    if isinstance(content, dict):
        return [found for key, value in content.items() for found in values_of(value, f"{path}.{key}".lstrip("."))]
    return [path]


@pytest.mark.parametrize("path", [path for path in values_of(LSMS) if not path.endswith("startfrom")])
def test_no_value_is_dropped_silently(path: str, tmp_path: Path) -> None:
    """Changed to something else, each value changes the campaign file, is named with its value, or is refused."""
    plain, _ = campaign_file(write(tmp_path / "config.json", LSMS))
    for value in ("other", 12345, [0.5, 7]):
        content = changed(**{path.replace(".", "__"): value})
        try:
            text, unused = campaign_file(write(tmp_path / "config.json", content))
        except UserError as error:
            assert path.rsplit(".", 1)[-1] in str(error) or "column" in str(error)
            continue
        assert text != plain, value
        assert path.split(".", maxsplit=1)[0] not in ("Verbosity", "Visualization") or any(
            path in line for line in unused
        )


def test_names_of_earlier_and_later_versions(tmp_path: Path) -> None:
    campaign, unused = imported(tmp_path, LSMS)
    early = changed(
        **{
            f"{NETWORK}mpnn_type": NOTHING,
            f"{NETWORK}model_type": "PNA",
            f"{TRAINING}Optimizer": NOTHING,
            f"{TRAINING}optimizer": "AdamW",
            f"{TRAINING}learning_rate": 1e-3,
        }
    )
    heads = LSMS["NeuralNetwork"]["Architecture"]["output_heads"]
    late = changed(**{f"{HEADS}{k}": [{"type": "branch-0", "architecture": v}] for k, v in heads.items()})
    assert imported(tmp_path, early) == imported(tmp_path, late) == (campaign, unused)


def test_what_a_saved_configuration_adds_follows_from_the_data(tmp_path: Path) -> None:
    saved = changed(
        **{
            f"{NETWORK}pna_deg": [0, 1, 2] * 20,
            f"{NETWORK}activation_function": "relu",
            f"{NETWORK}initial_bias": None,
            f"{VARIABLES}y_minmax": [[0.0, 1.0]] * 3,
            f"{TRAINING}SomethingNew": 3,
        }
    )
    _, unused = imported(tmp_path, saved)
    added = [line for line in unused if line not in imported(tmp_path, LSMS)[1]]
    assert sorted(line.split("=")[0].rsplit(".", 1)[-1] for line in added) == ["SomethingNew", "pna_deg", "y_minmax"]
    assert any("pna_deg=[0, 1, 2, 0" in line and "...: follows from the data set here" in line for line in added)
    assert f"{TRAINING.replace('__', '.')}SomethingNew=3: a key unknown here; it has no effect" in added


def test_settings_that_both_have_are_carried(tmp_path: Path) -> None:
    content = changed(
        Dataset__format="XYZ",
        **{
            f"{NETWORK}mpnn_type": "PAINN",
            f"{NETWORK}num_radial": 6,
            f"{NETWORK}graph_pooling": "add",
            f"{NETWORK}periodic_boundary_conditions": True,
            f"{NETWORK}task_weights": [2, 1, 0.5],
            f"{TRAINING}loss_function_type": "mae",
            f"{TRAINING}Optimizer": {"type": "SGD", "learning_rate": 0.1},
            f"{TRAINING}EarlyStopping": False,
            f"{TRAINING}perc_train": 0.8,
        },
    )
    campaign, _ = imported(tmp_path, content)
    text = (tmp_path / "campaign.yaml").read_text()
    assert "--cutoff 7UNIT --boundary periodic" in text and "--fractions 0.8,0.1,0.1" in text
    assert "--target magnetic_moment=node:KEY:UNIT" in text
    assert campaign.model.convolution == "PaiNN" and campaign.model.edges and campaign.model.edges.number == 6
    assert campaign.model.pooling == "sum" and campaign.training.early_stopping is None
    assert campaign.training.optimizer.model_dump() == {
        "name": "SGD", "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0
    }  # fmt: skip
    assert [task.weight for task in campaign.tasks.values()] == [2, 1, 0.5]
    assert {task.loss.name for task in campaign.tasks.values()} == {"mae"}
    assert yaml.safe_load(text)["variants"] == ["free_energy_scaled_num_nodes+charge_density+M"]
    likelihood, _ = imported(tmp_path, changed(**{f"{TRAINING}loss_function_type": "GaussianNLLLoss"}))
    assert {task.loss.name for task in likelihood.tasks.values()} == {"nll"}


def test_every_output_is_a_task_of_its_own_whatever_their_names(tmp_path: Path) -> None:
    names = {f"{VARIABLES}output_names": ["a_1", "a", "a"]}
    campaign, _ = imported(tmp_path, changed(Dataset__format="XYZ", **names))
    assert list(campaign.tasks) == ["a_1", "a", "a_2"]


def test_comments_hold_names_of_any_characters(tmp_path: Path) -> None:
    evil = "\u2028replicas: 2 # \ud800\nreplicas: 3"
    campaign, unused = imported(tmp_path, changed(Dataset__path={"total": evil}, **{evil: 1}))
    assert campaign.replicas == 1 and any(line.startswith(r"\u2028replicas: 2 # \ud800\nreplicas") for line in unused)


def test_periodic_lsms_text_needs_a_cell(tmp_path: Path) -> None:
    imported(tmp_path, changed(**{f"{NETWORK}periodic_boundary_conditions": True}))
    lines = (line.removeprefix("# ") for line in (tmp_path / "campaign.yaml").read_text().splitlines())
    assert "--boundary periodic --fractions 0.7,0.15,0.15 --split-by composition --cell 'A B C bohr'" in " ".join(lines)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (f"{HEADS}node__type", "conv", "output_heads.node.type=\"conv\": all atoms share one head here; set mlp"),
        (f"{HEADS}graph", [{}, {}], "output_heads.graph has 2 branches"),
        (f"{HEADS}graph__num_sharedlayers", 10**12, "num_sharedlayers=1000000000000: expected 0 to 100"),
        (f"{NETWORK}radius", 0, "radius=0: expected a positive length"),
        (f"{HEADS}node__dim_headlayers", [50], "1 widths for num_headlayers=2"),
        (f"{NETWORK}activation_function", "selu", "activation_function=\"selu\": campaigns do not have this"),
        (f"{NETWORK}global_attn_engine", "GPS", "global_attn_engine=\"GPS\""),
        (f"{NETWORK}mpnn_type", "MACE", "mpnn_type=\"MACE\": not available here; set one of: PNA"),
        (f"{NETWORK}hidden_dim", True, "hidden_dim=true: expected a whole number"),
        (f"{NETWORK}hidden_dim", NOTHING, "hidden_dim is missing"),
        (f"{NETWORK}hidden_dim", 0, "hidden_dim=0: expected at least 1"),
        (f"{NETWORK}task_weights", [1.0], "task_weights=[1.0]: 1 entry for 3 outputs"),
        (f"{NETWORK}task_weights", [1, 0, 1], "a task's weight is positive"),
        (f"{VARIABLES}input_node_features", [0, 1], "inputs are computed from the structure here"),
        (f"{VARIABLES}type", ["graph", "edge", "node"], "an output is of level graph or node"),
        (f"{TRAINING}loss_function_type", "rmse", "loss_function_type=\"rmse\""),
        (f"{TRAINING}Optimizer__type", "FusedLAMB", "not available here; set one of: Adam, AdamW, SGD"),
        (f"{TRAINING}perc_train", 1.0, "perc_train=1.0: give a share between 0 and 1"),
        ("Dataset__node_features__column_index", [0, 5, 9], "output 'magnetic_moment' is column 9 of LSMS text"),
        ("NeuralNetwork", 3, "NeuralNetwork.Architecture is missing"),
    ],
)  # fmt: skip
def test_what_a_campaign_cannot_express_is_refused(path: str, value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        campaign_file(write(tmp_path / "config.json", changed(**{path: value})))
    assert str(caught.value).startswith(f"{tmp_path}/config.json: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ('{"a": 1, "a": 2}', "the key 'a' appears twice"),
        ('{"a": NaN}', "NaN is not a number"),
        ("[1]", "holds [1], not a configuration"),
        ("[" * 100_000, "is not JSON"),
        ("\xff", "is not JSON"),
    ],
)
def test_files_that_are_not_configurations(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        campaign_file(tmp_path / "c.json")
    with pytest.raises(UserError, match="no such file"):
        campaign_file(tmp_path / "none.json")
