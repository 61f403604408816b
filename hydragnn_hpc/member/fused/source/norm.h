/* Batch normalisation (Ioffe & Szegedy 2015) and ReLU, as torch.nn.BatchNorm1d over all atoms of a batch. */
#ifndef FUSED_NORM_H
#define FUSED_NORM_H

#include "plan.h"

typedef struct {
    real *mean, *inverse; /* of the batch, or running; inverse = 1 / sqrt(variance + epsilon) */
    real *scale, *shift;  /* normalised = value * scale + shift */
    real *slope, *level;  /* backward: gradient = scale * g - slope * (value - mean) - level */
} Norm;

/* to = relu(normalised from), for `count` columns of `features` vectors each. */
static void normalise(const Norm *norm, long features, const vec *from, long count, vec *to) {
    for (long t = 0; t < count; t++, from += features, to += features)
        for (long f = 0; f < features; f++) to[f] = rectify(from[f] * norm->scale[f] + norm->shift[f]);
}

static void prepare_norm(const Layer *layer, const real *parameters, const Norm *norm) {
    for (long f = 0; f < layer->out; f++) {
        norm->scale[f] = parameters[layer->norm_weight + f] * norm->inverse[f];
        norm->shift[f] = parameters[layer->norm_bias + f] - norm->mean[f] * norm->scale[f];
    }
}

static void running_norm(const Plan *plan, const Layer *layer, const real *parameters, const real *buffers,
                         const Norm *norm) {
    for (long f = 0; f < layer->out; f++) {
        norm->mean[f] = buffers[layer->running_mean + f];
        norm->inverse[f] = (real)(1 / sqrt(buffers[layer->running_var + f] + plan->epsilon));
    }
    prepare_norm(layer, parameters, norm);
}

static void add_to_sum(const vec *value, long features, long count, vec mask, vec *sum) {
    for (long t = 0; t < count; t++, value += features)
        for (long f = 0; f < features; f++) sum[f] += mask * value[f];
}

static void add_to_square(const Norm *norm, const vec *value, long features, long count, vec mask, vec *sum) {
    for (long t = 0; t < count; t++, value += features)
        for (long f = 0; f < features; f++) {
            vec difference = value[f] - norm->mean[f];
            sum[f] += mask * (difference * difference);
        }
}

/* Statistics of one feature from its sum of squared differences from the mean. */
INLINE void finish_statistics(const Plan *plan, const Layer *layer, real *buffers, const Norm *norm, long f,
                              double count, double square) {
    real *mean = buffers + layer->running_mean + f, *var = buffers + layer->running_var + f;
    norm->inverse[f] = (real)(1 / sqrt(square / count + plan->epsilon));
    *mean = (real)((1 - plan->momentum) * *mean + plan->momentum * norm->mean[f]);
    *var = (real)((1 - plan->momentum) * *var + plan->momentum * (square / (count - 1)));
}

/* Batch statistics of `values` [blocks][atoms][features]; updates the running ones.
 * `sum` holds the masked sums over the batch, and is overwritten. */
static void batch_norm(const Plan *plan, const Layer *layer, const real *parameters, real *buffers, const vec *values,
                       const vec *mask, long samples, vec *sum, const Norm *norm) {
    long features = layer->out, blocks = vectors_for(samples);
    double count = (double)samples * plan->atoms;
    for (long f = 0; f < features; f++) {
        norm->mean[f] = (real)(sum_lanes(sum[f]) / count);
        sum[f] = (vec){};
    }
    for (long b = 0; b < blocks; b++)
        add_to_square(norm, values + b * plan->atoms * features, features, plan->atoms, mask[b], sum);
    for (long f = 0; f < features; f++)
        finish_statistics(plan, layer, buffers, norm, f, count, sum_lanes(sum[f]));
    prepare_norm(layer, parameters, norm);
}

/* Backward through the ReLU: grad becomes zero where x is. Adds to both sums that batch norm's gradient needs: of the
 * gradient, and of the gradient times (value - mean). */
static void rectify_back(const Norm *norm, long features, long count, const vec *x, const vec *value, vec *grad,
                         vec *sum, vec *sum_product) {
    for (long t = 0; t < count; t++, x += features, value += features, grad += features)
        for (long f = 0; f < features; f++) {
            vec g = where_positive(x[f], grad[f]);
            grad[f] = g;
            sum[f] += g;
            sum_product[f] += g * (value[f] - norm->mean[f]);
        }
}

/* Gradients of batch norm's weight and bias of one feature from its two sums, and what norm_back needs. */
INLINE void finish_feature_back(const Layer *layer, const Norm *norm, long f, double count, real total, real product,
                                real *gradients) {
    product *= norm->inverse[f];
    gradients[layer->norm_bias + f] = total;
    gradients[layer->norm_weight + f] = product;
    norm->slope[f] = norm->scale[f] * norm->inverse[f] * (real)(product / count);
    norm->level[f] = norm->scale[f] * (real)(total / count);
}

static void finish_norm_back(const Layer *layer, double count, const vec *sum, const vec *sum_product,
                             const Norm *norm, real *gradients) {
    for (long f = 0; f < layer->out; f++)
        finish_feature_back(layer, norm, f, count, sum_lanes(sum[f]), sum_lanes(sum_product[f]), gradients);
}

/* Gradient with respect to batch norm's input, in place; zero in lanes without a sample. */
static void norm_back(const Norm *norm, long features, long count, const vec *value, vec mask, vec *grad) {
    for (long t = 0; t < count; t++, value += features, grad += features)
        for (long f = 0; f < features; f++)
            grad[f] = mask * (norm->scale[f] * grad[f] - norm->slope[f] * (value[f] - norm->mean[f]) - norm->level[f]);
}

#endif
