/* One PNA convolution of one block of samples, forward and backward. */
#ifndef FUSED_CONVOLUTION_H
#define FUSED_CONVOLUTION_H

#include "aggregate.h"
#include "edges.h"
#include "fold.h"

#define OUTER_AT_ONCE 32 /* most columns of an outer product over several blocks */

typedef struct {
    vec *y, *grad_y;  /* [atoms][features]: W2 x and its gradient */
    vec *tile;        /* [TILE_COLUMNS][stacked rows] */
    EdgeMemory edges;
} ConvolutionMemory;

/* W2 of m_ij = W1 x_i + W2 x_j + b */
INLINE Matrix neighbour_matrix(const Layer *layer, const real *parameters) {
    return rows_of(parameters + layer->pre_weight + layer->in, layer->in, layer->in, layer->pre_width);
}
INLINE Matrix degree_matrix(const Layer *layer, const real *matrices, long group) {
    return rows_of(matrices + group * matrix_room(layer), layer->out, stacked_rows(layer), stacked_rows(layer));
}
INLINE long tile_end(const Plan *plan, long place, long group) {
    long end = place + TILE_COLUMNS, last = plan->group[group + 1];
    return end < last ? end : last;
}

INLINE Messages messages(const Plan *plan, const Layer *layer, const ConvolutionMemory *m, long place) {
    long first = plan->first[place], degree = plan->first[place + 1] - first;
    const real *added = m->edges.added ? m->edges.added[layer - plan->layer] : NULL;
    return (Messages){m->y, plan->neighbour + first, added ? plan->kind + first : NULL, added, degree, layer->in};
}

/* Stacked columns [x, 1, mean, min, max, std] of the atoms at places [begin, end). */
static void stack(const Plan *plan, const Layer *layer, const ConvolutionMemory *m, const vec *x, long begin, long end,
                  Columns to) {
    long in = layer->in;
    for (long i = begin; i < end; i++) {
        vec *column = to.data + (i - begin) * to.stride;
        memcpy(column, x + i * in, in * sizeof(vec));
        column[in] = (vec){} + 1;
        aggregate(messages(plan, layer, m, i), column + in + 1);
    }
}

/* x [atoms][in] -> out [atoms][out] */
static void convolve(const Plan *plan, const Layer *layer, const real *parameters, const real *matrices,
                     const ConvolutionMemory *m, vec *x, vec *out) {
    long in = layer->in, rows = stacked_rows(layer);
    multiply(neighbour_matrix(layer, parameters), columns(x, in, plan->atoms), columns(m->y, in, plan->atoms));
    for (long g = 0; g < plan->groups; g++) {
        Matrix matrix = degree_matrix(layer, matrices, g);
        for (long i = plan->group[g]; i < plan->group[g + 1]; i = tile_end(plan, i, g)) {
            Columns tile = columns(m->tile, rows, tile_end(plan, i, g) - i);
            stack(plan, layer, m, x, i, i + tile.count, tile);
            multiply(matrix, tile, columns(out + i * layer->out, layer->out, tile.count));
        }
    }
}

/* Backward through one tile of atoms of one degree: adds to grad_y and grad_added, writes their own part of grad_x. */
static void tile_back(const Plan *plan, const Layer *layer, Matrix matrix, const ConvolutionMemory *m, long place,
                      Columns grad, Columns stacked, vec *grad_x) {
    long in = layer->in, rows = stacked_rows(layer);
    matrix = transposed(matrix);
    multiply(matrix, grad, columns(m->tile, rows, grad.count));
    for (long t = 0; t < grad.count; t++) {
        const vec *column = m->tile + t * rows;
        if (grad_x) memcpy(grad_x + (place + t) * in, column, in * sizeof(vec));
        aggregate_back(messages(plan, layer, m, place + t), stacked.data + t * stacked.stride + in + 1, column + in + 1,
                       m->grad_y, m->edges.grad_added);
    }
}

/* From grad, the gradient of one block's output: the gradients of W2 and of the edges (added), that of x (unless NULL),
 * and the stacked columns, whose outer products with grad make the gradients of the matrices. */
static void convolve_back(const Plan *plan, const Layer *layer, const real *parameters, const real *matrices,
                          const ConvolutionMemory *m, vec *x, vec *grad, vec *stacked, vec *grad_x, real *gradients) {
    long in = layer->in, rows = stacked_rows(layer), n = plan->atoms;
    Matrix neighbours = neighbour_matrix(layer, parameters);
    multiply(neighbours, columns(x, in, n), columns(m->y, in, n));
    memset(m->grad_y, 0, n * in * sizeof(vec));
    for (long g = 0; g < plan->groups; g++) {
        Matrix matrix = degree_matrix(layer, matrices, g);
        for (long i = plan->group[g]; i < plan->group[g + 1]; i = tile_end(plan, i, g)) {
            long count = tile_end(plan, i, g) - i;
            Columns part = columns(stacked + i * rows, rows, count);
            stack(plan, layer, m, x, i, i + count, part);
            tile_back(plan, layer, matrix, m, i, columns(grad + i * layer->out, layer->out, count), part, grad_x);
        }
    }
    Columns grad_y = columns(m->grad_y, in, n);
    outer_add(grad_y, in, columns(x, in, n), in, gradients + layer->pre_weight + in, layer->pre_width);
    if (grad_x) multiply_add(transposed(neighbours), grad_y, columns(grad_x, in, n));
}

/* Adds the gradients of the matrices: outer products over the blocks of a chunk, degree by degree, as many
 * blocks at once as keep a slice of both in the first-level cache. grad and stacked are [blocks][atoms][...]. */
static void matrices_back(const Plan *plan, const Layer *layer, long blocks, vec *grad, vec *stacked, real *grads) {
    long rows = stacked_rows(layer), out = layer->out;
    for (long g = 0; g < plan->groups; g++) {
        long place = plan->group[g], count = plan->group[g + 1] - place;
        long step = count < OUTER_AT_ONCE ? OUTER_AT_ONCE / count : 1;
        for (long b = 0; b < blocks; b += step) {
            long at_once = b + step < blocks ? step : blocks - b, column = b * plan->atoms + place;
            Columns left = {grad + column * out, out, count, at_once, plan->atoms * out};
            Columns right = {stacked + column * rows, rows, count, at_once, plan->atoms * rows};
            outer_add(left, out, right, rows, grads + g * matrix_room(layer), rows);
        }
    }
}

#endif
