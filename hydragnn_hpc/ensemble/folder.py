"""A campaign's folder at the start of a run: the configuration is frozen or compared, and remains are cleaned up."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

from hydragnn_hpc import ledger, ownership, starts
from hydragnn_hpc.atomic import StorageError, remove_leftovers, storage_errors
from hydragnn_hpc.campaign_file import load_campaign
from hydragnn_hpc.campaign_hash import config_hash, source_hash
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.crate import check_archive
from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.remarks import registry
from hydragnn_hpc.dataset.staged import match
from hydragnn_hpc.ensemble import growth, rungs
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.ledger import Frozen, Member, State
from hydragnn_hpc.paths import CampaignFolder, write_record
from hydragnn_hpc.records.campaign import EarlierCampaign
from hydragnn_hpc.records.dataset import Manifest
from hydragnn_hpc.records.remarks import CampaignRemarks

_MAY_BE_THERE = {"jobs", "logs", "run.lock"}  # made before the first run, by 'submit' for instance
_OVER = (State.FINISHED, State.DIVERGED)


@dataclass(frozen=True)
class RunPlan:
    """The state from which a run starts.

    Attributes
    ----------
    frozen : Frozen
    members : list of Member
        All members, in the states that the folder shows.
    on_folder : list of str
        Remarks on what the folder holds, one line each.
    on_campaign : CampaignRemarks
        Remarks on the campaign and its data.
    run : int
        The number of the run; 0 before it has begun.
    """

    frozen: Frozen
    members: list[Member]
    on_folder: list[str]
    on_campaign: CampaignRemarks
    run: int = 0

    @property
    def remarks(self) -> list[str]:
        """Remarks for the user, one line each."""
        return [*self.on_folder, *(remark.line() for remark in self.on_campaign.remarks)]

    def stacks(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return the campaign's stacks without the members that are finished or diverged."""
        over = {(m.variant, m.replica) for m in self.members if m.state in _OVER}
        all_stacks = self.frozen.campaign.stacks()
        stacks = [(v, tuple(r for r in replicas if (v, r) not in over)) for v, replicas in all_stacks]
        return [stack for stack in stacks if stack[1]]

    def counts(self) -> dict[State, int]:
        """Return how many members are in each state."""
        return {state: n for state in State if (n := sum(m.state is state for m in self.members))}


def read_plan(path: Path, overrides: list[str], folder: CampaignFolder) -> RunPlan:
    """Read campaign, data set and folder, and check that they match; nothing is written.

    Raises
    ------
    UserError
        If they do not fit, or the folder belongs to another campaign, which cannot grow into this one.
    """
    manifest, frozen, growing = to_freeze(load_campaign(path, overrides), folder)
    members = ledger.read_members(folder, frozen.campaign)
    problems = [f"{m.name}: {m.problem}" for m in members if m.problem]
    remarks = CampaignRemarks(remarks=tuple(registry.of_campaign(frozen.campaign, manifest)))
    return RunPlan(frozen, members, [*growing, *problems], remarks)


def to_freeze(campaign: Campaign, folder: CampaignFolder) -> tuple[Manifest, Frozen, list[str]]:
    """Return the manifest of a campaign's data set, what a run would freeze in a folder, and how the campaign grows.

    Raises
    ------
    UserError
        If campaign, data set and folder do not fit, so that a run would be refused.
    """
    manifest = store.read_manifest(Path(campaign.dataset))
    match.check(campaign, manifest)
    campaign = starts.resolved(campaign, manifest)
    frozen = Frozen(campaign, config_hash(campaign, manifest.sha256), manifest.sha256, ledger.now())
    growing: list[str] = []
    foreign = _foreign(folder.root)  # first, since another run may be writing the campaign at this moment
    if check_archive(folder.root):
        raise UserError(f"{folder.root} is an archive, so training cannot be continued from it; give another folder")
    if folder.campaign.exists():
        frozen, growing = _grown(frozen, ledger.read_frozen(folder), folder)
    elif foreign:
        raise UserError(f"{folder.root} exists and holds no campaign; give an empty or a new folder")
    return manifest, frozen, growing


def begin(plan: RunPlan, folder: CampaignFolder) -> RunPlan:
    """Freeze the configuration, clean up after killed runs, reopen members that were given up, and number the run.

    The caller holds the lock.
    """
    ledger.freeze(folder, plan.frozen)  # first: a folder with anything but a lock is identified by its campaign
    with storage_errors(folder.members):
        folder.members.mkdir(parents=True, exist_ok=True)
    for made in (folder.logs, folder.report):  # training does not need them
        with contextlib.suppress(OSError):
            made.mkdir(parents=True, exist_ok=True)
    for place in (folder.root, folder.report, folder.figures):
        remove_leftovers(place)
    try:
        write_record(folder.remarks, plan.on_campaign)
    except StorageError as error:  # only the report reads it
        plan = replace(plan, on_folder=[*plan.on_folder, str(error)])
    unfinished, campaign = [], plan.frozen.campaign
    # All members may have reached a rung when the last run ended.
    if campaign.sweep and rungs.advance(folder, campaign, campaign.sweep.of):
        plan = replace(plan, members=ledger.read_members(folder, campaign))
    variants = {v.name: v for v in campaign.variants}
    for member in plan.members:
        files = folder.member(member.variant, member.replica)
        if member.problem:
            ledger.set_aside(files)
        if member.outgrown:
            ledger.reopen_result(files)
        if member.state is State.WAITING and not member.failures and not files.root.exists():
            continue
        if member.result is not None:
            ledger.remove_remains(files, ledger.keeps_checkpoint(campaign, variants[member.variant], member.result))
            continue
        remove_leftovers(files.root)
        unfinished.append(files)
        if member.state is State.FAILED:
            ledger.reopen(files)
    return replace(plan, run=ownership.begin_run(folder, unfinished))


def _grown(new: Frozen, old: Frozen, folder: CampaignFolder) -> tuple[Frozen, list[str]]:
    """Return what is to be frozen in place of ``old``, and how it has grown, one line for each change.

    Raises
    ------
    UserError
        If something other than growth has changed.
    """
    if new.dataset_sha256 != old.dataset_sha256:
        raise UserError(
            f"{folder.root} was started with another data set (content {old.dataset_sha256[:12]}, now"
            f" {new.dataset_sha256[:12]} in {new.campaign.dataset}); restore it, or give another folder"
        )
    if new.hash == old.hash:
        return replace(new, since=old.since, earlier=old.earlier), []
    if config_hash(old.campaign, old.dataset_sha256) != old.hash:
        raise UserError(
            f"{folder.campaign} does not have the hash that it states: it was edited, or another version of this"
            " program wrote it; restore the file, use that version, or give another folder"
        )
    changes = growth.changes(old.campaign, new.campaign)
    if changes.refused:
        refused = ", ".join(changes.refused)
        raise UserError(f"{folder.root} holds another campaign: {refused}; undo the change, or give another folder")
    _refuse_growing_sources(new, folder)
    before = EarlierCampaign(since=old.since, hash=old.hash, campaign=old.campaign.model_dump(mode="json"))
    return replace(new, earlier=(*old.earlier, before)), [f"the campaign grows: {line}" for line in changes.growth]


def _refuse_growing_sources(new: Frozen, folder: CampaignFolder) -> None:
    """Refuse growth that trains further what other members of the folder start from: they would lose their source."""
    campaign = new.campaign
    for variant in campaign.variants:
        start = variant.start or campaign.start
        if start is None or Path(start.folder).resolve() != folder.root.resolve():
            continue
        source = campaign.variant(start.variant)
        if source_hash(campaign, source, new.dataset_sha256) != start.sha256:
            raise UserError(
                f"variant '{variant.name}' starts from '{source.name}' in the same folder, which would be trained"
                f" further; keep training.epochs of '{source.name}', or give another folder"
            )


def _foreign(root: Path) -> bool:
    if not root.is_dir():
        return root.exists()
    return any(p.name not in _MAY_BE_THERE and not p.name.startswith(".tmp-") for p in root.iterdir())
