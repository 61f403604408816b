/* Losses of differences and their slopes, element by element, as in engine/losses.py. */
#ifndef FUSED_LOSS_H
#define FUSED_LOSS_H

#include "plan.h"

/* Loss of each lane's difference; `slope` becomes its derivative, 0 at 0. NaN stays NaN in the loss: where one operand
 * is NaN, the processor's minimum and maximum return the second. */
INLINE vec loss_of(const Task *task, vec difference, vec *slope) {
    vec delta = (vec){} + (real)task->delta, one = (vec){} + 1;
    switch (task->loss) {
    case LOSS_MAE:
        *slope = where_positive(difference, one) - where_positive(-difference, one);
        return *slope * difference;
    case LOSS_HUBER:
        *slope = minimum(delta, maximum(-delta, difference));
        return *slope * (difference - (real)0.5 * *slope);
    default: /* LOSS_MSE */
        *slope = 2 * difference;
        return difference * difference;
    }
}

#define LEAST_NOISE_VARIANCE ((real)1e-6)

/* LOSS_NLL: the same with the noise that the head gives; `noise_slope` becomes the derivative with respect to it. */
INLINE vec nll_of(vec difference, vec noise, vec *slope, vec *noise_slope) {
    vec variance = maximum((vec){} + LEAST_NOISE_VARIANCE, noise * noise), precision = 1 / variance;
    vec by_mean = difference * precision;
    *slope = by_mean;
    *noise_slope = noise * (precision - by_mean * by_mean);
    return (real)0.5 * (logarithm(variance) + difference * by_mean);
}

#endif
