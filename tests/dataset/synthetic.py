"""Small synthetic data sets: arrays for the store, LSMS text of any structures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.build.prepare import structure_arrays
from hydragnn_hpc.dataset.graphs import Geometry, find_neighbours
from hydragnn_hpc.dataset.read import files
from hydragnn_hpc.dataset.read.formats import lsms
from hydragnn_hpc.dataset.read.frames import Frame
from hydragnn_hpc.dataset.read.gathered import RawSamples
from hydragnn_hpc.dataset.store.manifest import seal_of, sha256_of
from hydragnn_hpc.records.dataset import DatasetFacts, NeighbourFacts, NumberRange, Source, Target

FE, CO, PT = 26, 27, 78


def arrays(seed: int = 0, sizes: tuple[int, ...] = (4, 1, 6), cutoff: float = 5.0) -> dict[str, np.ndarray]:
    """A data set of two samples for each geometry; geometry k has ``sizes[k]`` sites, every other one is periodic."""
    rng = np.random.default_rng(seed)
    geometries = []
    for k, n in enumerate(sizes):
        cell = np.diag(rng.uniform(5, 8, 3)) + rng.uniform(-1, 1, (3, 3))
        geometries.append(Geometry(rng.uniform(0, 1, (n, 3)) @ cell, cell, (k % 2 == 1,) * 3))
    which = np.repeat(np.arange(len(sizes)), 2).astype(np.int32)
    species = [rng.choice([FE, CO, PT], sizes[g]).astype(np.int32) for g in which]
    names = [f"sample_{k}_ü" for k in range(len(which))]
    samples = raw_samples(names, geometries, which, species)
    made = structure_arrays(samples, np.arange(len(which)).astype(np.uint8) % 3, cutoff)
    n_atoms = len(made["atomic_numbers"])
    made["target_energy"] = rng.normal(size=(len(which), 1))
    made["target_spin"] = rng.normal(size=(n_atoms, 3))
    made["target_spin"][0, 1] = np.nan
    return made


def raw_samples(
    names: list[str], geometries: list[Geometry], geometry: np.ndarray, numbers: list[np.ndarray]
) -> RawSamples:
    """Samples without targets, as they are read."""
    return RawSamples(
        names, names, geometries, geometry, numbers, {}, np.full(len(names), np.nan), np.arange(len(names))
    )


def frame_of(name: str, geometry: Geometry, numbers: np.ndarray) -> Frame:
    """A structure without values."""
    return Frame(name, name, name, numbers, geometry.pos, geometry.cell, geometry.periodic)


def lsms_samples(source: Path) -> list[lsms.LsmsSample]:
    """All LSMS text of a folder or archive, in its order."""
    return [lsms.parse_sample(file.read(), file.where) for file in files.iter_files(source)]


SOURCE = Source(
    path="synthetic", read=6, skipped=0, skipped_reasons=[], repeated=0, capped=0, kept=6, compositions=1,
    compositions_too_small_to_split=0, end_members={}, cap=0, seed=0, fractions=[0.7, 0.15, 0.15],
)  # fmt: skip
NEIGHBOURS = NeighbourFacts(cutoff_bohr=5.0, boundary="open")


def facts(of: dict[str, np.ndarray]) -> DatasetFacts:
    """What :func:`hydragnn_hpc.dataset.store.write` needs besides the arrays."""
    targets = {}
    for name, level, unit in (("energy", "graph", "Ry"), ("spin", "node", "μB")):
        values = of[f"target_{name}"]
        targets[name] = Target(
            level=level,
            unit=unit,
            label=name,
            width=values.shape[1],
            minimum=np.nanmin(values, axis=0).tolist(),
            maximum=np.nanmax(values, axis=0).tolist(),
            missing=int(np.isnan(values).sum()),
        )
    z = of["atomic_numbers"]
    species = NumberRange(minimum=int(z.min()), maximum=int(z.max()))
    return DatasetFacts(targets=targets, species=species, scaled_over="all", source=SOURCE, neighbours=NEIGHBOURS)


def reseal(bp: Path, **changed: Any) -> None:
    """Make a damaged data set's manifest valid again, so that the damage reaches ADIOS2; also set ``changed``."""
    file = bp / "manifest.json"
    content = json.loads(file.read_text())
    del content["seal"]
    for name in content["files"]:
        content["files"][name] = {"bytes": (bp / name).stat().st_size, "sha256": sha256_of(bp / name)}
    content.update(changed)
    file.write_text(json.dumps({**content, "seal": seal_of(content)}, indent=1, ensure_ascii=False))


def write_raw(folder: Path, samples: list[lsms.LsmsSample]) -> Path:
    """Write LSMS text into the new folder."""
    folder.mkdir(parents=True)
    for sample in samples:
        (folder / sample.name).write_text(lsms.format_sample(sample))
    return folder


def alloys(n: int) -> list[lsms.LsmsSample]:
    """Fe-Co-Pt samples of 2 to 4 atoms on three geometries, with the pure cells; energies are linear plus noise."""
    rng = np.random.default_rng(0)
    pos = [rng.uniform(0, 6, (2 + k, 3)) for k in range(3)]
    made = []
    for k in range(n):
        sites = pos[k % 3]
        z = np.full(len(sites), (FE, CO, PT)[k % 3]) if k < 6 else rng.choice([FE, CO, PT], len(sites))
        energy = -100.0 * z.sum() + (0.0 if len(set(z)) == 1 else rng.uniform(0, 1))
        charge, moment = z + np.round(rng.normal(size=len(z)), 6), np.round(rng.normal(size=len(z)), 6)
        made.append(lsms.new_sample(f"out_{k}", np.array([energy, 1.0, 0.5]), z, sites, (charge, moment)))
    return made


def neighbours_of(geometry: Geometry, cutoff: float) -> set[tuple[int, int, tuple[float, ...]]]:
    """The list of :func:`find_neighbours` as a set of (site, neighbour, rounded vector)."""
    found = find_neighbours(geometry, cutoff)
    sites = np.repeat(np.arange(len(geometry.pos)), np.diff(found.offsets))
    return {
        (int(i), int(j), tuple((np.round(v, 6) + 0.0).tolist()))
        for i, j, v in zip(sites, found.neighbours, found.vectors, strict=True)
    }


def remarks_of(manifest: store.Manifest) -> dict[str, str]:
    """A data set's remarks by name; several of one name are joined."""
    found: dict[str, str] = {}
    for remark in manifest.remarks or []:
        found[remark.name] = "\n".join(filter(None, (found.get(remark.name), remark.text)))
    return found
