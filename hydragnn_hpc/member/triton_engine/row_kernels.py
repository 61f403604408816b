"""The kernel that describes the rows of a batch (`hydragnn_hpc.member.triton_engine.rows`)."""

import triton
import triton.language as tl


@triton.jit
def place(
    numbers, atom_offsets, sample_geometry, site_offsets, offsets, order, count, start, length, atoms, sample, first,
    degree, edge_row, samples, rows, SHARED: tl.constexpr, SAMPLES: tl.constexpr, ATOMS: tl.constexpr,
):  # fmt: skip
    """Some atoms of every sample of a member, in tiles [SAMPLES, ATOMS]; ``count`` to ``edge_row`` are those of `Rows`.

    A program goes through all samples, because a sample's first row is the number of atoms before it. ``offsets``
    [sites + 1] is the first edge of each site, ``order`` [atoms], if SHARED, the atom at each place of the geometry.
    """
    member = tl.program_id(1).to(tl.int64)
    k = tl.program_id(0) * ATOMS + tl.arange(0, ATOMS)
    atoms_before, edges_before = 0, 0
    for first_sample in range(0, samples, SAMPLES):
        b = first_sample + tl.arange(0, SAMPLES)
        inside = b < samples
        number = tl.load(numbers + member * samples + b, inside, 0)
        first_atom = tl.load(atom_offsets + number, inside, 0)
        n = (tl.load(atom_offsets + number + 1, inside, 0) - first_atom).to(tl.int32)
        site = tl.load(site_offsets + tl.load(sample_geometry + number, inside, 0), inside, 0)
        first_edge = tl.load(offsets + site, inside, 0)
        if SHARED:
            begin, first_row = b, tl.zeros_like(n)
            stride = samples
        else:
            begin = atoms_before + tl.cumsum(n, 0) - n
            edges = (tl.load(offsets + site + n, inside, 0) - first_edge).to(tl.int32)
            first_row = edges_before + tl.cumsum(edges, 0) - edges
            stride = 1
            edges_before += tl.sum(edges, 0)
        atoms_before += tl.sum(n, 0)
        if tl.program_id(0) == 0:
            tl.store(start + member * samples + b, begin, inside)
            tl.store(length + member * samples + b, n, inside)
        has = inside[:, None] & (k[None, :] < n[:, None])
        row = member * rows + begin[:, None] + k[None, :] * stride
        atom = k[None, :] + tl.zeros([SAMPLES, ATOMS], tl.int64)
        if SHARED:
            atom = tl.load(order + atom, has, 0)
        tl.store(atoms + row, first_atom[:, None] + atom, has)
        tl.store(sample + row, b[:, None] + tl.zeros([SAMPLES, ATOMS], tl.int32), has)
        at = site[:, None] + k[None, :]
        edge = tl.load(offsets + at, has, 0)
        tl.store(first + row, edge, has)
        tl.store(degree + row, (tl.load(offsets + at + 1, has, 0) - edge).to(tl.int32), has)
        tl.store(edge_row + row, (edge - first_edge[:, None]).to(tl.int32) + first_row[:, None], has)
    if tl.program_id(0) == 0:
        tl.store(count + member, atoms_before)
