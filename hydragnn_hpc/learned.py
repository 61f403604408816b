"""Whether members have learned, that is predict the validation set better than the baselines, and what might help."""

from __future__ import annotations

from collections.abc import Iterable

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.ledger import Member
from hydragnn_hpc.paths import CampaignFolder, read_record
from hydragnn_hpc.records.member import Result
from hydragnn_hpc.records.summary import DatasetSummary

_NARROW = 0.05
"""Share of the scaled range: where most values span less, outliers hide all others from the loss."""


def read_summary(folder: CampaignFolder, dataset_sha256: str) -> tuple[DatasetSummary | None, str]:
    """Read ``dataset.json``; where that fails, return None and a remark on the consequences."""
    lacking = "so errors are not compared with the baselines"
    try:
        summary = read_record(folder.dataset, DatasetSummary)
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None, f"{folder.dataset.name} is missing, {lacking}; run the campaign's command again"
        remedy = "make it readable" if isinstance(error.__cause__, PermissionError) else "remove it"
        return None, f"{error}, {lacking}; {remedy}, and run the campaign's command again"
    if summary.dataset_sha256 != dataset_sha256:
        return None, f"{folder.dataset} is of another data set, {lacking}; remove it, and run the command again"
    return summary, ""


def not_learned(result: Result, campaign: Campaign, summary: DatasetSummary | None) -> list[str]:
    """Return the tasks in which a member's validation error is no better than the better baseline's."""
    tasks = []
    for task, errors in result.tasks.items():
        target = summary.targets.get(campaign.tasks[task].field) if summary and task in campaign.tasks else None
        if target and errors.rmse_validation is not None and not target.validation.is_beaten_by(errors.rmse_validation):
            tasks.append(task)
    return tasks


def closing_line(members: Iterable[Member], campaign: Campaign, summary: DatasetSummary | None) -> str:
    """Return a line that names the tasks and members that have not learned, and likely remedies; empty if all have."""
    if summary is None:
        return ""
    results = [m.result for m in members if m.result and m.result.tasks]
    failing = {(r.variant, r.replica): not_learned(r, campaign, summary) for r in results}
    parts, likely = [], []
    for task in campaign.tasks:
        shares = []
        for variant in campaign.variants:
            of_variant = [r for r in results if r.variant == variant.name]
            poor = [r for r in of_variant if task in failing[variant.name, r.replica]]
            if poor:
                shares.append(f"{len(poor)} of {len(of_variant)} members of {variant.name}")
                likely += remedies(campaign.of_variant(variant), task, summary, poor)
        if shares:
            parts.append(f"{task} by {', '.join(shares)}")
    if not parts:
        return ""
    advice = f"; likely remedies: {'; '.join(dict.fromkeys(likely))}" if likely else ""
    return f"not learned, since no better than the baselines: {'; '.join(parts)}{advice}"


def remedies(campaign: Campaign, task: str, summary: DatasetSummary, results: Iterable[Result]) -> list[str]:
    """Return what might help the members of a variant to learn a task.

    Parameters
    ----------
    campaign : Campaign
        With the settings of the variant (`Campaign.of_variant`).
    task : str
    summary : DatasetSummary
    results : iterable of Result
        Of the members that have not learned it.
    """
    target, model = summary.targets[campaign.tasks[task].field], campaign.model
    sizes_differ = summary.atoms.minimum != summary.atoms.maximum
    pooling = {"per cell": "sum", "per atom": "mean"}.get(target.form, model.pooling)
    remedies = []
    if len(target.minimum) == 3 and not campaign.tasks[task].vector:
        remedies.append(
            f"vectors as values, if {task} rotates with the structure (vector: true, model.convolution=PaiNN)"
        )
    if summary.distances_differ and model.edges is None:
        remedies.append("edge lengths, since distances between atoms differ (model.edges.number=20)")
    if {entry.name for entry in campaign.inputs} <= {"species", "one_hot"}:
        remedies.append("more inputs than the species (inputs: [one_hot, composition, shells])")
    if sizes_differ and pooling != model.pooling:
        remedies.append(f"pooling that suits how {task} scales with a structure's size (model.pooling={pooling})")
    if any(result.stopped_by == "epochs" for result in results):
        remedies.append(f"more epochs (training.epochs is {campaign.training.epochs})")
    if target.central_range < _NARROW:
        share = f"{100 * target.central_range:.2g} %"
        remedies.append(f"fewer outliers in {task}: 90 % of its values span {share} of the scaled range")
    return remedies
