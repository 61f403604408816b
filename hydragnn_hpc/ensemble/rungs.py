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
    """Decide and record every rung to which all its members have come; return a line for each.

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
