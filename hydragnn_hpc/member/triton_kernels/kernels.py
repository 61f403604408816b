"""The kernels, and how each divides its work.

Every program owns a tile of the output, some rows times some columns of features, and reads what it needs in the order
of the neighbour lists. No two programs write to the same place, and threads exchange nothing but through Triton's
reductions: no atomics, the same bits in every run, and Triton's interpreter on a CPU shows what a device computes. A
tile's threads lie along the features, so that a neighbour's row is read in one piece; several rows share a tile because
one row of a small stack does not fill a warp. Rows are sorted by their number of neighbours, so that those of a tile
end their loops together. Messages exist in registers only: rows are read again for every edge, but a batch's rows
fit into the L2 cache, and device memory sees each array once.

Pointers, to contiguous arrays unless strides are given (`operations`, whose names these are):

===================  ==================  ===========================================================================
sent                 [rows, width]       what a row sends to all its neighbours
added                [edge rows, width]  what an edge adds to it, if EDGES
neighbours           [edges] int64       senders in the order of receiving rows; ``receivers`` in that of sending rows
edge_rows            [edges] int64       the row of ``added`` of each edge, in the same order
first, degree        [rows] int64        a row's first edge, and its number of edges
x, x_grad            [4, rows, width]    mean, minimum, maximum and deviation, and the gradient of each
ties                 [rows, width]       int32: number of messages at the minimum, plus TIES times that at the maximum
===================  ==================  ===========================================================================

A row of ``x`` and ``x_grad`` consists of members' ``features``: ``by_kind``, ``by_row`` and ``by_member`` are strides.
"""

import triton
import triton.language as tl

SMALLEST_VARIANCE = tl.constexpr(1e-5)  # as `SMALLEST_VARIANCE` of the plain aggregation
TIES = tl.constexpr(65536)  # numbers of ties for both extremes share an int32: low + TIES * high, each below 2^15
NAN = tl.constexpr(tl.PropagateNan.ALL)  # a member that diverges must show it


@triton.jit
def message_of(
    sent, added, senders, edge_rows, edge, has_edge, in_width, column, width,
    EDGES: tl.constexpr,
):  # fmt: skip
    """Messages [ROWS, COLUMNS] of one edge of each row; zeros where the row has no such edge."""
    present = has_edge[:, None] & in_width[None, :]
    sender = tl.load(senders + edge, has_edge, 0)
    message = tl.load(sent + sender[:, None] * width + column[None, :], present, 0.0)
    if EDGES:
        edge_row = tl.load(edge_rows + edge, has_edge, 0)
        message += tl.load(added + edge_row[:, None] * width + column[None, :], present, 0.0)
    return message


@triton.jit
def aggregate(
    sent, added, neighbours, edge_rows, first, degree, x, ties, rows,
    width, features, by_kind, by_row, by_member, EDGES: tl.constexpr, TRAINING: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Mean, minimum, maximum and standard deviation over each row's neighbours: one tile of all four.

    A tile reads its neighbours twice: for the extremes and the mean, and for ties and deviations from that mean, so
    that no digits are lost to cancellation. Rows without neighbours receive zeros.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    start = tl.load(first + row, mask=row < rows, other=0)
    number = tl.load(degree + row, mask=row < rows, other=0)
    in_width = column < width
    most = tl.max(number, 0).to(tl.int32)
    total = tl.zeros((ROWS, COLUMNS), x.dtype.element_ty)
    low, high = total + float("inf"), total - float("inf")
    for k in range(most):
        has_edge = k < number
        present = has_edge[:, None] & in_width[None, :]
        message = message_of(sent, added, neighbours, edge_rows, start + k, has_edge, in_width, column, width, EDGES)
        total += message
        low = tl.where(present, tl.minimum(low, message, propagate_nan=NAN), low)
        high = tl.where(present, tl.maximum(high, message, propagate_nan=NAN), high)
    has = (number > 0)[:, None]
    count = tl.maximum(number, 1)[:, None].to(x.dtype.element_ty)
    mean = total / count
    low, high = tl.where(has, low, 0.0), tl.where(has, high, 0.0)
    squares = tl.zeros((ROWS, COLUMNS), x.dtype.element_ty)
    tied = tl.zeros((ROWS, COLUMNS), tl.int32)
    for k in range(most):
        has_edge = k < number
        present = has_edge[:, None] & in_width[None, :]
        message = message_of(sent, added, neighbours, edge_rows, start + k, has_edge, in_width, column, width, EDGES)
        squares += tl.where(present, (message - mean) * (message - mean), 0.0)
        if TRAINING:
            tied += tl.where(present & (message == low), 1, 0) + tl.where(present & (message == high), TIES, 0)
    variance = squares / count
    # A deviation that is not a number stays so: the comparison is false for it.
    deviation = tl.where(variance <= SMALLEST_VARIANCE, 0.0, tl.sqrt(variance))
    inside = (row < rows)[:, None] & in_width[None, :]
    to = x + row[:, None] * by_row + ((column // features) * by_member + column % features)[None, :]
    tl.store(to, mean, inside)
    tl.store(to + by_kind, low, inside)
    tl.store(to + 2 * by_kind, high, inside)
    tl.store(to + 3 * by_kind, deviation, inside)
    if TRAINING:
        tl.store(ties + row[:, None] * width + column[None, :], tied, inside)


@triton.jit
def message_gradient(
    message, receiver, column, has_edge, in_width, x_grad, x, ties, degree, width,
    features, by_kind, by_row, by_member,
):  # fmt: skip
    """Return the gradient of the loss with respect to messages [ROWS, COLUMNS] that arrived at ``receiver`` [ROWS].

    d std / d m = (m - mean) / (degree std); those that tie for an extreme share its gradient.
    """
    count = tl.load(degree + receiver, has_edge, 1)[:, None].to(x.dtype.element_ty)
    place = receiver[:, None] * by_row + ((column // features) * by_member + column % features)[None, :]
    present = has_edge[:, None] & in_width[None, :]
    mean = tl.load(x + place, present, 0.0)
    low = tl.load(x + place + by_kind, present, 0.0)
    high = tl.load(x + place + 2 * by_kind, present, 0.0)
    deviation = tl.load(x + place + 3 * by_kind, present, 0.0)
    tied = tl.load(ties + receiver[:, None] * width + column[None, :], present, 0)
    of_mean = tl.load(x_grad + place, present, 0.0)
    of_low = tl.load(x_grad + place + by_kind, present, 0.0)
    of_high = tl.load(x_grad + place + 2 * by_kind, present, 0.0)
    of_deviation = tl.load(x_grad + place + 3 * by_kind, present, 0.0)
    slope = tl.where(deviation == 0.0, 0.0, of_deviation / tl.where(deviation == 0.0, 1.0, deviation))
    gradient = (of_mean + slope * (message - mean)) / count
    lowest, highest = message == low, message == high
    # One division: where a message is both extremes, as many tie for either.
    number = tl.maximum(tl.where(lowest, tied % TIES, tied // TIES), 1).to(x.dtype.element_ty)
    gradient += (tl.where(lowest, of_low, 0.0) + tl.where(highest, of_high, 0.0)) / number
    return tl.where(present, gradient, 0.0)


@triton.jit
def aggregate_back(
    sent, added, receivers, edge_rows, first, degree, x, ties, x_grad,
    out, rows, width, features, by_kind, by_row, by_member, EDGES: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradient of what each row sends: a tile of senders gathers from the receivers of the transposed lists.

    A row sends as many messages as it receives, so that ``first`` and ``degree`` hold for both lists.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    start = tl.load(first + row, mask=row < rows, other=0)
    number = tl.load(degree + row, mask=row < rows, other=0)
    in_width = column < width
    most = tl.max(number, 0).to(tl.int32)
    inside = (row < rows)[:, None] & in_width[None, :]
    own = tl.load(sent + row[:, None] * width + column[None, :], inside, 0.0)
    gradient = tl.zeros((ROWS, COLUMNS), x.dtype.element_ty)
    for k in range(most):
        has_edge = k < number
        receiver = tl.load(receivers + start + k, mask=has_edge, other=0)
        message = own
        if EDGES:
            edge_row = tl.load(edge_rows + start + k, mask=has_edge, other=0)
            message += tl.load(
                added + edge_row[:, None] * width + column[None, :], has_edge[:, None] & in_width[None, :], 0.0
            )
        gradient += message_gradient(
            message, receiver, column, has_edge, in_width, x_grad, x, ties, degree, width, features, by_kind, by_row,
            by_member,
        )  # fmt: skip
    tl.store(out + row[:, None] * width + column[None, :], gradient, inside)


@triton.jit
def edges_back(
    sent, added, receivers, senders, degree, x, ties, x_grad, out,
    rows, copies, width, features, by_kind, by_row, by_member, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradient of what edges add: a tile of edges, summed over the samples that share them.

    ``receivers`` and ``senders`` are [copies, rows], -1 where no edge has that row.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    in_width = column < width
    inside = (row < rows)[:, None] & in_width[None, :]
    share = tl.load(added + row[:, None] * width + column[None, :], inside, 0.0)
    gradient = tl.zeros((ROWS, COLUMNS), x.dtype.element_ty)
    for copy in range(copies):
        receiver = tl.load(receivers + copy * rows + row, mask=row < rows, other=-1)
        has_edge = receiver >= 0
        sender = tl.load(senders + copy * rows + row, mask=has_edge, other=0)
        message = share + tl.load(
            sent + sender[:, None] * width + column[None, :], has_edge[:, None] & in_width[None, :], 0.0
        )
        gradient += message_gradient(
            message, receiver, column, has_edge, in_width, x_grad, x, ties, degree, width, features, by_kind, by_row,
            by_member,
        )  # fmt: skip
    tl.store(out + row[:, None] * width + column[None, :], gradient, inside)


@triton.jit
def adam(
    parameters, gradients, first, second, factors, size, members,
    BETA_1: tl.constexpr, BETA_2: tl.constexpr, DECAY: tl.constexpr, DECOUPLED: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One step of Adam (`hydragnn_hpc.member.engine.optimize.Adam`): a program takes COLUMNS parameters of a member.

    ``parameters``, ``gradients`` and the moments ``first`` and ``second`` are [members, size], ``factors``
    [3, members] as `Adam.plan` makes them. Every array is read and written once, in place of once for each of the plain
    step's seven operations.
    """
    member = tl.program_id(1)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < size
    at = member.to(tl.int64) * size + column
    epsilon, rate = tl.load(factors + member), tl.load(factors + members + member)
    parameter = tl.load(parameters + at, inside, 0.0)
    gradient = tl.load(gradients + at, inside, 0.0)
    if DECOUPLED:
        parameter *= tl.load(factors + 2 * members + member)
    else:
        gradient += DECAY * parameter
    mean, square = tl.load(first + at, inside, 0.0), tl.load(second + at, inside, 0.0)
    mean += (1.0 - BETA_1) * (gradient - mean)
    square = BETA_2 * square + (1.0 - BETA_2) * gradient * gradient
    tl.store(first + at, mean, inside)
    tl.store(second + at, square, inside)
    tl.store(parameters + at, parameter + rate * (mean / (tl.sqrt(square) + epsilon)), inside)
