/* Pooling, the heads' fully connected layers, and the loss: forward and backward, one block at a time. */
#ifndef FUSED_HEADS_H
#define FUSED_HEADS_H

#include "loss.h"
#include "norm.h"

typedef struct {
    vec *pooled, *grad_pooled; /* [features] */
    vec **activation;          /* [linears + 1]: [atoms][width]; the first is the input itself */
    vec *grad[2];              /* [atoms][widest] */
} HeadMemory;

typedef struct { /* the samples in the lanes of one block */
    const int64_t *sample; /* [LANES] */
    long samples;          /* lanes in use */
    vec mask;
} Block;

/* One column from the atoms' columns. */
static void pool(const Plan *plan, long features, const vec *x, vec *pooled) {
    memcpy(pooled, x, features * sizeof(vec));
    for (long i = 1; i < plan->atoms; i++)
        for (long f = 0; f < features; f++) {
            vec value = x[i * features + f];
            if (plan->pooling == POOL_MAX) pooled[f] = maximum(pooled[f], value);
            else pooled[f] += value;
        }
    if (plan->pooling == POOL_MEAN)
        for (long f = 0; f < features; f++) pooled[f] *= (real)1 / plan->atoms;
}

/* Adds to grad_x. Of equal maxima the first takes the gradient. */
static void pool_back(const Plan *plan, long features, const vec *x, const vec *pooled, vec *grad, vec *grad_x) {
    if (plan->pooling == POOL_MEAN)
        for (long f = 0; f < features; f++) grad[f] *= (real)1 / plan->atoms;
    for (long i = 0; i < plan->atoms; i++)
        for (long f = 0; f < features; f++) {
            vec *to = grad_x + i * features + f;
            if (plan->pooling == POOL_MAX) *to = take_first(*to, x[i * features + f], pooled[f], &grad[f]);
            else *to += grad[f];
        }
}

static void rectify_all(vec *value, long count) {
    for (long k = 0; k < count; k++) value[k] = rectify(value[k]);
}

/* Fills activation[1 ..] from activation[0], `count` columns. */
static void head_forward(const Task *task, const real *parameters, const HeadMemory *m, long count) {
    for (long k = 0; k < task->linears; k++) {
        const Linear *linear = task->linear + k;
        multiply_bias(rows_of(parameters + linear->weight, linear->out, linear->in, linear->in),
                      parameters + linear->bias, columns(m->activation[k], linear->in, count),
                      columns(m->activation[k + 1], linear->out, count));
        if (k + 1 < task->linears) rectify_all(m->activation[k + 1], count * linear->out);
    }
}

/* Backward from m->grad[0], that of the last activation; the gradient of the input is added to grad_x. */
static void head_back(const Task *task, const real *parameters, const HeadMemory *m, long count, vec *grad_x,
                      real *gradients) {
    vec *grad = m->grad[0], *next = m->grad[1];
    for (long k = task->linears - 1; k >= 0; k--) {
        const Linear *linear = task->linear + k;
        Columns left = columns(grad, linear->out, count), right = columns(m->activation[k], linear->in, count);
        Matrix back = transposed(rows_of(parameters + linear->weight, linear->out, linear->in, linear->in));
        outer_add(left, linear->out, right, linear->in, gradients + linear->weight, linear->in);
        sum_add(left, linear->out, gradients + linear->bias);
        if (k == 0) {
            multiply_add(back, left, columns(grad_x, linear->in, count));
            return;
        }
        multiply(back, left, columns(next, linear->in, count));
        for (long v = 0; v < count * linear->in; v++) next[v] = where_positive(right.data[v], next[v]);
        vec *swap = grad;
        grad = next;
        next = swap;
    }
}

/* The targets of a block's atoms at this place or, at graph level, of its samples: one column. */
static void load_target(const Plan *plan, const Task *task, const Block *block, long place, vec *to) {
    long atoms = task->graph ? 1 : plan->atoms, atom = task->graph ? 0 : plan->order[place], width = task->width;
    for (int l = 0; l < LANES; l++)
        for (long o = 0; o < width; o++)
            ((real *)(to + o))[l] = task->target[(block->sample[l] * atoms + atom) * width + o];
}

/* column_loss with LOSS_NLL. */
static vec column_nll(const Task *task, vec mask, const vec *out, real factor, vec *target) {
    vec sum = {};
    for (long o = 0, width = task->width; o < width; o++) {
        vec counts = where_known(target[o], mask), slope, noise_slope;
        vec difference = where_known(target[o], mask * (out[o] - target[o]));
        sum += counts * nll_of(difference, out[width + o], &slope, &noise_slope);
        target[o] = factor * slope;
        target[width + o] = factor * counts * noise_slope;
    }
    return sum;
}

/* Loss of a column of outputs in each lane of `mask`, over known targets. The targets, with room for as many numbers as
 * there are outputs, become its gradient times `factor`. */
INLINE vec column_loss(const Task *task, vec mask, const vec *out, real factor, vec *target) {
    if (task->loss == LOSS_NLL) return column_nll(task, mask, out, factor, target);
    vec sum = {};
    for (long o = 0; o < task->width; o++) {
        vec difference = where_known(target[o], mask * (out[o] - target[o]));
        vec slope;
        sum += loss_of(task, difference, &slope);
        target[o] = factor * slope;
    }
    return sum;
}

/* Loss of the last activation, summed over all known targets. Its gradient times `factor` goes to m->grad[0]. */
static double sum_loss(const Plan *plan, const Task *task, const HeadMemory *m, const Block *block, real factor) {
    long count = task->graph ? 1 : plan->atoms, outputs = head_outputs(task);
    const vec *out = m->activation[task->linears];
    vec *grad = m->grad[0], sum = {};
    for (long i = 0; i < count; i++, grad += outputs, out += outputs) {
        load_target(plan, task, block, i, grad);
        sum += column_loss(task, block->mask, out, factor, grad);
    }
    return sum_lanes(sum);
}

/* Sets the input of a head, and returns how many columns it has. */
static long head_input(const Plan *plan, const Task *task, const HeadMemory *m, vec *x) {
    m->activation[0] = x;
    if (!task->graph) return plan->atoms;
    pool(plan, task->linear[0].in, x, m->pooled);
    m->activation[0] = m->pooled;
    return 1;
}

/* Number of known targets of a task in a batch, at least 1. */
static double known_targets(const Plan *plan, const Task *task, const int64_t *sample, long samples) {
    long size = task->width * (task->graph ? 1 : plan->atoms), known = samples * size;
    if (!task->partial) return (double)known;
    for (long b = 0; b < samples; b++)
        for (long k = 0; k < size; k++) known -= isnan(task->target[sample[b] * size + k]) != 0;
    return known > 0 ? (double)known : 1;
}

/* Forward, loss and backward of one head for one block of a batch with `values` known targets; adds to grad_x and
 * gradients. Returns this block's part of the task's mean loss. */
static double head_step(const Plan *plan, const Task *task, const real *parameters, const HeadMemory *m,
                        const Block *block, double values, vec *x, vec *grad_x, real *gradients) {
    long features = task->linear[0].in, count = head_input(plan, task, m, x);
    head_forward(task, parameters, m, count);
    double loss = sum_loss(plan, task, m, block, (real)(task->weight / values));
    if (task->graph) {
        memset(m->grad_pooled, 0, features * sizeof(vec));
        head_back(task, parameters, m, 1, m->grad_pooled, gradients);
        pool_back(plan, features, x, m->pooled, m->grad_pooled, grad_x);
    } else {
        head_back(task, parameters, m, count, grad_x, gradients);
    }
    return loss / values;
}

/* Values of one head for one block: `out` [samples of the block, n, outputs] or [samples, outputs]. */
static void head_predict(const Plan *plan, const Task *task, const real *parameters, const HeadMemory *m,
                         const Block *block, vec *x, real *out) {
    long count = head_input(plan, task, m, x), outputs = head_outputs(task);
    head_forward(task, parameters, m, count);
    const vec *value = m->activation[task->linears];
    for (long i = 0; i < count; i++) {
        long atom = task->graph ? 0 : plan->order[i];
        for (long l = 0; l < block->samples; l++)
            for (long o = 0; o < outputs; o++)
                out[(l * count + atom) * outputs + o] = ((const real *)(value + i * outputs + o))[l];
    }
}

#endif
