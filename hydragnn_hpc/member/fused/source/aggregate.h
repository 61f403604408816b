/* Aggregation over neighbours, forward and backward (Corso et al. 2020, eq. 2 to 5).
 *
 * y holds one block: a column of `features` vectors per atom. Features go five at a time, so that the
 * running sums of one receiver stay in registers while its neighbours are visited. Mean and variance are
 * of the differences from the first neighbour: mean(y^2) - mean(y)^2 cancels in float32, but shifted by
 * one of the values the squared mean is at most degree times the variance, so little is lost.
 */
#ifndef FUSED_AGGREGATE_H
#define FUSED_AGGREGATE_H

#include "plan.h"

#define FEATURES_AT_ONCE 5

/* PyTorch Geometric: clamp(var, 1e-5).sqrt(), then zero where that is not above sqrt(1e-5). */
#define SMALLEST_VARIANCE ((real)1e-5)

INLINE vec deviation(vec variance) {
    return where_positive(variance - SMALLEST_VARIANCE, quick_root(variance));
}

INLINE void aggregate_part(int U, const vec *y, const int32_t *neighbour, long degree, long features, vec *out) {
    vec origin[FEATURES_AT_ONCE], sum[FEATURES_AT_ONCE], square[FEATURES_AT_ONCE];
    vec low[FEATURES_AT_ONCE], high[FEATURES_AT_ONCE];
    real share = (real)1 / degree;
    const vec *from = y + neighbour[0] * features;
    UNROLL for (int u = 0; u < U; u++) {
        origin[u] = low[u] = high[u] = from[u];
        sum[u] = square[u] = (vec){};
    }
    for (long e = 1; e < degree; e++) {
        from = y + neighbour[e] * features;
        UNROLL for (int u = 0; u < U; u++) {
            vec value = from[u], difference = value - origin[u];
            sum[u] += difference;
            square[u] += difference * difference;
            low[u] = minimum(low[u], value);
            high[u] = maximum(high[u], value);
        }
    }
    UNROLL for (int u = 0; u < U; u++) {
        vec mean = sum[u] * share;
        out[u] = origin[u] + mean;
        out[features + u] = low[u];
        out[2 * features + u] = high[u];
        out[3 * features + u] = deviation(square[u] * share - mean * mean);
    }
}

/* out[4 * features] of one receiver: mean, minimum, maximum, standard deviation; zeros without neighbours. */
static void aggregate(const vec *y, const int32_t *neighbour, long degree, long features, vec *out) {
    if (degree == 0) {
        memset(out, 0, AGGREGATES * features * sizeof(vec));
        return;
    }
    for (long f = 0; f < features; f += FEATURES_AT_ONCE) {
#define PART(U) aggregate_part(U, y + f, neighbour, degree, features, out + f)
        switch (features - f) {
        case 1: PART(1); break;
        case 2: PART(2); break;
        case 3: PART(3); break;
        case 4: PART(4); break;
        default: PART(5); break;
        }
#undef PART
    }
}

INLINE void aggregate_back_part(int U, const vec *y, const int32_t *neighbour, long degree, long features,
                                const vec *value, const vec *grad, vec *grad_y) {
    vec low[FEATURES_AT_ONCE], high[FEATURES_AT_ONCE], grad_low[FEATURES_AT_ONCE], grad_high[FEATURES_AT_ONCE];
    vec level[FEATURES_AT_ONCE], slope[FEATURES_AT_ONCE];
    real share = (real)1 / degree;
    UNROLL for (int u = 0; u < U; u++) {
        vec std = value[3 * features + u];
        /* d std / d y_j = (y_j - mean) / (degree std), and nothing below the smallest variance */
        slope[u] = where_positive(std, grad[3 * features + u] * share * quick_inverse(std));
        level[u] = grad[u] * share - slope[u] * value[u];
        low[u] = value[features + u];
        high[u] = value[2 * features + u];
        grad_low[u] = grad[features + u];
        grad_high[u] = grad[2 * features + u];
    }
    for (long e = 0; e < degree; e++) {
        const vec *from = y + neighbour[e] * features;
        vec *to = grad_y + neighbour[e] * features;
        UNROLL for (int u = 0; u < U; u++) {
            vec v = from[u], sum = to[u] + (level[u] + slope[u] * v);
            sum = take_first(sum, v, low[u], &grad_low[u]);
            to[u] = take_first(sum, v, high[u], &grad_high[u]);
        }
    }
}

/* Adds to grad_y of the neighbours what `grad` on the aggregates `value` of one receiver implies. */
static void aggregate_back(const vec *y, const int32_t *neighbour, long degree, long features, const vec *value,
                           const vec *grad, vec *grad_y) {
    for (long f = 0; f < features; f += FEATURES_AT_ONCE) {
#define PART(U) aggregate_back_part(U, y + f, neighbour, degree, features, value + f, grad + f, grad_y + f)
        switch (features - f) {
        case 1: PART(1); break;
        case 2: PART(2); break;
        case 3: PART(3); break;
        case 4: PART(4); break;
        default: PART(5); break;
        }
#undef PART
    }
}

#endif
