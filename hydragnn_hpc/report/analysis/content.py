"""Everything that a report shows, gathered once, so that page, supplement and summary agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from hydragnn_hpc.campaign_hash import member_hash
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.ledger import State
from hydragnn_hpc.paths import read_record
from hydragnn_hpc.records.remarks import CampaignRemarks
from hydragnn_hpc.report.analysis import claims, costs, headline, paper, statistics, together, uncertainty
from hydragnn_hpc.report.analysis.claims import PaperClaim, Verdict
from hydragnn_hpc.report.analysis.costs import HeadCost, MultiTaskCost
from hydragnn_hpc.report.analysis.coverage import CalibratedTask, calibrated_tasks, coverages
from hydragnn_hpc.report.analysis.headline import Headline
from hydragnn_hpc.report.analysis.paper import PaperComparison
from hydragnn_hpc.report.analysis.statistics import Pair
from hydragnn_hpc.report.analysis.together import Together
from hydragnn_hpc.report.analysis.uncertainty import Uncertainty
from hydragnn_hpc.report.results import ground_truth, rows
from hydragnn_hpc.report.results.event_log import read_log
from hydragnn_hpc.report.results.ground_truth import GroundTruth
from hydragnn_hpc.report.results.live import read_live
from hydragnn_hpc.report.results.load import Results, load
from hydragnn_hpc.report.results.predictions import CollectedPredictions


@dataclass
class Content:
    """Everything that a report shows.

    Attributes
    ----------
    histories : dict
        Member name to its ``history.csv``.
    calibrated : list of CalibratedTask
        One for each task of the ensembles that can be calibrated.
    uncalibrated : dict
        Variant to the reason why its ensemble cannot be calibrated.
    all_samples : GroundTruth or None
        The data that figures of all samples show: the data set if it can be read, otherwise the test set.
    claims, paper : list
        Empty where the data are not the paper's.
    remarks : list of str
        Remarks made before training, then what could not be used or shown, and why.
    """

    results: Results
    headlines: list[Headline]
    pairs: list[Pair]
    together: list[Together]
    claims: list[PaperClaim]
    costs: list[MultiTaskCost]
    heads: list[HeadCost]
    paper: list[PaperComparison]
    test_set: GroundTruth | None
    all_samples: GroundTruth | None
    predictions: CollectedPredictions
    uncertainties: list[Uncertainty]
    calibrated: list[CalibratedTask]
    uncalibrated: dict[str, str]
    histories: dict[str, pd.DataFrame]
    remarks: list[str] = field(default_factory=list)


def gather(out: Path | str, baselines: bool = True) -> Content:
    """Read a campaign's folder and analyse it; without ``baselines``, tables show variants alone.

    Raises
    ------
    UserError
        If the folder holds no campaign.
    """
    results = load(out)
    results.baselines = baselines
    remarks = _remarks_before_training(results)
    pairs = statistics.compare_all(results)
    test_set = _test_set(results, remarks)
    all_samples, why = ground_truth.read_data_set(results)
    is_paper_data = paper.has_paper_data(results, all_samples)
    if all_samples is None:
        all_samples = test_set
        remarks.append(f"Figures over all samples show {test_set.source if test_set else 'nothing'}: {why}.")
    collected = results.collected
    names = {v.name for v in rows.compared(results)}
    ensembles = [s for (variant, _), s in collected.ensembles.items() if variant in names]
    assessed = [uncertainty.assess(s, test_set) for s in ensembles] if test_set else []
    variants = list(dict.fromkeys(s.variant for s in ensembles))
    calibrated = list(calibrated_tasks(results, variants, test_set)) if test_set else []
    results.coverages = [row for task in calibrated if test_set for row in coverages(task, test_set)]
    content = Content(
        results=results,
        pairs=pairs,
        headlines=headline.headlines(results),
        together=together.compare(results, pairs),
        claims=_applicable_claims(results, pairs) if is_paper_data else [],
        costs=costs.costs(results),
        heads=costs.heads(results),
        paper=paper.compare(results) if is_paper_data else [],
        test_set=test_set,
        all_samples=all_samples,
        predictions=collected,
        uncertainties=[u for u in assessed if u is not None],
        calibrated=calibrated,
        uncalibrated={v: why for v in variants if (why := results.calibration(v).why_not)},
        histories=_histories(results, remarks),
        remarks=remarks,
    )
    content.remarks += [*results.problems(), *_inconsistent(results), *collected.problems]
    problems = (results.not_compared, read_live(results.folder).problem, read_log(results.folder).problem)
    content.remarks += [problem for problem in problems if problem]
    return content


def _applicable_claims(results: Results, pairs: list[Pair]) -> list[PaperClaim]:
    return [claim for claim in claims.assess(results, pairs) if claim.verdict is not Verdict.NOT_APPLICABLE]


def _remarks_before_training(results: Results) -> list[str]:
    """Return the remarks made at the start of the latest run; a folder of imported models has none."""
    path = results.folder.remarks
    try:
        kept = read_record(path, CampaignRemarks).remarks if path.exists() else ()
    except UserError as error:
        return [str(error)]
    return [remark.line() for remark in kept]


def _test_set(results: Results, remarks: list[str]) -> GroundTruth | None:
    try:
        test_set = ground_truth.read_test_set(results)
    except UserError as error:
        remarks.append(str(error))
        return None
    if test_set is None:
        remarks.append("test_set.npz is missing: no figures of predictions.")
    return test_set


def _histories(results: Results, remarks: list[str]) -> dict[str, pd.DataFrame]:
    histories = {}
    for member in results.members:
        if member.state is State.WAITING:
            continue
        try:
            history = results.history(member)
        except UserError as error:
            remarks.append(str(error))
            continue
        if history is not None:
            histories[member.name] = history
    return histories


def _inconsistent(results: Results) -> list[str]:
    """Describe results whose settings or data set differ from the campaign's."""
    campaign, data = results.campaign, results.frozen.dataset_sha256
    trained = {m.variant for m in results.members if m.result}
    hashes = {v.name: member_hash(campaign, v, data) for v in campaign.variants if v.name in trained}
    problems = []
    for key, expected in (("config_hash", hashes), ("dataset_sha256", dict.fromkeys(trained, data))):
        differing = [m.name for m in results.members if m.result and getattr(m.result, key) != expected[m.variant]]
        if differing:
            problems.append(f"{len(differing)} results, the first {differing[0]}, differ from the campaign in {key}")
    return problems
