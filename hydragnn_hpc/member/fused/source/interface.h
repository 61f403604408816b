/* What C and Python must agree on: sizes and field offsets of structures, and values of enumerations. Python compares
 * them with those of plan.py when it loads the library. */
#ifndef FUSED_INTERFACE_H
#define FUSED_INTERFACE_H

#include "adam.h"
#include "plan.h"

#define PLACE(type, field) {#type "." #field, offsetof(type, field)}
#define NUMBER(name) {#name, name}
#define SIZE(type) {"sizeof " #type, sizeof(type)}

static const struct {
    const char *name;
    int64_t value;
} INTERFACE[] = {
    SIZE(real), SIZE(Layer), SIZE(Linear), SIZE(Task), SIZE(Plan), SIZE(Betas), NUMBER(SCALERS),
    NUMBER(POOL_MEAN), NUMBER(POOL_SUM), NUMBER(POOL_MAX),
    NUMBER(LOSS_MSE), NUMBER(LOSS_MAE), NUMBER(LOSS_HUBER), NUMBER(LOSS_NLL),
    PLACE(Layer, in), PLACE(Layer, out), PLACE(Layer, pre_weight), PLACE(Layer, pre_bias), PLACE(Layer, post_weight),
    PLACE(Layer, post_bias), PLACE(Layer, lin_weight), PLACE(Layer, lin_bias), PLACE(Layer, norm_weight),
    PLACE(Layer, norm_bias), PLACE(Layer, running_mean), PLACE(Layer, running_var),
    PLACE(Layer, pre_width), PLACE(Layer, encoder_weight), PLACE(Layer, encoder_bias),
    PLACE(Linear, in), PLACE(Linear, out), PLACE(Linear, weight), PLACE(Linear, bias),
    PLACE(Task, graph), PLACE(Task, width), PLACE(Task, linears), PLACE(Task, partial), PLACE(Task, loss),
    PLACE(Task, linear), PLACE(Task, weight), PLACE(Task, delta), PLACE(Task, target),
    PLACE(Plan, atoms), PLACE(Plan, layers), PLACE(Plan, tasks), PLACE(Plan, groups), PLACE(Plan, pooling),
    PLACE(Plan, parameters), PLACE(Plan, buffers), PLACE(Plan, order), PLACE(Plan, first), PLACE(Plan, neighbour),
    PLACE(Plan, group), PLACE(Plan, scale), PLACE(Plan, layer), PLACE(Plan, task), PLACE(Plan, inputs),
    PLACE(Plan, momentum), PLACE(Plan, epsilon), PLACE(Plan, edge_features),
    PLACE(Plan, kinds), PLACE(Plan, kind), PLACE(Plan, basis), PLACE(Plan, first_row), PLACE(Plan, sample_geometry),
    PLACE(Plan, first_site), PLACE(Plan, first_edge), PLACE(Plan, edge_vectors), PLACE(Plan, edge_factor),
    PLACE(Plan, edge_basis), PLACE(Plan, edge_envelope), PLACE(Plan, edge_cutoff), NUMBER(BASIS_GAUSSIAN),
    NUMBER(BASIS_BESSEL), NUMBER(ENVELOPE_NONE), NUMBER(ENVELOPE_POLYNOMIAL),
    PLACE(Betas, beta_1), PLACE(Betas, beta_2),
};

/* Return the name of entry k and set its value; return NULL past the last entry. */
const char *fused_interface(int64_t k, int64_t *value) {
    if (k >= (int64_t)(sizeof INTERFACE / sizeof *INTERFACE)) return NULL;
    *value = INTERFACE[k].value;
    return INTERFACE[k].name;
}

#endif
