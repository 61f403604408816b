"""From raw files to the shared data set: derive, select, split, scale, connect, write."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hydragnn_hpc.dataset import derive, lsms, select, store
from hydragnn_hpc.dataset.graphs import Geometry, find_neighbours
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.fields import PROPERTIES
from hydragnn_hpc.logs import Progress, say


@dataclass(frozen=True)
class Options:
    """How a data set is prepared; lengths in bohr, energies in Ry.

    Attributes
    ----------
    cutoff : float
        Neighbours are closer than this.
    periodic : bool
        Whether images count as neighbours; needs ``cell``.
    cell : tuple of float or None
        Nine numbers, rows are lattice vectors; None where the source gives none.
    cap : int
        At most so many samples a composition; 0 keeps all.
    fractions : tuple of float
        Training, validation, test.
    seed : int
        Of the cap's choice and the split.
    scale_over : {"all", "train"}
        What minimum and maximum are taken over.
    end_members : dict
        Energy of pure elements by proton number, Ry per atom; those not given are found in the data.
    on_error : {"fail", "skip"}
        What a malformed file does.
    """

    cutoff: float = 7.0
    periodic: bool = False
    cell: tuple[float, ...] | None = None
    cap: int = 1000
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    seed: int = 0
    scale_over: str = "all"
    end_members: derive.EndMembers = field(default_factory=dict)
    on_error: str = "fail"


@dataclass
class Samples:
    """All samples, in natural order of their names, whatever order they were read in.

    Attributes
    ----------
    names : list of str
    geometries : list of Geometry
        The distinct ones, in order of first use.
    geometry : numpy.ndarray
        ``[S]`` int32, which one each sample decorates.
    atomic_numbers : list of numpy.ndarray
        Per sample ``[n]`` int32.
    node : dict
        Node-level targets by name, per sample ``[n]`` float64.
    energies : numpy.ndarray
        ``[S]`` float64 total energies, Ry per cell.
    """

    names: list[str]
    geometries: list[Geometry]
    geometry: np.ndarray
    atomic_numbers: list[np.ndarray]
    node: dict[str, list[np.ndarray]]
    energies: np.ndarray

    def chosen(self, positions: np.ndarray) -> Samples:
        """Return the samples at ``positions``; geometries nobody uses any more are dropped."""
        picks = positions.tolist()
        # By first use, so that the numbers do not depend on the order in which the files were read.
        number: dict[int, int] = {}
        renumbered = [number.setdefault(g, len(number)) for g in self.geometry[positions].tolist()]
        return Samples(
            [self.names[k] for k in picks],
            [self.geometries[k] for k in number],
            np.array(renumbered, np.int32),
            [self.atomic_numbers[k] for k in picks],
            {name: [values[k] for k in picks] for name, values in self.node.items()},
            self.energies[positions],
        )

    def atom_offsets(self) -> np.ndarray:
        """Return ``[S + 1]`` int64."""
        return _offsets([len(z) for z in self.atomic_numbers])


def _offsets(counts: list[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)


def read_lsms(source: Path, options: Options, progress: Progress | None = None) -> tuple[Samples, lsms.Skipped]:
    """Read all LSMS text of a folder or archive; samples come in natural order of their names, wherever from."""
    skipped, total = lsms.Skipped(), lsms.count_files(source)
    cell = np.zeros((3, 3)) if options.cell is None else np.array(options.cell, dtype=np.float64).reshape(3, 3)
    known: dict[bytes, int] = {}
    geometries: list[Geometry] = []
    rows: list[tuple[str, int, np.ndarray, np.ndarray, np.ndarray, float]] = []
    for sample in lsms.iter_samples(source, options.on_error, skipped):
        geometry = Geometry(sample.pos, cell, (options.periodic,) * 3)
        number = known.setdefault(geometry.key(), len(geometries))
        if number == len(geometries):
            geometries.append(geometry)
        z = sample.atomic_numbers
        transfer = derive.charge_transfer(sample.charge, z)
        # Copied: a view would keep the whole table of every file alive.
        rows.append((sample.name, number, z, transfer, sample.moment.copy(), float(sample.energies[0])))
        if progress:
            progress(len(rows) + skipped.count, total)
    # Names need not be unique (files of one name in several folders): the content decides between them.
    rows.sort(
        key=lambda row: (
            lsms.natural_key(row[0]), row[0], geometries[row[1]].key(), *(a.tobytes() for a in row[2:5]), row[5]
        )
    )  # fmt: skip
    names, numbers, species, transfers, moments, energies = zip(*rows, strict=True)
    node = {"charge_transfer": list(transfers), "magnetic_moment": list(moments)}
    samples = Samples(list(names), geometries, np.array(numbers, np.int32), list(species), node, np.array(energies))
    return samples, skipped


def prepare(
    source: Path, out: Path, options: Options, force: bool = False, progress: Progress | None = None
) -> store.Manifest:
    """Make the data set ``out`` from LSMS text (:class:`Options` says how).

    Raises
    ------
    UserError
        On the first thing that does not fit; nothing is left behind.
    """
    store.refuse_existing(out, force)
    if options.periodic and options.cell is None:
        raise UserError("--boundary periodic needs --cell: LSMS text does not hold the cell")
    if options.cap < 0:
        raise UserError(f"--cap {options.cap}: must be 0 (keep all) or positive")
    samples, skipped = read_lsms(source, options, progress)
    n_read = len(samples.names)
    species, counts = select.species_counts(np.concatenate(samples.atomic_numbers), samples.atom_offsets())
    _check_end_members(options.end_members, species)
    end_members = {**derive.find_end_members(samples.energies, counts, species), **options.end_members}
    enthalpy = derive.mixing_enthalpy(samples.energies, counts, species, end_members)

    order = samples.geometry.tolist()
    keys = [g.to_bytes(4, "little") + z.tobytes() for g, z in zip(order, samples.atomic_numbers, strict=True)]
    unique = select.first_of_repeated(keys)
    kept = unique[select.cap_per_composition(counts[unique], options.cap, options.seed)]
    split = select.split_by_composition(counts[kept], options.fractions, options.seed)
    if split.too_small:
        say(_told(split.too_small, species))
    per_composition = np.unique(counts[kept], axis=0, return_counts=True)[1]
    source_facts = {
        "path": source.resolve().name,
        "read": n_read,
        "skipped": skipped.count,
        "skipped_reasons": skipped.reasons,
        "repeated": n_read - len(unique),
        "capped": len(unique) - len(kept),
        "kept": len(kept),
        "species": [int(z) for z in species],
        "compositions": len(per_composition),
        "samples_per_composition": {"minimum": int(per_composition.min()), "maximum": int(per_composition.max())},
        "compositions_too_small_to_split": len(split.too_small),
        "end_members": {str(z): end_members[z] for z in species.tolist()},
        "cap": options.cap,
        "seed": options.seed,
        "fractions": list(options.fractions),
    }
    chosen = samples.chosen(kept)
    arrays = structure_arrays(chosen, split.part, options.cutoff)
    arrays["target_mixing_enthalpy"] = enthalpy[kept][:, None]
    for name, values in chosen.node.items():
        arrays[f"target_{name}"] = np.concatenate(values)[:, None]
    facts = {
        "targets": fit_scaling(arrays, options.scale_over),
        "species": {"minimum": int(arrays["atomic_numbers"].min()), "maximum": int(arrays["atomic_numbers"].max())},
        "scaled_over": options.scale_over,
        "source": source_facts,
        "neighbours": {
            "cutoff_bohr": options.cutoff,
            "boundary": "periodic" if options.periodic else "open",
            "fewest": int(np.diff(arrays["neighbour_offsets"]).min()),
            "most": int(np.diff(arrays["neighbour_offsets"]).max()),
        },
    }
    return store.write(out, arrays, facts, force)


def _check_end_members(given: derive.EndMembers, species: np.ndarray) -> None:
    from ase.data import chemical_symbols

    for z in given:
        if z not in species:
            known = ", ".join(chemical_symbols[s] for s in species.tolist())
            raise UserError(
                f"--end-member {chemical_symbols[z]}={given[z]:g}: the data holds no {chemical_symbols[z]} (it holds"
                f" {known}); leave it out"
            )


def structure_arrays(samples: Samples, part: np.ndarray, cutoff: float) -> dict[str, np.ndarray]:
    """Return the arrays of :data:`hydragnn_hpc.fields.STRUCTURE`."""
    lists = [find_neighbours(g, cutoff) for g in samples.geometries]
    names = [name.encode() for name in samples.names]
    n_neighbours = np.concatenate([np.diff(n.offsets) for n in lists])
    return {
        "sample_name_offsets": _offsets([len(n) for n in names]),
        "sample_names": np.frombuffer(b"".join(names), np.uint8),
        "sample_geometry": samples.geometry,
        "split": part,
        "atom_offsets": samples.atom_offsets(),
        "atomic_numbers": np.concatenate(samples.atomic_numbers),
        "geometry_atom_offsets": _offsets([len(g.pos) for g in samples.geometries]),
        "pos": np.concatenate([g.pos for g in samples.geometries]),
        "cell": np.stack([g.cell for g in samples.geometries]),
        "periodic": np.array([g.periodic for g in samples.geometries], np.uint8),
        "neighbour_offsets": _offsets(n_neighbours),
        "neighbours": np.concatenate([n.neighbours for n in lists]),
        "edge_vectors": np.concatenate([n.vectors for n in lists]),
    }


def fit_scaling(arrays: dict[str, np.ndarray], over: str) -> dict[str, dict[str, Any]]:
    """Return the manifest's ``targets`` for the known properties among ``arrays``: range per component."""
    train = arrays["split"] == 0
    of_train = np.repeat(train, np.diff(arrays["atom_offsets"]))
    found = {}
    for known in PROPERTIES.values():
        values = arrays.get(f"target_{known.name}")
        if values is None:
            continue
        if over == "train":
            values = values[of_train if known.level == "node" else train]
        low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
        if (low == high).any():
            # Not refused: the other targets may be what the user is after. A campaign that asks for it is.
            say(f"target '{known.name}' is constant ({low[0]:g} {known.unit}): no campaign can be trained on it")
        found[known.name] = {
            "level": known.level,
            "unit": known.unit,
            "label": known.label,
            "width": values.shape[1],
            "minimum": low.tolist(),
            "maximum": high.tolist(),
            "missing": int(np.isnan(arrays[f"target_{known.name}"]).sum()),
        }
    return found


def _told(too_small: list[tuple[list[int], int]], species: np.ndarray) -> str:
    from ase.data import chemical_symbols

    def formula(counts: list[int]) -> str:
        pairs = zip(species.tolist(), counts, strict=True)
        return "".join(f"{chemical_symbols[z]}{n}" for z, n in pairs if n)

    shown = ", ".join(f"{formula(c)} ({n})" for c, n in too_small[:5]) + (", ..." if len(too_small) > 5 else "")
    return f"{len(too_small)} compositions have too few samples to reach every part of the split: {shown}"
