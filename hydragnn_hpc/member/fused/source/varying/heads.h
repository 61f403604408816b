/* Heads over rows of features: those of atoms, or of samples after pooling. Blocks of rows are transposed to columns
 * whose lanes are rows, on which ../heads.h works. */
#ifndef FUSED_VARYING_HEADS_H
#define FUSED_VARYING_HEADS_H

#include "../heads.h"
#include "batch.h"

#define HEAD_COLUMNS 16 /* columns at once */
#define HEAD_ROWS (HEAD_COLUMNS * LANES)

typedef struct {
    HeadMemory head;
    vec *x, *grad_x;           /* [HEAD_COLUMNS][features] */
    real *pooled, *grad_pooled; /* [samples][padded features] */
} RowHeadMemory;

typedef struct { /* what a head is applied to */
    long count;
    const int64_t *number; /* [count]: the target of each row */
    real *x, *grad;        /* [count][padded features]; gradients are added to grad */
} HeadRows;

/* An even number, since compilers may round a single sum differently from several side by side, and a row's bits would
 * then depend on its position. */
INLINE long columns_of(long count) { return rounded(count, 2 * LANES) / LANES; }

/* Lanes past the last row repeat it. */
static void rows_to_columns(const real *from, long features, long count, vec *to) {
    long stride = padded(features);
    for (long t = 0; t < columns_of(count) * LANES; t += LANES, to += features)
        for (long f = 0; f < features; f += LANES) {
            vec a[LANES];
            for (int k = 0; k < LANES; k++) a[k] = load_loose(from + (t + k < count ? t + k : count - 1) * stride + f);
            transpose_lanes(a);
            for (int k = 0; k < LANES && f + k < features; k++) to[f + k] = a[k];
        }
}

static void add_columns_to_rows(const vec *from, long features, long count, real *to) {
    long stride = padded(features);
    for (long t = 0; t < count; t += LANES, from += features)
        for (long f = 0; f < features; f += LANES) {
            vec a[LANES];
            for (int k = 0; k < LANES; k++) a[k] = f + k < features ? from[f + k] : (vec){};
            transpose_lanes(a);
            for (int k = 0; k < LANES && t + k < count; k++) {
                real *place = to + (t + k) * stride + f;
                store_loose(place, load_loose(place) + a[k]);
            }
        }
}

/* Like sum_loss, for rows with these targets. */
static double sum_rows_loss(const Task *task, const HeadMemory *m, const int64_t *number, long count, real factor) {
    long width = task->width, outputs = head_outputs(task);
    const vec *out = m->activation[task->linears];
    vec *grad = m->grad[0], sum = {};
    for (long t = 0; t < columns_of(count) * LANES; t += LANES, grad += outputs, out += outputs) {
        vec mask = {};
        for (int l = 0; l < LANES; l++) {
            const real *target = task->target + number[t + l < count ? t + l : count - 1] * width;
            mask[l] = t + l < count;
            for (long o = 0; o < width; o++) ((real *)(grad + o))[l] = target[o];
        }
        sum += column_loss(task, mask, out, factor, grad);
    }
    return sum_lanes(sum);
}

static void forward_rows(const Task *task, const real *parameters, const RowHeadMemory *m, const real *x, long count) {
    rows_to_columns(x, task->linear[0].in, count, m->x);
    m->head.activation[0] = m->x;
    head_forward(task, parameters, &m->head, columns_of(count));
}

/* Forward, loss and backward of one head; adds to the rows' grad and to gradients. Returns the loss, averaged over
 * `values` known targets. */
static double head_rows_step(const Task *task, const real *parameters, const RowHeadMemory *m, double values,
                             HeadRows rows, real *gradients) {
    long features = task->linear[0].in, stride = padded(features);
    double loss = 0;
    for (long t = 0; t < rows.count; t += HEAD_ROWS) {
        long count = t + HEAD_ROWS < rows.count ? HEAD_ROWS : rows.count - t;
        forward_rows(task, parameters, m, rows.x + t * stride, count);
        loss += sum_rows_loss(task, &m->head, rows.number + t, count, (real)(task->weight / values));
        memset(m->grad_x, 0, columns_of(count) * features * sizeof(vec));
        head_back(task, parameters, &m->head, columns_of(count), m->grad_x, gradients);
        add_columns_to_rows(m->grad_x, features, count, rows.grad + t * stride);
    }
    return loss / values;
}

static void head_rows_predict(const Task *task, const real *parameters, const RowHeadMemory *m, const real *x,
                              long count, real *out) {
    long stride = padded(task->linear[0].in), outputs = head_outputs(task);
    for (long t = 0; t < count; t++) {
        long place = t % HEAD_ROWS;
        if (place == 0)
            forward_rows(task, parameters, m, x + t * stride, count - t < HEAD_ROWS ? count - t : HEAD_ROWS);
        const vec *value = m->head.activation[task->linears] + place / LANES * outputs;
        for (long o = 0; o < outputs; o++) out[t * outputs + o] = ((const real *)(value + o))[place % LANES];
    }
}

/* Number of known targets, at least 1. */
static double known_rows(const Task *task, const int64_t *number, long count) {
    long known = count * task->width;
    if (task->partial)
        for (long t = 0; t < count; t++)
            for (long o = 0; o < task->width; o++) known -= isnan(task->target[number[t] * task->width + o]) != 0;
    return known > 0 ? (double)known : 1;
}

/* One row from the atoms of each sample, in the order of ../heads.h: by degree. */
static void pool_rows(const Plan *plan, const Batch *batch, long features, const real *x, real *pooled) {
    long stride = padded(features);
    memset(pooled, 0, batch->samples * stride * sizeof(real)); /* after a ReLU, also the least maximum */
    for (long k = 0; k < batch->atoms; k++) {
        long t = batch->order[k];
        real *to = pooled + batch->owner[t] * stride;
        for (long f = 0; f < stride; f += LANES) {
            vec own = load_loose(x + t * stride + f), sum = load_loose(to + f);
            if (plan->pooling == POOL_MAX) sum = maximum(sum, own);
            else sum += own;
            store_loose(to + f, sum);
        }
    }
    if (plan->pooling == POOL_MEAN)
        for (long s = 0; s < batch->samples; s++)
            for (long f = 0; f < features; f++)
                pooled[s * stride + f] *= (real)1 / (batch->first[s + 1] - batch->first[s]);
}

/* Adds to grad. Of equal maxima the first takes the gradient. */
static void pool_rows_back(const Plan *plan, const Batch *batch, long features, const real *x, const real *pooled,
                           real *grad_pooled, real *grad) {
    long stride = padded(features);
    for (long k = 0; k < batch->atoms; k++) {
        long t = batch->order[k], s = batch->owner[t];
        real share = plan->pooling == POOL_MEAN ? (real)1 / (batch->first[s + 1] - batch->first[s]) : 1;
        for (long f = 0; f < stride; f += LANES) {
            real *from = grad_pooled + s * stride + f, *to = grad + t * stride + f;
            vec given = load_loose(from), sum = load_loose(to);
            if (plan->pooling == POOL_MAX) {
                vec own = load_loose(x + t * stride + f), most = load_loose(pooled + s * stride + f);
                store_loose(to, take_first(sum, own, most, &given));
                store_loose(from, given);
            } else {
                store_loose(to, sum + given * share);
            }
        }
    }
}

#endif
