/* The working memory for a batch, in one block like that of ../memory.h. */
#ifndef FUSED_VARYING_MEMORY_H
#define FUSED_VARYING_MEMORY_H

#include "../memory.h"
#include "convolution.h"
#include "heads.h"
#include "norm.h"

typedef struct {
    Batch batch;
    real **value;        /* [layers]: output of each convolution, [atoms][padded out] */
    Norm *norm;          /* [layers], padded */
    real **matrices;     /* [layers]: [groups][matrix_room] */
    FoldMemory *fold;    /* [layers] */
    real *grad_matrices; /* of one layer */
    RowMemory *rows;     /* [layers] */
    RowHeadMemory head;
    real *x;                /* [atoms][padded widest]: input of the heads */
    real *grad, *grad_next; /* [atoms][padded widest] */
    double *total, *total_product;
    size_t bytes;
} BatchMemory;

/* The largest sizes of a batch. Steps keep the stacked rows and y of all layers for the backward pass, predictions
 * those of one layer. */
typedef struct {
    long samples, atoms, edges;
    int training;
} Extent;

/* With room for what is read and written past the end. */
static real *take_rows(Arena *arena, long count, long width) {
    return take_reals(arena, count * width + ROWS_AT_ONCE * padded(width));
}

static void take_batch(Arena *arena, const Plan *plan, long samples, long atoms, Batch *batch) {
    batch->edge = take(arena, (atoms + 1) * sizeof *batch->edge);
    batch->first = take(arena, (samples + 1) * sizeof *batch->first);
    batch->row = take(arena, atoms * sizeof *batch->row);
    batch->owner = take(arena, atoms * sizeof *batch->owner);
    batch->degree = take(arena, atoms * sizeof *batch->degree);
    batch->neighbour = take(arena, atoms * sizeof *batch->neighbour);
    batch->order = take(arena, atoms * sizeof *batch->order);
    batch->group = take(arena, (plan->groups + 1) * sizeof *batch->group);
    batch->count = take(arena, (plan->groups + 1) * sizeof *batch->count);
    batch->scale = take_reals(arena, plan->groups * SCALERS);
}

static void take_kept_rows(Arena *arena, long atoms, const Widest *w, RowMemory *m) {
    m->stacked = take_rows(arena, atoms, padded(w->rows + LANES - 1));
    m->y = take_rows(arena, atoms, padded(w->feature));
}

static RowMemory take_shared_rows(Arena *arena, const Plan *plan, const Widest *w, Extent size) {
    long feature = padded(w->feature);
    RowMemory m = {0};
    m.grad_stacked = take_rows(arena, size.atoms, padded(w->rows + LANES - 1));
    m.grad_y = take_rows(arena, size.atoms, feature);
    m.neighbours = take_rows(arena, w->feature, feature);
    m.matrix = take_rows(arena, w->rows, feature);
    if (!plan->edge_features) return m;
    long most_neighbours = plan->groups - 1;
    m.edges.features = take_rows(arena, size.edges, feature_room(plan));
    m.edges.matrix = take_rows(arena, edge_columns(plan), feature);
    m.edges.grad_matrix = take_rows(arena, edge_columns(plan), feature);
    m.edges.added = take_rows(arena, most_neighbours, feature);
    m.edges.grad_added = take_rows(arena, most_neighbours, feature);
    m.edges.sum = take_reals(arena, edge_columns(plan) * w->feature);
    return m;
}

static void take_layer_rows(Arena *arena, const Plan *plan, const Widest *w, Extent size, long groups, BatchMemory *m) {
    FoldMemory shared = take_shared_fold(arena, w);
    m->value = take(arena, plan->layers * sizeof *m->value);
    m->norm = take(arena, plan->layers * sizeof *m->norm);
    m->matrices = take(arena, plan->layers * sizeof *m->matrices);
    m->fold = take(arena, plan->layers * sizeof *m->fold);
    m->rows = take(arena, plan->layers * sizeof *m->rows);
    RowMemory rows = take_shared_rows(arena, plan, w, size);
    for (long l = 0; l < plan->layers; l++) {
        const Layer *layer = plan->layer + l;
        Norm norm = take_norm(arena, padded(layer->out));
        FoldMemory fold = take_fold(arena, layer, shared);
        real *value = take_rows(arena, size.atoms, padded(layer->out));
        if (l == 0 || size.training) take_kept_rows(arena, size.atoms, w, &rows);
        real *matrices = take_reals(arena, groups * matrix_room(layer));
        if (!arena->base) continue; /* only measuring */
        m->value[l] = value;
        m->norm[l] = norm;
        m->matrices[l] = matrices;
        m->fold[l] = fold;
        m->rows[l] = rows;
    }
}

/* Lays out the memory for batches of at most that size from `base` on (NULL: only measures it). */
static BatchMemory lay_out_batch(const Plan *plan, Extent size, char *base) {
    Arena arena = {base, 0};
    long groups = plan->groups < size.atoms ? plan->groups : size.atoms;
    Plan own = *plan;
    own.groups = groups;
    own.atoms = HEAD_COLUMNS; /* the columns that take_heads makes room for */
    Widest w = widest_of(&own);
    long feature = padded(w.feature);
    BatchMemory m = {0};
    take_batch(&arena, plan, size.samples, size.atoms, &m.batch);
    m.total = take(&arena, feature * sizeof *m.total);
    m.total_product = take(&arena, feature * sizeof *m.total_product);
    m.grad_matrices = take_reals(&arena, w.matrices);
    m.x = take_rows(&arena, size.atoms, feature);
    m.grad = take_rows(&arena, size.atoms, feature);
    m.grad_next = take_rows(&arena, size.atoms, feature);
    m.head.x = take_vectors(&arena, HEAD_COLUMNS * w.feature);
    m.head.grad_x = take_vectors(&arena, HEAD_COLUMNS * w.feature);
    m.head.pooled = take_rows(&arena, size.samples, feature);
    m.head.grad_pooled = take_rows(&arena, size.samples, feature);
    take_layer_rows(&arena, plan, &w, size, groups, &m);
    take_heads(&arena, &own, &w, &m.head.head);
    m.bytes = arena.used;
    return m;
}

#endif
