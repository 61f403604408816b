"""Decides the rungs of a sweep's successive halving, from the results in the campaign's folder."""

from __future__ import annotations

from collections.abc import Collection

from hydragnn_hpc import halving, ledger
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.paths import CampaignFolder, write_record
from hydragnn_hpc.records.rungs import Rungs


def advance(
    folder: CampaignFolder, campaign: Campaign, of: Collection[str], given_up: Collection[tuple[str, int]] = ()
) -> list[str]:
    """Decide and record every rung that all its members have reached; return a line for the user for each.

    The results of the members that go on then count as outgrown (`ledger.Member.outgrown`).

    Parameters
    ----------
    folder : CampaignFolder
    campaign : Campaign
    of : collection of str
        Variants of the sweep whose rungs are decided.
    given_up : collection of (str, int)
        Members, as (variant, replica), that this run tries no more: rungs are decided without them.
    """
    lines: list[str] = []
    if campaign.sweep is None or campaign.sweep.halving is None:
        return lines
    for variant in (v for v in campaign.sweep.of if v in of):
        while line := _decide(folder, campaign, variant, given_up):
            lines.append(line)
    return lines


def next_rung(
    folder: CampaignFolder,
    campaign: Campaign,
    variant: str,
    unsettled: Collection[str],
    given_up: Collection[tuple[str, int]],
) -> tuple[list[str], set[tuple[str, int]]]:
    """Decide the rung that a variant has reached, once all its rivals have, and reopen the members that go on.

    Parameters
    ----------
    folder : CampaignFolder
    campaign : Campaign
    variant : str
        A variant whose members have just ended; nothing is done if it is no point of a sweep with halving.
    unsettled : collection of str
        Variants with members that wait or are being trained.
    given_up : collection of (str, int)
        See :func:`advance`.

    Returns
    -------
    lines : list of str
        One for each rung that has been decided.
    again : set of (str, int)
        Members that are trained further.
    """
    sweep = campaign.sweep
    of = next((p.of for p in sweep.points if p.name == variant), None) if sweep and sweep.halving else None
    if of is None:
        return [], set()
    rivals = halving.contenders(campaign, ledger.read_rungs(folder), of)
    if not rivals or not set(rivals).isdisjoint(unsettled):
        return [], set()
    lines = advance(folder, campaign, [of], given_up)
    if not lines:
        return [], set()
    outgrown = [m for m in ledger.read_members(folder, campaign) if m.outgrown]
    for member in outgrown:
        ledger.reopen_result(folder.member(member.variant, member.replica))
    return lines, {(m.variant, m.replica) for m in outgrown}


def _decide(folder: CampaignFolder, campaign: Campaign, of: str, given_up: Collection[tuple[str, int]]) -> str:
    """Decide and record a variant's next rung; return a line for the user, empty if a member has yet to reach it."""
    sweep, rungs = campaign.sweep, ledger.read_rungs(folder)
    if sweep is None or sweep.halving is None:
        return ""
    decided, names = rungs.survivors.get(of, ()), halving.contenders(campaign, rungs, of)
    if len(decided) == len(sweep.halving.at) or not names:
        return ""
    epoch = sweep.halving.at[len(decided)]
    scores: dict[str, list[float]] = {}
    for name in names:
        scores[name] = []
        for replica in range(campaign.replicas):
            if (name, replica) in given_up:
                continue
            result = ledger.read_member(folder, name, replica, epoch).result
            if result is None:
                return ""
            if (score := halving.score(result)) is not None:
                scores[name].append(score)
    survivors = halving.best(scores, sweep.halving.share)
    write_record(folder.rungs, Rungs(survivors={**rungs.survivors, of: (*decided, survivors)}))
    return f"{of} at epoch {epoch}: {len(survivors)} of {len(names)} points go on"
