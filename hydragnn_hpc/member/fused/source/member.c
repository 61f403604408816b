/* One training step, or predictions, of a stack of members, one member after the other.
 *
 * A member's numbers are computed by the same instructions on the same layout wherever it stands in the stack, so they
 * do not depend on the other members. Only the convolutions' outputs are kept for the backward pass; what lies between
 * them is cheaper to compute again than to fetch from beyond the L2 cache.
 */
#include "interface.h"
#include "memory.h"
#include "varying/member.h"

/* Sample numbers, masks and node inputs of a batch, lane by lane. */
static void load_batch(const Plan *plan, const Memory *m, const int64_t *index, long samples) {
    long n = plan->atoms, width = plan->layer[0].in, blocks = vectors_for(samples);
    for (long k = 0; k < blocks * LANES; k++) {
        int64_t sample = index[k < samples ? k : 0];
        vec *block = m->input + k / LANES * n * width;
        m->sample[k] = sample;
        ((real *)m->mask)[k] = k < samples;
        for (long i = 0; i < n; i++)
            for (long f = 0; f < width; f++)
                ((real *)(block + i * width + f))[k % LANES] = plan->inputs[(sample * n + plan->order[i]) * width + f];
    }
}

static Block block_of(const Memory *m, long b, long samples) {
    long left = samples - b * LANES;
    return (Block){m->sample + b * LANES, left < LANES ? left : LANES, m->mask[b]};
}

/* Input of layer l (or, with l = layers, of the heads) for block b: computed into m->x, or the node inputs. */
static vec *layer_input(const Plan *plan, const Memory *m, long l, long b) {
    long n = plan->atoms;
    if (l == 0) return m->input + b * n * plan->layer[0].in;
    long features = plan->layer[l - 1].out;
    normalise(m->norm + l - 1, features, m->value[l - 1] + b * n * features, n, m->x);
    return m->x;
}

static void fold_all(const Plan *plan, const Memory *m, const real *parameters) {
    for (long l = 0; l < plan->layers; l++)
        fold(plan, plan->layer + l, parameters, m->fold + l, m->matrices[l]);
    const EdgeMemory *edges = &m->convolution.edges;
    for (long l = 0; edges->added && l < plan->layers; l++)
        add_edges(plan, plan->layer + l, parameters, edges->matrix, edges->added[l]);
}

static void convolve_block(const Plan *plan, const Memory *m, const real *parameters, long l, long b) {
    const Layer *layer = plan->layer + l;
    convolve(plan, layer, parameters, m->matrices[l], &m->convolution, layer_input(plan, m, l, b),
             m->value[l] + b * plan->atoms * layer->out);
}

static void trunk_forward(const Plan *plan, const Memory *m, const real *parameters, real *buffers, long samples) {
    long blocks = vectors_for(samples);
    for (long l = 0; l < plan->layers; l++) {
        const Layer *layer = plan->layer + l;
        memset(m->sum, 0, layer->out * sizeof(vec));
        for (long b = 0; b < blocks; b++) {
            convolve_block(plan, m, parameters, l, b);
            add_to_sum(m->value[l] + b * plan->atoms * layer->out, layer->out, plan->atoms, m->mask[b], m->sum);
        }
        batch_norm(plan, layer, parameters, buffers, m->value[l], m->mask, samples, m->sum, m->norm + l);
    }
}

static void clear_sums(const Memory *m, long features) {
    memset(m->sum, 0, features * sizeof(vec));
    memset(m->sum_product, 0, features * sizeof(vec));
}

/* All heads, forward and backward; leaves the gradient with respect to the last ReLU's input in m->grad, and the sums
 * that batch norm's gradient needs in m->sum and m->sum_product. */
static void heads_step(const Plan *plan, const Memory *m, const real *parameters, long samples, real *gradients,
                       double *losses) {
    long features = plan->layer[plan->layers - 1].out, n = plan->atoms;
    clear_sums(m, features);
    for (long t = 0; t < plan->tasks; t++) {
        losses[t] = 0;
        m->known[t] = known_targets(plan, plan->task + t, m->sample, samples);
    }
    for (long b = 0; b * LANES < samples; b++) {
        Block block = block_of(m, b, samples);
        vec *x = layer_input(plan, m, plan->layers, b), *grad = m->grad + b * n * features;
        memset(grad, 0, n * features * sizeof(vec));
        for (long t = 0; t < plan->tasks; t++)
            losses[t] += head_step(plan, plan->task + t, parameters, &m->head, &block, m->known[t], x, grad, gradients);
        rectify_back(m->norm + plan->layers - 1, features, n, x, m->value[plan->layers - 1] + b * n * features, grad,
                     m->sum, m->sum_product);
    }
}

/* Backward through layer l: from m->grad to m->grad_next, and from the sums of its batch norm to those of the layer
 * before. */
static void layer_back(const Plan *plan, const Memory *m, const real *parameters, long l, long samples,
                       real *gradients) {
    const Layer *layer = plan->layer + l;
    long n = plan->atoms, in = layer->in, out = layer->out, blocks = vectors_for(samples);
    finish_norm_back(layer, (double)samples * n, m->sum, m->sum_product, m->norm + l, gradients);
    clear_sums(m, in);
    memset(m->grad_matrices, 0, plan->groups * matrix_room(layer) * sizeof(real));
    clear_edges(plan, layer, &m->convolution.edges);
    for (long b = 0; b < blocks; b++) {
        vec *x = layer_input(plan, m, l, b), *grad = m->grad + b * n * out;
        vec *grad_x = l > 0 ? m->grad_next + b * n * in : NULL;
        norm_back(m->norm + l, out, n, m->value[l] + b * n * out, m->mask[b], grad);
        convolve_back(plan, layer, parameters, m->matrices[l], &m->convolution, x, grad,
                      m->stacked + b % CHUNK * n * stacked_rows(layer), grad_x, gradients);
        if (grad_x)
            rectify_back(m->norm + l - 1, in, n, x, m->value[l - 1] + b * n * in, grad_x, m->sum, m->sum_product);
        if ((b + 1) % CHUNK == 0 || b + 1 == blocks)
            matrices_back(plan, layer, b % CHUNK + 1, m->grad + b / CHUNK * CHUNK * n * out, m->stacked,
                          m->grad_matrices);
    }
    fold_back(plan, layer, parameters, m->fold + l, m->grad_matrices, gradients);
    if (plan->edge_features) add_edges_back(plan, layer, parameters, &m->convolution.edges, gradients);
}

static void member_step(const Plan *plan, Memory *m, const real *parameters, real *gradients, real *buffers,
                        const int64_t *index, long samples, double *losses) {
    memset(gradients, 0, plan->parameters * sizeof(real));
    load_batch(plan, m, index, samples);
    fold_all(plan, m, parameters);
    trunk_forward(plan, m, parameters, buffers, samples);
    heads_step(plan, m, parameters, samples, gradients, losses);
    for (long l = plan->layers - 1; l >= 0; l--) {
        layer_back(plan, m, parameters, l, samples, gradients);
        vec *swap = m->grad;
        m->grad = m->grad_next;
        m->grad_next = swap;
    }
}

/* ---- functions that Python calls ---- */

int64_t fused_lanes(void) { return LANES; }

/* Bytes of working memory for batches of at most `samples`. */
int64_t fused_memory(const Plan *plan, int64_t samples) { return (int64_t)lay_out(plan, samples, NULL).bytes; }

/* memory: fused_memory(plan, samples) bytes, aligned to 64. parameters, gradients [members, P]; buffers [members, Q];
 * index [members, samples]; losses [members, tasks], each the mean loss, not weighted. */
void fused_step(const Plan *plan, char *memory, int64_t members, int64_t samples, const real *parameters,
                real *gradients, real *buffers, const int64_t *index, double *losses) {
    unsigned before = flush_subnormals();
    for (long e = 0; e < members; e++) {
        Memory m = lay_out(plan, samples, memory);
        member_step(plan, &m, parameters + e * plan->parameters, gradients + e * plan->parameters,
                    buffers + e * plan->buffers, index + e * samples, samples, losses + e * plan->tasks);
    }
    restore_subnormals(before);
}

/* Values of all tasks of one block of at most LANES samples; `at` counts samples over all members. */
static void predict_block(const Plan *plan, const Memory *m, const real *parameters, const int64_t *index, long at,
                          long samples, real *const *out) {
    load_batch(plan, m, index + at, samples);
    Block block = block_of(m, 0, samples);
    for (long l = 0; l < plan->layers; l++) convolve_block(plan, m, parameters, l, 0);
    vec *x = layer_input(plan, m, plan->layers, 0);
    for (long t = 0; t < plan->tasks; t++) {
        const Task *task = plan->task + t;
        long size = head_outputs(task) * (task->graph ? 1 : plan->atoms);
        head_predict(plan, task, parameters, &m->head, &block, x, out[t] + at * size);
    }
}

/* Evaluation mode, block by block: memory for LANES samples is enough. out: one array per task,
 * [members, samples, n, outputs] or [members, samples, outputs]. */
void fused_predict(const Plan *plan, char *memory, int64_t members, int64_t samples, const real *parameters,
                   const real *buffers, const int64_t *index, real *const *out) {
    unsigned before = flush_subnormals();
    Memory m = lay_out(plan, LANES, memory);
    for (long e = 0; e < members; e++, parameters += plan->parameters, buffers += plan->buffers) {
        long end = (e + 1) * samples;
        fold_all(plan, &m, parameters);
        for (long l = 0; l < plan->layers; l++)
            running_norm(plan, plan->layer + l, parameters, buffers, m.norm + l);
        for (long at = e * samples; at < end; at += LANES)
            predict_block(plan, &m, parameters, index, at, end - at < LANES ? end - at : LANES, out);
    }
    restore_subnormals(before);
}

/* The same for samples that differ in geometry. `atoms` and `edges` are the largest numbers in any member's batch. */
int64_t varying_memory(const Plan *plan, int64_t samples, int64_t atoms, int64_t edges, int64_t training) {
    return (int64_t)lay_out_batch(plan, (Extent){samples, atoms, edges, training}, NULL).bytes;
}

void varying_step(const Plan *plan, char *memory, int64_t members, int64_t samples, int64_t atoms, int64_t edges,
                  const real *parameters, real *gradients, real *buffers, const int64_t *index, double *losses) {
    unsigned before = flush_subnormals();
    for (long e = 0; e < members; e++) {
        BatchMemory m = lay_out_batch(plan, (Extent){samples, atoms, edges, 1}, memory);
        batch_step(plan, &m, parameters + e * plan->parameters, gradients + e * plan->parameters,
                   buffers + e * plan->buffers, index + e * samples, samples, losses + e * plan->tasks);
    }
    restore_subnormals(before);
}

/* index [samples], the same for all members; out: one array per task, [members, atoms, outputs] or
 * [members, samples, outputs]. */
void varying_predict(const Plan *plan, char *memory, int64_t members, int64_t samples, int64_t atoms, int64_t edges,
                     const real *parameters, const real *buffers, const int64_t *index, real *const *out) {
    unsigned before = flush_subnormals();
    BatchMemory m = lay_out_batch(plan, (Extent){samples, atoms, edges, 0}, memory);
    load_batch_rows(plan, &m, index, samples);
    for (long e = 0; e < members; e++) {
        real *place[plan->tasks];
        for (long t = 0; t < plan->tasks; t++)
            place[t] = out[t] + e * (plan->task[t].graph ? samples : atoms) * head_outputs(plan->task + t);
        batch_predict(plan, &m, parameters + e * plan->parameters, buffers + e * plan->buffers, place);
    }
    restore_subnormals(before);
}

/* One step of Adam. All arrays [members, P]; factors [2, members]: epsilon and (negative) rate of each member. */
void fused_adam(const Plan *plan, const Betas *betas, int64_t members, real *parameters, const real *gradients,
                real *first, real *second, const real *factors) {
    unsigned before = flush_subnormals();
    for (long e = 0; e < members; e++) {
        long at = e * plan->parameters;
        adam(betas, plan->parameters, factors[e], factors[members + e], parameters + at, gradients + at, first + at,
             second + at);
    }
    restore_subnormals(before);
}
