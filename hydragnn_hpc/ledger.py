"""What a campaign's folder says about its members: read from disk alone, by whoever wants to know."""

from __future__ import annotations

import enum
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import yaml

from hydragnn_hpc import yaml_files
from hydragnn_hpc.config import Campaign, parse_campaign
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.paths import CampaignFolder, MemberFolder, read_json, remove_leftovers, write_json, write_text


class State(enum.StrEnum):
    """The state of a member."""

    WAITING = "waiting"
    RUNNING = "running"
    INTERRUPTED = "interrupted"  # has a checkpoint, nobody trains it
    FINISHED = "finished"
    DIVERGED = "diverged"  # its loss left the finite numbers: a result, and never averaged in
    FAILED = "failed"  # given up by the last run that tried it


@dataclass(frozen=True)
class Frozen:
    """A campaign as frozen into its folder."""

    campaign: Campaign
    hash: str
    dataset_sha256: str


@dataclass
class Member:
    """One member as the folder shows it.

    Attributes
    ----------
    result : dict or None
        ``result.json``, when finished or diverged.
    failures : list of dict
        The failed attempts of ``failure.json``, oldest first: ``time, cause, detail, last_output, rank, host, final``.
    """

    variant: str
    replica: int
    state: State
    result: dict[str, Any] | None = None
    failures: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """``HCM/00``."""
        return f"{self.variant}/{self.replica:02d}"


def freeze(folder: CampaignFolder, frozen: Frozen) -> None:
    """Write ``campaign.yaml``."""
    content = {
        "hash": frozen.hash,
        "dataset_sha256": frozen.dataset_sha256,
        "campaign": frozen.campaign.model_dump(mode="json"),
    }
    write_text(folder.campaign, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def read_frozen(folder: CampaignFolder) -> Frozen:
    """Read ``campaign.yaml``.

    Raises
    ------
    UserError
        If the folder holds no campaign, or its file cannot be read.
    """
    try:
        content = yaml_files.read(folder.campaign)
        campaign = parse_campaign(content["campaign"], str(folder.campaign))
        return Frozen(campaign, str(content["hash"]), str(content["dataset_sha256"]))
    except FileNotFoundError as error:
        raise UserError(f"{folder.root} holds no campaign; 'hydragnn-hpc run CAMPAIGN.yaml OUT' makes one") from error
    except (OSError, *yaml_files.NO_YAML, KeyError, TypeError) as error:
        raise UserError(f"cannot read {folder.campaign}: {error}; restore it, or run into another folder") from error


def read_member(folder: CampaignFolder, variant: str, replica: int) -> Member:
    """Read the state of one member; a ``result.json`` that is not one is told as an error."""
    files = folder.member(variant, replica)
    return _read(files, variant, replica, _names(files))


def read_members(folder: CampaignFolder, campaign: Campaign, running: Iterable[str] = ()) -> list[Member]:
    """Read the state of every member of ``campaign``, in its order; ``running`` names those being trained now."""
    busy = set(running)
    members = [read_member(folder, v.name, r) for v in campaign.variants for r in range(campaign.replicas)]
    for member in members:
        if member.result is None and member.name in busy:
            member.state = State.RUNNING
    return members


def add_failure(files: MemberFolder, attempt: dict[str, Any]) -> None:
    """Append a failed attempt to ``failure.json``: ``cause, detail, last_output, rank, host, final``.

    ``final`` says that the run gives the member up. What the attempt's worker, which is dead, left half-written goes.
    """
    files.make()
    remove_leftovers(files.root)
    write_json(files.failure, [*_failures(files), {"time": now(), **attempt}])


def remove_remains(files: MemberFolder) -> None:
    """Remove what is left beside a result when its worker dies right after writing it."""
    remove_leftovers(files.root)
    files.checkpoint.unlink(missing_ok=True)
    files.previous_checkpoint.unlink(missing_ok=True)


def reopen(files: MemberFolder) -> None:
    """Let a member that an earlier run gave up be tried again; its failures stay on record."""
    attempts = _failures(files)
    if attempts and attempts[-1].get("final"):
        attempts[-1]["final"] = False
        write_json(files.failure, attempts)


def now() -> str:
    """Return the time in UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _read(files: MemberFolder, variant: str, replica: int, present: set[str]) -> Member:
    member = Member(variant, replica, State.WAITING)
    if files.failure.name in present:
        member.failures = _failures(files)
    if files.result.name in present:
        member.result = _result(files)
        member.state = State.DIVERGED if member.result.get("state") == "diverged" else State.FINISHED
    elif member.failures and member.failures[-1].get("final"):
        member.state = State.FAILED
    elif files.checkpoint.name in present or files.previous_checkpoint.name in present:
        member.state = State.INTERRUPTED
    return member


def _result(files: MemberFolder) -> dict[str, Any]:
    content = read_json(files.result)
    if not isinstance(content, dict):
        raise UserError(f"cannot read {files.result}: it is no JSON object; remove it and run again")
    return content


def _names(files: MemberFolder) -> set[str]:
    try:
        with os.scandir(files.root) as entries:
            return {entry.name for entry in entries}
    except FileNotFoundError:
        return set()


def _failures(files: MemberFolder) -> list[dict[str, Any]]:
    try:
        content = read_json(files.failure) if files.failure.exists() else []
    except UserError:
        content = []
    # A record of failures that cannot be read must not stop the member from being trained.
    return [attempt for attempt in content if isinstance(attempt, dict)] if isinstance(content, list) else []
