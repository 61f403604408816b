"""Members that start from those of another campaign: whether they fit, and what identifies them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from hydragnn_hpc import halving, ledger
from hydragnn_hpc.campaign_hash import source_hash
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.counts import counted
from hydragnn_hpc.errors import UserError, nearest
from hydragnn_hpc.ledger import Frozen, Member, State
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
    if campaign.start is None and all(variant.start is None for variant in campaign.variants):
        return campaign
    sources = cache(_source)  # many variants, such as the points of a sweep, start from the same members
    for variant in campaign.variants:
        own = campaign.of_variant(variant)
        if own.start is not None:
            try:
                _check(own, own.start, sources(own.start.folder, own.start.variant), manifest)
            except UserError as error:
                raise UserError(f"variant '{variant.name}': start.from={own.start.folder}: {error}") from error

    def with_hash(start: Start | None) -> Start | None:
        return start and _with_hash(start, sources(start.folder, start.variant).hash)

    variants = tuple(v.model_copy(update={"start": with_hash(v.start)}) for v in campaign.variants)
    return campaign.model_copy(update={"start": with_hash(campaign.start), "variants": variants})


def check_unchanged(start: Start) -> None:
    """Check that a source is still the one whose hash a campaign has.

    Raises
    ------
    UserError
        If it has been trained further, or replaced.
    """
    frozen = _frozen(start.folder, start.variant)
    if start.sha256 not in (None, _hash(frozen, start.variant)):
        raise UserError(
            f"start.from={start.folder}: variant {start.variant} has been trained further, or replaced, since the run"
            " began; restore it, or give another folder"
        )


def source_of(start: Start) -> Frozen:
    """Return the frozen campaign that members start from, with their variant alone.

    Raises
    ------
    UserError
        If its folder holds no campaign, or the campaign has no such variant.
    """
    frozen = _frozen(start.folder, start.variant)
    return replace(frozen, campaign=frozen.campaign.of_variant(frozen.campaign.variant(start.variant)))


def _with_hash(start: Start, actual: str) -> Start:
    if start.sha256 not in (None, actual):
        raise UserError(
            f"start.from={start.folder}: variant {start.variant} has the hash {actual[:12]}, not {start.sha256}, which"
            " the campaign names; leave start.sha256 out, or name the campaign that has it"
        )
    return start.model_copy(update={"sha256": actual})


@dataclass(frozen=True)
class _Source:
    """A variant that members start from: as a campaign of its own, its members, its hash, its data set."""

    campaign: Campaign
    members: list[Member]
    hash: str
    summary: DatasetSummary


def _source(folder: str, name: str) -> _Source:
    """Read a variant that members start from."""
    frozen, files = _frozen(folder, name), CampaignFolder(Path(folder))
    campaign, variant = frozen.campaign, frozen.campaign.variant(name)
    ended = halving.ended(campaign, ledger.read_rungs(files)).get(name)
    if ended is not None:
        raise UserError(f"its sweep ended '{name}' at epoch {ended}, unfinished; start from a point that went on")
    epochs = campaign.epochs(variant)
    members = [ledger.read_member(files, name, replica, epochs) for replica in range(campaign.replicas)]
    summary = read_record(files.dataset, DatasetSummary)
    return _Source(campaign.of_variant(variant), members, _hash(frozen, name), summary)


def _frozen(folder: str, variant: str) -> Frozen:
    frozen = ledger.read_frozen(CampaignFolder(Path(folder)))
    names = [v.name for v in frozen.campaign.variants]
    if variant not in names:
        raise UserError(f"{folder} has no variant '{variant}'{nearest(variant, names)}")
    return frozen


def _hash(frozen: Frozen, variant: str) -> str:
    return source_hash(frozen.campaign, frozen.campaign.variant(variant), frozen.dataset_sha256)


def _check(own: Campaign, start: Start, source: _Source, manifest: Manifest) -> None:
    """Check a variant, as a campaign of its own, against its source."""
    if len(source.members) < own.replicas:
        raise UserError(
            f"it has {counted(len(source.members), 'replica')}, and {own.replicas} are to start from them; set"
            f" replicas={len(source.members)} or fewer"
        )
    for member in source.members[: own.replicas]:
        if member.state is not State.FINISHED:
            raise UserError(f"its member {member.name} is {member.state}, not finished; run that campaign first")
    if problem := next(_differences(own, start, source.campaign, manifest, source.summary), ""):
        raise UserError(problem)


def _differences(
    own: Campaign, start: Start, theirs: Campaign, manifest: Manifest, summary: DatasetSummary
) -> Iterator[str]:
    """Yield what does not fit, a line each."""
    tasks = own.variants[0].tasks
    chosen = start.parts_for(tasks)
    keys = [*(_OF_TRUNK if "trunk" in chosen else ("channels",))]
    levels = {own.tasks[task].level for task in tasks if task in chosen}
    keys += [f"{level}_head" for level in sorted(levels)] + ["pooling"] * ("graph" in levels)
    for key in keys:
        expected, given = getattr(own.model, key), getattr(theirs.model, key)
        if expected != given:
            yield f"variant {start.variant} has model.{key}={_shown(given)}, not {_shown(expected)}; use the same"
    if "trunk" in chosen:
        elements = sorted(manifest.source.species or [])
        if elements and elements != sorted(summary.elements):
            yield f"its elements are {_listed(summary.elements)}, those of the data set {_listed(elements)}"
        if own.inputs != theirs.inputs:
            expected, given = ([_of_input(entry) for entry in c.inputs] for c in (own, theirs))
            yield f"variant {start.variant} has inputs={_listed(given)}, not {_listed(expected)}; use the same"
    for task in tasks:
        if task not in chosen:
            continue
        if task not in theirs.tasks:
            yield f"variant {start.variant} has no task '{task}'; set start.parts=[trunk]"
        elif theirs.tasks[task].level != own.tasks[task].level:
            yield f"its task '{task}' is at {theirs.tasks[task].level} level; leave its head out of start.parts"
        elif len(summary.targets[theirs.tasks[task].field].minimum) != manifest.targets[own.tasks[task].field].width:
            yield f"its task '{task}' has another number of components; leave its head out of start.parts"
        elif theirs.tasks[task].has_noise != own.tasks[task].has_noise:
            yield (
                f"its task '{task}' has loss={theirs.tasks[task].loss.name}, whose head has another width than that of"
                f" {own.tasks[task].loss.name}; leave its head out of start.parts"
            )
        elif theirs.tasks[task].reference != own.tasks[task].reference:
            yield (
                f"its task '{task}' has reference={theirs.tasks[task].reference}, not {own.tasks[task].reference}; use"
                " the same, or leave its head out of start.parts"
            )


def _shown(value: object) -> str:
    return str(value.model_dump()) if hasattr(value, "model_dump") else str(value)


def _listed(values: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, values))}]"


def _of_input(entry: Section) -> str:
    return " ".join(map(str, entry.model_dump().values()))  # shells 13
