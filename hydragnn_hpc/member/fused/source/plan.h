/* What the kernels read: sizes, the offset of each parameter, the geometry, the data. Mirrored field by field in
 * plan.py; interface.h lists what is compared with it. Offsets count elements of one member's flat parameter (or
 * buffer) vector. In shapes: S samples of A atoms in all, F0 inputs and K edge features; n atoms and m edges of the
 * geometry that all samples share; G geometries of B sites and E edges in all where each sample has one of its own. */
#ifndef FUSED_PLAN_H
#define FUSED_PLAN_H

#include "product.h"

#define SCALERS 4     /* identity, amplification, attenuation, linear */
#define AGGREGATES 4  /* mean, minimum, maximum, standard deviation */
#define CHUNK 4       /* blocks of samples whose stacked aggregates are kept at once */

enum { POOL_MEAN, POOL_SUM, POOL_MAX };
enum { BASIS_GAUSSIAN, BASIS_BESSEL };
enum { ENVELOPE_NONE, ENVELOPE_POLYNOMIAL };
enum { LOSS_MSE, LOSS_MAE, LOSS_HUBER, LOSS_NLL };

typedef struct {
    int64_t in, out;
    int64_t pre_weight, pre_bias, post_weight, post_bias, lin_weight, lin_bias, norm_weight, norm_bias;
    int64_t running_mean, running_var;
    int64_t pre_width, encoder_weight, encoder_bias; /* pre_weight: [in, pre_width]; encoder: of edge features */
} Layer;

typedef struct {
    int64_t in, out, weight, bias;
} Linear;

typedef struct {
    int64_t graph, width, linears; /* whether at graph level; components of the target; number of linear layers */
    int64_t partial; /* whether some targets are missing (NaN) */
    int64_t loss;
    const Linear *linear;
    double weight, delta; /* factor of the loss in the total; where the Huber loss becomes linear */
    const real *target; /* [S, n, width] or, at graph level, [S, width] */
} Task;

typedef struct {
    int64_t atoms, layers, tasks, groups, pooling, parameters, buffers;
    int64_t edge_features, kinds; /* K, 0 for none; number of kinds: edges of one length; 0 where geometries vary */
    const int64_t *order;     /* [n]: the atom at each place; atoms of equal degree are adjacent */
    const int32_t *first;     /* [n + 1]: first neighbour of each place */
    const int32_t *neighbour; /* [m], places */
    const int64_t *group;     /* [groups + 1]: first place of each degree */
    const real *scale;        /* [groups, SCALERS]; all zero for degree 0 */
    const Layer *layer;
    const Task *task;
    const real *inputs; /* [S, n, F0] */
    const int32_t *kind; /* [m] */
    const real *basis;   /* [kinds, K + 1]: features of edges, and 1; [K], centres, where geometries vary */
    double momentum, epsilon;
    /* For samples with geometries of their own; NULL where all share one. With them, `groups` and `scale` are those of
     * degrees 0, 1, ..., `neighbour` counts from a sample's first atom, inputs and node-level targets are [A, ...]. */
    const int64_t *first_row;       /* [S + 1]: first atom of each sample */
    const int32_t *sample_geometry; /* [S] */
    const int64_t *first_site;      /* [G + 1]: first site of each geometry */
    const int64_t *first_edge;      /* [B + 1]: first edge of each site */
    const double *edge_vectors;     /* [E, 3] */
    int64_t edge_basis, edge_envelope;
    double edge_cutoff, edge_factor; /* Gaussians are exp(factor (length - basis[k])^2) */
} Plan;

/* Width of a head's output: that of the target or, with its noise, twice as much. */
INLINE long head_outputs(const Task *task) { return task->linear[task->linears - 1].out; }

/* Rows of a stacked column: the atom's own features, the constant 1, then the four aggregates. */
INLINE long stacked_rows(const Layer *layer) { return (1 + AGGREGATES) * layer->in + 1; }

#endif
