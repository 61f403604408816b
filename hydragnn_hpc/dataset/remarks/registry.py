"""The registry of all remarks: to add one, write a function, and add a line here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset.remarks import campaign as campaigns
from hydragnn_hpc.dataset.remarks import geometries, rotation, samples, values
from hydragnn_hpc.dataset.remarks.view import DataView, Lines
from hydragnn_hpc.records.dataset import Manifest
from hydragnn_hpc.records.remarks import Remark


def _everyone(_: Campaign, __: str | None) -> bool:
    return True


def _no_one(_: Campaign, __: str | None) -> bool:
    return False


def _without_lengths(variant: Campaign, _: str | None) -> bool:
    return variant.model.edges is None


def _as_scalars(variant: Campaign, target: str | None) -> bool:
    return any(task.field == target and not task.vector for task in variant.tasks.values())


@dataclass(frozen=True)
class DataCheck:
    """A check of data, and the campaigns that its remarks concern.

    Attributes
    ----------
    name : str
        The name of its remarks: lower case and hyphens; stable, since manifests hold it.
    find : callable
        Yields a line for each remark, and the target that it is about.
    concerns : callable
        Called with a variant that trains on the target, as a campaign of its own, and the target; returns whether the
        remark concerns it.
    from_source : bool
        Whether it needs what is known only while the source is read; a data set that is split again keeps its remarks.
    """

    name: str
    find: Callable[[DataView], Lines]
    concerns: Callable[[Campaign, str | None], bool] = _everyone
    from_source: bool = False


DATA = (
    DataCheck("distances", geometries.distances, _without_lengths),
    DataCheck("rotating-target", rotation.rotating, _as_scalars),
    DataCheck("small-part", samples.small_parts),
    DataCheck("small-compositions", samples.small_compositions, _no_one),  # shown with the data set only
    DataCheck("equivalents", samples.equivalents),
    DataCheck("capped", samples.capped),
    DataCheck("outliers", values.hidden_by_outliers),
    DataCheck("missing-values", values.missing),
    DataCheck("constant-target", values.constant),
    DataCheck("contradictions", values.contradictions, from_source=True),
    DataCheck("end-members", values.end_members, from_source=True),
    DataCheck("per-atom", values.per_atom_or_per_cell, from_source=True),
    DataCheck("close-atoms", geometries.close_atoms),
    DataCheck("no-neighbours", geometries.no_neighbours),
)
CAMPAIGN: tuple[tuple[str, Callable[[Campaign, campaigns.Variants, Manifest], Lines]], ...] = (
    ("mean-pooling", campaigns.mean_pooling),
    ("species-as-number", campaigns.species_as_number),
    ("reference-of-all", campaigns.reference_of_all),
    ("reference-of-folds", campaigns.reference_of_resampled),
    ("one-atom-batch", campaigns.one_atom_batches),
    ("start-other-data", campaigns.start_from_other_data),
    ("start-other-folds", campaigns.start_from_other_folds),
)


def of_data(view: DataView, kept: Iterable[Remark] = ()) -> list[Remark]:
    """Return the remarks on a data set; ``kept`` are those of the data set that it was split from, if it was."""
    remarks = []
    if view.read is None:
        from_source = {check.name for check in DATA if check.from_source}
        remarks = [remark for remark in kept if remark.name in from_source]
    for check in DATA:
        if view.read is not None or not check.from_source:
            remarks += [Remark(name=check.name, text=text, target=target) for text, target in check.find(view)]
    return remarks


def of_campaign(campaign: Campaign, manifest: Manifest) -> list[Remark]:
    """Return the remarks on a campaign: those on its data that concern it, and its own.

    Data sets of earlier versions hold none.
    """
    checks = {check.name: check for check in DATA}
    variants = campaigns.each_variant(campaign)
    remarks = []
    for remark in manifest.remarks or []:
        check = checks.get(remark.name)
        concerned = [
            name
            for name, variant in variants.items()
            if (check is None or check.concerns(variant, remark.target))
            and (remark.target is None or remark.target in {task.field for task in variant.tasks.values()})
        ]
        if concerned:
            text = campaigns.naming_variants(variants, concerned, remark.text)
            remarks.append(remark.model_copy(update={"text": text}))
    for name, find in CAMPAIGN:
        remarks += [Remark(name=name, text=text, target=target) for text, target in find(campaign, variants, manifest)]
    return remarks
