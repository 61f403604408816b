"""The general engine, in plain torch: any graphs, any device, E members at once."""

from __future__ import annotations

import numpy as np
import torch

from hydragnn_hpc.member.aggregate import NeighbourTable
from hydragnn_hpc.member.fused.sizes import NetworkSizes
from hydragnn_hpc.member.layout import ParameterLayout
from hydragnn_hpc.member.network import Batch, forward, losses
from hydragnn_hpc.member.samples import Samples, Structure

_PREDICT_ROWS = 65536  # atoms predicted at once: bounds the memory of an evaluation


class TorchEngine:
    """Training steps and predictions of stacked members.

    Parameters
    ----------
    sizes : NetworkSizes
    samples : Samples
    device : torch.device
        The data set's inputs and targets are kept there.
    dtype : torch.dtype
        float32; float64 for tests.
    """

    name = "torch"

    def __init__(
        self, sizes: NetworkSizes, samples: Samples, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self.sizes, self.device, self.dtype = sizes, device, dtype
        self.layout = ParameterLayout.of(sizes)
        self._weights = torch.tensor([t.weight for t in sizes.tasks], device=device, dtype=dtype)
        self._inputs = self._resident(samples.inputs)
        self._targets = {t.name: self._resident(samples.targets[t.name]) for t in sizes.tasks}
        self._samples = samples
        structure = samples.structure
        self._uniform = len(np.unique(np.diff(structure.atom_offsets))) == 1
        self._sites = _SiteTables.of(samples, sizes)
        self._cached: dict[tuple[int, int], Batch] = {}

    def _resident(self, array: np.ndarray) -> torch.Tensor:
        # Copied once: the mapped file is read-only, and a device cannot map it.
        return torch.tensor(np.asarray(array), device=self.device, dtype=self.dtype)

    def step(
        self, parameters: torch.Tensor, gradients: torch.Tensor, buffers: torch.Tensor, index: np.ndarray
    ) -> torch.Tensor:
        """Forward and backward of one batch of every member.

        Parameters
        ----------
        parameters, gradients : torch.Tensor
            ``[E, P]``; gradients are overwritten, padding with zeros.
        buffers : torch.Tensor
            ``[E, Q]`` running statistics, updated.
        index : numpy.ndarray
            ``[E, B]`` int64 sample numbers.

        Returns
        -------
        torch.Tensor
            ``[E, T]`` mean squared error per task, not weighted, on the device.
        """
        batch, targets = self._batch(index)
        named = {name: v.detach().requires_grad_() for name, v in self.layout.named(parameters).items()}
        predicted = forward(batch, named, self.layout.named_buffers(buffers), self.sizes, training=True)
        found = losses(predicted, targets, self.sizes)
        total = (found * self._weights).sum()
        parts = torch.autograd.grad(total, list(named.values()))
        used = [part.reshape(len(index), -1) for part in parts]
        padding = gradients.shape[1] - sum(p.shape[1] for p in used)
        torch.cat([*used, gradients.new_zeros(len(index), padding)], 1, out=gradients)
        return found.detach()

    @torch.no_grad()
    def predict(self, parameters: torch.Tensor, buffers: torch.Tensor, index: np.ndarray) -> dict[str, torch.Tensor]:
        """Predict the samples ``index`` ``[B]``, the same for all members, in evaluation mode.

        Returns
        -------
        dict
            By task, scaled: ``[E, atoms of the samples in order, d]`` or, at graph level, ``[E, B, d]``.
        """
        members = len(parameters)
        named, statistics = self.layout.named(parameters), self.layout.named_buffers(buffers)
        most = int(np.diff(self._samples.structure.atom_offsets).max())
        chunk = max(1, _PREDICT_ROWS // (most * members))
        found: dict[str, list[torch.Tensor]] = {t.name: [] for t in self.sizes.tasks}
        for first in range(0, len(index), chunk):
            batch, _ = self._batch(np.tile(index[first : first + chunk], (members, 1)))
            for name, value in forward(batch, named, statistics, self.sizes, training=False).items():
                found[name].append(value)
        return {name: torch.cat(values, 1) for name, values in found.items()}

    def _batch(self, index: np.ndarray) -> tuple[Batch, dict[str, torch.Tensor]]:
        members, samples = index.shape
        rows = _rows(index, self._samples.structure)
        atoms = torch.from_numpy(rows.atom).to(self.device, non_blocking=True)
        shape = self._cached.get((members, samples)) if self._fixed else None
        if shape is None:
            shape = self._sites.batch(rows, self.device, self.dtype, self._uniform)
            if self._fixed:
                self._cached = {(members, samples): shape}
        inputs = self._inputs[atoms]
        batch = Batch(inputs, shape.table, shape.scales, shape.valid, shape.atoms, shape.n_atoms, shape.uniform)
        targets = {}
        graph_index = torch.from_numpy(np.ascontiguousarray(index)).to(self.device, non_blocking=True)
        for task in self.sizes.tasks:
            values = self._targets[task.name][atoms if task.level == "node" else graph_index]
            if task.level == "node" and batch.valid is not None:
                values = torch.where(batch.valid > 0, values, torch.nan)
            targets[task.name] = values
        return batch, targets

    @property
    def _fixed(self) -> bool:
        """Whether the neighbours of a batch are the same whatever samples are in it."""
        return self._samples.structure.shared_geometry


class _Rows:
    """The rows of a batch: ``atom`` [E, N] in A, ``site`` [E, N] in B, ``start`` [E, N] first row of the sample in
    the member, ``valid`` [E, N], ``of_sample`` [E, B, n] rows of each sample, ``n_atoms`` [E, B]."""

    def __init__(self, members: int, rows: int, samples: int, most: int) -> None:
        self.atom = np.zeros((members, rows), np.int64)
        self.site = np.zeros((members, rows), np.int64)
        self.start = np.zeros((members, rows), np.int64)
        self.valid = np.zeros((members, rows), bool)
        self.of_sample = np.full((members, samples, most), rows, np.int64)
        self.n_atoms = np.zeros((members, samples), np.int64)


def _rows(index: np.ndarray, structure: Structure) -> _Rows:
    atom_offsets, site_offsets = structure.atom_offsets, structure.site_offsets
    sample_geometry = structure.sample_geometry
    counts = atom_offsets[index + 1] - atom_offsets[index]
    totals = counts.sum(1)
    members, samples = index.shape
    found = _Rows(members, int(totals.max()), samples, int(counts.max()))
    found.n_atoms[:] = counts
    for e in range(members):
        start = np.cumsum(counts[e]) - counts[e]
        within = np.arange(totals[e]) - np.repeat(start, counts[e])
        sample = np.repeat(np.arange(samples), counts[e])
        found.atom[e, : totals[e]] = np.repeat(atom_offsets[index[e]], counts[e]) + within
        found.site[e, : totals[e]] = np.repeat(site_offsets[sample_geometry[index[e]]], counts[e]) + within
        found.start[e, : totals[e]] = np.repeat(start, counts[e])
        found.valid[e, : totals[e]] = True
        found.of_sample[e, sample, within] = start[sample] + within
    return found


class _SiteTables:
    """Per site of every geometry: neighbours, weights, scalers; on the host as numpy arrays."""

    def __init__(self, neighbours: np.ndarray, degrees: np.ndarray, scales: np.ndarray) -> None:
        self.neighbours, self.degrees, self.scales = neighbours, degrees, scales

    @classmethod
    def of(cls, samples: Samples, sizes: NetworkSizes) -> _SiteTables:
        s = samples.structure
        degrees = s.degrees()
        most = max(1, int(degrees.max(initial=0)))
        slot = np.arange(most)
        position = s.neighbour_offsets[:-1, None] + np.where(slot < degrees[:, None], slot, 0)
        own = np.arange(len(degrees)) - np.repeat(s.site_offsets[:-1], np.diff(s.site_offsets))
        if len(s.neighbours):
            table = np.asarray(s.neighbours)[np.minimum(position, len(s.neighbours) - 1)].astype(np.int64)
        else:
            table = np.zeros((len(degrees), most), np.int64)
        table = np.where(degrees[:, None] > 0, table, own[:, None])
        linear, logarithmic = sizes.average_degree
        log = np.log(degrees + 1.0)
        scales = np.stack(
            [
                np.ones(len(degrees)),
                log / logarithmic,
                logarithmic / np.log(np.maximum(degrees, 1) + 1.0),
                degrees / linear,
            ],
            1,
        )
        return cls(table, degrees, scales * (degrees > 0)[:, None])

    def batch(self, rows: _Rows, device: torch.device, dtype: torch.dtype, uniform: bool) -> Batch:
        """Build all of a batch that does not depend on the species."""
        members, n = rows.atom.shape
        degree = np.where(rows.valid, self.degrees[rows.site], 0)
        base = np.arange(members)[:, None] * n
        own = np.arange(n)[None, :]
        local = np.where(rows.valid[:, :, None], self.neighbours[rows.site] + rows.start[:, :, None], own[:, :, None])
        index = (local + base[:, :, None]).reshape(members * n, -1)
        real = np.arange(index.shape[1]) < degree.reshape(-1, 1)
        inverse = np.where(degree > 0, 1.0 / np.maximum(degree, 1), 0.0).reshape(-1, 1)

        def put(array: np.ndarray, kind: torch.dtype) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device, kind, non_blocking=True)

        table = NeighbourTable(
            put(index, torch.int64),
            put(np.where(real, index, members * n), torch.int64),
            put((real * inverse)[:, :, None], dtype),
            put(inverse, dtype),
        )
        valid = None if rows.valid.all() else put(rows.valid[:, :, None], dtype)
        scales = put(np.where(rows.valid[:, :, None], self.scales[rows.site], 0.0)[..., None], dtype)
        atoms, counts = put(rows.of_sample, torch.int64), put(rows.n_atoms[:, :, None], dtype)
        return Batch(scales[:, :, 0], table, scales, valid, atoms, counts, uniform)
