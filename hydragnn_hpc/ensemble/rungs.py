"""Decides the rungs of a sweep's successive halving, as the campaign's folder shows them."""

from __future__ import annotations

from collections.abc import Collection

from hydragnn_hpc import halving, ledger
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.paths import CampaignFolder, write_record
from hydragnn_hpc.records.rungs import Rungs


def advance(
    folder: CampaignFolder, campaign: Campaign, of: Collection[str], given_up: Collection[tuple[str, int]] = ()
) -> list[str]:
    """Decide and record every rung that all its members have reached; return a line for each.

    The members that go on have then been outgrown (`ledger.Member.outgrown`).

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
    """Decide what waits for a variant, once its rivals are settled too, and reopen the members that go on.

    Returns
    -------
    lines : list of str
        One for each rung that has been decided.
    again : set of (str, int)
        Members that are trained further.
    """
    sweep = campaign.sweep
    of = next((p.of for p in sweep.points if p.name == variant), None) if sweep and sweep.halving else None
    rivals = halving.contenders(campaign, ledger.read_rungs(folder), of) if of else ()
    if of is None or not rivals or not set(rivals).isdisjoint(unsettled):
        return [], set()
    lines = advance(folder, campaign, [of], given_up)
    outgrown = [m for m in ledger.read_members(folder, campaign) if m.outgrown] if lines else []
    for member in outgrown:
        ledger.reopen_result(folder.member(member.variant, member.replica))
    return lines, {(m.variant, m.replica) for m in outgrown}


def _decide(folder: CampaignFolder, campaign: Campaign, of: str, given_up: Collection[tuple[str, int]]) -> str:
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
