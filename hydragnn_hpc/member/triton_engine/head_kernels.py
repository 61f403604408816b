"""Kernels of pooling, heads and losses.

A program has one member. Activations of a tile of rows are tuples of blocks [ROWS, BLOCK], in registers, so that every
product is of small matrices, whatever the widths. WIDTHS are a head's: those of its input, hidden layers and output.
D is the number of components of a target, LAST the columns of the block that holds them (or a head's whole output).

===================  =============================  ================================================================
features             [members, rows, WIDTHS[0]]     of atoms, or pooled
start, length        [members, samples] int32       a sample's first row, number of atoms; ``stride`` rows between atoms
ties                 [members, samples, WIDTHS[0]]  number of atoms at the maximum
index                [members, rows] int64          row of ``targets`` of each row
count                [members] int32                rows that are atoms; without NODE every row is a sample
targets              [all, TASKS * D]               NaN where missing
known                [members, TASKS] int32         values that are not missing, if MISSING
parameters           [members, size]
offsets              [TASKS, layers, 2] int32       of weight and bias within a member's parameters
kept                 [members, TASKS, rows, KEPT]   hidden activations of all layers, gradients of all layers' outputs
                                                    before the ReLU
partial              [members, TASKS, tiles]        each tile's share of the mean loss
===================  =============================  ================================================================
"""

import triton
import triton.language as tl

from hydragnn_hpc.member.engine import losses

BLOCK = tl.constexpr(16)
NAN = tl.constexpr(tl.PropagateNan.ALL)  # a member that diverges must show it
SMALLEST_VARIANCE = tl.constexpr(losses.SMALLEST_VARIANCE)
PLAN = tl.constexpr(10)  # numbers of `weights_back` for each program of a member


@triton.jit
def larger(a, b):
    """The larger of two numbers; NaN if either is."""
    return tl.maximum(a, b, propagate_nan=NAN)


@triton.jit
def pool_samples(
    features, start, length, pooled, ties, rows, samples, stride,
    WIDTH: tl.constexpr, HOW: tl.constexpr, TIES: tl.constexpr, ATOMS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Pool the atoms of one sample to ``pooled`` [members, samples, WIDTH]; with TIES, count those at the maximum.

    Features are outputs of a ReLU: zeros change neither sum nor maximum.
    """
    sample = tl.program_id(1).to(tl.int64) * samples + tl.program_id(0)
    features += tl.program_id(1).to(tl.int64) * rows * WIDTH
    column = tl.arange(0, COLUMNS)
    first, number = tl.load(start + sample), tl.load(length + sample)
    total = tl.zeros((ATOMS, COLUMNS), features.dtype.element_ty)
    for k in range(0, number, ATOMS):
        atom = k + tl.arange(0, ATOMS)
        at = (first + atom * stride)[:, None] * WIDTH + column[None, :]
        x = tl.load(features + at, (atom < number)[:, None] & (column < WIDTH)[None, :], 0.0)
        total = larger(total, x) if HOW == "max" else total + x
    to, inside = sample * WIDTH + column, column < WIDTH
    result = tl.reduce(total, 0, larger) if HOW == "max" else tl.sum(total, 0)
    tl.store(pooled + to, result / number if HOW == "mean" else result, inside)
    if TIES:
        tied = tl.zeros((ATOMS, COLUMNS), features.dtype.element_ty)
        for k in range(0, number, ATOMS):
            atom = k + tl.arange(0, ATOMS)
            at = (first + atom * stride)[:, None] * WIDTH + column[None, :]
            x = tl.load(features + at, (atom < number)[:, None] & (column < WIDTH)[None, :], -1.0)
            tied += tl.where(x == result[None, :], 1.0, 0.0)
        tl.store(ties + to, tl.sum(tied, 0), inside)


@triton.jit
def count_known(
    targets, index, count, known, rows, TASKS: tl.constexpr, D: tl.constexpr, NODE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Count the values of one task that are not missing."""
    task, member = tl.program_id(0), tl.program_id(1).to(tl.int64)
    number = tl.load(count + member) if NODE else rows
    total = tl.zeros((ROWS,), tl.int32)
    for first in range(0, number, ROWS):
        row = first + tl.arange(0, ROWS)
        at = tl.load(index + member * rows + row, row < number, 0) * (TASKS * D) + task * D
        for component in range(D):
            truth = tl.load(targets + at + component, row < number, float("nan"))
            total += tl.where(truth == truth, 1, 0)
    tl.store(known + member * TASKS + task, tl.sum(total, 0))


@triton.jit
def product(
    blocks, weight, bias, FIRST: tl.constexpr, END: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """WIDTH inputs times rows FIRST .. END - 1 of a weight [.., WIDTH], plus bias: blocks of SIZE.

    A block of inputs is multiplied by all blocks of the weight before the next: the layout of a factor needs registers.
    """
    totals = ()
    for first in tl.static_range(FIRST, END, SIZE):
        out = tl.arange(0, SIZE) + first
        zero = tl.zeros((blocks[0].shape[0], SIZE), blocks[0].dtype)
        totals = totals + (zero + tl.load(bias + out, out < END, 0.0)[None, :],)
    for j in tl.static_range(len(blocks)):
        added = ()
        for i in tl.static_range(len(totals)):
            out, column = tl.arange(0, SIZE) + FIRST + i * SIZE, tl.arange(0, BLOCK) + j * BLOCK
            inside = (column < WIDTH)[:, None] & (out < END)[None, :]
            matrix = tl.load(weight + column[:, None] + out[None, :] * WIDTH, inside, 0.0)
            added = added + (tl.dot(blocks[j], matrix, totals[i], input_precision="ieee", out_dtype=matrix.dtype),)
        totals = added
    return totals


@triton.jit
def product_back(totals, gradient, weight, first, end, WIDTH: tl.constexpr):
    """Add the gradient of the inputs of `product` to blocks ``totals``, given that of one block of its outputs.

    The block, [ROWS, SIZE], has the outputs ``first`` .. ``end`` - 1, at most SIZE.
    """
    added = ()
    for j in tl.static_range(len(totals)):
        out, column = tl.arange(0, gradient.shape[1]) + first, tl.arange(0, BLOCK) + j * BLOCK
        inside = (out < end)[:, None] & (column < WIDTH)[None, :]
        matrix = tl.load(weight + out[:, None] * WIDTH + column[None, :], inside, 0.0)
        added = added + (tl.dot(gradient, matrix, totals[j], input_precision="ieee", out_dtype=matrix.dtype),)
    return added


@triton.jit
def zeros(ROWS: tl.constexpr, WIDTH: tl.constexpr, TYPE: tl.constexpr):
    """Blocks of zeros."""
    blocks = ()
    for _ in tl.static_range(0, WIDTH, BLOCK):
        blocks = blocks + (tl.zeros((ROWS, BLOCK), TYPE),)
    return blocks


@triton.jit
def activations(features, inside, parameters, offsets, WIDTHS: tl.constexpr):
    """Blocks of a tile's inputs and of the outputs of each hidden layer; ``features`` [ROWS, 1] points to the rows."""
    blocks = ()
    for first in tl.static_range(0, WIDTHS[0], BLOCK):
        column = tl.arange(0, BLOCK)[None, :] + first
        blocks = blocks + (tl.load(features + column, inside[:, None] & (column < WIDTHS[0]), 0.0),)
    layers = (blocks,)
    for k in tl.static_range(len(WIDTHS) - 2):
        weight, bias = parameters + tl.load(offsets + 2 * k), parameters + tl.load(offsets + 2 * k + 1)
        linear = product(layers[k], weight, bias, 0, WIDTHS[k + 1], WIDTHS[k], BLOCK)
        hidden = ()
        for i in tl.static_range(len(linear)):
            hidden = hidden + (larger(linear[i], 0.0),)
        layers = layers + (hidden,)
    return layers


@triton.jit
def loss_of(difference, noise, LOSS: tl.constexpr, DELTA: tl.constexpr):
    """The loss of each difference, and its derivatives with respect to mean and noise."""
    if LOSS == "mse":
        value, by_mean, by_noise = difference * difference, difference * 2.0, noise
    elif LOSS == "mae":
        value, by_noise = tl.abs(difference), noise
        by_mean = tl.where(difference > 0.0, 1.0, tl.where(difference < 0.0, -1.0, difference))
    elif LOSS == "huber":
        by_mean, by_noise = tl.clamp(difference, -DELTA, DELTA, propagate_nan=NAN), noise
        value = by_mean * (difference - 0.5 * by_mean)
    else:
        variance = larger(noise * noise, SMALLEST_VARIANCE)
        by_mean = difference / variance
        value = 0.5 * (tl.log(variance) + difference * by_mean)
        by_noise = noise * (1.0 / variance - by_mean * by_mean)
    return value, by_mean, by_noise


@triton.jit
def store_blocks(to, blocks, inside, WIDTH: tl.constexpr):
    """Store blocks of WIDTH columns; ``to`` [ROWS, 1] points to the rows."""
    for k in tl.static_range(len(blocks)):
        column = tl.arange(0, BLOCK)[None, :] + k * BLOCK
        tl.store(to + column, blocks[k], inside[:, None] & (column < WIDTH))


@triton.jit
def train_head(
    features, inside, target, number, factor, parameters, offsets, kept, partial, gradient,
    WIDTHS: tl.constexpr, D: tl.constexpr, LOSS: tl.constexpr, DELTA: tl.constexpr,
    LAST: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One head: store what it keeps and its share of the loss; add to the blocks of the ``gradient`` of the inputs.

    ``features``, ``target`` and ``kept`` [ROWS, 1] point to the rows; ``number`` divides the loss, ``factor`` is the
    task's weight over it.
    """
    HIDDEN: tl.constexpr = len(WIDTHS) - 2
    layers = activations(features, inside, parameters, offsets, WIDTHS)
    at = kept
    for k in tl.static_range(1, HIDDEN + 1):
        store_blocks(at, layers[k], inside, WIDTHS[k])
        at += WIDTHS[k]
    for k in tl.static_range(1, HIDDEN + 1):
        at += WIDTHS[k]
    weight = parameters + tl.load(offsets + 2 * HIDDEN)
    bias = parameters + tl.load(offsets + 2 * HIDDEN + 1)
    column = tl.arange(0, LAST)[None, :]
    valid = inside[:, None] & (column < D)
    mean = product(layers[HIDDEN], weight, bias, 0, D, WIDTHS[HIDDEN], LAST)[0]
    truth = tl.load(target + column, valid, 0.0)
    known = valid & (truth == truth)
    difference, noise = tl.where(known, mean - truth, 0.0), 1.0
    if LOSS == "nll":
        noise = tl.where(known, product(layers[HIDDEN], weight, bias, D, 2 * D, WIDTHS[HIDDEN], LAST)[0], 1.0)
    value, by_mean, by_noise = loss_of(difference, noise, LOSS, DELTA)
    tl.store(partial, tl.sum(tl.sum(tl.where(known, value, 0.0), 1), 0) / number)
    by_mean = tl.where(known, by_mean * factor, 0.0)
    tl.store(at + column, by_mean, valid)
    if LOSS == "nll":
        by_noise = tl.where(known, by_noise * factor, 0.0)
        tl.store(at + D + column, by_noise, valid)
    back = gradient if HIDDEN == 0 else zeros(ROWS, WIDTHS[HIDDEN], mean.dtype)
    back = product_back(back, by_mean, weight, 0, D, WIDTHS[HIDDEN])
    if LOSS == "nll":
        back = product_back(back, by_noise, weight, D, 2 * D, WIDTHS[HIDDEN])
    for k in tl.static_range(HIDDEN, 0, -1):
        before = ()
        for i in tl.static_range(len(layers[k])):
            before = before + (tl.where(layers[k][i] <= 0.0, 0.0, back[i]),)
        at -= WIDTHS[k]
        store_blocks(at, before, inside, WIDTHS[k])
        weight = parameters + tl.load(offsets + 2 * (k - 1))
        back = gradient if k == 1 else zeros(ROWS, WIDTHS[k - 1], mean.dtype)
        for i in tl.static_range(len(before)):
            back = product_back(back, before[i], weight, i * BLOCK, WIDTHS[k], WIDTHS[k - 1])
    return back


@triton.jit
def train_heads(
    features, index, count, targets, known, parameters, offsets, weights, ties, kept, partial, out, rows, size, tiles,
    TASKS: tl.constexpr, WIDTHS: tl.constexpr, KEPT: tl.constexpr, D: tl.constexpr,
    LOSS: tl.constexpr, DELTA: tl.constexpr, LAST: tl.constexpr, NODE: tl.constexpr, MISSING: tl.constexpr,
    ADD: tl.constexpr, TIES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Forward and backward of a group of heads for a tile of rows; ``weights`` [TASKS] are the tasks' in the loss.

    ``out`` [members, rows, WIDTHS[0]] is the gradient of the features, divided by ``ties`` if TIES, and added if ADD.
    """
    tile, member = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row = tile * ROWS + tl.arange(0, ROWS)
    present = tl.load(count + member) if NODE else rows
    inside = row < present
    at = (member * rows + row)[:, None] * WIDTHS[0]
    target = targets + tl.load(index + member * rows + row, inside, 0)[:, None] * (TASKS * D)
    parameters += member * size
    gradient = zeros(ROWS, WIDTHS[0], features.dtype.element_ty)
    # Addresses that do not depend on the task are computed again for each: keeping them would need registers.
    for task in tl.range(TASKS, disable_licm=True):
        pair = member * TASKS + task
        number = tl.maximum(tl.load(known + pair), 1) if MISSING else present * D
        gradient = train_head(
            features + at, inside, target + task * D, number, tl.load(weights + task) / number, parameters,
            offsets + task * (2 * (len(WIDTHS) - 1)), kept + (pair * rows + row)[:, None] * KEPT,
            partial + pair * tiles + tile, gradient, WIDTHS, D, LOSS, DELTA, LAST, ROWS,
        )  # fmt: skip
    for k in tl.static_range(len(gradient)):
        column = tl.arange(0, BLOCK)[None, :] + k * BLOCK
        own, block = inside[:, None] & (column < WIDTHS[0]), gradient[k]
        if TIES:
            block = block / tl.load(ties + at + column, own, 1.0)
        if ADD:
            block += tl.load(out + at + column, own, 0.0)
        tl.store(out + at + column, block, (row < rows)[:, None] & (column < WIDTHS[0]))


@triton.jit
def weights_back(
    features, kept, count, plan, partial, gradients, losses, rows, size, tiles, tasks_of_losses,
    TASKS: tl.constexpr, WIDTH: tl.constexpr, KEPT: tl.constexpr, NODE: tl.constexpr, ROWS: tl.constexpr,
    OUT: tl.constexpr, IN: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile [OUT, IN] of one weight and of its bias, summed over rows; for some tiles, a task's loss.

    ``plan`` [programs of a member, PLAN] int32: offsets of weight and bias, the weight's shape, the tile's first row
    and column, the columns of ``kept`` that hold the weight's inputs (-1: features) and its outputs' gradients, the
    task, and the column of ``losses`` [members, tasks_of_losses] that is the sum of its ``partial`` (-1: none).
    """
    member = tl.program_id(1).to(tl.int64)
    plan += tl.program_id(0) * PLAN
    weight, bias, height, width = tl.load(plan), tl.load(plan + 1), tl.load(plan + 2), tl.load(plan + 3)
    out, column = tl.load(plan + 4) + tl.arange(0, OUT), tl.load(plan + 5) + tl.arange(0, IN)
    source, slopes, task, loss = tl.load(plan + 6), tl.load(plan + 7), tl.load(plan + 8), tl.load(plan + 9)
    pair = member * TASKS + task
    features += member * rows * WIDTH
    kept += pair * rows * KEPT
    total = tl.zeros((OUT, IN), features.dtype.element_ty)
    by_bias = tl.zeros((ROWS, OUT), features.dtype.element_ty)
    for first in range(0, tl.load(count + member) if NODE else rows, ROWS):
        row = (first + tl.arange(0, ROWS))[:, None]
        inside = row < (tl.load(count + member) if NODE else rows)
        slope = tl.load(kept + row * KEPT + slopes + out[None, :], inside & (out < height)[None, :], 0.0)
        inside = inside & (column < width)[None, :]
        if source < 0:
            x = tl.load(features + row * WIDTH + column[None, :], inside, 0.0)
        else:
            x = tl.load(kept + row * KEPT + source + column[None, :], inside, 0.0)
        total = tl.dot(tl.trans(slope), x, total, input_precision="ieee", out_dtype=total.dtype)
        by_bias += slope
    gradients += member * size
    inside = (out < height)[:, None] & (column < width)[None, :]
    tl.store(gradients + weight + out[:, None] * width + column[None, :], total, inside)
    if tl.load(plan + 5) == 0:
        tl.store(gradients + bias + out, tl.sum(by_bias, 0), out < height)
    if loss >= 0:
        shares = tl.zeros((ROWS,), features.dtype.element_ty)
        for first in range(0, tiles, ROWS):
            tile = first + tl.arange(0, ROWS)
            shares += tl.load(partial + pair * tiles + tile, tile < tiles, 0.0)
        tl.store(losses + member * tasks_of_losses + loss, tl.sum(shares, 0))


@triton.jit
def predict_heads(
    features, count, parameters, offsets, out, rows, size, TASKS: tl.constexpr, WIDTHS: tl.constexpr,
    LAST: tl.constexpr, NODE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Values of a group of heads for a tile of rows, ``out`` [members, rows, TASKS * outputs]; zeros in padding."""
    member = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < (tl.load(count + member) if NODE else rows)
    HIDDEN: tl.constexpr = len(WIDTHS) - 2
    OUTPUTS: tl.constexpr = WIDTHS[HIDDEN + 1]
    column = tl.arange(0, LAST)[None, :]
    features += (member * rows + row)[:, None] * WIDTHS[0]
    out += (member * rows + row)[:, None] * (TASKS * OUTPUTS)
    parameters += member * size
    for task in tl.range(TASKS, disable_licm=True):
        own = offsets + task * (2 * HIDDEN + 2)
        layers = activations(features, inside, parameters, own, WIDTHS)
        weight, bias = parameters + tl.load(own + 2 * HIDDEN), parameters + tl.load(own + 2 * HIDDEN + 1)
        value = product(layers[HIDDEN], weight, bias, 0, OUTPUTS, WIDTHS[HIDDEN], LAST)[0]
        tl.store(
            out + task * OUTPUTS + column,
            tl.where(inside[:, None], value, 0.0),
            (row < rows)[:, None] & (column < OUTPUTS),
        )
