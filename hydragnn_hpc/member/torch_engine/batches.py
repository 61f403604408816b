"""Batches of a stack: the row of each atom, and the tables of neighbours.

A batch has R rows (atoms) per member, and E members side by side: arrays are [R, E, ...]. With one geometry for all
samples every member has the same table over the rows, and a row carries the features of all members; else the table
runs over all R * E (row, member) pairs, and members with fewer atoms than the largest are padded with rows that nothing
reads. Rows are sorted by their number of neighbours, so that parts of the tables need little padding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc.dataset.staged.copies import atoms_of
from hydragnn_hpc.member.engine.degrees import degree_scales
from hydragnn_hpc.member.engine.resident import resident, send
from hydragnn_hpc.member.engine.sizes import SCALERS, Array, NetworkSizes
from hydragnn_hpc.member.engine.training_data import SampleGraphs
from hydragnn_hpc.member.torch_engine.aggregate import NeighbourLists, NeighbourTable, make_neighbour_table
from hydragnn_hpc.member.torch_engine.edges import EdgeRowsBuilder, EdgeTable, make_edge_table, slots_of_rows

_Neighbours = tuple[NeighbourTable, EdgeTable | None]


@dataclass(frozen=True)
class SampleRows:
    """The rows of each sample, where samples differ in size.

    Attributes
    ----------
    rows : int64 tensor [most, B * E]
        (Row, member) pairs of each sample; R * E marks an unused entry.
    sample : int64 tensor [R * E]
        The sample of each pair; B * E marks padding.
    inverse : tensor [B, E, 1]
        1 / atoms of each sample.
    """

    rows: Tensor
    sample: Tensor
    inverse: Tensor


@dataclass(frozen=True)
class Padding:
    """Which rows of a stack are padding: members with fewer atoms than the largest are padded.

    Attributes
    ----------
    valid : tensor [R, E, 1]
        1 for atoms, 0 for padding.
    count : tensor [1, E, 1]
        Atoms of each member.
    """

    valid: Tensor
    count: Tensor


@dataclass(frozen=True)
class Batch:
    """One batch of E members.

    Attributes
    ----------
    members, samples, rows : int
        E, B, R.
    table : NeighbourTable
        Over R rows, or over R * E pairs.
    scales : tensor [R * E, 1, blocks]
        PNA's scalers of each pair, all zero without neighbours; a fifth one, 1, if any atom has no neighbours.
    atoms, graphs : int64 tensor [R * E], [B * E]
        Atom of each pair (arbitrary for padding), and sample numbers.
    padding : Padding or None
        None where nothing is padded.
    pooling : SampleRows or None
        None where every B-th row is of the same sample.
    order : int64 tensor [R]
        Row of each atom, sample after sample; that of the first member, where members have different batches.
    edges : EdgeTable or None
        None where edges have no features.
    """

    members: int
    samples: int
    rows: int
    table: NeighbourTable
    scales: Tensor
    atoms: Tensor
    graphs: Tensor
    padding: Padding | None
    pooling: SampleRows | None
    order: Tensor
    edges: EdgeTable | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes on which working memory depends."""
        edges = (self.edges.rows, self.edges.slots) if self.edges else ()
        return (self.members, self.samples, self.rows, self.table.room, *edges)


@dataclass(frozen=True)
class Fixed:
    """What batches of one shape over one geometry have in common: ``sites`` [n, 1] in the order of the rows."""

    members: int
    samples: int
    table: NeighbourTable
    edges: EdgeTable | None
    scales: Tensor
    sites: Tensor
    order: Tensor


class Batches:
    """Makes batches.

    Parameters
    ----------
    graphs : SampleGraphs
    sizes : NetworkSizes
    device, dtype
        Device on which batches are used, and type of their numbers.
    room : int
        Size of a part of the neighbour tables (`hydragnn_hpc.member.torch_engine.aggregate.make_neighbour_table`).

    Attributes
    ----------
    shared : bool
        Whether all samples share one geometry.
    blocks : int
        Blocks of columns of the folded matrices (`hydragnn_hpc.member.torch_engine.weights`): one for each scaler and,
        if any atom has no neighbours, one for the unscaled part.
    """

    def __init__(
        self, graphs: SampleGraphs, sizes: NetworkSizes, device: torch.device, dtype: torch.dtype, room: int
    ) -> None:
        self._graphs, self._device, self._dtype = graphs, device, dtype
        self._room = room
        self.shared = graphs.shared_geometry
        # Padding is represented by one more site, without neighbours.
        self._degree = np.append(graphs.degrees(), 0)
        self.blocks = SCALERS + int(len(self._degree) > 1 and self._degree[:-1].min() == 0)
        self._pool = any(t.level == "graph" for t in sizes.tasks)
        self._first = self.send(graphs.neighbour_offsets)
        self._neighbours = resident(graphs.neighbours, device, torch.int32)
        self._edges = EdgeRowsBuilder(graphs, sizes.edges, device, dtype) if sizes.edges else None
        self._scales = _scales(self._degree, sizes.average_degree, self.blocks).to(device, dtype)
        self._fixed: dict[tuple[int, int], Fixed] = {}

    def make(self, index: Array) -> Batch:
        """Put the samples ``index`` [E, B] into rows."""
        return self._make_shared(index) if self.shared else self._make_general(index)

    def send(self, array: Array) -> Tensor:
        """Copy to the device, without a wait."""
        return send(array, self._device)

    def _make_shared(self, index: Array) -> Batch:
        return self.of_numbers(self.fixed(*index.shape), self.send(index.T.reshape(-1)))

    def fixed(self, members: int, samples: int) -> Fixed:
        """Return what batches over one geometry have in common; kept until a stack of another size comes."""
        shape = (members, samples)
        if shape not in self._fixed:
            self._fixed = {known: fixed for known, fixed in self._fixed.items() if known[0] == members}
            self._fixed[shape] = self._fix(members, samples)
        return self._fixed[shape]

    def of_numbers(self, fixed: Fixed, numbers: Tensor) -> Batch:
        """Put samples of one geometry into rows, on the device alone; ``numbers`` [B * E] are the samples."""
        members, samples, n = fixed.members, fixed.samples, len(fixed.sites)
        atoms = torch.add(fixed.sites, numbers, alpha=n).view(-1)
        return Batch(
            members, samples, samples * n, fixed.table, fixed.scales, atoms, numbers, None, None, fixed.order,
            fixed.edges,
        )  # fmt: skip

    def _fix(self, members: int, samples: int) -> Fixed:
        """Return what does not depend on the samples: rows site after site, those with most neighbours first."""
        degree = self._degree[:-1]
        sites = np.argsort(-degree, kind="stable")
        rank = np.argsort(sites)
        place = (rank + np.zeros((samples, 1), np.int64)) * samples + np.arange(samples)[:, None]
        site, sample = np.repeat(sites, samples), np.tile(np.arange(samples), len(sites))
        order = self.send(place.reshape(-1))
        table, edges = self._table(site, self.send(sample * len(sites)), 1, order)
        scales = self._scales[self.send(site)].repeat_interleave(members, 0)
        return Fixed(members, samples, table, edges, scales, self.send(sites)[:, None], order)

    def _table(self, site: Array, base: Tensor, members: int, place: Tensor) -> _Neighbours:
        """Return the table of pairs at these sites; samples start in row ``base``, and ``place`` is each pair's row."""
        degree = self._degree[site]
        total = int(degree.sum())
        begin = np.cumsum(degree) - degree
        on_device = self.send(np.stack([degree, begin, site]))
        pair = torch.repeat_interleave(on_device[0], output_size=total)
        edge = torch.arange(total, device=self._device) + (self._first[on_device[2]] - on_device[1])[pair]
        row = base[pair] + self._neighbours[edge]
        neighbours = place[row if members == 1 else row * members + pair % members]
        lists = NeighbourLists(len(site), neighbours, on_device[1], on_device[0], None)
        if self._edges is None:
            return make_neighbour_table(lists, degree, self._dtype, self._room), None
        if self.shared:
            edge_rows = self._edges.shared(edge)
        else:
            counts = np.bincount(np.arange(len(site)) % members, degree, members).astype(np.int64)
            starts = self.send(counts.cumsum() - counts)
            edge_rows = self._edges.of_members(edge, pair % members, starts, max(1, int(counts.max())))
        lists = replace(lists, edge_rows=edge_rows.row)
        table = make_neighbour_table(lists, degree, self._dtype, self._room)
        first, apart = self.send(slots_of_rows(table.parts))
        slot = first[pair] + apart[pair] * (torch.arange(total, device=self._device) - on_device[1][pair])
        return table, make_edge_table(table, edge_rows, slot, self.shared)

    def _make_general(self, index: Array) -> Batch:
        s = self._graphs
        members, samples = index.shape
        flat = index.reshape(-1)
        counts = (s.atom_offsets[flat + 1] - s.atom_offsets[flat]).reshape(members, samples)
        totals = counts.sum(1)
        rows, pairs = int(totals.max()), int(totals.max()) * members
        starts = np.cumsum(counts, axis=1) - counts
        # All atoms of all members one after the other, and the pair of each.
        of_sample = np.repeat(np.arange(members * samples), counts.reshape(-1))
        atom = atoms_of(s.atom_offsets, flat)
        within = atom - s.atom_offsets[flat][of_sample]
        start, member = starts.reshape(-1)[of_sample], of_sample // samples
        pair = (start + within) * members + member
        host = np.zeros((4, pairs), np.int64)
        host[1], host[3] = len(self._degree) - 1, samples * members
        host[0, pair], host[1, pair] = atom, s.site_offsets[s.sample_geometry[flat]][of_sample] + within
        host[2, pair], host[3, pair] = start, of_sample % samples * members + member
        # Those with most neighbours first, in every member.
        order = np.argsort(-self._degree[host[1]].reshape(rows, members), axis=0, kind="stable")
        by_degree = (order * members + np.arange(members)).reshape(-1)
        host, place = host[:, by_degree], np.argsort(by_degree)
        atoms, sites, base, sample, places = self.send(np.concatenate([host, place[None]]))
        table, edges = self._table(host[1], base, members, places)
        padding = None
        if totals.min() < rows:
            valid = (sample < samples * members).to(self._dtype).view(rows, members, 1)
            padding = Padding(valid, self.send(totals).to(self._dtype).view(1, members, 1))
        pooling = self._pooling(starts, counts, sample, places) if self._pool else None
        graphs = self.send(index.T.reshape(-1))
        unsorted = torch.div(places[::members], members, rounding_mode="floor")
        return Batch(
            members, samples, rows, table, self._scales[sites], atoms, graphs, padding, pooling, unsorted, edges
        )  # fmt: skip

    def _pooling(self, starts: Array, counts: Array, sample: Tensor, places: Tensor) -> SampleRows:
        members = len(starts)
        slot = torch.arange(int(counts.max()), device=self._device)[:, None]
        start, count = self.send(np.stack([starts.T.reshape(-1), counts.T.reshape(-1)]))
        member = torch.arange(len(start), device=self._device) % members
        pair = torch.where(slot < count, (start + slot) * members + member, 0)
        rows = torch.where(slot < count, places[pair], len(places))
        return SampleRows(rows, sample, (1.0 / count.to(self._dtype)).view(-1, members, 1))


def _scales(degree: Array, average: tuple[float, float], blocks: int) -> Tensor:
    """Return PNA's scalers of each site, [sites, 1, blocks].

    A fifth block is not scaled; it is zero for the last site, which is padding.
    """
    scales = degree_scales(degree, average)
    if blocks > SCALERS:
        scales = np.concatenate([scales, (np.arange(len(degree)) < len(degree) - 1)[:, None]], axis=1)
    return torch.from_numpy(scales)[:, None]
