"""The rows of a batch: which atom is in each, and where its neighbours are; made on the device from sample numbers.

A member's atoms are its first rows, and what follows is padding. Where samples have their own geometries, each takes
consecutive rows. Where all share one geometry, rows are site after site, and sites are in the order of their degrees:
every tile of rows then has one degree, which decides the matrix that its aggregates are multiplied by.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import triton
from torch import Tensor

from hydragnn_hpc.member.engine.degrees import degree_scales
from hydragnn_hpc.member.engine.resident import resident, send
from hydragnn_hpc.member.engine.sizes import SCALERS, Array, NetworkSizes
from hydragnn_hpc.member.engine.training_data import SampleGraphs
from hydragnn_hpc.member.torch_engine.arena import Arena
from hydragnn_hpc.member.triton_engine import row_kernels
from hydragnn_hpc.member.triton_engine.launch import INTERPRETED, operation

TILE = 128 if INTERPRETED else 32
"""Rows that one program processes."""
SEGMENT = 512
"""Rows over which one program sums the gradients of weights."""
PLACED = 512
"""Rows that one program describes at once."""
MOST_NEIGHBOURS = 2**15 - 1
"""Of one atom: numbers of ties for both extremes share an int32 (`trunk_kernels.TIES`), and a grid's second dimension,
which counts the neighbours of an atom, has at most 2^16 - 1 programs."""


def unsupported(graphs: SampleGraphs) -> str:
    """Return why the kernels cannot compute with such graphs, ``""`` if they can."""
    most = int(graphs.degrees().max(initial=0))
    if most > MOST_NEIGHBOURS:
        return f"they support at most {MOST_NEIGHBOURS:,} neighbours of an atom, not {most:,}"
    return ""


@dataclass(frozen=True)
class Rows:
    """The rows of one batch of E members; all tensors are int32 unless stated otherwise.

    Attributes
    ----------
    members, samples, rows : int
        E, B, R.
    stride : int
        Rows between two atoms of a sample: atom k of sample b is in row ``start[e, b] + k * stride``.
    count : tensor [E]
        Atoms of each member: rows beyond are padding, for which nothing else is defined.
    start, length : tensor [E, B]
        First row and number of atoms of each sample.
    numbers : int64 tensor [E, B]
        Sample numbers.
    atoms : int64 tensor [E, R]
        Atom of each row.
    sample : tensor [E, R]
        Sample of each row, 0 to B - 1.
    first : int64 tensor [E, R]
        First edge of each row in the lists of neighbours.
    degree, edge_row : tensor [E, R]
        Number of neighbours, and the row of its first edge in the arrays of edges [E, U].
    """

    members: int
    samples: int
    rows: int
    stride: int
    count: Tensor
    start: Tensor
    length: Tensor
    numbers: Tensor
    atoms: Tensor
    sample: Tensor
    first: Tensor
    degree: Tensor
    edge_row: Tensor


@dataclass(frozen=True)
class Tiles:
    """How programs divide rows.

    Attributes
    ----------
    size : int
        Most rows of a tile.
    tiles : int32 tensor [tiles, 3]
        First row, end, and the matrix of each tile: the only one, or the first of several.
    segments : int32 tensor [segments, 4]
        First row, end, and matrix of each segment; 1 where these rows have not been in a segment before.
    """

    size: int
    tiles: Tensor
    segments: Tensor


class BatchGeometry:
    """Neighbours of all samples on the device, and PNA's scalers as factors of the parts of folded matrices.

    Attributes
    ----------
    shared : bool
        Whether all samples share one geometry.
    coefficients : tensor [matrices, 1 + SCALERS]
        For each folded matrix, the factors of the unscaled part and of the part of each scaler.
    blocks : int
        Matrices whose products are added for each row: one where rows of a tile share their degree, else one for the
        unscaled part and one for each scaler, times the scaler of each row.
    scales : tensor [degrees, 1 + SCALERS]
        1 and the scalers by degree; used where there are several blocks.
    most_neighbours : int
        Of any atom.
    offsets : int64 tensor [sites + 1]
        First edge of each site in the lists of neighbours.
    neighbours, receivers, slots : int32 tensor [edges]
        Neighbour of each edge, as its number within the sample; the receiver of the edge in the order of senders, and
        its position among the receiver's edges. Without edge features there are no slots, and the lists are the same.
    lengths : tensor [edges] or None
        Bohr; where edges have features.
    """

    def __init__(self, graphs: SampleGraphs, sizes: NetworkSizes, device: torch.device, dtype: torch.dtype) -> None:
        self.shared = graphs.shared_geometry
        self._graphs, self._device, degree = graphs, device, graphs.degrees()
        self._most_atoms = int(np.diff(graphs.atom_offsets).max())
        self.most_neighbours = int(degree.max(initial=0))
        offsets, neighbours, edge = graphs.neighbour_offsets, graphs.neighbours, None
        self._order: Tensor | None = None
        self._rank: Tensor | None = None
        if self.shared:
            order = np.argsort(-degree, kind="stable")
            rank = np.argsort(order)
            edge = np.repeat(offsets[order] - np.cumsum(degree[order]) + degree[order], degree[order])
            edge = edge + np.arange(len(neighbours))
            degree, neighbours = degree[order], rank[neighbours[edge]]
            offsets = np.concatenate([[0], np.cumsum(degree)])
            self._order, self._rank = (torch.from_numpy(t).to(device) for t in (order, rank))
        self._degree = degree
        self._edges_before = offsets[graphs.site_offsets]  # of each geometry
        scales = degree_scales(np.arange(self.most_neighbours + 1), sizes.average_degree)
        scales = np.concatenate([np.ones((len(scales), 1)), scales], axis=1)
        self._matrix = np.zeros(len(degree), np.int64)
        self.blocks, coefficients = 1 + SCALERS, np.eye(1 + SCALERS)
        if self.shared:
            degrees, self._matrix = np.unique(degree, return_inverse=True)
            self.blocks, coefficients = 1, scales[degrees]
        self.coefficients = torch.from_numpy(coefficients).to(device, dtype)
        self.scales = torch.from_numpy(scales).to(device, dtype)
        self.neighbours = self.receivers = resident(neighbours, device, torch.int32)
        self.offsets = torch.from_numpy(np.ascontiguousarray(offsets)).to(device)
        self.slots: Tensor | None = None
        self.lengths: Tensor | None = None
        if sizes.edges:
            lengths = graphs.lengths() if edge is None else graphs.lengths(edge)
            self.lengths = torch.from_numpy(lengths).to(device, dtype)
            self._transpose()
        tables = (graphs.atom_offsets, graphs.sample_geometry, graphs.site_offsets)
        self._tables = [torch.from_numpy(np.array(table, np.int64)).to(device) for table in tables]
        self._tiles: dict[int, Tiles] = {}

    def _transpose(self) -> None:
        """Put the edges in the order of their senders."""
        degree = torch.from_numpy(self._degree).to(self._device)
        receiver = torch.repeat_interleave(torch.arange(len(degree), device=self._device), degree)
        sites = self._graphs.site_offsets
        before = torch.from_numpy(np.repeat(sites[:-1], np.diff(sites))).to(self._device)
        by_sender = torch.argsort(self.neighbours + before[receiver], stable=True)
        self.receivers = (receiver - before[receiver])[by_sender].int()
        self.slots = (by_sender - self.offsets[receiver[by_sender]]).int()

    def sizes_of(self, index: Array) -> tuple[int, int]:
        """Return R and U, the most atoms and the most edges of a member's batch, for samples ``index`` [..., E, B]."""
        s = self._graphs
        if self.shared:
            return index.shape[-1] * len(self._degree), max(1, len(self.neighbours))
        atoms = (s.atom_offsets[index + 1] - s.atom_offsets[index]).sum(-1)
        geometry = s.sample_geometry[index]
        edges = (self._edges_before[geometry + 1] - self._edges_before[geometry]).sum(-1)
        return int(atoms.max()), max(1, int(edges.max()))

    def rows(self, numbers: Tensor, rows: int, arena: Arena) -> Rows:
        """Describe the rows of a batch; ``numbers`` [E, B] are the samples."""
        members, samples = numbers.shape

        def take(name: str, dtype: torch.dtype, *shape: int) -> Tensor:
            return arena.take(f"rows.{name}", *shape, dtype=dtype)

        count = take("count", torch.int32, members)
        start, length = (take(name, torch.int32, members, samples) for name in ("start", "length"))
        of_rows = {
            name: take(name, torch.int64 if name in ("atoms", "first") else torch.int32, members, rows)
            for name in ("atoms", "sample", "first", "degree", "edge_row")
        }
        stride = samples if self.shared else 1
        made = Rows(members, samples, rows, stride, count, start, length, numbers, **of_rows)
        place(
            numbers, *self._tables, self.offsets, self._order, made.count, made.start, made.length,
            [*of_rows.values()], self._most_atoms,
        )  # fmt: skip
        return made

    def tiles(self, samples: int, rows: int) -> Tiles:
        """Return the tiles of a batch of that many samples and rows of each member."""
        if not self.shared:  # nearly every batch has another R
            segments = [
                (*part, int(not matrix))
                for matrix in range(self.blocks)
                for part in _parts([(0, rows, matrix)], self.blocks * SEGMENT)
            ]
            return self._on_device(_parts([(0, rows, 0)], TILE), segments)
        if samples not in self._tiles:
            ends = np.flatnonzero(np.diff(self._matrix, append=-1)) + 1
            last, matrix = (ends * samples).tolist(), self._matrix[ends - 1].tolist()
            ranges = list(zip([0, *last[:-1]], last, matrix, strict=True))
            segments = [(*part, 1) for part in _parts(ranges, SEGMENT)]
            self._tiles[samples] = self._on_device(_parts(ranges, TILE), segments)
        return self._tiles[samples]

    def _on_device(self, tiles: list[tuple[int, int, int]], segments: list[tuple[int, int, int, int]]) -> Tiles:
        return Tiles(TILE, *(send(np.array(parts, np.int32), self._device) for parts in (tiles, segments)))

    def order(self, samples: int) -> Tensor | None:
        """Return the row of each atom of a batch, sample after sample; None where rows are in that order."""
        if self._rank is None:
            return None
        return (self._rank * samples + torch.arange(samples, device=self._device)[:, None]).view(-1)


def _parts(ranges: list[tuple[int, int, int]], size: int) -> list[tuple[int, int, int]]:
    """Divide ranges of rows, (first, end, matrix), into parts of at most ``size`` rows."""
    return [(at, min(at + size, end), matrix) for first, end, matrix in ranges for at in range(first, end, size)]


@operation(
    "place(Tensor numbers, Tensor atom_offsets, Tensor sample_geometry, Tensor site_offsets, Tensor offsets,"
    " Tensor? order, Tensor(a!) count, Tensor(b!) start, Tensor(c!) length, Tensor(d!)[] of_rows, int most) -> ()"
)
def place(
    numbers: Tensor, atom_offsets: Tensor, sample_geometry: Tensor, site_offsets: Tensor, offsets: Tensor,
    order: Tensor | None, count: Tensor, start: Tensor, length: Tensor, of_rows: list[Tensor], most: int,
) -> None:  # fmt: skip
    """Fill the arrays of `Rows`; ``of_rows`` are atoms, sample, first, degree and edge_row."""
    members, samples = numbers.shape
    block = min(triton.next_power_of_2(samples), PLACED)
    atoms = PLACED // block
    row_kernels.place[(triton.cdiv(most, atoms), members)](
        numbers, atom_offsets, sample_geometry, site_offsets, offsets, order, count, start, length, *of_rows,
        samples, of_rows[0].shape[1], SHARED=order is not None, SAMPLES=block, ATOMS=atoms,
        num_stages=1,
    )  # fmt: skip
