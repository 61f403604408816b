/* The working memory for one member at a time, in one block that the caller owns. */
#ifndef FUSED_MEMORY_H
#define FUSED_MEMORY_H

#include "convolution.h"
#include "heads.h"

typedef struct {
    int64_t *sample;       /* [blocks * LANES]; lanes without a sample repeat the first one */
    vec *mask;             /* [blocks]: 1 in lanes with a sample, else 0 */
    vec *input;            /* [blocks][atoms][F0] */
    vec **value;           /* [layers]: output of each convolution, [blocks][atoms][out] */
    Norm *norm;            /* [layers] */
    real **matrices;       /* [layers]: [groups][matrix_room] */
    FoldMemory *fold;      /* [layers] */
    real *grad_matrices;   /* of one layer */
    ConvolutionMemory convolution;
    HeadMemory head;
    vec *x;                /* [atoms][widest]: input of a layer, one block */
    vec *grad, *grad_next; /* [blocks][atoms][widest] */
    vec *stacked;          /* [CHUNK][atoms][stacked rows] */
    vec *sum, *sum_product;
    double *known; /* [tasks]: targets known in the batch */
    size_t bytes;
} Memory;

typedef struct {
    char *base;
    size_t used;
} Arena;

static void *take(Arena *arena, size_t bytes) {
    void *place = arena->base ? arena->base + arena->used : NULL;
    arena->used += (bytes + VECTOR_BYTES - 1) / VECTOR_BYTES * VECTOR_BYTES;
    return place;
}
static vec *take_vectors(Arena *arena, long count) { return take(arena, count * sizeof(vec)); }
static real *take_reals(Arena *arena, long count) { return take(arena, count * sizeof(real)); }

typedef struct {
    long feature, in, rows, fold, matrices, head, linears;
} Widest;

INLINE void raise_to(long *to, long value) {
    if (value > *to) *to = value;
}

static Widest widest_of(const Plan *plan) {
    Widest w = {0};
    for (long l = 0; l < plan->layers; l++) {
        const Layer *layer = plan->layer + l;
        raise_to(&w.in, layer->in);
        raise_to(&w.feature, layer->in);
        raise_to(&w.feature, layer->out);
        raise_to(&w.rows, stacked_rows(layer));
        raise_to(&w.fold, fold_vectors(layer));
        raise_to(&w.fold, own_chunks(layer) * layer->in); /* the gradient of [W1, b] goes there too */
        raise_to(&w.matrices, plan->groups * matrix_room(layer));
    }
    for (long t = 0; t < plan->tasks; t++) {
        raise_to(&w.linears, plan->task[t].linears);
        for (long k = 0; k < plan->task[t].linears; k++) raise_to(&w.head, plan->task[t].linear[k].out);
    }
    raise_to(&w.head, w.feature);
    return w;
}

static Norm take_norm(Arena *arena, long room) {
    Norm norm;
    real **part[] = {&norm.mean, &norm.inverse, &norm.scale, &norm.shift, &norm.slope, &norm.level};
    for (size_t k = 0; k < sizeof part / sizeof *part; k++) *part[k] = take_reals(arena, room);
    return norm;
}

/* Memory that all layers use for folding, in turn. */
static FoldMemory take_shared_fold(Arena *arena, const Widest *w) {
    FoldMemory shared = {0};
    shared.folded = take_vectors(arena, w->fold);
    shared.product = take_vectors(arena, w->fold);
    shared.row = take_reals(arena, w->rows + LANES);
    return shared;
}

static FoldMemory take_fold(Arena *arena, const Layer *layer, FoldMemory shared) {
    shared.extended = take_vectors(arena, fold_vectors(layer));
    shared.shift = take_vectors(arena, own_chunks(layer) * layer->in);
    shared.sum = take_reals(arena, SCALERS * layer->out * layer->in);
    return shared;
}

static void take_layers(Arena *arena, const Plan *plan, const Widest *w, long blocks, Memory *m) {
    FoldMemory shared = take_shared_fold(arena, w);
    m->value = take(arena, plan->layers * sizeof *m->value);
    m->norm = take(arena, plan->layers * sizeof *m->norm);
    m->matrices = take(arena, plan->layers * sizeof *m->matrices);
    m->fold = take(arena, plan->layers * sizeof *m->fold);
    for (long l = 0; l < plan->layers; l++) {
        const Layer *layer = plan->layer + l;
        Norm norm = take_norm(arena, layer->out);
        FoldMemory fold = take_fold(arena, layer, shared);
        vec *value = take_vectors(arena, blocks * plan->atoms * layer->out);
        real *matrices = take_reals(arena, plan->groups * matrix_room(layer));
        if (!arena->base) continue; /* only measuring */
        m->value[l] = value;
        m->norm[l] = norm;
        m->matrices[l] = matrices;
        m->fold[l] = fold;
    }
}

static void take_edges(Arena *arena, const Plan *plan, const Widest *w, EdgeMemory *m) {
    if (!plan->edge_features) return;
    m->added = take(arena, plan->layers * sizeof *m->added);
    for (long l = 0; l < plan->layers; l++) {
        real *added = take_reals(arena, plan->kinds * plan->layer[l].in);
        if (arena->base) m->added[l] = added;
    }
    m->grad_added = take_vectors(arena, edge_vectors(plan, w->in));
    m->grad = take_reals(arena, edge_vectors(plan, w->in));
    m->matrix = take_reals(arena, edge_columns(plan) * w->in);
}

static void take_heads(Arena *arena, const Plan *plan, const Widest *w, HeadMemory *head) {
    head->pooled = take_vectors(arena, w->feature);
    head->grad_pooled = take_vectors(arena, w->feature);
    head->activation = take(arena, (w->linears + 1) * sizeof *head->activation);
    for (long k = 1; k <= w->linears; k++) {
        vec *place = take_vectors(arena, plan->atoms * w->head);
        if (arena->base) head->activation[k] = place;
    }
    for (int k = 0; k < 2; k++) head->grad[k] = take_vectors(arena, plan->atoms * w->head);
}

/* Lays out the memory for batches of at most `samples` from `base` on; if that is NULL, only measures it. */
static Memory lay_out(const Plan *plan, long samples, char *base) {
    Arena arena = {base, 0};
    Widest w = widest_of(plan);
    long blocks = vectors_for(samples), n = plan->atoms;
    Memory m = {0};
    m.sample = take(&arena, blocks * LANES * sizeof *m.sample);
    m.mask = take_vectors(&arena, blocks);
    m.known = take(&arena, plan->tasks * sizeof *m.known);
    m.input = take_vectors(&arena, blocks * n * plan->layer[0].in);
    m.grad_matrices = take_reals(&arena, w.matrices);
    m.x = take_vectors(&arena, n * w.feature);
    m.convolution.y = take_vectors(&arena, n * w.feature);
    m.convolution.grad_y = take_vectors(&arena, n * w.feature);
    m.convolution.tile = take_vectors(&arena, TILE_COLUMNS * w.rows);
    m.sum = take_vectors(&arena, w.feature);
    m.sum_product = take_vectors(&arena, w.feature);
    m.grad = take_vectors(&arena, blocks * n * w.feature);
    m.grad_next = take_vectors(&arena, blocks * n * w.feature);
    m.stacked = take_vectors(&arena, (blocks < CHUNK ? blocks : CHUNK) * n * w.rows);
    take_layers(&arena, plan, &w, blocks, &m);
    take_edges(&arena, plan, &w, &m.convolution.edges);
    take_heads(&arena, plan, &w, &m.head);
    m.bytes = arena.used;
    return m;
}

#endif
