/* Batch normalisation and ReLU, as in ../norm.h, where lanes are features. */
#ifndef FUSED_VARYING_NORM_H
#define FUSED_VARYING_NORM_H

#include "../norm.h"
#include "rows.h"

#define SUMMED_AT_ONCE 32 /* rows; so few are summed in `real` without a loss that matters */

/* to = relu(normalised) */
static void normalise_rows(const Norm *norm, long features, const real *from, long count, Rows to) {
    long stride = padded(features);
    for (long t = 0; t < count; t++)
        for (long f = 0; f < features; f += LANES)
            store_loose(row_of(to, t) + f, rectify(load_loose(from + t * stride + f) * load_loose(norm->scale + f) +
                                                   load_loose(norm->shift + f)));
}

INLINE void add_to_total(vec sum, double *total) {
    for (int l = 0; l < LANES; l++) total[l] += sum[l];
}

/* total[f] += sum of the values, or of their squared differences from the mean */
static void add_rows(const Norm *norm, long features, const real *value, long count, int squared, double *total) {
    long stride = padded(features);
    for (long begin = 0; begin < count; begin += SUMMED_AT_ONCE) {
        long end = begin + SUMMED_AT_ONCE < count ? begin + SUMMED_AT_ONCE : count;
        for (long f = 0; f < stride; f += LANES) {
            vec sum = {}, mean = load_loose(norm->mean + f);
            for (long t = begin; t < end; t++) {
                vec v = load_loose(value + t * stride + f);
                if (squared) v = (v - mean) * (v - mean);
                sum += v;
            }
            add_to_total(sum, total + f);
        }
    }
}

/* Batch statistics of `value` [count][padded features]; updates the running ones. total: scratch. */
static void batch_norm_rows(const Plan *plan, const Layer *layer, const real *parameters, real *buffers,
                            const real *value, long count, double *total, const Norm *norm) {
    long features = layer->out;
    memset(total, 0, padded(features) * sizeof *total);
    add_rows(norm, features, value, count, 0, total);
    for (long f = 0; f < features; f++) {
        norm->mean[f] = (real)(total[f] / (double)count);
        total[f] = 0;
    }
    add_rows(norm, features, value, count, 1, total);
    for (long f = 0; f < features; f++) finish_statistics(plan, layer, buffers, norm, f, (double)count, total[f]);
    prepare_norm(layer, parameters, norm);
}

/* Backward through the ReLU after `norm`: grad becomes zero where its output is, and is added to the totals, as is its
 * product with (value - mean). */
static void rectify_rows_back(const Norm *norm, long features, const real *value, long count, real *grad,
                              double *total, double *total_product) {
    long stride = padded(features);
    for (long begin = 0; begin < count; begin += SUMMED_AT_ONCE) {
        long end = begin + SUMMED_AT_ONCE < count ? begin + SUMMED_AT_ONCE : count;
        for (long f = 0; f < stride; f += LANES) {
            vec sum = {}, product = {}, mean = load_loose(norm->mean + f);
            vec scale = load_loose(norm->scale + f), shift = load_loose(norm->shift + f);
            for (long t = begin; t < end; t++) {
                vec v = load_loose(value + t * stride + f);
                vec g = where_positive(v * scale + shift, load_loose(grad + t * stride + f));
                store_loose(grad + t * stride + f, g);
                sum += g;
                product += g * (v - mean);
            }
            add_to_total(sum, total + f);
            add_to_total(product, total_product + f);
        }
    }
}

/* Gradient with respect to batch norm's input, in place, from the totals; also those of its weight and bias. */
static void norm_rows_back(const Layer *layer, const Norm *norm, const real *value, long count, real *grad,
                           const double *total, const double *total_product, real *gradients) {
    long features = layer->out, stride = padded(features);
    for (long f = 0; f < features; f++)
        finish_feature_back(layer, norm, f, (double)count, (real)total[f], (real)total_product[f], gradients);
    for (long t = 0; t < count; t++)
        for (long f = t * stride, k = 0; k < features; f += LANES, k += LANES) {
            vec difference = load_loose(value + f) - load_loose(norm->mean + k);
            store_loose(grad + f, load_loose(norm->scale + k) * load_loose(grad + f) -
                                      load_loose(norm->slope + k) * difference - load_loose(norm->level + k));
        }
}

#endif
