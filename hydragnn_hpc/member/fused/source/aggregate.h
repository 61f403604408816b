/* Aggregation over neighbours, forward and backward (Corso et al. 2020, eq. 2 to 5).
 *
 * y holds one block: a column of `features` vectors per atom. Features are processed five at a
 * time, so that the running sums of one receiver stay in registers while its neighbours are visited. Mean and variance are
 * of the differences from the first neighbour: mean(y^2) - mean(y)^2 cancels in float32, but shifted by
 * one of the values the squared mean is at most degree times the variance, so little is lost.
 */
#ifndef FUSED_AGGREGATE_H
#define FUSED_AGGREGATE_H

#include "plan.h"

#define FEATURES_AT_ONCE 5

/* PyTorch Geometric: clamp(var, 1e-5).sqrt(), then zero where that is not above sqrt(1e-5). */
#define SMALLEST_VARIANCE ((real)1e-5)

/* The messages to one receiver: each neighbour's column of y, plus the numbers of the edge's kind. */
typedef struct {
    const vec *y;
    const int32_t *neighbour, *kind;
    const real *added; /* [kinds][features]; NULL: nothing is added */
    long degree, features;
} Messages;

INLINE vec deviation(vec variance) {
    return where_positive(variance - SMALLEST_VARIANCE, quick_root(variance));
}

/* `edges` is a literal: whether anything is added. */
INLINE void aggregate_part(int edges, int U, Messages in, long f, vec *out) {
    vec origin[FEATURES_AT_ONCE], sum[FEATURES_AT_ONCE], square[FEATURES_AT_ONCE];
    vec low[FEATURES_AT_ONCE], high[FEATURES_AT_ONCE];
    real share = (real)1 / in.degree;
    const vec *from = in.y + in.neighbour[0] * in.features + f;
    const real *added = edges ? in.added + in.kind[0] * in.features + f : NULL;
    UNROLL for (int u = 0; u < U; u++) {
        vec value = from[u];
        if (edges) value += added[u];
        origin[u] = low[u] = high[u] = value;
        sum[u] = square[u] = (vec){};
    }
    for (long e = 1; e < in.degree; e++) {
        from = in.y + in.neighbour[e] * in.features + f;
        if (edges) added = in.added + in.kind[e] * in.features + f;
        UNROLL for (int u = 0; u < U; u++) {
            vec value = from[u];
            if (edges) value += added[u];
            vec difference = value - origin[u];
            sum[u] += difference;
            square[u] += difference * difference;
            low[u] = minimum(low[u], value);
            high[u] = maximum(high[u], value);
        }
    }
    out += f;
    UNROLL for (int u = 0; u < U; u++) {
        vec mean = sum[u] * share;
        out[u] = origin[u] + mean;
        out[in.features + u] = low[u];
        out[2 * in.features + u] = high[u];
        out[3 * in.features + u] = deviation(square[u] * share - mean * mean);
    }
}

#define PARTS(PART, edges, f, features)                                                          \
    switch (features - f) {                                                                      \
    case 1: PART(edges, 1); break;                                                               \
    case 2: PART(edges, 2); break;                                                               \
    case 3: PART(edges, 3); break;                                                               \
    case 4: PART(edges, 4); break;                                                               \
    default: PART(edges, 5); break;                                                              \
    }

/* out[4 * features] of one receiver: mean, minimum, maximum, standard deviation; zeros without neighbours. */
static void aggregate(Messages in, vec *out) {
    if (in.degree == 0) {
        memset(out, 0, AGGREGATES * in.features * sizeof(vec));
        return;
    }
#define PART(edges, U) aggregate_part(edges, U, in, f, out)
    for (long f = 0; f < in.features; f += FEATURES_AT_ONCE)
        if (in.added) {
            PARTS(PART, 1, f, in.features)
        } else {
            PARTS(PART, 0, f, in.features)
        }
#undef PART
}

INLINE void aggregate_back_part(int edges, int U, Messages in, long f, const vec *value, const vec *grad, vec *grad_y,
                                vec *grad_added) {
    vec low[FEATURES_AT_ONCE], high[FEATURES_AT_ONCE], grad_low[FEATURES_AT_ONCE], grad_high[FEATURES_AT_ONCE];
    vec level[FEATURES_AT_ONCE], slope[FEATURES_AT_ONCE];
    long features = in.features;
    real share = (real)1 / in.degree;
    value += f;
    grad += f;
    UNROLL for (int u = 0; u < U; u++) {
        vec std = value[3 * features + u];
        /* d std / d y_j = (y_j - mean) / (degree std), and zero below the smallest variance */
        slope[u] = where_positive(std, grad[3 * features + u] * share * quick_inverse(std));
        level[u] = grad[u] * share - slope[u] * value[u];
        low[u] = value[features + u];
        high[u] = value[2 * features + u];
        grad_low[u] = grad[features + u];
        grad_high[u] = grad[2 * features + u];
    }
    for (long e = 0; e < in.degree; e++) {
        const vec *from = in.y + in.neighbour[e] * features + f;
        vec *to = grad_y + in.neighbour[e] * features + f;
        long kind = edges ? in.kind[e] * features + f : 0;
        UNROLL for (int u = 0; u < U; u++) {
            if (edges) {
                vec v = from[u] + in.added[kind + u], sum = level[u] + slope[u] * v;
                sum = take_first(sum, v, low[u], &grad_low[u]);
                sum = take_first(sum, v, high[u], &grad_high[u]);
                to[u] += sum;
                grad_added[kind + u] += sum;
            } else {
                vec v = from[u], sum = to[u] + (level[u] + slope[u] * v);
                sum = take_first(sum, v, low[u], &grad_low[u]);
                to[u] = take_first(sum, v, high[u], &grad_high[u]);
            }
        }
    }
}

/* Adds to grad_y of the neighbours, and to grad_added of the edges' kinds, the gradients that follow from `grad`, that
 * of the aggregates `value` of one receiver. */
static void aggregate_back(Messages in, const vec *value, const vec *grad, vec *grad_y, vec *grad_added) {
#define PART(edges, U) aggregate_back_part(edges, U, in, f, value, grad, grad_y, grad_added)
    for (long f = 0; f < in.features; f += FEATURES_AT_ONCE)
        if (in.added) {
            PARTS(PART, 1, f, in.features)
        } else {
            PARTS(PART, 0, f, in.features)
        }
#undef PART
}

#endif
