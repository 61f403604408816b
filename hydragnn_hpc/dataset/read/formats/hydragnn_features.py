"""What HydraGNN's data files do not state: names, units and scales of features, from the configuration beside them.

That is a file ``X.json`` beside ``X.bp`` or ``X.pkl``, or ``config.json`` beside pickles.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hydragnn_hpc.dataset.read.units import LengthUnit, length_unit
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.records.base import Level
from hydragnn_hpc.validation import one_line


class _Section(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class FeatureNames(_Section):
    """``Dataset.node_features`` or ``graph_features``: names, widths, and units, which HydraGNN ignores."""

    name: list[str] = []
    dim: list[int] = []
    unit: list[str] = []


class DatasetSection(_Section):
    """``Dataset``: the features of each level, and the unit of positions."""

    node_features: FeatureNames = FeatureNames()
    graph_features: FeatureNames = FeatureNames()
    length_unit: str = "bohr"


class VariablesSection(_Section):
    """``NeuralNetwork.Variables_of_interest``: which features are inputs, and which outputs."""

    input_node_features: list[int] = [0]
    output_names: list[str] = []
    output_index: list[int] = []
    type: list[Level] = []


class NetworkSection(_Section):
    """``NeuralNetwork``."""

    variables: VariablesSection = Field(default_factory=VariablesSection, alias="Variables_of_interest")


class Configuration(_Section):
    """The parts of a configuration that describe data."""

    dataset: DatasetSection = Field(default_factory=DatasetSection, alias="Dataset")
    network: NetworkSection = Field(default_factory=NetworkSection, alias="NeuralNetwork")

    def features(self, level: Level) -> FeatureNames:
        """Return the features of a level."""
        return self.dataset.node_features if level == "node" else self.dataset.graph_features


@dataclass(frozen=True)
class OutputFeature:
    """An output: the index of its ``feature`` within its level, and the key under which its values are returned."""

    key: str
    level: Level
    feature: int


def read_configuration(path: Path) -> tuple[Configuration, LengthUnit]:
    """Return the configuration beside a data file, and the unit of positions; the default where there is none.

    Raises
    ------
    UserError
        If it cannot be read, or is not such a configuration.
    """
    places = [path.with_suffix(".json")] + [path.parent / "config.json"] * (path.suffix == ".pkl")
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        return Configuration(), length_unit("bohr", "")
    try:
        configuration = Configuration.model_validate(json.loads(file.read_bytes()))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}; make it readable, or remove it") from error
    except ValidationError as error:
        raise UserError(f"{file}: {one_line(error, Configuration)}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"cannot read {file}: {error}; it is not a configuration of HydraGNN: correct or remove it"
        ) from error
    variables = configuration.network.variables
    names = variables.output_names or variables.type
    if variables.type and not len(variables.type) == len(variables.output_index) == len(names):
        raise UserError(f"{file}: type, output_index and output_names differ in length; correct them")
    return configuration, length_unit(configuration.dataset.length_unit, f"{file}: Dataset.length_unit")


@dataclass(frozen=True)
class Scaling:
    """Minimum and maximum of features by level, ``[2, F]`` float64; None if values are not scaled."""

    node: np.ndarray | None = None
    graph: np.ndarray | None = None

    @classmethod
    def of(cls, node: Any, graph: Any, where: str) -> Scaling:
        """Return the scaling by two arrays of 2 F numbers each, which ADIOS2 keeps flat; None: not scaled.

        Raises
        ------
        UserError
            If they are not such arrays.
        """
        checked = []
        for name, value in (("minmax_node_feature", node), ("minmax_graph_feature", graph)):
            array = None if value is None else np.asarray(value)
            if array is not None and (array.dtype.kind not in "iuf" or array.size % 2 or not np.isfinite(array).all()):
                raise UserError(
                    f"{where}: {name} is not a minimum and a maximum for each feature; write the data again"
                )
            checked.append(None if array is None or not array.size else array.astype(np.float64).reshape(2, -1))
        return cls(*checked)

    def count(self, level: Level) -> int | None:
        """Return the number of features of a level; None where they are not scaled."""
        table = self.node if level == "node" else self.graph
        return None if table is None else table.shape[1]

    def restored(self, level: Level, feature: int, values: np.ndarray, where: str) -> np.ndarray:
        """Return values of a feature in its unit, float64.

        Raises
        ------
        UserError
            If there is no such feature.
        """
        table, values = self.node if level == "node" else self.graph, np.asarray(values, np.float64)
        if table is None:
            return values
        if not 0 <= feature < table.shape[1]:
            raise UserError(
                f"{where}: has no {level}-level feature {feature} (of {table.shape[1]}); correct output_index"
            )
        low, high = table[:, feature]
        restored: np.ndarray = values * (high - low) + low
        return restored


def outputs_of(
    levels: list[Level], n_inputs: int, configuration: Configuration, scaling: Scaling, where: str
) -> list[OutputFeature]:
    """Return which features the outputs of a data set are: as the configuration says, otherwise in order.

    Parameters
    ----------
    levels : list of {"graph", "node"}
        Of each output.
    n_inputs : int
        Number of node-level features that are inputs; they come before the outputs.

    Raises
    ------
    UserError
        If the configuration states other levels, or values are scaled and it is not clear by which feature's minimum
        and maximum.
    """
    variables = configuration.network.variables
    if variables.type:
        if variables.type != levels:
            raise UserError(
                f"{where}: outputs are of levels {levels}, but {variables.type} in the configuration; correct it"
            )
        return [
            OutputFeature(name, level, feature)
            for name, level, feature in zip(
                variables.output_names or [f"output_{k}" for k in range(len(levels))],
                levels,
                variables.output_index,
                strict=True,
            )
        ]
    following: dict[Level, int] = {"graph": 0, "node": n_inputs}
    for level, first in following.items():
        held, needed = scaling.count(level), levels.count(level) + first
        if levels.count(level) and held is not None and held != needed:
            raise UserError(
                f"{where}: it is not stated which of the {held} {level}-level features are its {levels.count(level)}"
                " outputs; put HydraGNN's configuration (.json) beside it, under the same name"
            )
    outputs = []
    for k, level in enumerate(levels):
        outputs.append(OutputFeature(f"output_{k}", level, following[level]))
        following[level] += 1
    return outputs
