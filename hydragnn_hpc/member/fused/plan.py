"""The plan that the kernels read: the structures of ``source/plan.h``, filled from sizes, geometry and data."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hydragnn_hpc.dataset.staged.copies import atoms_of
from hydragnn_hpc.member.engine.degrees import degree_scales
from hydragnn_hpc.member.engine.edges import BASES, ENVELOPES, EdgeBasis, gaussians
from hydragnn_hpc.member.engine.layout import ParameterLayout
from hydragnn_hpc.member.engine.sizes import POOLINGS, SCALERS, Array, NetworkSizes, TaskSizes
from hydragnn_hpc.member.engine.training_data import SampleGraphs

LOSSES = ("mse", "mae", "huber", "nll")
"""The losses that the kernels know, in the order of plan.h."""

PADDING = 16
"""Numbers past the end of an array that kernels read with its last vector, but do not use."""

_INT, _POINTER = ctypes.c_int64, ctypes.c_void_p


class CLayer(ctypes.Structure):
    """``Layer`` of plan.h."""

    _fields_ = [
        (name, _INT)
        for name in (
            *("in", "out", "pre_weight", "pre_bias", "post_weight", "post_bias", "lin_weight", "lin_bias"),
            *("norm_weight", "norm_bias", "running_mean", "running_var"),
            *("pre_width", "encoder_weight", "encoder_bias"),
        )
    ]


class CLinear(ctypes.Structure):
    """``Linear`` of plan.h."""

    _fields_ = [(name, _INT) for name in ("in", "out", "weight", "bias")]


class CTask(ctypes.Structure):
    """``Task`` of plan.h."""

    _fields_ = [
        *((name, _INT) for name in ("graph", "width", "linears", "partial", "loss")),
        ("linear", _POINTER),
        ("weight", ctypes.c_double),
        ("delta", ctypes.c_double),
        ("target", _POINTER),
    ]


class CPlan(ctypes.Structure):
    """``Plan`` of plan.h."""

    _fields_ = [
        *((name, _INT) for name in ("atoms", "layers", "tasks", "groups", "pooling", "parameters", "buffers")),
        *((name, _INT) for name in ("edge_features", "kinds")),
        *((name, _POINTER) for name in ("order", "first", "neighbour", "group", "scale", "layer", "task", "inputs")),
        *((name, _POINTER) for name in ("kind", "basis")),
        ("momentum", ctypes.c_double),
        ("epsilon", ctypes.c_double),
        *((name, _POINTER) for name in ("first_row", "sample_geometry", "first_site", "first_edge", "edge_vectors")),
        *((name, _INT) for name in ("edge_basis", "edge_envelope")),
        *((name, ctypes.c_double) for name in ("edge_cutoff", "edge_factor")),
    ]


class CBetas(ctypes.Structure):
    """``Betas`` of adam.h."""

    _fields_ = [("beta_1", ctypes.c_double), ("beta_2", ctypes.c_double)]


def interface(dtype: str) -> dict[str, int]:
    """Return sizes, offsets and constants that kernels for ``dtype`` must share, named as in ``source/interface.h``."""
    shared = {"sizeof real": np.dtype(dtype).itemsize, "SCALERS": SCALERS}
    shared |= {f"POOL_{name.upper()}": number for number, name in enumerate(POOLINGS)}
    for kind, names in (("LOSS", LOSSES), ("BASIS", BASES), ("ENVELOPE", ENVELOPES)):
        shared |= {f"{kind}_{name.upper()}": number for number, name in enumerate(names)}
    for structure in (CLayer, CLinear, CTask, CPlan, CBetas):
        name = structure.__name__.removeprefix("C")
        shared[f"sizeof {name}"] = ctypes.sizeof(structure)
        shared |= {f"{name}.{member[0]}": getattr(structure, member[0]).offset for member in structure._fields_}
    return shared


@dataclass
class KernelPlan:
    """A filled ``CPlan``, with references that keep alive everything it points to."""

    c: CPlan
    references: list[object] = field(default_factory=list)

    @property
    def pointer(self) -> object:
        """The plan as the argument of a kernel."""
        return ctypes.byref(self.c)


def degree_order(graphs: SampleGraphs) -> tuple[Array, Array, Array, Array, Array]:
    """Sort the atoms by degree, so that atoms that share a matrix are adjacent.

    Returns
    -------
    order : int64 [n]
        The atom at each place.
    first, neighbour : int32 [n + 1], [m]
        The neighbours of the atom at each place, as places, in their original order.
    group : int64 [groups + 1]
        First place of each distinct degree, and the end.
    edge : int64 [m]
        The edge of each entry of ``neighbour``.
    """
    first, neighbour = (np.asarray(a, np.int64) for a in (graphs.neighbour_offsets, graphs.neighbours))
    degree = np.diff(first)
    order = np.argsort(degree, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    edge = atoms_of(first, order)
    new_first = np.concatenate([[0], np.cumsum(degree[order])])
    starts = np.flatnonzero(np.diff(degree[order], prepend=-1))
    new_neighbour = place[neighbour[edge]].astype(np.int32)
    return order, new_first.astype(np.int32), new_neighbour, np.append(starts, len(order)).astype(np.int64), edge


def edge_kinds(graphs: SampleGraphs, edge: Array, basis: EdgeBasis, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Group edges by length: edges of one kind share their features.

    Returns
    -------
    kind : int32 [m]
        The kind of each of these edges.
    features : dtype [kinds, K + 1]
        Features of each kind, and 1.
    """
    lengths, kind = np.unique(graphs.lengths(edge).astype(dtype), return_inverse=True)
    features = basis.of(torch.from_numpy(lengths)).numpy()
    return kind.astype(np.int32), np.concatenate([features, np.ones((len(lengths), 1), dtype)], axis=1)


def build_plan(
    sizes: NetworkSizes,
    layout: ParameterLayout,
    graphs: SampleGraphs,
    inputs: Array,
    targets: Mapping[str, Array],
    *,
    shared: bool,
) -> KernelPlan:
    """Fill a plan; ``shared``: all samples share one geometry.

    ``inputs`` [A, F0] and ``targets`` [A or S, d] are contiguous and of the engine's dtype.
    """
    plan = KernelPlan(CPlan())
    geometry = shared_geometry if shared else varying_geometries
    arrays = {**geometry(sizes, graphs, inputs.dtype), "inputs": inputs}
    layers = (CLayer * len(sizes.layers))(*(_layer(sizes, layout, number) for number in range(len(sizes.layers))))
    tasks = (CTask * len(sizes.tasks))(*(_task(plan, sizes, layout, t, targets[t.name]) for t in sizes.tasks))
    c = plan.c
    c.layers, c.tasks, c.groups = len(layers), len(tasks), len(arrays["scale"])
    c.atoms = len(arrays["order"]) if shared else 0
    c.pooling = POOLINGS.index(sizes.pooling)
    c.parameters, c.buffers = layout.parameter_size, layout.buffer_size
    c.momentum, c.epsilon = sizes.momentum, sizes.epsilon
    c.layer, c.task = ctypes.addressof(layers), ctypes.addressof(tasks)
    if sizes.edges:
        c.edge_features, c.edge_cutoff = sizes.edges.number, sizes.edges.cutoff
        c.kinds = len(arrays["basis"]) if shared else 0
        c.edge_basis, c.edge_envelope = (
            list(BASES).index(sizes.edges.basis),
            list(ENVELOPES).index(sizes.edges.envelope),
        )
        c.edge_factor = gaussians(sizes.edges.number, sizes.edges.cutoff)[1]
    for name, array in arrays.items():
        setattr(c, name, array.ctypes.data)
    plan.references += [layers, tasks, *arrays.values()]
    return plan


def shared_geometry(sizes: NetworkSizes, graphs: SampleGraphs, dtype: np.dtype[Any]) -> dict[str, Array]:
    """Return the plan's arrays of one geometry that all samples share."""
    order, first, neighbour, group, edge = degree_order(graphs)
    scale = degree_scales(np.diff(first)[group[:-1]], sizes.average_degree).astype(dtype)
    arrays = {"order": order, "first": first, "neighbour": neighbour, "group": group, "scale": scale}
    if sizes.edges:
        arrays["kind"], arrays["basis"] = edge_kinds(graphs, edge, sizes.edges, dtype)
    return arrays


def varying_geometries(sizes: NetworkSizes, graphs: SampleGraphs, dtype: np.dtype[Any]) -> dict[str, Array]:
    """Return the plan's arrays of samples that differ in geometry; mapped arrays stay mapped."""
    degrees = np.arange(int(graphs.degrees().max(initial=0)) + 1)
    arrays = {
        "scale": degree_scales(degrees, sizes.average_degree).astype(dtype),
        "first_row": np.ascontiguousarray(graphs.atom_offsets, np.int64),
        "sample_geometry": np.ascontiguousarray(graphs.sample_geometry, np.int32),
        "first_site": np.ascontiguousarray(graphs.site_offsets, np.int64),
        "first_edge": np.ascontiguousarray(graphs.neighbour_offsets, np.int64),
        "neighbour": np.ascontiguousarray(graphs.neighbours, np.int32),
    }
    if sizes.edges:
        arrays["edge_vectors"] = np.ascontiguousarray(graphs.edge_vectors, np.float64)
        centres, _ = gaussians(sizes.edges.number, sizes.edges.cutoff)
        arrays["basis"] = np.append(centres.numpy(), np.zeros(PADDING)).astype(dtype)
    return arrays


def _layer(sizes: NetworkSizes, layout: ParameterLayout, number: int) -> CLayer:
    conv, norm = sizes.convolution_prefix(number), f"trunk.{number}.norm"
    names = [f"{conv}.{part}.{kind}" for part in ("pre_nns.0.0", "post_nns.0.0", "lin") for kind in ("weight", "bias")]
    offsets = [layout.parameters[name][0] for name in (*names, f"{norm}.weight", f"{norm}.bias")]
    running = [layout.buffers[f"{norm}.{kind}"][0] for kind in ("running_mean", "running_var")]
    width = layout.parameters[f"{conv}.pre_nns.0.0.weight"][1][1]
    encoder = [layout.parameters[f"{conv}.edge_encoder.{kind}"][0] if sizes.edges else 0 for kind in ("weight", "bias")]
    return CLayer(*sizes.layers[number], *offsets, *running, width, *encoder)


def _task(plan: KernelPlan, sizes: NetworkSizes, layout: ParameterLayout, task: TaskSizes, target: Array) -> CTask:
    widths = sizes.linears(task)
    linears = (CLinear * len(widths))()
    for number, in_out in enumerate(widths):
        offsets = [layout.parameters[f"heads.{task.name}.{number}.{kind}"][0] for kind in ("weight", "bias")]
        linears[number] = CLinear(*in_out, *offsets)
    plan.references += [linears, target]
    integers = (
        int(task.level == "graph"),
        task.width,
        len(widths),
        int(np.isnan(target).any()),
        LOSSES.index(task.loss.name),
    )
    delta = getattr(task.loss, "delta", 0.0)
    return CTask(*integers, ctypes.addressof(linears), task.weight, delta, target.ctypes.data)
