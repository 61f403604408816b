"""From raw files to the shared data set: derive, select, split, scale, connect, write."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hydragnn_hpc.atomic import storage_errors
from hydragnn_hpc.compositions import species_counts
from hydragnn_hpc.dataset import store, symmetry
from hydragnn_hpc.dataset.build import distribution, select
from hydragnn_hpc.dataset.graphs import find_neighbours
from hydragnn_hpc.dataset.read import derive, sources
from hydragnn_hpc.dataset.read.frames import MalformedError, hint_to_skip
from hydragnn_hpc.dataset.read.gathered import RawSamples, offsets_of
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.dataset.read.targets import LARGEST
from hydragnn_hpc.dataset.remarks import outliers, registry
from hydragnn_hpc.dataset.remarks.view import DataView, ReadFacts
from hydragnn_hpc.dataset.store.spool import Spool, joined
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.fields import PROPERTIES, SOURCE_INDEX, Property
from hydragnn_hpc.logs import ProgressCallback
from hydragnn_hpc.records.dataset import Boundary, DatasetFacts, NeighbourFacts, NumberRange, Source, Target


def prepare(
    source: Path, out: Path, options: Options, force: bool = False, progress: ProgressCallback | None = None
) -> store.Manifest:
    """Make the data set ``out`` from structures of any format, as ``options`` say.

    Raises
    ------
    UserError
        On the first thing that does not fit; nothing is left behind.
    """
    store.refuse_existing(out, force)
    if options.cap < 0:
        raise UserError(f"--cap {options.cap}: must be 0 (keep all) or positive")
    with hint_to_skip():
        raw = sources.read(source, options, progress, store.folder_for(out))
        return write_raw(raw, out, options, force)


def write_raw(raw: sources.RawData, out: Path, options: Options, force: bool = False) -> store.Manifest:
    """Make the data set ``out`` from what was read: derive, select, split, scale, connect, write.

    Raises
    ------
    UserError
        On the first thing that does not fit; nothing is left behind.
    """
    samples = raw.samples
    species, counts = species_counts(np.concatenate(samples.atomic_numbers), samples.atom_offsets())
    end_members = _add_mixing_enthalpy(raw, counts, species, options.end_members)

    usable = _without_outliers(raw, options.on_outlier)
    unique, contradictions = usable, []
    if not options.keep_repeated:
        keys = samples.keys()
        missing = partial(_missing, samples, usable)
        unique = usable[select.first_of_repeated([keys[k] for k in usable.tolist()], missing)]
        contradictions = _contradictions(samples, keys, usable, unique)
    kept = unique[select.cap_per_composition(counts[unique], options.cap, options.seed)]
    mixing = raw.mixing.name if raw.mixing else ""
    read = ReadFacts(contradictions, mixing, samples.energies[kept], _clusters(raw, counts, species))
    chosen, counts = samples.chosen(kept), counts[kept]
    classes = _classes(chosen, options)
    part, of_split = _split(counts, options, classes) if raw.part is None else (raw.part[kept], {"split_by": "source"})
    per_composition = np.unique(counts, axis=0, return_counts=True)[1]
    source = Source(
        path=raw.path.resolve().name,
        format=raw.form,
        read=len(usable),
        skipped=raw.skipped.count,
        skipped_reasons=raw.skipped.reasons,
        repeated=len(usable) - len(unique),
        capped=len(unique) - len(kept),
        kept=len(kept),
        species=species.tolist(),
        compositions=len(per_composition),
        samples_per_composition=NumberRange(minimum=int(per_composition.min()), maximum=int(per_composition.max())),
        end_members={str(z): end_members[z] for z in species.tolist() if z in end_members},
        cap=options.cap,
        seed=options.seed,
        fractions=list(options.fractions),
        **{"compositions_too_small_to_split": 0, **of_split, **({"cell": list(options.cell)} if options.cell else {})},
    )
    properties = raw.properties if raw.mixing is None else [raw.mixing, *raw.properties]
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        arrays = arrays_of(chosen, part, options.cutoff, out.parent)
    facts = facts_of(arrays, properties, options, source)
    view = DataView(arrays, facts.targets, source, facts.neighbours, counts, classes, read)
    return store.write(out, arrays, facts.model_copy(update={"remarks": registry.of_data(view)}), force)


def _without_outliers(raw: sources.RawData, on_outlier: str) -> np.ndarray:
    """Return the indices of the samples that are used, ascending: without outliers, if so requested.

    Raises
    ------
    UserError
        With ``on_outlier="fail"``, naming the first sample that has one.
    """
    samples = raw.samples
    far = np.zeros(len(samples.names), bool)
    for name, values in samples.values.items() if on_outlier != "tell" else ():
        of_row = np.repeat(np.arange(len(values)), [len(v) for v in values])
        outlying = np.unique(of_row[outliers.outlying_rows(np.concatenate(values))]).tolist()
        for k in outlying:
            reason = f"{samples.origins[k]}: target '{name}' is far from all others"
            if on_outlier == "fail":
                raise UserError(
                    f"{reason} (such samples: {len(outlying):,}); scaled to the full range, the others would hardly"
                    " differ: correct it, or give --on-outlier skip"
                )
            if not far[k]:
                raw.skipped.add(reason)
            far[k] = True
    return np.flatnonzero(~far)


def _contradictions(
    samples: RawSamples, keys: list[bytes], usable: np.ndarray, unique: np.ndarray
) -> list[tuple[str, str]]:
    """Return, for repeated samples whose targets differ from those of the kept one, the origins of both.

    ``unique`` are the indices of the samples that are kept.
    """
    first = {keys[k]: k for k in unique.tolist()}
    columns: list[Any] = [samples.energies, *samples.values.values()]
    pairs = []
    for k in np.setdiff1d(usable, unique).tolist():
        kept = first[keys[k]]
        if not all(_agree(np.asarray(c[kept]), np.asarray(c[k])) for c in columns):
            pairs.append((samples.origins[k], samples.origins[kept]))
    return pairs


def _agree(kept: np.ndarray, other: np.ndarray) -> bool:
    """Whether the values of a sample that is kept are those of its repeat, as far as the repeat has them."""
    return bool(((kept == other) | np.isnan(other)).all())


def _missing(samples: RawSamples, usable: np.ndarray, position: int) -> int:
    """Return how many values the sample at a position in ``usable`` lacks."""
    return sum(int(np.isnan(values[usable[position]]).sum()) for values in samples.values.values())


def _clusters(raw: sources.RawData, counts: np.ndarray, species: np.ndarray) -> list[str]:
    """Return the elements whose end member is not a crystal; none for LSMS text, which states no boundary."""
    from ase.data import chemical_symbols

    samples, symbols = raw.samples, []
    for k, z in enumerate(species.tolist() if raw.mixing is not None and raw.form != "lsms" else []):
        pure = np.flatnonzero((counts[:, k] == counts.sum(axis=1)) & np.isfinite(samples.energies))
        if len(pure):
            lowest = pure[np.argmin(samples.energies[pure] / counts[pure, k])]
            if not all(samples.geometries[samples.geometry[lowest]].periodic):
                symbols.append(chemical_symbols[z])
    return symbols


def _classes(chosen: RawSamples, options: Options) -> np.ndarray | None:
    """Return the samples' symmetry classes, where the split requires them or they take little time."""
    if options.split_by not in ("symmetry", "groups") and not symmetry.is_quick(chosen.geometries, chosen.geometry):
        return None
    geometries = [symmetry.with_period(g, options.cell) for g in chosen.geometries]
    return symmetry.classes(geometries, chosen.geometry, np.concatenate(chosen.atomic_numbers), chosen.atom_offsets())


def _split(counts: np.ndarray, options: Options, classes: np.ndarray | None) -> tuple[np.ndarray, dict[str, Any]]:
    """Return each sample's part, and the manifest's entries on the split."""
    by = options.split_by
    if by == "auto":
        by, split = select.split_by_default(counts, options.fractions, options.seed, classes)
    else:
        split = select.split(by, counts, options.fractions, options.seed, classes)
    facts: dict[str, Any] = {"split_by": by, "compositions_too_small_to_split": len(split.too_small)}
    if by in ("symmetry", "groups") and classes is not None:
        facts["symmetry_classes"] = len(np.unique(classes))
    return split.part, facts


def arrays_of(
    samples: RawSamples, part: np.ndarray, cutoff: float, folder: Path | None = None
) -> dict[str, np.ndarray]:
    """Return all arrays of a data set: those of `structure_arrays`, and ``target_<name>``, [samples or atoms, width].

    Raises
    ------
    UserError
        As for `structure_arrays`.
    """
    arrays = structure_arrays(samples, part, cutoff, folder)
    for name, values in samples.values.items():
        arrays[f"target_{name}"] = joined(values, "float64", values[0].shape[1:], folder)
    return arrays


def facts_of(
    arrays: dict[str, np.ndarray], properties: list[Property], options: Options, source: Source
) -> DatasetFacts:
    """Return the manifest's content other than sizes and checksums.

    Raises
    ------
    UserError
        As for `fit_scaling`.
    """
    degrees = np.diff(arrays["neighbour_offsets"])
    targets = fit_scaling(arrays, options.scale_over, properties)
    numbers = arrays["atomic_numbers"]
    return DatasetFacts(
        targets=targets,
        species=NumberRange(minimum=int(numbers.min()), maximum=int(numbers.max())),
        scaled_over=options.scale_over,
        distribution=distribution.describe(arrays, targets),
        source=source,
        neighbours=NeighbourFacts(
            cutoff_bohr=options.cutoff,
            boundary=boundary_of(arrays["periodic"]),
            fewest=int(degrees.min()),
            most=int(degrees.max()),
        ),
    )


def boundary_of(periodic: np.ndarray) -> Boundary:
    """Return ``open``, ``periodic`` (along all vectors of all geometries) or ``mixed``, from ``[G, 3]``."""
    if not periodic.any():
        return "open"
    return "periodic" if periodic.all() else "mixed"


def _add_mixing_enthalpy(
    raw: sources.RawData, counts: np.ndarray, species: np.ndarray, given: derive.EndMembers
) -> derive.EndMembers:
    """Add the mixing enthalpy to the samples' values, where requested; return the end members used."""
    if raw.mixing is None:
        if given:
            raise UserError("--end-member is for a mixing enthalpy; request one with --target NAME=mixing:KEY:UNIT")
        return raw.end_members
    _check_end_members(given, species)
    end_members = {**derive.find_end_members(raw.samples.energies, counts, species), **given}
    enthalpy = derive.mixing_enthalpy(raw.samples.energies, counts, species, end_members)
    raw.samples.values[raw.mixing.name] = list(enthalpy[:, None, None])
    return end_members


def _check_end_members(given: derive.EndMembers, species: np.ndarray) -> None:
    from ase.data import chemical_symbols

    for z in given:
        if z not in species:
            known = ", ".join(chemical_symbols[s] for s in species.tolist())
            raise UserError(
                f"--end-member {chemical_symbols[z]}={given[z]:g}: the data hold no {chemical_symbols[z]} (they hold"
                f" {known}); leave it out"
            )


def structure_arrays(
    samples: RawSamples, part: np.ndarray, cutoff: float, folder: Path | None = None
) -> dict[str, np.ndarray]:
    """Return the arrays of :data:`hydragnn_hpc.fields.STRUCTURE`; those of atoms and edges are maps of files.

    The files are unnamed, in ``folder`` or in the folder for temporary files.

    Raises
    ------
    UserError
        If a geometry has no neighbour list; names the first sample that has it.
    """
    neighbours, vectors = Spool("int32", (), folder), Spool("float64", (3,), folder)
    n_neighbours = Spool("int32", (), folder)
    first = np.unique(samples.geometry, return_index=True)[1]
    for number, geometry in enumerate(samples.geometries):
        try:
            graph = find_neighbours(geometry, cutoff)
        except UserError as error:
            raise MalformedError(f"{samples.origins[int(first[number])]}: {error}") from error
        neighbours.add(graph.neighbours)
        vectors.add(graph.vectors)
        n_neighbours.add(np.diff(graph.offsets))
    names = [name.encode() for name in samples.names]
    return {
        "sample_name_offsets": offsets_of([len(n) for n in names]),
        "sample_names": np.frombuffer(b"".join(names), np.uint8),
        SOURCE_INDEX: samples.source_index,
        "sample_geometry": samples.geometry,
        "split": part,
        "atom_offsets": samples.atom_offsets(),
        "atomic_numbers": joined(samples.atomic_numbers, "int32", (), folder),
        "geometry_atom_offsets": offsets_of([len(g.pos) for g in samples.geometries]),
        "pos": joined((g.pos for g in samples.geometries), "float64", (3,), folder),
        "cell": np.stack([g.cell for g in samples.geometries]),
        "periodic": np.array([g.periodic for g in samples.geometries], np.uint8),
        "neighbour_offsets": offsets_of(n_neighbours.array()),
        "neighbours": neighbours.array(),
        "edge_vectors": vectors.array(),
    }


def fit_scaling(
    arrays: dict[str, np.ndarray], over: str, properties: Sequence[Property] = tuple(PROPERTIES.values())
) -> dict[str, Target]:
    """Return the manifest's ``targets``, with the range of each component, for ``properties`` that have an array.

    Raises
    ------
    UserError
        If a component has no value, in all or in the training set, or values too large for a variance.
    """
    train = arrays["split"] == 0
    of_train = np.repeat(train, np.diff(arrays["atom_offsets"]))
    targets = {}
    for known in properties:
        values = arrays.get(f"target_{known.name}")
        if values is None:
            continue
        if over == "train":
            values = values[of_train if known.level == "node" else train]
        empty = np.isnan(values).all(axis=0)
        if empty.any():
            part = " in the training set" if over == "train" else ""
            raise UserError(
                f"target '{known.name}' is missing everywhere{part} in component {int(np.argmax(empty))}; leave it out"
            )
        low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
        if (np.maximum(np.abs(low), np.abs(high)) > LARGEST).any():
            raise UserError(
                f"target '{known.name}' goes from {low.min():.3g} to {high.max():.3g} {known.unit}: beyond {LARGEST:g}"
                " no variance can be computed; correct the values, or write nan where one is missing"
            )
        targets[known.name] = Target(
            level=known.level,
            unit=known.unit,
            label=known.label,
            width=values.shape[1],
            minimum=low.tolist(),
            maximum=high.tolist(),
            missing=int(np.isnan(arrays[f"target_{known.name}"]).sum()),
        )
    return targets
