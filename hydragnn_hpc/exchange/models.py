"""Import of HydraGNN's trained models: a folder for each, with its checkpoint and its configuration."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import hydragnn_hpc
from hydragnn_hpc.atomic import new_folder
from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.campaign_hash import config_hash, member_hash
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.counts import counted
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.exchange import settings
from hydragnn_hpc.exchange.json_keys import ARCHITECTURE, Key, Keys
from hydragnn_hpc.exchange.names import from_hydragnn
from hydragnn_hpc.exchange.settings import NetworkSettings, OutputSettings
from hydragnn_hpc.exchange.unused import REASONS
from hydragnn_hpc.ledger import Frozen, freeze, now
from hydragnn_hpc.logs import log
from hydragnn_hpc.member import tensor_files
from hydragnn_hpc.member.engine.sizes import NetworkSizes, TaskSizes
from hydragnn_hpc.member.training.checkpoint import TrainedModel, write_done
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.records.dataset import NeighbourFacts
from hydragnn_hpc.records.device import Device
from hydragnn_hpc.records.member import Result, TaskErrors
from hydragnn_hpc.records.model import ModelFacts, ModelSpecies, ModelTask

CONFIGURATION = "config.json"
STATE = "model_state_dict"
"""The key of the weights in a checkpoint."""
_LAST_ELEMENT = 118


@dataclass(frozen=True)
class ImportOptions:
    """What HydraGNN does not record, and its user has to state.

    Attributes
    ----------
    length_unit : float
        The unit of positions and radius, in bohr.
    units : dict
        Units of outputs by name; the other outputs are dimensionless.
    elements : list of int or None
        Proton numbers that the model was trained on; None: all between the smallest and the largest.
    unscaled : bool
        Whether it was trained on values in their units; otherwise the configuration has to state their ranges.
    """

    length_unit: float
    units: dict[str, str]
    elements: list[int] | None = None
    unscaled: bool = False


def import_models(source: Path, out: Path, options: ImportOptions) -> int:
    """Make a campaign's folder with finished members from models of HydraGNN; return how many.

    Parameters
    ----------
    source : Path
        A folder with ``config.json`` and one checkpoint (``.pk``), as HydraGNN writes in ``logs``; or a folder of such
        folders, models of one kind, which become replicas.
    out : Path
        The campaign's folder to make.
    options : ImportOptions

    Raises
    ------
    UserError
        If something cannot be read, or is not a network that can be used here.
    """
    if out.exists():
        raise UserError(f"{out} exists; give the name of a new folder")
    inner = sorted(path.parent for path in source.glob(f"*/{CONFIGURATION}"))
    folders = [source] if (source / CONFIGURATION).is_file() else inner
    if not folders:
        raise UserError(f"{source}: holds no {CONFIGURATION}, nor does a folder in it; give one of HydraGNN's logs")
    read = [_read(folder, options) for folder in folders]
    first = read[0]
    for folder, (campaign, model, _) in zip(folders, read, strict=True):
        if other := _difference((campaign, model.facts), (first[0], first[1].facts)):
            raise UserError(
                f"{folder}: is another model than {folders[0]}: its {other} differ; import each kind into a folder of"
                " its own"
            )
    campaign = first[0].model_copy(update={"replicas": len(read)})
    with new_folder(out) as folder:
        made = CampaignFolder(folder)
        freeze(made, Frozen(campaign, config_hash(campaign, ""), "", now()))
        for replica, (_, model, sha256) in enumerate(read):
            files = made.member(campaign.variants[0].name, replica)
            files.make()
            write_done(files, _result(campaign, replica, sha256, model.facts), model, {})
    most = settings.open_configuration(folders[0] / CONFIGURATION).left.get(Key.MAX_NEIGHBOURS)
    if most is not None:
        log(f"max_neighbours={most} is left out: {REASONS[Key.MAX_NEIGHBOURS]}")
    return len(read)


def _difference(one: tuple[Campaign, ModelFacts], other: tuple[Campaign, ModelFacts]) -> str:
    """Return the property in which two models differ although replicas must share it; empty if there is none."""
    (campaign, facts), (expected, expected_facts) = one, other
    alike = {
        "tasks": campaign.tasks == expected.tasks and facts.tasks == expected_facts.tasks,
        "sizes": campaign.model == expected.model,
        "species": facts.species == expected_facts.species,
        "neighbours (radius, boundary)": facts.neighbours == expected_facts.neighbours,
        "average degrees": np.allclose(facts.average_degree, expected_facts.average_degree, rtol=1e-6, atol=0),
    }
    return next((name for name, same in alike.items() if not same), "")


def _read(folder: Path, options: ImportOptions) -> tuple[Campaign, TrainedModel, str]:
    """Return the campaign that one model would belong to, the model, and the hash of its checkpoint."""
    keys = settings.open_configuration(folder / CONFIGURATION)
    checkpoints = sorted(folder.glob("*.pk"))
    if len(checkpoints) > 1:
        checkpoints = [path for path in checkpoints if path.stem == folder.name]
    if len(checkpoints) != 1:
        raise UserError(f"{folder}: expected one checkpoint (.pk), or one with the folder's name; move others away")
    features = settings.take_features(keys)
    settings.check_inputs(keys, features["node"])
    outputs = settings.take_outputs(keys, features)
    network = settings.take_network(keys, {output.level for output in outputs})
    if network.model["convolution"] != "PNA":
        raise UserError(f"{keys.where}: its convolution is {network.model['convolution']}; only PNA is imported")
    for path in (f"{ARCHITECTURE}.edge_dim", f"{ARCHITECTURE}.edge_features"):
        if value := keys.left.get(path):
            raise keys.error(path, value, "edges have other features here; train it again here")
    loss = keys.left.get(Key.LOSS)
    if settings.LOSSES.get(str(loss)) == "nll":
        raise keys.error(Key.LOSS, loss, "models of a variance are not imported; train it again here")
    campaign = _campaign(keys, outputs, network, options)
    (checkpoint,) = checkpoints
    tasks = [(name, task.level) for name, task in campaign.tasks.items()]
    state = tensor_files.read_state(checkpoint, STATE)
    weights, degrees = from_hydragnn(state, tasks, campaign.model.layers, network.shared, str(checkpoint))
    facts = _facts(keys, campaign, outputs, network, options, degrees or _average_degree(keys))
    _check_shapes(campaign, facts, weights, str(checkpoint))
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    return campaign, tensor_files.model_of(facts, weights), digest


def _campaign(keys: Keys, outputs: list[OutputSettings], network: NetworkSettings, options: ImportOptions) -> Campaign:
    names = settings.task_names([output.name for output in outputs])
    if other := set(options.units) - set(names):
        raise UserError(f"--unit {min(other)}: the model has no such output; it has {', '.join(names)}")
    tasks = {
        name: {"level": output.level, "field": name, "weight": output.weight}
        for name, output in zip(names, outputs, strict=True)
    }
    content = {
        "name": "imported",
        "dataset": "none.bp",
        "tasks": tasks,
        "variants": [settings.variant_of(list(tasks))],
        "model": network.model,
    }
    return parse_campaign(content, keys.where)


def _facts(
    keys: Keys,
    campaign: Campaign,
    outputs: list[OutputSettings],
    network: NetworkSettings,
    options: ImportOptions,
    degrees: list[float],
) -> ModelFacts:
    ranges = _ranges(keys, Key.OUTPUT_RANGES, len(outputs), options.unscaled)
    widths = keys.take_list(Key.OUTPUT_WIDTHS, int, [1] * len(outputs))
    if len(widths) != len(outputs):
        raise keys.error(Key.OUTPUT_WIDTHS, widths, f"expected {counted(len(outputs), 'entry', 'entries')}; correct it")
    tasks = {
        name: ModelTask(
            level=task.level, unit=options.units.get(name, ""), label=name.replace("_", " "), width=width,
            minimum=[low] * width, maximum=[high] * width, missing=0, field=name,
        )
        for (name, task), width, (low, high) in zip(campaign.tasks.items(), widths, ranges, strict=True)
    }  # fmt: skip
    (low, high), *_ = _ranges(keys, Key.INPUT_RANGES, 1, options.unscaled)
    if low != int(low) or high != int(high) or low < 0 or high > _LAST_ELEMENT:
        raise keys.error(
            Key.INPUT_RANGES,
            [low, high],
            f"proton numbers are whole, 1 to {_LAST_ELEMENT}; give a model with that input",
        )
    elements = options.elements or list(range(1, _LAST_ELEMENT + 1) if high <= 1 else range(int(low), int(high) + 1))
    return ModelFacts(
        model=campaign.model.model_dump(mode="json"),
        inputs=1,
        average_degree=degrees,
        tasks=tasks,
        species=ModelSpecies(minimum=int(low), maximum=int(high), elements=elements),
        neighbours=NeighbourFacts(
            cutoff_bohr=network.radius * options.length_unit, boundary="periodic" if network.periodic else "open"
        ),
    )


def _ranges(keys: Keys, path: str, count: int, unscaled: bool) -> list[tuple[float, float]]:
    """Return the ``count`` pairs of minimum and maximum at ``path``; if none, 0 and 1 for ``unscaled`` values."""
    given = keys.take(path, list, [])
    if not given:
        if unscaled:
            return [(0.0, 1.0)] * count
        # HydraGNN leaves them out where denormalize_output is false, whether its data were scaled or not.
        raise UserError(
            f"{keys.where}: {path} is missing, by which values are scaled; add it, or give --unscaled if the model was"
            " trained on values in their units"
        )
    try:
        pairs = [(float(np.ravel(low)[0]), float(np.ravel(high)[0])) for low, high in given]
        fits = len(pairs) == count and all(-math.inf < low <= high < math.inf for low, high in pairs)
    except (TypeError, ValueError, IndexError):
        fits = False
    if not fits:
        raise keys.error(path, given, f"expected a minimum and a maximum for each of {count}; correct it")
    return pairs


def _average_degree(keys: Keys) -> list[float]:
    """Return the mean of the degree and of log(degree + 1), from the histogram in the configuration."""
    counts = np.array(keys.take_list(Key.DEGREES, int), np.float64)
    if not counts.sum() > 0:
        raise keys.error(Key.DEGREES, counts.tolist(), "counts no atom; give the model's own file")
    degree = np.arange(len(counts))
    return [float(counts @ value / counts.sum()) for value in (degree, np.log(degree + 1))]


def _sizes_of(campaign: Campaign, facts: ModelFacts) -> NetworkSizes:
    """Return the sizes of a model's network; the campaign is the variant's own."""
    model = campaign.model
    heads = {"graph": model.graph_head, "node": model.node_head}
    tasks = tuple(TaskSizes(name, t.level, t.width, heads[t.level]) for name, t in facts.tasks.items())
    linear, logarithmic = facts.average_degree
    return NetworkSizes(facts.inputs, (model.channels,) * model.layers, tasks, (linear, logarithmic), model.pooling)


def _check_shapes(campaign: Campaign, facts: ModelFacts, weights: dict[str, np.ndarray], where: str) -> None:
    sizes = _sizes_of(campaign, facts)
    for name, shape in {**sizes.parameter_shapes(), **sizes.buffer_shapes()}.items():
        found = weights[name].shape if name in weights else None
        if found != shape:
            raise UserError(
                f"{where}: '{name}' has shape {found}, but {shape} by the configuration; do they belong together?"
            )


def _result(campaign: Campaign, replica: int, sha256: str, facts: ModelFacts) -> Result:
    """Return the record of a member that was trained elsewhere: errors and times are not known."""
    errors = {
        name: TaskErrors(level=t.level, unit=t.unit, n=0, rmse=None, mae=None, rmse_unit=None, mae_unit=None)
        for name, t in facts.tasks.items()
    }
    epochs, digest = campaign.training.epochs, member_hash(campaign, campaign.variants[0], "")
    return Result(
        state="finished", config_hash=digest, dataset_sha256="", variant=campaign.variants[0].name, replica=replica,
        seed=0, tasks=errors, validation_loss=None, best_epoch=epochs, epochs=epochs, stopped_by="epochs", seconds=0,
        seconds_training=0, seconds_validation=0, stack=(replica,), engine="HydraGNN", attempt=1, sessions=(),
        device=Device(type="cpu", name="", index=None, uuid=None), threads=1,
        versions={"hydragnn_hpc": hydragnn_hpc.__version__}, weights_sha256=sha256,
    )  # fmt: skip
