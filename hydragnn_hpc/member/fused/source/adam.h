/* Adam (Kingma & Ba 2015) over one member's flat parameters, in one pass over memory. */
#ifndef FUSED_ADAM_H
#define FUSED_ADAM_H

#include "vector.h"

typedef struct {
    double beta_1, beta_2;
} Betas;

/* first = beta_1 first + (1 - beta_1) g; second likewise with g^2; parameter += rate first / (sqrt(second) + epsilon).
 * The corrections for the first steps are in `rate` (negative) and `epsilon`. `size` is a multiple of LANES. */
static void adam(const Betas *betas, long size, real epsilon, real rate, real *parameters, const real *gradients,
                 real *first, real *second) {
    real keep = (real)betas->beta_2, new_first = (real)(1 - betas->beta_1), new_second = (real)(1 - betas->beta_2);
    for (long k = 0; k < size; k += LANES) {
        vec g = load_loose(gradients + k), m = load_loose(first + k), v = load_loose(second + k);
        m += new_first * (g - m);
        v = keep * v + new_second * (g * g);
        /* NaN must stay visible, so where v is not positive the root is v itself */
        vec root = where_positive(v, quick_root(v)) + (v - where_positive(v, v));
        store_loose(first + k, m);
        store_loose(second + k, v);
        store_loose(parameters + k, load_loose(parameters + k) + rate * (m * quick_inverse(root + epsilon)));
    }
}

#endif
