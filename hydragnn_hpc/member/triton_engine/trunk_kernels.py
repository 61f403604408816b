"""The kernels of the trunk, and how each divides its work (`trunk_launches` launches them).

Every program belongs to one member and owns a tile of the output. No two programs write to the same place, none reads
what another of its launch writes, and threads exchange nothing but through Triton's reductions and products: no
atomics, the same bits in every run and in any stack, and Triton's interpreter on a CPU shows what a device computes.
Messages exist in registers only: rows are read again for every edge, but a member's rows fit into the L2 cache, and
device memory sees each array once.

A layer has W inputs and W outputs, or fewer, which are masked; features are taken COLUMNS at a time, and OUT is W as a
power of two. Pointers are to contiguous arrays, E members first:

=======================  =========================  ==================================================================
own                      [E, R, W]                  a layer's input, y
sent                     [E, R, W]                  W2 y (`torch_engine.weights`): what a row sends to its neighbours
added                    [E, U, W]                  what an edge adds to it, if EDGES
received                 [4, E, R, W]               mean, minimum, maximum and deviation over the neighbours
x_grad                   [5, E, R, W]               gradient of y through the products, and of each of ``received``
ties                     [E, R, W] int32            messages at the minimum, plus TIES times those at the maximum
raw                      [E, R, W]                  a layer's output before batch norm
partial                  [tiles, 2, E, W]           a tile's mean of ``raw`` and sum of squares about it; backward, its
                                                    sums of the normal variable's gradient, and of it times that
statistics               [2, E, W]                  mean and 1 / deviation of ``raw`` over the batch
folded                   [layers, matrices, E,      rows of y, of the bias, and of each aggregate
                         5 W + 1, W]
grad                     [E, R, W]                  gradient of a layer's output; after batch norm's, of ``raw``
=======================  =========================  ==================================================================

``tiles``, ``segments``, ``count``, ``first``, ``degree``, ``edge_row``, ``sample`` and ``start`` are those of `Rows`
and `Tiles`. ``places`` [layers, PLACES] int32 are where the flat vectors hold what a layer needs (`trunk` makes them).
"""

import triton
import triton.language as tl

from hydragnn_hpc.member.engine import sizes
from hydragnn_hpc.member.torch_engine import aggregate
from hydragnn_hpc.member.torch_engine import weights as plain_weights

SMALLEST_VARIANCE = tl.constexpr(aggregate.SMALLEST_VARIANCE)
TIES = tl.constexpr(65536)  # numbers of ties for both extremes share an int32: low + TIES * high, each below 2^15
NAN = tl.constexpr(tl.PropagateNan.ALL)  # a member that diverges must show it
TAKEN = tl.constexpr(32)  # tiles whose statistics are combined at once
SCALERS = tl.constexpr(sizes.SCALERS)
AGGREGATES = tl.constexpr(sizes.AGGREGATES)
SHIFTED = tl.constexpr(plain_weights.SHIFTED)  # mean, minimum and maximum: by what the receiver adds to every message
# Columns of ``places``.
PLACES = tl.constexpr(16)
PRE, PRE_BIAS, POST, POST_BIAS, LIN, LIN_BIAS = (tl.constexpr(k) for k in range(6))
NORM, NORM_BIAS, MEAN, VARIANCE, INPUTS, OUTPUTS, ENCODER, ENCODER_BIAS = (tl.constexpr(k) for k in range(6, 14))


@triton.jit
def product(a, b):
    """The matrix product in the precision of the arguments."""
    return tl.dot(a, b, input_precision="ieee", out_dtype=a.dtype)


@triton.jit
def place_of(places, layer, which: tl.constexpr):
    """One entry of ``places``."""
    return tl.load(places + layer * PLACES + which)


@triton.jit
def numel(members, rows, width):
    """Numbers in an array [members, rows, width]: int64, because a multiple of it can exceed 2^31."""
    return tl.cast(members, tl.int64) * rows * width


@triton.jit
def rows_of_tile(tiles, tile, count, member, ROWS: tl.constexpr):
    """Rows of a tile, relative to the member's first, and which of them are atoms."""
    row = tl.load(tiles + 3 * tile) + tl.arange(0, ROWS)
    end = tl.minimum(tl.load(tiles + 3 * tile + 1), tl.load(count + member))
    return row, row < end


@triton.jit
def moments(partial, tiles, tile_count, atoms, column, in_width, member, members, width):
    """Mean and biased variance [COLUMNS] over a member's ``atoms`` (a float), from ``partial`` of its tiles."""
    total = tl.zeros_like(tl.load(partial + column, in_width, 0.0))
    for begin in range(0, tile_count, TAKEN):
        tile = begin + tl.arange(0, TAKEN)
        present, rows = rows_in(tiles, tile, tile < tile_count, atoms)
        at = partial + (2 * tile[:, None] * members + member) * width + column[None, :]
        total += tl.sum(rows[:, None] * tl.load(at, present[:, None] & in_width[None, :], 0.0), 0)
    mean = total / atoms
    squares = tl.zeros_like(total)
    for begin in range(0, tile_count, TAKEN):
        tile = begin + tl.arange(0, TAKEN)
        present, rows = rows_in(tiles, tile, tile < tile_count, atoms)
        at = partial + (2 * tile[:, None] * members + member) * width + column[None, :]
        mask = present[:, None] & in_width[None, :]
        shift = tl.load(at, mask, 0.0) - mean[None, :]
        own = tl.load(at + members * width, mask, 0.0)
        squares += tl.sum(tl.where(mask, own + rows[:, None] * shift * shift, 0.0), 0)
    return mean, squares / atoms


@triton.jit
def rows_in(tiles, tile, has, atoms):
    """Whether tiles have atoms, and how many, in the type of ``atoms``, the member's number of atoms."""
    begin = tl.load(tiles + 3 * tile, has, 0).to(atoms.dtype)
    rows = tl.minimum(tl.load(tiles + 3 * tile + 1, has, 0).to(atoms.dtype), atoms) - begin
    return has & (rows > 0), tl.maximum(rows, 0.0)


@triton.jit
def both_sums(partial, tile_count, column, in_width, member, members, width):
    """The two sums [COLUMNS] of ``partial`` over all tiles."""
    first = tl.zeros_like(tl.load(partial + column, in_width, 0.0))
    second = first
    for begin in range(0, tile_count, TAKEN):
        tile = begin + tl.arange(0, TAKEN)
        at = partial + (2 * tile[:, None] * members + member) * width + column[None, :]
        mask = (tile < tile_count)[:, None] & in_width[None, :]
        first += tl.sum(tl.load(at, mask, 0.0), 0)
        second += tl.sum(tl.load(at + members * width, mask, 0.0), 0)
    return first, second


@triton.jit
def fold(
    parameters, places, coefficients, folded, folded_edges, size, members, matrices, width, basis,
    EDGES: tl.constexpr, OUT: tl.constexpr, BASIS: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Fold the weights of a layer (`hydragnn_hpc.member.torch_engine.weights`): PART columns of one matrix of a member.

    The scalers' factors ``coefficients`` [matrices, 1 + SCALERS] are multiplied in, the first with the unscaled part.
    ``folded_edges`` [layers, E, basis + 1, W] is what edges' features are multiplied by, if EDGES.
    """
    matrix, layer = tl.program_id(0) % matrices, tl.program_id(1)
    member = tl.program_id(2).to(tl.int64)
    weights = parameters + member * size
    i, m = tl.arange(0, OUT), tl.arange(0, OUT)
    o = tl.program_id(0) // matrices * PART + tl.arange(0, PART)
    inputs, outputs = place_of(places, layer, INPUTS), place_of(places, layer, OUTPUTS)
    in_inputs, in_middle, in_outputs = i < inputs, m < outputs, o < outputs
    pre, post, lin = place_of(places, layer, PRE), place_of(places, layer, POST), place_of(places, layer, LIN)
    linear, stored = in_inputs[:, None] & in_middle[None, :], in_inputs[:, None] & in_outputs[None, :]
    post_width = (1 + SCALERS * AGGREGATES) * inputs
    # [middle, out]
    last = tl.load(weights + lin + o[None, :] * outputs + m[:, None], in_middle[:, None] & in_outputs[None, :], 0.0)
    # [in, middle]
    post_at = weights + post + m[None, :] * post_width + i[:, None]
    to = folded + (((layer * matrices + matrix) * members + member) * ((1 + AGGREGATES) * width + 1)) * width
    shift = tl.zeros([OUT, PART], last.dtype)
    factors = coefficients + matrix * (1 + SCALERS)
    for a in range(AGGREGATES):
        scaled = tl.zeros([OUT, OUT], last.dtype)
        for s in range(SCALERS):
            from_block = post_at + (1 + s * AGGREGATES + a) * inputs
            scaled += tl.load(factors + 1 + s) * tl.load(from_block, linear, 0.0)
        block = product(scaled, last)
        tl.store(to + (width + 1 + a * width + i[:, None]) * width + o[None, :], block, stored)
        if a < SHIFTED:
            shift += block
    unscaled = tl.load(factors)
    pre_width = (3 if EDGES else 2) * inputs
    # W1 as [in, middle]: what a receiver adds to each of its messages.
    receiver = tl.load(
        weights + pre + i[None, :] * pre_width + i[:, None], in_inputs[:, None] & in_inputs[None, :], 0.0
    )
    block = product(receiver, shift) + unscaled * product(tl.load(post_at, linear, 0.0), last)
    tl.store(to + i[:, None] * width + o[None, :], block, stored)
    pre_bias = tl.load(weights + place_of(places, layer, PRE_BIAS) + i, in_inputs, 0.0)
    post_bias = tl.load(weights + place_of(places, layer, POST_BIAS) + m, in_middle, 0.0)
    lin_bias = tl.load(weights + place_of(places, layer, LIN_BIAS) + o, in_outputs, 0.0)
    bias = unscaled * (tl.sum(post_bias[:, None] * last, 0) + lin_bias) + tl.sum(pre_bias[:, None] * shift, 0)
    tl.store(to + width * width + o, bias, in_outputs)
    if EDGES:
        k = tl.arange(0, BASIS)
        encoder = encoder_of(weights, places, layer, k, i, basis, in_inputs)
        in_senders = o < inputs
        sender = weights + pre + 2 * inputs + o[None, :] * pre_width + i[:, None]
        block = product(encoder, tl.load(sender, in_inputs[:, None] & in_senders[None, :], 0.0))
        to_edges = folded_edges + (layer * members + member) * (basis + 1) * width
        highest = tl.where(matrix == 0, basis, -1)  # the programs of one matrix store it
        mask = (k <= highest)[:, None] & in_senders[None, :]
        tl.store(to_edges + k[:, None] * width + o[None, :], block, mask)


@triton.jit
def encoder_of(weights, places, layer, k, i, basis, in_inputs):
    """The encoder of edges' features, [basis + 1, in]; the last row is its bias."""
    at = weights + place_of(places, layer, ENCODER) + i[None, :] * basis + k[:, None]
    weight = tl.load(at, (k < basis)[:, None] & in_inputs[None, :], 0.0)
    bias = tl.load(weights + place_of(places, layer, ENCODER_BIAS) + i, in_inputs, 0.0)
    return weight + tl.where((k == basis)[:, None], bias[None, :], 0.0)


@triton.jit
def features_of(
    length, k, centres, basis, FACTOR: tl.constexpr, CUTOFF: tl.constexpr, KIND: tl.constexpr, ENVELOPE: tl.constexpr
):
    """Features of edges of these lengths (bohr), and 1: [ROWS, basis + 1] (`hydragnn_hpc.member.engine.edges`)."""
    d = length[:, None]
    x = d / CUTOFF
    if KIND == "gaussian":
        apart = d - tl.load(centres + k, k < basis, 0.0)[None, :]
        feature = tl.exp(FACTOR * apart * apart)
    else:
        feature = tl.sin(3.141592653589793 * ((k[None, :] + 1).to(x.dtype) * x)) / x
    if ENVELOPE == "polynomial":
        y = tl.minimum(x, 1.0)
        square = y * y
        feature *= 1.0 + square * square * square * (-28.0 + y * (48.0 - 21.0 * y))
    return tl.where(k[None, :] < basis, feature, tl.where(k[None, :] == basis, 1.0, 0.0))


@triton.jit
def edge_messages(
    lengths, centres, folded_edges, places, first, degree, edge_row, count, added, rows, edges, stride, members, layers,
    width, basis, FACTOR: tl.constexpr, CUTOFF: tl.constexpr, KIND: tl.constexpr, ENVELOPE: tl.constexpr,
    ROWS: tl.constexpr, OUT: tl.constexpr, BASIS: tl.constexpr,
):  # fmt: skip
    """What edges add to messages in each layer: one edge of each row of a tile; ``added`` is [layers, E, U, W].

    Every ``stride`` consecutive rows share their edges; a tile has the first of them.
    """
    member = tl.program_id(2).to(tl.int64)
    neighbour = tl.program_id(1)
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)) * stride
    number = tl.load(degree + member * rows + row, row < tl.load(count + member), 0)
    has = neighbour < number
    edge = tl.load(first + member * rows + row, has, 0) + neighbour
    to = tl.load(edge_row + member * rows + row, has, 0) + neighbour
    k, o = tl.arange(0, BASIS), tl.arange(0, OUT)
    length = tl.load(lengths + edge, has, 1.0)
    feature = features_of(length, k, centres, basis, FACTOR, CUTOFF, KIND, ENVELOPE)
    for layer in range(layers):
        in_inputs = o < place_of(places, layer, INPUTS)
        of_layer = layer * members + member
        weight = tl.load(
            folded_edges + (of_layer * (basis + 1) + k[:, None]) * width + o[None, :],
            (k <= basis)[:, None] & in_inputs[None, :], 0.0,
        )  # fmt: skip
        at = added + (of_layer * edges + to[:, None]) * width + o[None, :]
        tl.store(at, product(feature, weight), has[:, None] & in_inputs[None, :])


@triton.jit
def send(
    source, atoms, partial, parameters, buffers, places, tiles, count, own, sent, statistics, layer, rows, size,
    buffer_size, members, tile_count, width, own_width, MOMENTUM: tl.constexpr, EPSILON: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr, TRAINING: tl.constexpr, EDGES: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """Normalise the output of the layer before, ``source``, with a ReLU; compute what rows send to their neighbours.

    If FIRST, ``source`` are the inputs of the network, [atoms, inputs]; if LAST, there is no further layer. In training
    the batch's statistics are combined from those of the tiles, and the running ones in ``buffers`` are updated.
    """
    tile = tl.program_id(0)
    member = tl.program_id(1).to(tl.int64)
    row, valid = rows_of_tile(tiles, tile, count, member, ROWS)
    at_row = member * rows + row
    weights = parameters + member * size
    o = tl.arange(0, OUT)
    inputs, before = place_of(places, layer, INPUTS), layer - 1
    if LAST:
        inputs = place_of(places, before, OUTPUTS)
    result = tl.zeros([ROWS, OUT], own.dtype.element_ty)
    for begin in range(0, inputs, COLUMNS):
        column = begin + tl.arange(0, COLUMNS)
        in_width = column < inputs
        inside = valid[:, None] & in_width[None, :]
        if FIRST:
            atom = tl.load(atoms + at_row, valid, 0)
            y = tl.load(source + atom[:, None] * inputs + column[None, :], inside, 0.0)
        else:
            running = buffers + member * buffer_size
            mean_at = running + place_of(places, before, MEAN) + column
            variance_at = running + place_of(places, before, VARIANCE) + column
            if TRAINING:
                n = tl.load(count + member).to(own.dtype.element_ty)
                mean, variance = moments(partial, tiles, tile_count, n, column, in_width, member, members, width)
                inverse = 1.0 / tl.sqrt(variance + EPSILON)
                if tile == 0:
                    at = statistics + member * width + column
                    tl.store(at, mean, in_width)
                    tl.store(at + members * width, inverse, in_width)
                    old, old_variance = tl.load(mean_at, in_width, 0.0), tl.load(variance_at, in_width, 0.0)
                    unbiased = variance * (n / (n - 1))
                    tl.store(mean_at, old + MOMENTUM * (mean - old), in_width)
                    tl.store(variance_at, old_variance + MOMENTUM * (unbiased - old_variance), in_width)
            else:
                mean = tl.load(mean_at, in_width, 0.0)
                inverse = 1.0 / tl.sqrt(tl.load(variance_at, in_width, 1.0) + EPSILON)
            scale = tl.load(weights + place_of(places, before, NORM) + column, in_width, 0.0)
            shift = tl.load(weights + place_of(places, before, NORM_BIAS) + column, in_width, 0.0)
            raw = tl.load(source + at_row[:, None] * width + column[None, :], inside, 0.0)
            normal = (raw - mean[None, :]) * inverse[None, :] * scale[None, :] + shift[None, :]
            y = tl.where(inside, tl.maximum(normal, 0.0, propagate_nan=NAN), 0.0)
        tl.store(own + at_row[:, None] * own_width + column[None, :], y, inside)
        if not LAST:
            pre_width = (3 if EDGES else 2) * inputs
            at = weights + place_of(places, layer, PRE) + inputs + o[None, :] * pre_width + column[:, None]
            result += product(y, tl.load(at, in_width[:, None] & (o < inputs)[None, :], 0.0))
    if not LAST:
        inside = valid[:, None] & (o < inputs)[None, :]
        tl.store(sent + at_row[:, None] * width + o[None, :], result, inside)


@triton.jit
def message_of(sent, added, sender, to, present, column, width, EDGES: tl.constexpr):
    """Messages [ROWS, COLUMNS] from rows ``sender`` over edges ``to``, both of the member that the arrays start at."""
    message = tl.load(sent + sender[:, None] * width + column[None, :], present, 0.0)
    if EDGES:
        message += tl.load(added + to[:, None] * width + column[None, :], present, 0.0)
    return message


@triton.jit
def mix(
    own, sent, added, neighbours, sample, start, first, degree, edge_row, folded, scales, places, tiles,
    count, received, ties, raw, partial, layer, rows, edges, samples, stride, members, width,
    EDGES: tl.constexpr, TRAINING: tl.constexpr, BLOCKS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    OUT: tl.constexpr,
):  # fmt: skip
    """PNA for a tile of rows: mean, minimum, maximum and deviation over neighbours, and the products with ``folded``.

    A tile reads its neighbours twice: for the extremes and the mean, and for ties and deviations from that mean, so
    that no digits are lost to cancellation. Rows without neighbours receive zeros.
    """
    tile = tl.program_id(0)
    member = tl.program_id(1).to(tl.int64)
    row, valid = rows_of_tile(tiles, tile, count, member, ROWS)
    matrix = tl.load(tiles + 3 * tile + 2)
    # From here, numbers of rows and edges are the member's own.
    own, sent, raw = own + member * rows * width, sent + member * rows * width, raw + member * rows * width
    if EDGES:
        added += member * edges * width
    if TRAINING:
        received, ties = received + member * rows * width, ties + member * rows * width
    begin_edge = tl.load(first + member * rows + row, valid, 0)
    number = tl.load(degree + member * rows + row, valid, 0)
    to_edge = tl.load(edge_row + member * rows + row, valid, 0)
    base = tl.load(start + member * samples + tl.load(sample + member * rows + row, valid, 0), valid, 0)
    most = tl.max(number, 0)
    o = tl.arange(0, OUT)
    inputs, outputs = place_of(places, layer, INPUTS), place_of(places, layer, OUTPUTS)
    in_outputs = o < outputs
    each = members * ((1 + AGGREGATES) * width + 1) * width
    matrix_at = folded + matrix * each + member * ((1 + AGGREGATES) * width + 1) * width
    kind = numel(members, rows, width)
    dtype = raw.dtype.element_ty
    result = tl.zeros([ROWS, OUT], dtype)
    for block in range(BLOCKS):
        bias = tl.load(matrix_at + block * each + width * width + o, in_outputs, 0.0)
        result += scale_of(scales, number, valid, block, BLOCKS, dtype)[:, None] * bias[None, :]
    count_of = tl.maximum(number, 1)[:, None].to(dtype)
    has = number > 0
    for begin in range(0, inputs, COLUMNS):
        column = begin + tl.arange(0, COLUMNS)
        in_width = column < inputs
        inside = valid[:, None] & in_width[None, :]
        total = tl.zeros([ROWS, COLUMNS], dtype)
        low, high = total + float("inf"), total - float("inf")
        for k in range(most):
            has_edge = k < number
            present = has_edge[:, None] & in_width[None, :]
            sender = base + tl.load(neighbours + begin_edge + k, has_edge, 0) * stride
            message = message_of(sent, added, sender, to_edge + k, present, column, width, EDGES)
            total += message
            low = tl.where(present, tl.minimum(low, message, propagate_nan=NAN), low)
            high = tl.where(present, tl.maximum(high, message, propagate_nan=NAN), high)
        mean = total / count_of
        some = has[:, None] & in_width[None, :]
        low, high = tl.where(some, low, 0.0), tl.where(some, high, 0.0)
        squares = tl.zeros([ROWS, COLUMNS], dtype)
        tied = tl.zeros([ROWS, COLUMNS], tl.int32)
        for k in range(most):
            has_edge = k < number
            present = has_edge[:, None] & in_width[None, :]
            sender = base + tl.load(neighbours + begin_edge + k, has_edge, 0) * stride
            message = message_of(sent, added, sender, to_edge + k, present, column, width, EDGES)
            squares += tl.where(present, (message - mean) * (message - mean), 0.0)
            if TRAINING:
                tied += tl.where(present & (message == low), 1, 0) + tl.where(present & (message == high), TIES, 0)
        variance = squares / count_of
        # A deviation that is not a number stays so: the comparison is false for it.
        deviation = tl.where(variance <= SMALLEST_VARIANCE, 0.0, tl.sqrt(variance))
        y = tl.load(own + row[:, None] * width + column[None, :], inside, 0.0)
        if TRAINING:
            to = row[:, None] * width + column[None, :]
            tl.store(ties + to, tied, inside)
            tl.store(received + to, mean, inside)
            tl.store(received + kind + to, low, inside)
            tl.store(received + 2 * kind + to, high, inside)
            tl.store(received + 3 * kind + to, deviation, inside)
        weight = in_width[:, None] & in_outputs[None, :]
        for block in range(BLOCKS):
            scale = scale_of(scales, number, valid, block, BLOCKS, dtype)[:, None]
            at = matrix_at + block * each + column[:, None] * width + o[None, :]
            result += product(scale * y, tl.load(at, weight, 0.0))
            at += (width + 1) * width
            result += product(scale * mean, tl.load(at, weight, 0.0))
            result += product(scale * low, tl.load(at + width * width, weight, 0.0))
            result += product(scale * high, tl.load(at + 2 * width * width, weight, 0.0))
            result += product(scale * deviation, tl.load(at + 3 * width * width, weight, 0.0))
    inside = valid[:, None] & in_outputs[None, :]
    tl.store(raw + row[:, None] * width + o[None, :], result, inside)
    if TRAINING:
        n = tl.maximum(tl.sum(valid.to(tl.int32), 0), 1).to(dtype)
        mean = tl.sum(tl.where(inside, result, 0.0), 0) / n
        apart = tl.where(inside, result - mean[None, :], 0.0)
        to_tile = partial + (2 * tile * members + member) * width + o
        tl.store(to_tile, mean, in_outputs)
        tl.store(to_tile + members * width, tl.sum(apart * apart, 0), in_outputs)


@triton.jit
def scale_of(scales, number, valid, block, BLOCKS: tl.constexpr, dtype: tl.constexpr):
    """The factor of each row for a block of ``folded``: 1 if there is one block, else 1 or a scaler of its degree."""
    return valid.to(dtype) if BLOCKS == 1 else tl.load(scales + number * BLOCKS + block, valid, 0.0)


@triton.jit
def store_gradient(
    gradient, own, raw, statistics, grad, partial, at_row, valid, column, in_width, tile, member, members, width,
    own_width,
):  # fmt: skip
    """Store the gradient [ROWS, COLUMNS] of a layer's output before its ReLU, and its sums over the tile.

    ``own`` is the output after the ReLU, which passes the gradient where it is positive.
    """
    inside = valid[:, None] & in_width[None, :]
    at = at_row[:, None] * width + column[None, :]
    y = tl.load(own + at_row[:, None] * own_width + column[None, :], inside, 0.0)
    gradient = tl.where(inside & (y > 0.0), gradient, 0.0)
    mean = tl.load(statistics + member * width + column, in_width, 0.0)
    inverse = tl.load(statistics + (members + member) * width + column, in_width, 0.0)
    normal = (tl.load(raw + at, inside, 0.0) - mean[None, :]) * inverse[None, :]
    tl.store(grad + at, gradient, inside)
    to_tile = partial + (2 * tile * members + member) * width + column
    tl.store(to_tile, tl.sum(gradient, 0), in_width)
    tl.store(to_tile + members * width, tl.sum(tl.where(inside, gradient * normal, 0.0), 0), in_width)


@triton.jit
def collect(
    node, pooled, values, sample, length, own, raw, statistics, tiles, count, grad, partial, rows, samples, members,
    width, own_width, NODE: tl.constexpr, POOLING: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The gradient of the trunk's output, ``own``: that of node heads, and that of graph heads.

    ``node`` [E, R, W], ``pooled`` [E, B, W] and the pooled features ``values`` [E, B, W] are those of `HeadsBack`.
    These and ``own`` have W = own_width. POOLING is empty if there are no graph heads.
    """
    tile = tl.program_id(0)
    member = tl.program_id(1).to(tl.int64)
    row, valid = rows_of_tile(tiles, tile, count, member, ROWS)
    at_row = member * rows + row
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    in_width = column < own_width
    inside = valid[:, None] & in_width[None, :]
    gradient = tl.zeros([ROWS, COLUMNS], grad.dtype.element_ty)
    if NODE:
        gradient += tl.load(node + at_row[:, None] * own_width + column[None, :], inside, 0.0)
    if POOLING != "":
        at_sample = member * samples + tl.load(sample + at_row, valid, 0)
        share = tl.load(pooled + at_sample[:, None] * own_width + column[None, :], inside, 0.0)
        if POOLING == "mean":
            share /= tl.load(length + at_sample, valid, 1)[:, None].to(share.dtype)
        if POOLING == "max":
            largest = tl.load(values + at_sample[:, None] * own_width + column[None, :], inside, 0.0)
            y = tl.load(own + at_row[:, None] * own_width + column[None, :], inside, 0.0)
            share = tl.where(y == largest, share, 0.0)
        gradient += share
    store_gradient(
        gradient, own, raw, statistics, grad, partial, at_row, valid, column, in_width, tile, member, members, width,
        own_width,
    )  # fmt: skip


@triton.jit
def mix_back(
    raw, statistics, partial, parameters, gradients, degree, folded, scales, places, tiles, count, grad, x_grad,
    layer, rows, size, members, tile_count, width,
    BLOCKS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """Back through batch norm, in place in ``grad``, and through the products with ``folded``.

    The gradients of batch norm's weights and biases are written to ``gradients``.
    """
    tile = tl.program_id(0)
    member = tl.program_id(1).to(tl.int64)
    row, valid = rows_of_tile(tiles, tile, count, member, ROWS)
    matrix = tl.load(tiles + 3 * tile + 2)
    at_row = member * rows + row
    degrees = tl.load(degree + at_row, valid, 0)
    o = tl.arange(0, OUT)
    inputs, outputs = place_of(places, layer, INPUTS), place_of(places, layer, OUTPUTS)
    in_outputs = o < outputs
    inside = valid[:, None] & in_outputs[None, :]
    first, second = both_sums(partial, tile_count, o, in_outputs, member, members, width)
    norm, norm_bias = place_of(places, layer, NORM) + o, place_of(places, layer, NORM_BIAS) + o
    if tile == 0:
        tl.store(gradients + member * size + norm, second, in_outputs)
        tl.store(gradients + member * size + norm_bias, first, in_outputs)
    mean = tl.load(statistics + member * width + o, in_outputs, 0.0)
    inverse = tl.load(statistics + (members + member) * width + o, in_outputs, 0.0)
    scale = tl.load(parameters + member * size + norm, in_outputs, 0.0)
    at = at_row[:, None] * width + o[None, :]
    normal = (tl.load(raw + at, inside, 0.0) - mean[None, :]) * inverse[None, :]
    n = tl.load(count + member)
    gradient = tl.load(grad + at, inside, 0.0) - (first / n)[None, :] - normal * (second / n)[None, :]
    gradient = tl.where(inside, gradient * (inverse * scale)[None, :], 0.0)
    tl.store(grad + at, gradient, inside)
    dtype = raw.dtype.element_ty
    kind = numel(members, rows, width)
    each = members * ((1 + AGGREGATES) * width + 1) * width
    matrix_at = folded + matrix * each + member * ((1 + AGGREGATES) * width + 1) * width
    for begin in range(0, inputs, COLUMNS):
        column = begin + tl.arange(0, COLUMNS)
        in_width = column < inputs
        to = at_row[:, None] * width + column[None, :]
        stored = valid[:, None] & in_width[None, :]
        weight = in_outputs[:, None] & in_width[None, :]
        for part in range(1 + AGGREGATES):
            back = tl.zeros([ROWS, COLUMNS], dtype)
            # The rows of aggregates come after those of y and of the bias.
            from_part = matrix_at + (part * width + tl.minimum(part, 1)) * width + column[None, :] * width + o[:, None]
            for block in range(BLOCKS):
                factor = scale_of(scales, degrees, valid, block, BLOCKS, dtype)[:, None]
                back += product(factor * gradient, tl.load(from_part + block * each, weight, 0.0))
            tl.store(x_grad + part * kind + to, back, stored)


@triton.jit
def message_gradient(message, at, present, numbers, received, x_grad, ties, kind, dtype: tl.constexpr):
    """The gradient of messages [ROWS, COLUMNS] that arrived where ``at`` points, at atoms of ``numbers`` neighbours.

    d std / d m = (m - mean) / (degree std); those that tie for an extreme share its gradient. Each aggregate begins
    ``kind`` numbers after the one before.
    """
    count = tl.maximum(numbers, 1)[:, None].to(dtype)
    mean = tl.load(received + at, present, 0.0)
    low = tl.load(received + kind + at, present, 0.0)
    high = tl.load(received + 2 * kind + at, present, 0.0)
    deviation = tl.load(received + 3 * kind + at, present, 0.0)
    tied = tl.load(ties + at, present, 0)
    of_mean = tl.load(x_grad + kind + at, present, 0.0)
    of_low = tl.load(x_grad + 2 * kind + at, present, 0.0)
    of_high = tl.load(x_grad + 3 * kind + at, present, 0.0)
    of_deviation = tl.load(x_grad + 4 * kind + at, present, 0.0)
    slope = tl.where(deviation == 0.0, 0.0, of_deviation / tl.where(deviation == 0.0, 1.0, deviation))
    gradient = (of_mean + slope * (message - mean)) / count
    lowest, highest = message == low, message == high
    # One division: where a message is both extremes, as many tie for either.
    number = tl.maximum(tl.where(lowest, tied % TIES, tied // TIES), 1).to(dtype)
    gradient += (tl.where(lowest, of_low, 0.0) + tl.where(highest, of_high, 0.0)) / number
    return tl.where(present, gradient, 0.0)


@triton.jit
def aggregate_back(
    own, sent, added, receivers, slots, sample, start, first, degree, edge_row, received, x_grad, ties,
    parameters, places, tiles, count, back, raw, statistics, grad, partial, layer, rows, edges, samples,
    stride, size, members, width,
    EDGES: tl.constexpr, FIRST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """``back`` [E, R, W], the gradient of what a tile of rows sends; then that of the layer's input, unless FIRST.

    A tile of senders gathers from its receivers. A row sends as many messages as it receives, so that ``first`` and
    ``degree`` hold for both lists. ``own``, ``raw``, ``statistics``, ``grad`` and ``partial`` are then those of
    `store_gradient`, of the layer before.
    """
    tile = tl.program_id(0)
    member = tl.program_id(1).to(tl.int64)
    row, valid = rows_of_tile(tiles, tile, count, member, ROWS)
    # From here, numbers of rows and edges are the member's own.
    first, degree, edge_row = first + member * rows, degree + member * rows, edge_row + member * rows
    sent, received, x_grad, ties, back = (
        sent + member * rows * width, received + member * rows * width, x_grad + member * rows * width,
        ties + member * rows * width, back + member * rows * width,
    )  # fmt: skip
    if EDGES:
        added += member * edges * width
    begin_edge = tl.load(first + row, valid, 0)
    number = tl.load(degree + row, valid, 0)
    base = tl.load(start + member * samples + tl.load(sample + member * rows + row, valid, 0), valid, 0)
    most = tl.max(number, 0)
    inputs = place_of(places, layer, INPUTS)
    dtype = sent.dtype.element_ty
    kind = numel(members, rows, width)
    pre_width = (3 if EDGES else 2) * inputs
    pre = parameters + member * size + place_of(places, layer, PRE) + inputs
    i = tl.arange(0, OUT)
    in_inputs = i < inputs
    result = tl.zeros([ROWS, OUT], dtype)
    for begin in range(0, inputs, COLUMNS):
        column = begin + tl.arange(0, COLUMNS)
        in_width = column < inputs
        inside = valid[:, None] & in_width[None, :]
        message = tl.load(sent + row[:, None] * width + column[None, :], inside, 0.0)
        gradient = tl.zeros([ROWS, COLUMNS], dtype)
        for k in range(most):
            has_edge = k < number
            present = has_edge[:, None] & in_width[None, :]
            receiver = base + tl.load(receivers + begin_edge + k, has_edge, 0) * stride
            numbers = tl.load(degree + receiver, has_edge, 1)
            at = receiver[:, None] * width + column[None, :]
            received_message = message
            if EDGES:
                to = tl.load(edge_row + receiver, has_edge, 0) + tl.load(slots + begin_edge + k, has_edge, 0)
                at_edge = to[:, None] * width + column[None, :]
                received_message = message + tl.load(added + at_edge, present, 0.0)
            gradient += message_gradient(received_message, at, present, numbers, received, x_grad, ties, kind, dtype)
        tl.store(back + row[:, None] * width + column[None, :], gradient, inside)
        if not FIRST:
            weight = tl.load(
                pre + column[:, None] * pre_width + i[None, :], in_width[:, None] & in_inputs[None, :], 0.0
            )
            result += product(gradient, weight)
    if not FIRST:
        inside = valid[:, None] & in_inputs[None, :]
        result += tl.load(x_grad + row[:, None] * width + i[None, :], inside, 0.0)
        store_gradient(
            result, own, raw, statistics, grad, partial, member * rows + row, valid, i, in_inputs, tile, member,
            members, width, width,
        )  # fmt: skip


@triton.jit
def edges_back(
    sent, added, neighbours, sample, start, first, degree, edge_row, received, x_grad, ties, places, count,
    added_grad, layer, rows, edges, samples, stride, members, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradient of what one edge of each row of a tile adds, summed over the ``stride`` rows that share it."""
    member = tl.program_id(2).to(tl.int64)
    neighbour = tl.program_id(1)
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)) * stride
    number = tl.load(degree + member * rows + row, row < tl.load(count + member), 0)
    has = neighbour < number
    edge = tl.load(first + member * rows + row, has, 0) + neighbour
    to = tl.load(edge_row + member * rows + row, has, 0) + neighbour
    # From here, numbers of rows and edges are the member's own.
    sent, received, x_grad, ties = (
        sent + member * rows * width, received + member * rows * width, x_grad + member * rows * width,
        ties + member * rows * width,
    )  # fmt: skip
    added, added_grad = added + member * edges * width, added_grad + member * edges * width
    from_row = tl.load(neighbours + edge, has, 0) * stride
    inputs = place_of(places, layer, INPUTS)
    dtype = sent.dtype.element_ty
    kind = numel(members, rows, width)
    for begin in range(0, inputs, COLUMNS):
        column = begin + tl.arange(0, COLUMNS)
        present = has[:, None] & (column < inputs)[None, :]
        share = tl.load(added + to[:, None] * width + column[None, :], present, 0.0)
        gradient = tl.zeros([ROWS, COLUMNS], dtype)
        for copy in range(stride):
            receiver = row + copy
            its_sample = tl.load(sample + member * rows + receiver, has, 0)
            sender = tl.load(start + member * samples + its_sample, has, 0) + from_row
            message = share + tl.load(sent + sender[:, None] * width + column[None, :], present, 0.0)
            at = receiver[:, None] * width + column[None, :]
            gradient += message_gradient(message, at, present, number, received, x_grad, ties, kind, dtype)
        tl.store(added_grad + to[:, None] * width + column[None, :], gradient, present)


@triton.jit
def trunk_products(
    own, received, grad, back, degree, scales, places, segments, count, sums, sent_sums, rows, layers, members,
    width, BLOCKS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """Gradients of ``folded`` and of W2 over a segment of rows, COLUMNS of a layer's inputs and as many aggregates.

    Arrays are those of all layers, [layers, ...]; the sums are ``sums`` [segments, layers, E, 5 W + 1, W] and
    ``sent_sums`` [segments, layers, E, W, W], the latter [in, out] and only of segments whose rows are counted once.
    """
    segment, layer = tl.program_id(0), tl.program_id(1) % layers
    begin = tl.program_id(1) // layers * COLUMNS
    member = tl.program_id(2).to(tl.int64)
    at_segment = segments + 4 * segment
    first = tl.load(at_segment)
    end = tl.minimum(tl.load(at_segment + 1), tl.load(count + member))
    matrix, once = tl.load(at_segment + 2), tl.load(at_segment + 3)
    inputs, outputs = place_of(places, layer, INPUTS), place_of(places, layer, OUTPUTS)
    column, o = begin + tl.arange(0, COLUMNS), tl.arange(0, OUT)
    in_width, in_outputs = column < inputs, o < outputs
    dtype = own.dtype.element_ty
    of_y = tl.zeros([COLUMNS, OUT], dtype)
    of_mean, of_low, of_high, of_deviation, of_sent = of_y, of_y, of_y, of_y, of_y
    of_bias = tl.zeros([OUT], dtype)
    kind = numel(members, rows, width)
    member_at = layer * members + member
    received_at = received + (layer * AGGREGATES * members + member) * rows * width
    for at in range(first, end, ROWS):
        row = at + tl.arange(0, ROWS)
        valid = row < end
        at_row = member_at * rows + row
        inside = in_width[:, None] & valid[None, :]
        gradient = tl.load(grad + at_row[:, None] * width + o[None, :], valid[:, None] & in_outputs[None, :], 0.0)
        y = tl.load(own + at_row[None, :] * width + column[:, None], inside, 0.0)
        if once != 0:
            sent = tl.load(back + at_row[:, None] * width + o[None, :], valid[:, None] & (o < inputs)[None, :], 0.0)
            of_sent += product(y, sent)
        if BLOCKS > 1:
            numbers = tl.load(degree + member * rows + row, valid, 0)
            gradient *= tl.load(scales + numbers * BLOCKS + matrix, valid, 0.0)[:, None]
        of_bias += tl.sum(gradient, 0)
        of_y += product(y, gradient)
        from_row = row[None, :] * width + column[:, None]
        of_mean += product(tl.load(received_at + from_row, inside, 0.0), gradient)
        of_low += product(tl.load(received_at + kind + from_row, inside, 0.0), gradient)
        of_high += product(tl.load(received_at + 2 * kind + from_row, inside, 0.0), gradient)
        of_deviation += product(tl.load(received_at + 3 * kind + from_row, inside, 0.0), gradient)
    of_segment = segment * layers * members + member_at
    height = (1 + AGGREGATES) * width + 1
    to = sums + (of_segment * height + column[:, None]) * width + o[None, :]
    weight = in_width[:, None] & in_outputs[None, :]
    tl.store(to, of_y, weight)
    if begin == 0:
        tl.store(sums + (of_segment * height + width) * width + o, of_bias, in_outputs)
    to += (width + 1) * width
    tl.store(to, of_mean, weight)
    tl.store(to + width * width, of_low, weight)
    tl.store(to + 2 * width * width, of_high, weight)
    tl.store(to + 3 * width * width, of_deviation, weight)
    sent_at = sent_sums + (of_segment * width + column[:, None]) * width + o[None, :]
    tl.store(sent_at, of_sent, in_width[:, None] & (o < inputs)[None, :])


@triton.jit
def edge_products(
    added_grad, lengths, centres, first, degree, edge_row, count, places, edge_sums, rows, edges, stride, layers,
    members, width, basis, FACTOR: tl.constexpr, CUTOFF: tl.constexpr, KIND: tl.constexpr, ENVELOPE: tl.constexpr,
    ROWS: tl.constexpr, OUT: tl.constexpr, BASIS: tl.constexpr,
):  # fmt: skip
    """Gradient of what edges' features are multiplied by, over a tile of rows: [tiles, layers, E, basis + 1, W]."""
    tile, layer = tl.program_id(0), tl.program_id(1)
    member = tl.program_id(2).to(tl.int64)
    row = (tile * ROWS + tl.arange(0, ROWS)) * stride
    at_row = member * rows + row
    number = tl.load(degree + at_row, row < tl.load(count + member), 0)
    begin = tl.load(first + at_row, number > 0, 0)
    k, o = tl.arange(0, BASIS), tl.arange(0, OUT)
    in_inputs = o < place_of(places, layer, INPUTS)
    member_at = layer * members + member
    to = member_at * edges + tl.load(edge_row + at_row, number > 0, 0)
    result = tl.zeros([BASIS, OUT], added_grad.dtype.element_ty)
    for neighbour in range(tl.max(number, 0)):
        has = neighbour < number
        length = tl.load(lengths + begin + neighbour, has, 1.0)
        feature = features_of(length, k, centres, basis, FACTOR, CUTOFF, KIND, ENVELOPE)
        at = added_grad + (to + neighbour)[:, None] * width + o[None, :]
        gradient = tl.load(at, has[:, None] & in_inputs[None, :], 0.0)
        result += product(tl.trans(feature), gradient)
    of_tile = tile * layers * members + member_at
    at = edge_sums + (of_tile * (basis + 1) + k[:, None]) * width + o[None, :]
    tl.store(at, result, (k <= basis)[:, None] & in_inputs[None, :])


@triton.jit
def summed(source, coefficients, segments, segment_count, apart, which, mask):
    """Sum an array over segments, times a factor of each segment's matrix: column ``which`` of ``coefficients``.

    Each segment begins ``apart`` numbers after the one before.
    """
    total = tl.zeros_like(tl.load(source, mask, 0.0))
    for segment in range(segment_count):
        matrix = tl.load(segments + 4 * segment + 2)
        factor = tl.load(coefficients + matrix * (1 + SCALERS) + which)
        if factor != 0.0:
            total += factor * tl.load(source + segment * apart, mask, 0.0)
    return total


@triton.jit
def unfold(
    parameters, gradients, places, coefficients, segments, sums, sent_sums, edge_sums, size, used, layers, members,
    segment_count, edge_tile_count, width, basis, EDGES: tl.constexpr, OUT: tl.constexpr, BASIS: tl.constexpr,
    PART: tl.constexpr, PADDING: tl.constexpr,
):  # fmt: skip
    """Gradients of the weights of a layer from the sums of `trunk_products` and `edge_products`: see `fold`.

    A program has PART columns, [in, out], of W1, W2, the edges' encoder and the matrix before the last, and PART rows
    of W3 and the last. The first of a member also clears the padding of ``gradients``, its numbers beyond ``used``.
    """
    part, layer = tl.program_id(0), tl.program_id(1)
    member = tl.program_id(2).to(tl.int64)
    weights, to = parameters + member * size, gradients + member * size
    i, o = tl.arange(0, OUT), tl.arange(0, OUT)
    c = part * PART + tl.arange(0, PART)  # the program's columns
    inputs, outputs = place_of(places, layer, INPUTS), place_of(places, layer, OUTPUTS)
    in_inputs, in_outputs, c_in_inputs, c_in_outputs = i < inputs, o < outputs, c < inputs, c < outputs
    pre, post, lin = place_of(places, layer, PRE), place_of(places, layer, POST), place_of(places, layer, LIN)
    linear = in_inputs[:, None] & in_outputs[None, :]
    post_width, pre_width = (1 + SCALERS * AGGREGATES) * inputs, (3 if EDGES else 2) * inputs
    across_at, in_across = lin + o[:, None] * outputs + c[None, :], in_outputs[:, None] & c_in_outputs[None, :]
    post_at, in_post = post + c[None, :] * post_width + i[:, None], in_inputs[:, None] & c_in_outputs[None, :]
    pre_at, in_pre = pre + c[None, :] * pre_width + i[:, None], in_inputs[:, None] & c_in_inputs[None, :]
    across = tl.load(weights + across_at, in_across, 0.0)  # [out, middle]
    height = (1 + AGGREGATES) * width + 1
    apart = numel(layers * members, height, width)
    at = sums + (layer * members + member) * height * width
    block_at, bias_at = at + i[:, None] * width + o[None, :], at + width * width + o

    of_y = summed(block_at, coefficients, segments, segment_count, apart, 0, linear)
    of_bias = summed(bias_at, coefficients, segments, segment_count, apart, 0, in_outputs)
    post_bias = tl.load(weights + place_of(places, layer, POST_BIAS) + c, c_in_outputs, 0.0)
    tl.store(to + post_at, product(of_y, across), in_post)
    tl.store(to + place_of(places, layer, POST_BIAS) + c, tl.sum(across * of_bias[:, None], 0), c_in_outputs)
    weight = tl.load(weights + post_at, in_post, 0.0)
    of_across = product(tl.trans(of_y), weight) + of_bias[:, None] * post_bias[None, :]
    if part == 0:
        tl.store(to + place_of(places, layer, LIN_BIAS) + o, of_bias, in_outputs)

    pre_bias = tl.load(weights + place_of(places, layer, PRE_BIAS) + i, in_inputs, 0.0)
    of_receiver = tl.zeros([OUT, PART], across.dtype)
    of_pre_bias = tl.zeros([PART], across.dtype)
    for s in tl.range(SCALERS, disable_licm=True):
        of_bias = summed(bias_at, coefficients, segments, segment_count, apart, 1 + s, in_outputs)
        of_shift = pre_bias[:, None] * of_bias[None, :]
        for begin in range(0, inputs, PART):
            k = begin + tl.arange(0, PART)
            # W1 as [middle, in].
            from_receiver = weights + pre + i[:, None] * pre_width + k[None, :]
            receiver = tl.load(from_receiver, in_inputs[:, None] & (k < inputs)[None, :], 0.0)
            from_sums, mask = at + k[:, None] * width + o[None, :], (k < inputs)[:, None] & in_outputs[None, :]
            of_shift += product(receiver, summed(from_sums, coefficients, segments, segment_count, apart, 1 + s, mask))
        for a in tl.range(AGGREGATES, disable_licm=True):
            block = post_at + (1 + s * AGGREGATES + a) * inputs
            from_sums = block_at + (width + 1 + a * width) * width
            of_block = summed(from_sums, coefficients, segments, segment_count, apart, 1 + s, linear)
            if a < SHIFTED:
                of_block += of_shift
            tl.store(to + block, product(of_block, across), in_post)
            of_across += product(tl.trans(of_block), tl.load(weights + block, in_post, 0.0))
        # What receivers add to messages reaches the output through the sum of three blocks.
        shift = tl.zeros([OUT, PART], across.dtype)  # [out, middle]
        for begin in range(0, outputs, PART):
            k = begin + tl.arange(0, PART)
            last = tl.load(
                weights + lin + o[:, None] * outputs + k[None, :], in_outputs[:, None] & (k < outputs)[None, :], 0.0
            )
            shifting = tl.zeros([PART, PART], across.dtype)
            for a in range(SHIFTED):
                from_block = weights + post + k[:, None] * post_width + (1 + s * AGGREGATES + a) * inputs + c[None, :]
                shifting += tl.load(from_block, (k < outputs)[:, None] & c_in_inputs[None, :], 0.0)
            shift += product(last, shifting)
        of_receiver += product(summed(block_at, coefficients, segments, segment_count, apart, 1 + s, linear), shift)
        of_pre_bias += tl.sum(shift * of_bias[:, None], 0)
    tl.store(to + across_at, of_across, in_across)
    tl.store(to + pre_at, of_receiver, in_pre)
    tl.store(to + place_of(places, layer, PRE_BIAS) + c, of_pre_bias, c_in_inputs)

    of_sent = tl.zeros([OUT, PART], across.dtype)
    sent_at = sent_sums + (layer * members + member) * width * width + i[:, None] * width + c[None, :]
    for segment in range(segment_count):
        if tl.load(segments + 4 * segment + 3) != 0:
            of_sent += tl.load(sent_at + segment * numel(layers * members, width, width), in_pre, 0.0)
    tl.store(to + pre_at + inputs, of_sent, in_pre)

    if EDGES:
        k = tl.arange(0, BASIS)
        of_edges = tl.zeros([BASIS, OUT], across.dtype)
        mask = (k <= basis)[:, None] & in_inputs[None, :]
        edge_at = edge_sums + ((layer * members + member) * (basis + 1) + k[:, None]) * width + i[None, :]
        for tile in range(edge_tile_count):
            of_edges += tl.load(edge_at + tile * numel(layers * members, basis + 1, width), mask, 0.0)
        sender_at, in_sender = pre + 2 * inputs + i[:, None] * pre_width + c[None, :], in_pre
        of_encoder = product(of_edges, tl.load(weights + sender_at, in_sender, 0.0))
        at_encoder = to + place_of(places, layer, ENCODER) + c[None, :] * basis + k[:, None]
        tl.store(at_encoder, of_encoder, (k < basis)[:, None] & c_in_inputs[None, :])
        at_bias = to + place_of(places, layer, ENCODER_BIAS) + c[None, :] + tl.zeros([BASIS, PART], tl.int32)
        tl.store(at_bias, of_encoder, (k == basis)[:, None] & c_in_inputs[None, :])
        encoder = encoder_of(weights, places, layer, k, c, basis, c_in_inputs)
        tl.store(to + sender_at, product(tl.trans(of_edges), encoder), in_sender)
    if layer + part == 0:
        padding = used + tl.arange(0, PADDING)
        tl.store(to + padding, tl.zeros([PADDING], across.dtype), padding < size)


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
