/* The edges' part of PNA's messages (../edges.h) where every edge has a length of its own: a product for each. */
#ifndef FUSED_VARYING_EDGES_H
#define FUSED_VARYING_EDGES_H

#include "../edges.h"
#include "batch.h"

typedef struct {
    real *features; /* [edges][feature_room]: e' = [e, 1]; NULL without edge features, and so is all of this */
    real *matrix, *grad_matrix; /* D^T and A^T: [K + 1][padded(in)] */
    real *added;    /* t of one atom's edges and its gradient: [most neighbours][padded(in)] */
    real *grad_added;
    real *sum; /* D^T or A^T without padding */
} EdgeRows;

INLINE long feature_room(const Plan *plan) { return padded(edge_columns(plan)); }

/* exp(a) for a <= 0, to the last bit or two (Cephes: 2^n times a polynomial of the rest). */
INLINE vec quick_exp(vec a) {
#ifdef FUSED_DOUBLE
    for (int l = 0; l < LANES; l++) a[l] = exp(a[l]);
    return a;
#else
    const real shift = 12582912; /* 1.5 * 2^23: adding it rounds to an integer */
    a = maximum(a, (vec){} - 87);
    vec n = (a * (real)1.44269504088896341 + shift) - shift;
    vec r = a - n * (real)0.693359375 + n * (real)2.12194440e-4;
    vec p = r * (real)1.9875691500e-4 + (real)1.3981999507e-3;
    p = p * r + (real)8.3334519073e-3;
    p = p * r + (real)4.1665795894e-2;
    p = p * r + (real)1.6666665459e-1;
    p = p * r + (real)5.0000001201e-1;
    p = p * (r * r) + r + 1;
    lane_mask exponent = (__builtin_convertvector(n, lane_mask) + 127) << 23;
    return p * (vec)exponent;
#endif
}

/* The K functions of engine/edges.py at one length, and 1. */
static void fill_features(const Plan *plan, double length, real *to) {
    long K = plan->edge_features;
    double x = length / plan->edge_cutoff;
    if (plan->edge_basis == BASIS_BESSEL) { /* sin(k pi x) / x, each from the two before */
        double twice = 2 * cos(M_PI * x), before = 0, sine = sin(M_PI * x);
        for (long k = 0; k < K; k++) {
            to[k] = (real)(sine / x);
            double next = twice * sine - before;
            before = sine;
            sine = next;
        }
    } else {
        for (long k = 0; k < K; k += LANES) {
            vec difference = (real)length - load_loose(plan->basis + k);
            store_loose(to + k, quick_exp((real)plan->edge_factor * (difference * difference)));
        }
    }
    if (plan->edge_envelope == ENVELOPE_POLYNOMIAL) {
        double least = x < 1 ? x : 1, cube = least * least * least;
        real envelope = (real)(1 + cube * cube * (-28 + least * (48 - 21 * least)));
        for (long k = 0; k < K; k++) to[k] *= envelope;
    }
    to[K] = 1;
}

/* Features of all edges of a batch. */
static void fill_edges(const Plan *plan, const Batch *batch, const EdgeRows *m) {
    long room = feature_room(plan);
    for (long t = 0; t < batch->atoms; t++) {
        const double *vector = plan->edge_vectors + 3 * (batch->neighbour[t] - plan->neighbour);
        for (long e = 0; e < batch->degree[t]; e++, vector += 3) {
            double length = sqrt(vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2]);
            fill_features(plan, (real)length, m->features + (batch->edge[t] + e) * room);
        }
    }
}

/* D^T of one layer. */
static void fill_edge_matrix(const Plan *plan, const Layer *layer, const real *parameters, const EdgeRows *m) {
    if (!m->features) return;
    long in = layer->in, width = edge_columns(plan);
    multiply_encoder(plan, layer, parameters, m->sum);
    for (long c = 0; c < width; c++) memcpy(m->matrix + c * padded(in), m->sum + c * in, in * sizeof(real));
}

/* t of the edges of an atom, in m->added; NULL without edge features. */
static const real *added_rows(const Plan *plan, const Layer *layer, const Batch *batch, const EdgeRows *m, long t) {
    if (!m->features) return NULL;
    long room = feature_room(plan), stride = padded(layer->in);
    rows_multiply(m->matrix, stride, edge_columns(plan), layer->in, 0,
                  rows(m->features + batch->edge[t] * room, room, NULL), rows(m->added, stride, NULL),
                  batch->degree[t]);
    return m->added;
}

/* Adds to A^T the contribution of m->grad_added, that of the edges of an atom. */
static void added_rows_back(const Plan *plan, const Layer *layer, const Batch *batch, const EdgeRows *m, long t) {
    if (!m->features) return;
    long room = feature_room(plan);
    rows_outer(rows(m->features + batch->edge[t] * room, room, NULL), edge_columns(plan),
               rows(m->grad_added, padded(layer->in), NULL), layer->in, batch->degree[t], m->grad_matrix);
}

/* Gradients of W3, V and v from A^T. */
static void edge_matrix_back(const Plan *plan, const Layer *layer, const real *parameters, const EdgeRows *m,
                             real *gradients) {
    if (!m->features) return;
    long in = layer->in, width = edge_columns(plan);
    for (long c = 0; c < width; c++) memcpy(m->sum + c * in, m->grad_matrix + c * padded(in), in * sizeof(real));
    multiply_encoder_back(plan, layer, parameters, m->sum, gradients);
}

#endif
