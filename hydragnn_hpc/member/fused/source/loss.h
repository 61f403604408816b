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

#endif
