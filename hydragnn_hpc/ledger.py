"""The state of a campaign's members, read from the campaign's folder alone."""

from __future__ import annotations

import contextlib
import enum
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from hydragnn_hpc import halving, yaml_files
from hydragnn_hpc.atomic import remove_leftovers, storage_errors, write_text
from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.crate import check_archive
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.paths import CampaignFolder, MemberFolder, read_record, write_record
from hydragnn_hpc.records.campaign import CampaignRecord, EarlierCampaign
from hydragnn_hpc.records.member import Failure, Failures, Result
from hydragnn_hpc.records.rungs import Rungs
from hydragnn_hpc.sections import Variant
from hydragnn_hpc.validation import one_line

_CONSEQUENCES: dict[type[BaseModel], str] = {
    Result: "the next run sets it aside and trains the member again",
    Failures: "earlier failed attempts are not known; the next run sets it aside",
}


class State(enum.StrEnum):
    """The state of a member."""

    WAITING = "waiting"
    RUNNING = "running"
    INTERRUPTED = "interrupted"  # has a checkpoint, and is not being trained
    FINISHED = "finished"
    DIVERGED = "diverged"  # its loss became infinite or NaN: it has a result, which no mean includes
    FAILED = "failed"  # given up by the last run that tried it


@dataclass(frozen=True)
class Frozen:
    """A campaign as frozen in its folder.

    Attributes
    ----------
    campaign : Campaign
    hash, dataset_sha256 : str
    since : str
        When it was first frozen in its present form.
    earlier : tuple of EarlierCampaign
        What the folder held before it grew, oldest first.
    """

    campaign: Campaign
    hash: str
    dataset_sha256: str
    since: str = ""
    earlier: tuple[EarlierCampaign, ...] = ()


@dataclass
class Member:
    """One member as the folder shows it.

    Attributes
    ----------
    result : Result or None
        None unless finished or diverged.
    failures : tuple of Failure
        Its failed attempts, oldest first.
    problem : str
        Which of its files cannot be read, and the consequence; empty if all can.
    outgrown : bool
        It ended at its last epoch, but the campaign now asks for more.
    """

    variant: str
    replica: int
    state: State
    result: Result | None = None
    failures: tuple[Failure, ...] = ()
    problem: str = ""
    outgrown: bool = False

    @property
    def name(self) -> str:
        """``HCM/00``."""
        return f"{self.variant}/{self.replica:02d}"


def freeze(folder: CampaignFolder, frozen: Frozen) -> None:
    """Write ``campaign.yaml``."""
    record = CampaignRecord(
        hash=frozen.hash,
        dataset_sha256=frozen.dataset_sha256,
        since=frozen.since,
        campaign=frozen.campaign.model_dump(mode="json"),
        earlier=frozen.earlier,
    )
    write_text(folder.campaign, yaml_files.dump(record.model_dump(mode="json", exclude_defaults=True)))


def read_frozen(folder: CampaignFolder) -> Frozen:
    """Read ``campaign.yaml``.

    Raises
    ------
    UserError
        If the folder holds no campaign, its file cannot be read, or it is an archive that is damaged.
    """
    check_archive(folder.root)
    try:
        record = CampaignRecord.model_validate(yaml_files.read(folder.campaign))
    except FileNotFoundError as error:
        raise UserError(f"{folder.root} holds no campaign; 'hydragnn-hpc run CAMPAIGN.yaml OUT' makes one") from error
    except ValidationError as error:
        problem = one_line(error, CampaignRecord)
        raise UserError(
            f"{folder.campaign} was not written by a run: {problem}; restore it, or give another folder"
        ) from error
    except (OSError, *yaml_files.YAML_ERRORS) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {folder.campaign}: {reason}; restore it, or give another folder") from error
    campaign = parse_campaign(record.campaign, str(folder.campaign))
    return Frozen(campaign, record.hash, record.dataset_sha256, record.since, record.earlier)


def read_member(folder: CampaignFolder, variant: str, replica: int, epochs: int = 0) -> Member:
    """Read the state of one member; where its folder or its result cannot be read, it has a ``problem``.

    A result that ended at its last epoch does not count if more ``epochs`` are requested now.
    """
    files = folder.member(variant, replica)
    try:
        return _read(files, variant, replica, epochs)
    except OSError as error:
        problem = f"cannot read {files.root}: {error.strerror or error}; {_CONSEQUENCES[Result]}"
        return Member(variant, replica, State.WAITING, problem=problem)


def read_rungs(folder: CampaignFolder) -> Rungs:
    """Read the decisions of a sweep's successive halving; none where there are none yet.

    Raises
    ------
    UserError
        If they cannot be read.
    """
    try:
        return read_record(folder.rungs, Rungs)
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return Rungs()
        raise UserError(f"{error}; restore it, or give another folder") from error


def read_members(folder: CampaignFolder, campaign: Campaign, running: Iterable[str] = ()) -> list[Member]:
    """Read the state of every member of ``campaign``, in its order; ``running`` names those being trained now."""
    busy = set(running)
    try:
        started = set(_entries(folder.members))
    except OSError:
        started = {v.name for v in campaign.variants}  # each member then reports what cannot be read
    epochs = halving.epoch_limits(campaign, read_rungs(folder))
    members = [
        read_member(folder, v.name, r, epochs[v.name]) if v.name in started else Member(v.name, r, State.WAITING)
        for v in campaign.variants
        for r in range(campaign.replicas)
    ]
    for member in members:
        if member.result is None and member.name in busy:
            member.state = State.RUNNING
    return members


def add_failure(files: MemberFolder, attempt: Failure) -> None:
    """Append a failed attempt to ``failure.json``; remove half-written files of its dead worker."""
    files.make()
    remove_leftovers(files.root)
    write_record(files.failure, Failures((*_failures(files), attempt)))


def keeps_checkpoint(campaign: Campaign, variant: Variant, result: Result) -> bool:
    """Whether a member could be trained further if the campaign asked for more epochs."""
    return result.stopped_by == "epochs" and campaign.can_train_further(variant)


def remove_remains(files: MemberFolder, keep_checkpoint: bool) -> None:
    """Remove the claim and checkpoints that remain beside a result if its worker died right after writing it."""
    remove_leftovers(files.root)
    for path in files.obsolete(keep_checkpoint):
        with contextlib.suppress(OSError):
            path.unlink()


def reopen_result(files: MemberFolder) -> None:
    """Remove the result of a member that is to be trained for more epochs; it continues from its checkpoint."""
    with storage_errors(files.result):
        files.result.unlink()


def reopen(files: MemberFolder) -> None:
    """Allow another attempt at a member that an earlier run gave up; its failures stay on record."""
    attempts = _failures(files)
    if attempts and attempts[-1].final:
        last = attempts[-1].model_copy(update={"final": False})
        write_record(files.failure, Failures((*attempts[:-1], last)))


def set_aside(files: MemberFolder) -> None:
    """Rename what is unreadable of a member, so that it is written again; if that fails, it stays.

    This may be its records, folders in the place of its files, its own folder, or that of its variant.
    """
    records: tuple[tuple[Path, type[BaseModel]], ...] = ((files.result, Result), (files.failure, Failures))
    if files.root.is_dir():
        damaged = [path for path, kind in records if _damage(path, kind)]
        damaged += [path for path in files.written if path.is_dir()]
    else:
        damaged = [files.root if files.root.parent.is_dir() else files.root.parent]
    for path in damaged:
        with contextlib.suppress(OSError):
            path.rename(path.with_name(f"{path.name}.unreadable-{secrets.token_hex(4)}"))


def now() -> str:
    """Return the time in UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _read(files: MemberFolder, variant: str, replica: int, epochs: int) -> Member:
    member, present = Member(variant, replica, State.WAITING), _entries(files.root)
    problems = []
    if files.failure.name in present:
        member.failures = _failures(files)
        problems.append("" if member.failures else _damage(files.failure, Failures))
    if files.result.name in present:
        try:
            member.result = read_record(files.result, Result)
        except UserError as error:
            problems.append(f"{error}; {_CONSEQUENCES[Result]}")
    if member.result is None:  # one that has its result writes no more files
        written = [path for path in files.written if present.get(path.name)]
        problems += [f"{path} is a folder; the next run sets it aside" for path in written]
    member.problem = "; ".join(filter(None, problems))
    if member.result is not None and member.result.stopped_by == "epochs" and member.result.epochs < epochs:
        member.result, member.outgrown = None, True
    if member.result is not None:
        member.state = State(member.result.state)
    elif member.failures and member.failures[-1].final:
        member.state = State.FAILED
    elif files.checkpoint.name in present or files.previous_checkpoint.name in present:
        member.state = State.INTERRUPTED
    return member


def _entries(folder: Path) -> dict[str, bool]:
    """Return the names in a folder, and whether each is a folder itself; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    except FileNotFoundError:
        return {}


def _failures(files: MemberFolder) -> tuple[Failure, ...]:
    try:
        return read_record(files.failure, Failures).root
    except UserError:
        # None yet, or unreadable (`Member.problem`), which must not prevent the member from being trained.
        return ()


def _damage(path: Path, kind: type[BaseModel]) -> str:
    """Return why a record cannot be read, and the consequence; empty where it can be read, or is missing."""
    try:
        read_record(path, kind)
    except UserError as error:
        return "" if isinstance(error.__cause__, FileNotFoundError) else f"{error}; {_CONSEQUENCES[kind]}"
    return ""
