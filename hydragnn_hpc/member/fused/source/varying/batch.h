/* The atoms of a batch of samples that differ in geometry and size. */
#ifndef FUSED_VARYING_BATCH_H
#define FUSED_VARYING_BATCH_H

#include "rows.h"
#include "../plan.h"

typedef struct {
    long samples, atoms;
    const int64_t *sample;     /* [samples]: sample numbers */
    int32_t *first;            /* [samples + 1]: first atom of each */
    int64_t *row;              /* [atoms]: row in inputs and targets */
    int32_t *owner;            /* [atoms]: the sample in the batch */
    int32_t *degree;           /* [atoms] */
    const int32_t **neighbour; /* [atoms]: its neighbours, counted from its sample's first atom */
    int64_t *edge;             /* [atoms + 1]: first edge of each in the batch */
    int32_t *order;            /* [atoms]: by degree, so that atoms that share a matrix are adjacent */
    long groups;               /* distinct degrees */
    int32_t *group;            /* [groups + 1]: first place of each in order */
    real *scale;               /* [groups][SCALERS] */
    int32_t *count;            /* [plan->groups + 1]: scratch */
} Batch;

INLINE long sample_atoms(const Plan *plan, int64_t sample) {
    return plan->first_row[sample + 1] - plan->first_row[sample];
}

static void load_atoms(const Plan *plan, Batch *batch, long s) {
    int64_t sample = batch->sample[s], site = plan->first_site[plan->sample_geometry[sample]];
    for (long i = 0, n = sample_atoms(plan, sample); i < n; i++) {
        long t = batch->first[s] + i;
        const int64_t *edge = plan->first_edge + site + i;
        batch->row[t] = plan->first_row[sample] + i;
        batch->owner[t] = (int32_t)s;
        batch->degree[t] = (int32_t)(edge[1] - edge[0]);
        batch->neighbour[t] = plan->neighbour + edge[0];
        batch->edge[t + 1] = batch->edge[t] + batch->degree[t];
    }
}

/* Sorts the atoms by degree; the order of those of equal degree is kept. */
static void sort_atoms(const Plan *plan, Batch *batch) {
    int32_t *count = batch->count;
    memset(count, 0, (plan->groups + 1) * sizeof *count);
    for (long t = 0; t < batch->atoms; t++) count[batch->degree[t]]++;
    batch->groups = 0;
    int32_t place = 0;
    for (long degree = 0; degree < plan->groups; degree++) {
        int32_t atoms = count[degree];
        count[degree] = place;
        if (!atoms) continue;
        memcpy(batch->scale + batch->groups * SCALERS, plan->scale + degree * SCALERS, SCALERS * sizeof(real));
        batch->group[batch->groups++] = place;
        place += atoms;
    }
    batch->group[batch->groups] = place;
    for (long t = 0; t < batch->atoms; t++) batch->order[count[batch->degree[t]]++] = (int32_t)t;
}

static void load_samples(const Plan *plan, Batch *batch, const int64_t *index, long samples) {
    batch->sample = index;
    batch->samples = samples;
    batch->first[0] = 0;
    batch->edge[0] = 0;
    for (long s = 0; s < samples; s++) {
        batch->first[s + 1] = batch->first[s] + (int32_t)sample_atoms(plan, index[s]);
        load_atoms(plan, batch, s);
    }
    batch->atoms = batch->first[samples];
    sort_atoms(plan, batch);
}

#endif
