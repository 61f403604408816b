/* Folding one PNA layer into one matrix per distinct degree, and its gradient back again.
 *
 * With the message linear, m_ij = W1 x_i + W2 x_j + b, and y_j = W2 x_j, the aggregates over j of m_ij
 * are those of y_j, mean, minimum and maximum shifted by W1 x_i + b, the standard deviation not. PNA's
 * output  L (P0 x_i + sum_s c_s(d) sum_a P_sa aggregate_a + p) + l  is then linear in the stacked column
 * [x_i, 1, mean y, min y, max y, std y], with one matrix per degree d:
 *
 *   M(d) = L E_0 + sum_s c_s(d) L E_s,   E_0 = [P0, p, 0],   E_s = [S_s W1, S_s b, P_s],
 *   S_s = P_s,mean + P_s,min + P_s,max          (l is added to the constant)
 *
 * E_s ("extended") is stored as columns: chunks of LANES entries of its rows, so that the kernels of
 * product.h serve here too. The chunks of [x, 1] come first, then those of the aggregates.
 */
#ifndef FUSED_FOLD_H
#define FUSED_FOLD_H

#include "plan.h"

typedef struct {
    vec *extended;  /* [1 + SCALERS sections][chunks][out]; section 0 has no aggregates */
    vec *folded;    /* the same times L; in the backward pass the gradient of it */
    vec *product;   /* scratch of the same size */
    vec *shift;     /* [W1, b] as columns: [chunks of in + 1][in] */
    real *sum;      /* S_s: [SCALERS][out][in] */
    real *row;      /* one padded row */
} FoldMemory;

INLINE long own_chunks(const Layer *layer) { return vectors_for(layer->in + 1); }
INLINE long section_chunks(const Layer *layer) { return own_chunks(layer) + vectors_for(AGGREGATES * layer->in); }
INLINE long fold_vectors(const Layer *layer) {
    return (own_chunks(layer) + SCALERS * section_chunks(layer)) * layer->out;
}
/* Offset of the section of scaler s (0 .. SCALERS - 1); that of E_0 is at the start. */
INLINE long section_at(const Layer *layer, int s) {
    return (own_chunks(layer) + s * section_chunks(layer)) * layer->out;
}
/* Room for one matrix M(d), and for what full vectors write past its end. */
INLINE long matrix_room(const Layer *layer) {
    return (layer->out * stacked_rows(layer) + 2 * LANES - 1) / LANES * LANES;
}

/* Spread a row of `entries` numbers over chunks: chunk t goes to to[t * stride]. The rest is zero. */
static void row_to_chunks(const real *from, long entries, vec *to, long stride) {
    long t = 0;
    for (; (t + 1) * LANES <= entries; t++) to[t * stride] = load_loose(from + t * LANES);
    if (t * LANES < entries) {
        real rest[LANES] = {0};
        memcpy(rest, from + t * LANES, (entries - t * LANES) * sizeof(real));
        to[t * stride] = load_loose(rest);
    }
}

static void chunks_to_row(const vec *from, long stride, long entries, real *to) {
    long t = 0;
    for (; (t + 1) * LANES <= entries; t++) store_loose(to + t * LANES, from[t * stride]);
    if (t * LANES < entries) memcpy(to + t * LANES, &from[t * stride], (entries - t * LANES) * sizeof(real));
}

/* [row, last] with one number appended, as chunks. */
static void extended_row_to_chunks(const real *from, long entries, real last, real *row, vec *to, long stride) {
    memcpy(row, from, entries * sizeof(real));
    row[entries] = last;
    row_to_chunks(row, entries + 1, to, stride);
}

static void sum_shifted(const real *aggregates, long in, real *sum) {
    for (long c = 0; c < in; c++) sum[c] = aggregates[c] + aggregates[in + c] + aggregates[2 * in + c];
}

static Columns shift_columns(const Layer *layer, const FoldMemory *m) {
    return columns(m->shift, layer->in, own_chunks(layer));
}

/* Fill `extended`, `shift` and `sum` from the layer's parameters. */
static void extend(const Layer *layer, const real *parameters, const FoldMemory *m) {
    long in = layer->in, out = layer->out, own = own_chunks(layer), width = (1 + SCALERS * AGGREGATES) * in;
    const real *pre = parameters + layer->pre_weight, *post = parameters + layer->post_weight;
    for (long r = 0; r < in; r++)
        extended_row_to_chunks(pre + r * layer->pre_width, in, parameters[layer->pre_bias + r], m->row, m->shift + r,
                               in);
    for (long r = 0; r < out; r++) {
        const real *row = post + r * width;
        extended_row_to_chunks(row, in, parameters[layer->post_bias + r], m->row, m->extended + r, out);
        for (int s = 0; s < SCALERS; s++) {
            const real *part = row + (1 + s * AGGREGATES) * in;
            sum_shifted(part, in, m->sum + (s * out + r) * in);
            row_to_chunks(part, AGGREGATES * in, m->extended + section_at(layer, s) + own * out + r, out);
        }
    }
    for (int s = 0; s < SCALERS; s++)
        multiply(rows_of(m->sum + s * out * in, out, in, in), shift_columns(layer, m),
                 columns(m->extended + section_at(layer, s), out, own));
}

/* Offset of chunk t of row r in a matrix: the chunks of [x, 1], then those of the aggregates. */
INLINE long chunk_at(const Layer *layer, long r, long t) {
    long own = own_chunks(layer);
    return r * stacked_rows(layer) + (t < own ? t * LANES : layer->in + 1 + (t - own) * LANES);
}

/* M(d) of all degrees, each [out][1 + 5 in], from the folded sections. In this order the tail of a last, partly filled
 * chunk is overwritten by what belongs there; only the last row's reaches past the end. */
static void combine(const Plan *plan, const Layer *layer, const vec *folded, const real *bias, real *matrices) {
    long out = layer->out, own = own_chunks(layer), all = section_chunks(layer), room = matrix_room(layer);
    for (long r = 0; r < out; r++) {
        for (long t = 0; t < all; t++) {
            vec part[SCALERS], fixed = t < own ? folded[t * out + r] : (vec){};
            UNROLL for (int s = 0; s < SCALERS; s++) part[s] = folded[section_at(layer, s) + t * out + r];
            for (long g = 0; g < plan->groups; g++) {
                vec sum = fixed;
                UNROLL for (int s = 0; s < SCALERS; s++) sum += plan->scale[g * SCALERS + s] * part[s];
                store_loose(matrices + g * room + chunk_at(layer, r, t), sum);
            }
        }
        for (long g = 0; g < plan->groups; g++) matrices[g * room + r * stacked_rows(layer) + layer->in] += bias[r];
    }
}

/* The matrices of all degrees of one layer, matrix_room() apart. */
static void fold(const Plan *plan, const Layer *layer, const real *parameters, const FoldMemory *m, real *matrices) {
    long out = layer->out, count = fold_vectors(layer) / out;
    extend(layer, parameters, m);
    multiply(rows_of(parameters + layer->lin_weight, out, out, out), columns(m->extended, out, count),
             columns(m->folded, out, count));
    combine(plan, layer, m->folded, parameters + layer->lin_bias, matrices);
}

/* Gradient of the folded sections from that of all M(d); also that of l. Lanes past the end of [x, 1] hold what
 * comes next in the matrix, but are multiplied by zeros of `extended`. */
static void combine_back(const Plan *plan, const Layer *layer, const real *grads, vec *folded, real *grad_bias) {
    long out = layer->out, own = own_chunks(layer), all = section_chunks(layer), room = matrix_room(layer);
    for (long r = 0; r < out; r++) {
        for (long t = 0; t < all; t++) {
            vec part[SCALERS] = {{0}}, fixed = {};
            for (long g = 0; g < plan->groups; g++) {
                vec grad = load_loose(grads + g * room + chunk_at(layer, r, t));
                fixed += grad;
                UNROLL for (int s = 0; s < SCALERS; s++) part[s] += plan->scale[g * SCALERS + s] * grad;
            }
            if (t < own) folded[t * out + r] = fixed;
            for (int s = 0; s < SCALERS; s++) folded[section_at(layer, s) + t * out + r] = part[s];
        }
        for (long g = 0; g < plan->groups; g++) grad_bias[r] += grads[g * room + r * stacked_rows(layer) + layer->in];
    }
}

/* Gradient of P_s, W1 and b from that of E_s (columns at `grad`). `sum` becomes scratch for that of S_s. */
static void extend_back_scaler(const Layer *layer, int s, vec *grad, const FoldMemory *m, real *gradients,
                               Columns grad_shift) {
    long in = layer->in, out = layer->out, own = own_chunks(layer), width = (1 + SCALERS * AGGREGATES) * in;
    real *sum = m->sum + s * out * in;
    Columns grad_own = columns(grad, out, own);
    multiply_add(transposed(rows_of(sum, out, in, in)), grad_own, grad_shift);
    memset(sum, 0, out * in * sizeof(real));
    outer_add(grad_own, out, shift_columns(layer, m), in, sum, in);
    for (long r = 0; r < out; r++) {
        real *row = gradients + layer->post_weight + r * width + (1 + s * AGGREGATES) * in;
        chunks_to_row(grad + own * out + r, out, AGGREGATES * in, row);
        for (int a = 0; a < AGGREGATES - 1; a++)
            for (long c = 0; c < in; c++) row[a * in + c] += sum[r * in + c];
    }
}

static void extend_back(const Layer *layer, vec *grad, const FoldMemory *m, real *gradients) {
    long in = layer->in, out = layer->out, own = own_chunks(layer), width = (1 + SCALERS * AGGREGATES) * in;
    for (long r = 0; r < out; r++) {
        chunks_to_row(grad + r, out, in + 1, m->row);
        memcpy(gradients + layer->post_weight + r * width, m->row, in * sizeof(real));
        gradients[layer->post_bias + r] = m->row[in];
    }
    Columns grad_shift = columns(m->folded, in, own); /* the gradient of the sections is no longer needed */
    memset(grad_shift.data, 0, own * in * sizeof(vec));
    for (int s = 0; s < SCALERS; s++)
        extend_back_scaler(layer, s, grad + section_at(layer, s), m, gradients, grad_shift);
    for (long r = 0; r < in; r++) {
        chunks_to_row(grad_shift.data + r, in, in + 1, m->row);
        memcpy(gradients + layer->pre_weight + r * layer->pre_width, m->row, in * sizeof(real));
        gradients[layer->pre_bias + r] = m->row[in];
    }
}

/* Gradients of post, lin, W1 and b of one layer from `grads`, that of the matrices. Lin's must start at zero. */
static void fold_back(const Plan *plan, const Layer *layer, const real *parameters, const FoldMemory *m,
                      const real *grads, real *gradients) {
    long out = layer->out, count = fold_vectors(layer) / out;
    Columns extended = columns(m->extended, out, count), folded = columns(m->folded, out, count);
    combine_back(plan, layer, grads, m->folded, gradients + layer->lin_bias);
    outer_add(folded, out, extended, out, gradients + layer->lin_weight, out);
    multiply(transposed(rows_of(parameters + layer->lin_weight, out, out, out)), folded,
             columns(m->product, out, count));
    extend_back(layer, m->product, m, gradients);
}

#endif
