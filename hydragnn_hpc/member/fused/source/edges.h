/* The edges' part of PNA's messages: m_ij = W1 x_i + W2 x_j + b + t_ij,  t_ij = W3 (V e_ij + v).
 *
 * All samples share the edges, so t is one number per edge and feature, the same in every lane; edges of one length
 * (one `kind`) share it, too. With e' = [e, 1] and V' = [V, v]: t = e' D^T, D = W3 V'. Backward, with g the sum over
 * samples of the gradient of an edge's message: A = sum_edges g e'^T,  dW3 = A V'^T,  dV' = W3^T A.
 */
#ifndef FUSED_EDGES_H
#define FUSED_EDGES_H

#include "plan.h"

typedef struct {
    real **added;    /* [layers]: t, [kinds][in]; with no edge features, all of this is NULL */
    vec *grad_added; /* [kinds][in], of one layer, lane by lane */
    real *grad;      /* the same, summed over lanes */
    real *matrix;    /* D^T or A^T: [K + 1][in] */
} EdgeMemory;

INLINE long edge_columns(const Plan *plan) { return plan->edge_features ? plan->edge_features + 1 : 0; }
INLINE const real *edge_matrix(const Layer *layer, const real *parameters, long r) { /* row r of W3 */
    return parameters + layer->pre_weight + r * layer->pre_width + 2 * layer->in;
}

/* Number of vectors in a layer's gradient of t, rounded up to what sum_each() reads. */
INLINE long edge_vectors(const Plan *plan, long in) { return vectors_for(plan->kinds * in) * LANES; }

static void clear_edges(const Plan *plan, const Layer *layer, const EdgeMemory *m) {
    if (m->grad_added) memset(m->grad_added, 0, edge_vectors(plan, layer->in) * sizeof(vec));
}

/* V'[s][c] */
INLINE real encoder(const Plan *plan, const Layer *layer, const real *parameters, long s, long c) {
    return parameters[c < plan->edge_features ? layer->encoder_weight + s * plan->edge_features + c
                                              : layer->encoder_bias + s];
}

/* to[r] += factor * from[r] */
INLINE void add_scaled(long count, real factor, const real *from, real *to) {
    for (long r = 0; r < count; r++) to[r] += factor * from[r];
}

/* D^T of one layer. */
static void multiply_encoder(const Plan *plan, const Layer *layer, const real *parameters, real *matrix) {
    long in = layer->in, width = edge_columns(plan);
    memset(matrix, 0, width * in * sizeof(real));
    for (long c = 0; c < width; c++)
        for (long r = 0; r < in; r++)
            for (long s = 0; s < in; s++)
                matrix[c * in + r] += edge_matrix(layer, parameters, r)[s] * encoder(plan, layer, parameters, s, c);
}

/* t of one layer, for every kind of edge. */
static void add_edges(const Plan *plan, const Layer *layer, const real *parameters, real *matrix, real *added) {
    long in = layer->in, width = edge_columns(plan);
    multiply_encoder(plan, layer, parameters, matrix);
    memset(added, 0, plan->kinds * in * sizeof(real));
    for (long k = 0; k < plan->kinds; k++)
        for (long c = 0; c < width; c++) add_scaled(in, plan->basis[k * width + c], matrix + c * in, added + k * in);
}

/* Gradients of W3, V and v from A^T. */
static void multiply_encoder_back(const Plan *plan, const Layer *layer, const real *parameters, const real *matrix,
                                  real *gradients) {
    long in = layer->in, width = edge_columns(plan), features = plan->edge_features;
    for (long r = 0; r < in; r++) {
        real *own = gradients + layer->pre_weight + r * layer->pre_width + 2 * in;
        for (long s = 0; s < in; s++)
            for (long c = 0; c < width; c++) {
                real grad = matrix[c * in + r];
                own[s] += grad * encoder(plan, layer, parameters, s, c);
                gradients[c < features ? layer->encoder_weight + s * features + c : layer->encoder_bias + s] +=
                    grad * edge_matrix(layer, parameters, r)[s];
            }
    }
}

/* The same from the gradient of t. */
static void add_edges_back(const Plan *plan, const Layer *layer, const real *parameters, const EdgeMemory *m,
                           real *gradients) {
    long in = layer->in, width = edge_columns(plan), count = plan->kinds * in;
    for (long k = 0; k < count; k += LANES) store_loose(m->grad + k, sum_each(m->grad_added + k));
    memset(m->matrix, 0, width * in * sizeof(real));
    for (long k = 0; k < plan->kinds; k++)
        for (long c = 0; c < width; c++)
            add_scaled(in, plan->basis[k * width + c], m->grad + k * in, m->matrix + c * in);
    multiply_encoder_back(plan, layer, parameters, m->matrix, gradients);
}

#endif
