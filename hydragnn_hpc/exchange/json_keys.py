"""The keys of HydraGNN's JSON files, of which every one is either used or named as unused."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydragnn_hpc.errors import UserError

ARCHITECTURE = "NeuralNetwork.Architecture"
VARIABLES = "NeuralNetwork.Variables_of_interest"
TRAINING = "NeuralNetwork.Training"


class Key(enum.StrEnum):
    """Dotted paths of the keys that several modules name."""

    NAME = "Dataset.name"
    LENGTH_UNIT = "Dataset.length_unit"  # which HydraGNN ignores
    NODE_FEATURES = "Dataset.node_features.name"
    GRAPH_FEATURES = "Dataset.graph_features.name"
    CONVOLUTION = f"{ARCHITECTURE}.mpnn_type"
    CONVOLUTION_BEFORE_4 = f"{ARCHITECTURE}.model_type"
    RADIUS = f"{ARCHITECTURE}.radius"
    MAX_NEIGHBOURS = f"{ARCHITECTURE}.max_neighbours"
    PERIODIC = f"{ARCHITECTURE}.periodic_boundary_conditions"
    CHANNELS = f"{ARCHITECTURE}.hidden_dim"
    LAYERS = f"{ARCHITECTURE}.num_conv_layers"
    HEADS = f"{ARCHITECTURE}.output_heads"
    TASK_WEIGHTS = f"{ARCHITECTURE}.task_weights"
    INPUT_WIDTH = f"{ARCHITECTURE}.input_dim"
    OUTPUT_WIDTHS = f"{ARCHITECTURE}.output_dim"
    OUTPUT_LEVELS = f"{ARCHITECTURE}.output_type"
    NUM_NODES = f"{ARCHITECTURE}.num_nodes"
    DEGREES = f"{ARCHITECTURE}.pna_deg"
    ACTIVATION = f"{ARCHITECTURE}.activation_function"
    FREEZE = f"{ARCHITECTURE}.freeze_conv_layers"
    EQUIVARIANCE = f"{ARCHITECTURE}.equivariance"
    SYNC_BATCH_NORM = f"{ARCHITECTURE}.SyncBatchNorm"
    INPUTS = f"{VARIABLES}.input_node_features"
    OUTPUT_NAMES = f"{VARIABLES}.output_names"
    OUTPUT_INDEX = f"{VARIABLES}.output_index"
    TYPE = f"{VARIABLES}.type"
    DENORMALIZE = f"{VARIABLES}.denormalize_output"
    INPUT_RANGES = f"{VARIABLES}.x_minmax"
    OUTPUT_RANGES = f"{VARIABLES}.y_minmax"
    EPOCHS = f"{TRAINING}.num_epoch"
    BATCH_SIZE = f"{TRAINING}.batch_size"
    TRAINING_SHARE = f"{TRAINING}.perc_train"
    LOSS = f"{TRAINING}.loss_function_type"
    OPTIMIZER = f"{TRAINING}.Optimizer.type"
    LEARNING_RATE = f"{TRAINING}.Optimizer.learning_rate"


class HeadKey(enum.StrEnum):
    """Keys of a level (graph or node) within `Key.HEADS`."""

    SHARED_LAYERS = "num_sharedlayers"
    SHARED_WIDTH = "dim_sharedlayers"
    LAYERS = "num_headlayers"
    WIDTHS = "dim_headlayers"
    TYPE = "type"


_KINDS: dict[type, str] = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false", list: "a list", dict: "a section",
}  # fmt: skip
_SHOWN = 60  # characters of a value in an error
_REQUIRED: Any = object()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises
    ------
    UserError
        If it cannot be read, is not JSON, or holds a key twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise ValueError(f"the key '{twice}' appears twice; remove one of the two")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number in JSON")

    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=once, parse_constant=refuse)
    except FileNotFoundError as error:
        raise UserError(f"no such file: {path}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; give a readable file") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}; give a configuration of HydraGNN (.json)") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {shown(content)}, not a configuration of HydraGNN; give its .json file")
    return content


def shown(value: Any) -> str:
    """Return a value as JSON, shortened."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by dotted path as sections, in the same order."""
    content: dict[str, Any] = {}
    for path, value in values.items():
        *sections, key = path.split(".")
        section = content
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
    return content


def _is(value: Any, kind: type) -> bool:
    """Whether a value is of a kind; a whole number is a number, and a boolean is neither."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


class Keys:
    """The values of a configuration by dotted path.

    Parameters
    ----------
    content : dict
    where : str
        The file, for errors.

    Attributes
    ----------
    left : dict
        The values that have not been taken yet.
    """

    def __init__(self, content: dict[str, Any], where: str) -> None:
        self.where = where
        self.left: dict[str, Any] = {}
        self._flatten(content, "")

    def _flatten(self, content: dict[str, Any], before: str) -> None:
        for key, value in content.items():
            if isinstance(value, dict) and value:
                self._flatten(value, f"{before}{key}.")
            else:
                self.left[f"{before}{key}"] = value

    def has(self, path: str) -> bool:
        """Whether there is a value, or a section with values, at ``path``."""
        return path in self.left or any(key.startswith(f"{path}.") for key in self.left)

    def take(self, path: str, kind: type, default: Any = _REQUIRED) -> Any:
        """Return the value at ``path``, which is then no longer left; null counts as absent.

        Raises
        ------
        UserError
            If it is missing and has no default, or is of another kind.
        """
        value = self.left.pop(path, None)
        if value is None:
            if default is _REQUIRED:
                raise UserError(f"{self.where}: {path} is missing; add it, or give a complete configuration")
            return default
        if not _is(value, kind):
            raise self.error(path, value, f"expected {_KINDS[kind]}; correct it")
        return value

    def take_list(self, path: str, kind: type, default: Any = _REQUIRED) -> list[Any]:
        """Return the list at ``path``, all of whose entries are of ``kind``; errors as for `take`."""
        values: list[Any] = self.take(path, list, default)
        for value in values:
            if not _is(value, kind):
                raise self.error(path, values, f"expected {_KINDS[kind]} in every entry; correct it")
        return values

    def error(self, path: str, value: Any, reason: str) -> UserError:
        """Return an error about a value; ``reason`` includes the remedy."""
        return UserError(f"{self.where}: {path}={shown(value)}: {reason}")
