/* One PNA convolution of a batch of samples that differ in geometry, forward and backward. */
#ifndef FUSED_VARYING_CONVOLUTION_H
#define FUSED_VARYING_CONVOLUTION_H

#include "../fold.h"
#include "aggregate.h"
#include "batch.h"
#include "edges.h"

typedef struct {
    real *stacked, *grad_stacked; /* [atoms][stacked_room]: x, 1, mean, minimum, maximum, standard deviation */
    real *y, *grad_y;             /* [atoms][padded(in)]: W2 x and its gradient */
    real *neighbours;             /* [in][padded(in)]: W2 transposed, or the gradient of W2 */
    real *matrix;                 /* [stacked rows][padded(out)]: M(d) transposed, or its gradient */
    EdgeRows edges;
} RowMemory;

/* Numbers from one stacked row to the next, with room for the vectors that begin in it. */
INLINE long stacked_room(const Layer *layer) { return padded(stacked_rows(layer) + LANES - 1); }
INLINE Rows stacked_of(const Layer *layer, real *data, const int32_t *order) {
    return rows(data, stacked_room(layer), order);
}
INLINE Rows inputs_of(const Layer *layer, real *data) { return rows(data, padded(layer->in), NULL); }
INLINE Rows outputs_of(const Layer *layer, real *data, const int32_t *order) {
    return rows(data, padded(layer->out), order);
}

INLINE RowMessages row_messages(const Plan *plan, const Layer *layer, const Batch *batch, const RowMemory *m, long t) {
    long stride = padded(layer->in);
    return (RowMessages){.y = m->y + batch->first[batch->owner[t]] * stride,
                         .added = added_rows(plan, layer, batch, &m->edges, t),
                         .stride = stride,
                         .neighbour = batch->neighbour[t],
                         .degree = batch->degree[t],
                         .features = layer->in};
}

/* Fills y and the stacked rows, whose first `in` columns hold x. */
static void stack_rows(const Plan *plan, const Layer *layer, const real *parameters, const Batch *batch,
                       const RowMemory *m) {
    long in = layer->in, stride = padded(in), room = stacked_room(layer);
    for (long t = 0; t < batch->atoms; t++) m->stacked[t * room + in] = 1;
    fill_edge_matrix(plan, layer, parameters, &m->edges);
    transpose_rows(parameters + layer->pre_weight + in, layer->pre_width, in, in, m->neighbours, stride);
    for (long s = 0; s < batch->samples; s++) {
        long first = batch->first[s], end = batch->first[s + 1];
        rows_multiply(m->neighbours, stride, in, in, 0, stacked_of(layer, m->stacked + first * room, NULL),
                      inputs_of(layer, m->y + first * stride), end - first);
        for (long t = first; t < end; t++)
            gather(row_messages(plan, layer, batch, m, t), m->stacked + t * room + in + 1);
    }
}

/* out = M(d) stacked, degree by degree. */
static void convolve_rows(const Layer *layer, const real *matrices, const Batch *batch, const RowMemory *m, real *out) {
    long depth = stacked_rows(layer), width = layer->out, stride = padded(width);
    for (long g = 0; g < batch->groups; g++) {
        const int32_t *order = batch->order + batch->group[g];
        transpose_rows(matrices + g * matrix_room(layer), depth, width, depth, m->matrix, stride);
        rows_multiply(m->matrix, stride, depth, width, 0, stacked_of(layer, m->stacked, order),
                      outputs_of(layer, out, order), batch->group[g + 1] - batch->group[g]);
    }
}

/* From grad, the gradient of the output: the gradients of the matrices and of the stacked rows. The former are written
 * with the room behind them: what is read there is multiplied by zeros, which a NaN left there would survive. */
static void matrices_rows_back(const Layer *layer, const real *matrices, const Batch *batch, const RowMemory *m,
                               real *grad, real *grad_matrices) {
    long depth = stacked_rows(layer), width = layer->out, room = matrix_room(layer);
    for (long g = 0; g < batch->groups; g++) {
        const int32_t *order = batch->order + batch->group[g];
        long count = batch->group[g + 1] - batch->group[g];
        Rows stacked = stacked_of(layer, m->stacked, order), outputs = outputs_of(layer, grad, order);
        memset(m->matrix, 0, depth * padded(width) * sizeof(real));
        rows_outer(stacked, depth, outputs, width, count, m->matrix);
        transpose_rows(m->matrix, padded(width), depth, width, grad_matrices + g * room, depth);
        memset(grad_matrices + g * room + depth * width, 0, (room - depth * width) * sizeof(real));
        rows_multiply(matrices + g * room, depth, width, depth, 0, outputs,
                      stacked_of(layer, m->grad_stacked, order), count);
    }
}

/* From grad_stacked: the gradients of W2 and of the edges (added), and that of x (unless NULL). */
static void stack_rows_back(const Plan *plan, const Layer *layer, const real *parameters, const Batch *batch,
                            const RowMemory *m, real *grad_x, real *gradients) {
    long in = layer->in, stride = padded(in), room = stacked_room(layer);
    const real *neighbours = parameters + layer->pre_weight + in;
    memset(m->neighbours, 0, in * stride * sizeof(real));
    fill_edge_matrix(plan, layer, parameters, &m->edges);
    if (m->edges.features) memset(m->edges.grad_matrix, 0, edge_columns(plan) * stride * sizeof(real));
    for (long s = 0; s < batch->samples; s++) {
        long first = batch->first[s], count = batch->first[s + 1] - first;
        real *grad_y = m->grad_y + first * stride;
        memset(grad_y, 0, count * stride * sizeof(real));
        for (long t = first; t < first + count; t++) {
            gather_back(row_messages(plan, layer, batch, m, t), m->stacked + t * room + in + 1,
                        m->grad_stacked + t * room + in + 1, grad_y, m->edges.grad_added);
            added_rows_back(plan, layer, batch, &m->edges, t);
        }
        rows_outer(inputs_of(layer, grad_y), in, stacked_of(layer, m->stacked + first * room, NULL), in, count,
                   m->neighbours);
        if (!grad_x) continue;
        real *to = grad_x + first * stride;
        for (long t = 0; t < count; t++)
            memcpy(to + t * stride, m->grad_stacked + (first + t) * room, in * sizeof(real));
        rows_multiply(neighbours, layer->pre_width, in, in, 1, inputs_of(layer, grad_y), inputs_of(layer, to), count);
    }
    edge_matrix_back(plan, layer, parameters, &m->edges, gradients);
    for (long r = 0; r < in; r++)
        for (long c = 0; c < in; c++)
            gradients[layer->pre_weight + in + r * layer->pre_width + c] += m->neighbours[r * stride + c];
}

#endif
