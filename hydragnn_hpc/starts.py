"""Members that start from those of another campaign: whether they fit, and what identifies them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hydragnn_hpc import ledger
from hydragnn_hpc.config import Campaign, source_hash
from hydragnn_hpc.errors import UserError, nearest
from hydragnn_hpc.ledger import Frozen, State
from hydragnn_hpc.paths import CampaignFolder, read_record
from hydragnn_hpc.records.dataset import Manifest
from hydragnn_hpc.records.summary import DatasetSummary
from hydragnn_hpc.sections import Section, Start

_OF_TRUNK = ("convolution", "edges", "layers", "channels")


def resolved(campaign: Campaign, manifest: Manifest) -> Campaign:
    """Return the campaign with the hashes of what its members start from; nothing is written.

    Raises
    ------
    UserError
        If a source is not a campaign, lacks finished members, does not fit, or has another hash than the one given.
    """
    for variant in campaign.variants:
        own = campaign.of_variant(variant)
        if own.start is not None:
            try:
                _check(own, own.start, manifest)
            except UserError as error:
                raise UserError(f"variant '{variant.name}': start.from={own.start.folder}: {error}") from error
    variants = tuple(v.model_copy(update={"start": _with_hash(v.start)}) for v in campaign.variants)
    return campaign.model_copy(update={"start": _with_hash(campaign.start), "variants": variants})


def _with_hash(start: Start | None) -> Start | None:
    if start is None:
        return None
    source = _source(start)
    actual = source_hash(source.campaign, source.campaign.variant(start.variant), source.dataset_sha256)
    if start.sha256 not in (None, actual):
        raise UserError(
            f"start.from={start.folder}: variant {start.variant} has the hash {actual[:12]}, not {start.sha256}, which"
            " the campaign names; leave start.sha256 out, or name the campaign that has it"
        )
    return start.model_copy(update={"sha256": actual})


def _source(start: Start) -> Frozen:
    """Read the campaign that members start from; it must have the variant."""
    source = ledger.read_frozen(CampaignFolder(Path(start.folder)))
    names = [v.name for v in source.campaign.variants]
    if start.variant not in names:
        raise UserError(f"it has no variant '{start.variant}'{nearest(start.variant, names)}")
    return source


def _check(own: Campaign, start: Start, manifest: Manifest) -> None:
    """Check a variant, as a campaign of its own, against its source."""
    source = _source(start)
    variant = source.campaign.variant(start.variant)
    if source.campaign.replicas < own.replicas:
        raise UserError(
            f"it has {source.campaign.replicas} replicas, and {own.replicas} are to start from them; set"
            f" replicas={source.campaign.replicas} or fewer"
        )
    folder = CampaignFolder(Path(start.folder))
    for replica in range(own.replicas):
        member = ledger.read_member(folder, variant.name, replica, source.campaign.epochs(variant))
        if member.state is not State.FINISHED:
            raise UserError(f"its member {member.name} is {member.state}, not finished; run that campaign first")
    theirs = source.campaign.of_variant(variant)
    summary = read_record(folder.dataset, DatasetSummary)
    for problem in _differences(own, start, theirs, manifest, summary):
        raise UserError(problem)


def _differences(
    own: Campaign, start: Start, theirs: Campaign, manifest: Manifest, summary: DatasetSummary
) -> Iterator[str]:
    """Yield what does not fit, a line each."""
    tasks = own.variants[0].tasks
    chosen = start.named(tasks)
    keys = [*(_OF_TRUNK if "trunk" in chosen else ("channels",))]
    levels = {own.tasks[task].level for task in tasks if task in chosen}
    keys += [f"{level}_head" for level in sorted(levels)]
    for key in keys:
        wanted, given = getattr(own.model, key), getattr(theirs.model, key)
        if wanted != given:
            yield f"variant {start.variant} has model.{key}={_shown(given)}, not {_shown(wanted)}; use the same"
    if "trunk" in chosen:
        elements = sorted(manifest.source.species or [])
        if elements and elements != sorted(summary.elements):
            yield f"its elements are {_listed(summary.elements)}, those of the data set {_listed(elements)}"
        if own.inputs != theirs.inputs:
            wanted, given = ([_of_input(entry) for entry in c.inputs] for c in (own, theirs))
            yield f"variant {start.variant} has inputs={_listed(given)}, not {_listed(wanted)}; use the same"
    for task in tasks:
        if task not in chosen:
            continue
        if task not in theirs.tasks:
            yield f"variant {start.variant} has no task '{task}'; set start.parts=[trunk]"
        elif theirs.tasks[task].level != own.tasks[task].level:
            yield f"its task '{task}' is at {theirs.tasks[task].level} level; leave its head out of start.parts"
        elif len(summary.targets[theirs.tasks[task].field].minimum) != manifest.targets[own.tasks[task].field].width:
            yield f"its task '{task}' has another number of components; leave its head out of start.parts"


def _shown(value: object) -> str:
    return str(value.model_dump()) if hasattr(value, "model_dump") else str(value)


def _listed(values: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, values))}]"


def _of_input(entry: Section) -> str:
    return " ".join(map(str, entry.model_dump().values()))  # shells 13
