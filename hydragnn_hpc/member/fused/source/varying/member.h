/* One training step, or predictions, of one member over samples that differ in geometry and size. */
#ifndef FUSED_VARYING_MEMBER_H
#define FUSED_VARYING_MEMBER_H

#include "memory.h"

/* The plan with the degrees of a batch in place of all degrees. */
static Plan plan_of(const Plan *plan, const Batch *batch) {
    Plan own = *plan;
    own.groups = batch->groups;
    own.scale = batch->scale;
    return own;
}

static void load_batch_rows(const Plan *plan, BatchMemory *m, const int64_t *index, long samples) {
    load_samples(plan, &m->batch, index, samples);
    if (plan->edge_features) fill_edges(plan, &m->batch, &m->rows->edges);
}

/* Input of layer l, written into `to`. */
static void input_rows(const Plan *plan, const BatchMemory *m, long l, Rows to) {
    long width = plan->layer[0].in, atoms = m->batch.atoms;
    if (l > 0) normalise_rows(m->norm + l - 1, plan->layer[l - 1].out, m->value[l - 1], atoms, to);
    else
        for (long t = 0; t < atoms; t++)
            memcpy(row_of(to, t), plan->inputs + m->batch.row[t] * width, width * sizeof(real));
}

static void convolve_layer(const Plan *plan, const BatchMemory *m, const real *parameters, long l) {
    const Layer *layer = plan->layer + l;
    input_rows(plan, m, l, stacked_of(layer, m->rows[l].stacked, NULL));
    stack_rows(plan, layer, parameters, &m->batch, m->rows + l);
    convolve_rows(layer, m->matrices[l], &m->batch, m->rows + l, m->value[l]);
}

/* Leaves the gradient with respect to the last ReLU's output in m->grad. */
static void heads_rows_step(const Plan *plan, const BatchMemory *m, const real *parameters, real *gradients,
                            double *losses) {
    long last = plan->layers - 1, features = plan->layer[last].out, stride = padded(features);
    const Batch *batch = &m->batch;
    HeadRows atoms = {batch->atoms, batch->row, m->x, m->grad};
    HeadRows samples = {batch->samples, batch->sample, m->head.pooled, m->head.grad_pooled};
    input_rows(plan, m, plan->layers, rows(m->x, stride, NULL));
    pool_rows(plan, batch, features, m->x, m->head.pooled);
    memset(m->grad, 0, batch->atoms * stride * sizeof(real));
    memset(m->head.grad_pooled, 0, batch->samples * stride * sizeof(real));
    for (long t = 0; t < plan->tasks; t++) {
        const Task *task = plan->task + t;
        HeadRows of = task->graph ? samples : atoms;
        losses[t] = head_rows_step(task, parameters, &m->head, known_rows(task, of.number, of.count), of, gradients);
    }
    pool_rows_back(plan, batch, features, m->x, m->head.pooled, m->head.grad_pooled, m->grad);
}

/* Backward through layer l: from m->grad, that of its ReLU's output, to m->grad_next. */
static void layer_rows_back(const Plan *plan, const BatchMemory *m, const real *parameters, long l, real *gradients) {
    const Layer *layer = plan->layer + l;
    long atoms = m->batch.atoms, features = padded(layer->out);
    memset(m->total, 0, features * sizeof *m->total);
    memset(m->total_product, 0, features * sizeof *m->total_product);
    rectify_rows_back(m->norm + l, layer->out, m->value[l], atoms, m->grad, m->total, m->total_product);
    norm_rows_back(layer, m->norm + l, m->value[l], atoms, m->grad, m->total, m->total_product, gradients);
    matrices_rows_back(layer, m->matrices[l], &m->batch, m->rows + l, m->grad, m->grad_matrices);
    stack_rows_back(plan, layer, parameters, &m->batch, m->rows + l, l > 0 ? m->grad_next : NULL, gradients);
    fold_back(plan, layer, parameters, m->fold + l, m->grad_matrices, gradients);
}

static void fold_layers(const Plan *plan, const BatchMemory *m, const real *parameters) {
    for (long l = 0; l < plan->layers; l++)
        fold(plan, plan->layer + l, parameters, m->fold + l, m->matrices[l]);
}

static void batch_step(const Plan *all, BatchMemory *m, const real *parameters, real *gradients, real *buffers,
                       const int64_t *index, long samples, double *losses) {
    memset(gradients, 0, all->parameters * sizeof(real));
    load_batch_rows(all, m, index, samples);
    Plan own = plan_of(all, &m->batch), *plan = &own;
    fold_layers(plan, m, parameters);
    for (long l = 0; l < plan->layers; l++) {
        convolve_layer(plan, m, parameters, l);
        batch_norm_rows(plan, plan->layer + l, parameters, buffers, m->value[l], m->batch.atoms, m->total,
                        m->norm + l);
    }
    heads_rows_step(plan, m, parameters, gradients, losses);
    for (long l = plan->layers - 1; l >= 0; l--) {
        layer_rows_back(plan, m, parameters, l, gradients);
        real *swap = m->grad;
        m->grad = m->grad_next;
        m->grad_next = swap;
    }
}

/* Values of all tasks of one batch; out: [atoms, outputs] or [samples, outputs]. */
static void batch_predict(const Plan *all, BatchMemory *m, const real *parameters, const real *buffers,
                          real *const *out) {
    Plan own = plan_of(all, &m->batch), *plan = &own;
    long features = plan->layer[plan->layers - 1].out;
    fold_layers(plan, m, parameters);
    for (long l = 0; l < plan->layers; l++) {
        running_norm(plan, plan->layer + l, parameters, buffers, m->norm + l);
        convolve_layer(plan, m, parameters, l);
    }
    input_rows(plan, m, plan->layers, rows(m->x, padded(features), NULL));
    pool_rows(plan, &m->batch, features, m->x, m->head.pooled);
    for (long t = 0; t < plan->tasks; t++) {
        const Task *task = plan->task + t;
        if (task->graph) head_rows_predict(task, parameters, &m->head, m->head.pooled, m->batch.samples, out[t]);
        else head_rows_predict(task, parameters, &m->head, m->x, m->batch.atoms, out[t]);
    }
}

#endif
