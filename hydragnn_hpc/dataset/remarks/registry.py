"""All remarks. A new one is a function and a line here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset.remarks import campaign as campaigns
from hydragnn_hpc.dataset.remarks import geometries, samples, turning, values
from hydragnn_hpc.dataset.remarks.values import Found
from hydragnn_hpc.dataset.remarks.view import DataView
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
class DataRemark:
    """A remark on data.

    Attributes
    ----------
    name : str
        Lower case and hyphens; stable, since manifests hold it.
    find : callable
        Yields a line for each thing found, and the target that it is about.
    concerns : callable
        Whether it concerns a variant that trains on the target: called with the variant as a campaign of its own, and
        the target.
    from_source : bool
        Whether it can be found only while the source is read; a data set that is split again keeps it.
    """

    name: str
    find: Callable[[DataView], Found]
    concerns: Callable[[Campaign, str | None], bool] = _everyone
    from_source: bool = False


DATA = (
    DataRemark("distances", geometries.distances, _without_lengths),
    DataRemark("turning-target", turning.turning, _as_scalars),
    DataRemark("small-part", samples.small_parts),
    DataRemark("small-compositions", samples.small_compositions, _no_one),
    DataRemark("equivalents", samples.equivalents),
    DataRemark("capped", samples.capped),
    DataRemark("outliers", values.hidden_by_outliers),
    DataRemark("missing-values", values.missing),
    DataRemark("constant-target", values.constant),
    DataRemark("contradictions", values.contradictions, from_source=True),
    DataRemark("end-members", values.end_members, from_source=True),
    DataRemark("per-atom", values.per_atom_or_per_cell, from_source=True),
    DataRemark("close-atoms", geometries.close_atoms),
    DataRemark("no-neighbours", geometries.no_neighbours),
)
CAMPAIGN: tuple[tuple[str, Callable[[Campaign, Manifest], Found]], ...] = (
    ("mean-pooling", campaigns.mean_pooling),
    ("species-as-number", campaigns.species_as_number),
)


def of_data(view: DataView, kept: Iterable[Remark] = ()) -> list[Remark]:
    """Return the remarks on a data set; ``kept`` are those of the data set that it was split from."""
    if view.read is None:
        from_source = {kind.name for kind in DATA if kind.from_source}
        found = [remark for remark in kept if remark.name in from_source]
    else:
        found = []
    for kind in DATA:
        if view.read is not None or not kind.from_source:
            found += [Remark(name=kind.name, text=text, target=target) for text, target in kind.find(view)]
    return found


def of_campaign(campaign: Campaign, manifest: Manifest) -> list[Remark]:
    """Return the remarks on a campaign: those on its data that concern it, and its own.

    Data sets of earlier versions hold none.
    """
    kinds = {kind.name: kind for kind in DATA}
    variants = campaigns.each_variant(campaign)
    found = []
    for remark in manifest.remarks or []:
        kind = kinds.get(remark.name)
        concerned = [
            name
            for name, variant in variants.items()
            if (kind is None or kind.concerns(variant, remark.target))
            and (remark.target is None or remark.target in {task.field for task in variant.tasks.values()})
        ]
        if concerned:
            text = campaigns.of_variants(campaign, concerned, remark.text)
            found.append(remark.model_copy(update={"text": text}))
    for name, find in CAMPAIGN:
        found += [Remark(name=name, text=text, target=target) for text, target in find(campaign, manifest)]
    return found
