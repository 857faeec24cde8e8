/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * How a migration would go, before there is one: a model without I/O or clock, for which everything
 * is a range, and whose answers are ranges.
 */

/* What a value is taken to be: in one case of four it is about 'low', in one about 'high', else
 * about 'likely'. */
typedef struct {
    double low;
    double likely;
    double high;
} DrvRange;

/* Distinct bytes that the guest has written to within so many seconds. */
typedef struct {
    double seconds;
    double bytes;
} DrvDirtyPoint;

#define DRV_PREDICT_POINTS 8

/* During a migration guests mostly seem to write two to three times what was measured before. */
#define DRV_PREDICT_DIRTY_FACTOR ((DrvRange){1, 2, 3})

typedef struct {
    double ram;       /* bytes */
    DrvRange nonzero; /* the share of it, 0 to 1, that holds anything but zeros */

    DrvDirtyPoint dirty[DRV_PREDICT_POINTS]; /* by rising time; one is enough, two say much more */
    guint n_dirty;                           /* 0: it writes nothing */
    double working_set;    /* bytes that it writes to at most in any time; 0: not known */
    DrvRange dirty_factor; /* how many times faster it will write than it was measured to */

    DrvRange link;        /* bytes a second */
    DrvRange ratio;       /* guest bytes for each byte on the link, the first time */
    DrvRange ratio_again; /* the same, of pages that were sent before */
    DrvRange speed; /* guest bytes a second that the slowest of QEMU and the codec's ends can do */
    DrvRange fixed_ms; /* downtime that is not memory: devices, commit */

    double downtime_ms; /* the limit given to QEMU */
    double trust;       /* 0 to 1: how far the above are more than guesses */
} DrvPredictInput;

typedef enum { DRV_PREDICT_YES, DRV_PREDICT_NO, DRV_PREDICT_UNSURE } DrvPredictVerdict;

typedef struct {
    DrvPredictVerdict converges;
    double chance; /* that it does, 0 to 1, of all cases in the ranges */
    double sure;   /* how sure the verdict is, 0.5 (not at all) to 1 */
    /* 'low' and 'high' leave out a tenth of the cases each. If it converges (all 0 when it cannot):
     */
    DrvRange total_ms;
    DrvRange downtime_ms;
    DrvRange rounds;
    /* The downtime limit with which it would; at most what is left when waiting does not help. */
    DrvRange needed_ms;
    /* What it comes to, both bytes of the guest a second: written, delivered in later rounds. */
    double dirty_rate;
    double delivery_rate;
} DrvPrediction;

/* Odd input (no link, ranges in the wrong order, not a number) gives an answer all the same. */
void drv_predict(const DrvPredictInput *input, DrvPrediction *prediction);

/* Bytes that the guest has written to after 'seconds', as measured. 'bend' 0, 0.5 or 1: where it
 * was not measured, the least, the middle, the most that it can be. */
double drv_predict_dirtied(const DrvPredictInput *input, double seconds, double bend);

/* "yes", "no", "unsure". Static storage. */
const char *drv_predict_verdict_name(DrvPredictVerdict verdict);

/* The verdict and its reason as one sentence, without a full stop. Owned by the caller. */
char *drv_predict_sentence(const DrvPredictInput *input, const DrvPrediction *prediction);
