/* Aggregation over neighbours, forward and backward, as in ../aggregate.h; forward, sums have the same order.
 *
 * Here lanes are features, and a receiver reads its neighbours' whole rows. Aggregates are written one after the other
 * without padding; what a vector writes past the end of one is overwritten by the next.
 */
#ifndef FUSED_VARYING_AGGREGATE_H
#define FUSED_VARYING_AGGREGATE_H

#include "../aggregate.h"
#include "rows.h"

/* Calls PART(V, f) for all features, V vectors from f on at a time; from the end, since only the last part writes past
 * one aggregate's end into the next. */
#define FOR_VECTORS(features, PART)                                                 \
    for (long f = ((features) - 1) / (VECTORS_AT_ONCE * LANES) * (VECTORS_AT_ONCE * LANES); f >= 0; \
         f -= VECTORS_AT_ONCE * LANES)                                              \
        switch (((features) - f + LANES - 1) / LANES) {                             \
        case 1: PART(1, f); break;                                                  \
        case 2: PART(2, f); break;                                                  \
        default: PART(3, f); break;                                                 \
        }

typedef struct { /* the messages to one receiver: its neighbours' rows of y, plus the rows of the edges */
    const real *y, *added; /* added: [degree] rows, or NULL */
    long stride;
    const int32_t *neighbour;
    long degree, features;
} RowMessages;

INLINE vec message(int edges, RowMessages in, long e, long f) {
    vec value = load_loose(in.y + in.neighbour[e] * in.stride + f);
    if (edges) value += load_loose(in.added + e * in.stride + f);
    return value;
}

INLINE void gather_part(int edges, int V, RowMessages in, long f, real *out) {
    vec origin[VECTORS_AT_ONCE], sum[VECTORS_AT_ONCE], square[VECTORS_AT_ONCE];
    vec low[VECTORS_AT_ONCE], high[VECTORS_AT_ONCE], mean[VECTORS_AT_ONCE];
    real share = (real)1 / in.degree;
    UNROLL for (int v = 0; v < V; v++) {
        origin[v] = low[v] = high[v] = message(edges, in, 0, f + v * LANES);
        sum[v] = square[v] = (vec){};
    }
    for (long e = 1; e < in.degree; e++)
        UNROLL for (int v = 0; v < V; v++) {
            vec value = message(edges, in, e, f + v * LANES), difference = value - origin[v];
            sum[v] += difference;
            square[v] += difference * difference;
            low[v] = minimum(low[v], value);
            high[v] = maximum(high[v], value);
        }
    out += f;
    UNROLL for (int v = 0; v < V; v++) {
        mean[v] = sum[v] * share;
        store_loose(out + v * LANES, origin[v] + mean[v]);
    }
    UNROLL for (int v = 0; v < V; v++) store_loose(out + in.features + v * LANES, low[v]);
    UNROLL for (int v = 0; v < V; v++) store_loose(out + 2 * in.features + v * LANES, high[v]);
    UNROLL for (int v = 0; v < V; v++)
        store_loose(out + 3 * in.features + v * LANES, deviation(square[v] * share - mean[v] * mean[v]));
}

/* out[4 * features] of one receiver: mean, minimum, maximum, standard deviation; zeros without neighbours. */
static void gather(RowMessages in, real *out) {
    if (in.degree == 0) {
        memset(out, 0, AGGREGATES * in.features * sizeof(real));
        return;
    }
#define PART(V, f) in.added ? gather_part(1, V, in, f, out) : gather_part(0, V, in, f, out)
    FOR_VECTORS(in.features, PART)
#undef PART
}

INLINE void gather_back_part(int edges, int V, RowMessages in, long f, const real *value, const real *grad,
                             real *grad_y, real *grad_added) {
    vec low[VECTORS_AT_ONCE], high[VECTORS_AT_ONCE], grad_low[VECTORS_AT_ONCE], grad_high[VECTORS_AT_ONCE];
    vec level[VECTORS_AT_ONCE], slope[VECTORS_AT_ONCE];
    real share = (real)1 / in.degree;
    UNROLL for (int v = 0; v < V; v++) {
        long at = f + v * LANES;
        vec std = load_loose(value + 3 * in.features + at);
        /* d std / d y_j = (y_j - mean) / (degree std), and zero below the smallest variance */
        slope[v] = where_positive(std, load_loose(grad + 3 * in.features + at) * share * quick_inverse(std));
        level[v] = load_loose(grad + at) * share - slope[v] * load_loose(value + at);
        low[v] = load_loose(value + in.features + at);
        high[v] = load_loose(value + 2 * in.features + at);
        grad_low[v] = load_loose(grad + in.features + at);
        grad_high[v] = load_loose(grad + 2 * in.features + at);
    }
    for (long e = 0; e < in.degree; e++)
        UNROLL for (int v = 0; v < V; v++) {
            real *to = grad_y + in.neighbour[e] * in.stride + f + v * LANES;
            vec own = message(edges, in, e, f + v * LANES), sum = level[v] + slope[v] * own;
            sum = take_first(sum, own, low[v], &grad_low[v]);
            sum = take_first(sum, own, high[v], &grad_high[v]);
            store_loose(to, load_loose(to) + sum);
            if (edges) store_loose(grad_added + e * in.stride + f + v * LANES, sum);
        }
}

/* Adds to grad_y of the neighbours, and writes to grad_added of the edges, the gradients that follow from `grad`, the
 * gradient of one receiver's aggregates `value`. */
static void gather_back(RowMessages in, const real *value, const real *grad, real *grad_y, real *grad_added) {
#define PART(V, f)                                                                          \
    in.added ? gather_back_part(1, V, in, f, value, grad, grad_y, grad_added)               \
             : gather_back_part(0, V, in, f, value, grad, grad_y, grad_added)
    FOR_VECTORS(in.features, PART)
#undef PART
}

#endif
