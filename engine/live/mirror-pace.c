/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/mirror-pace.h"

#define VAIN_ROUNDS 2
#define ROUND_MIN_US G_USEC_PER_SEC
/* So little is gone in a moment, whatever it was before. */
#define LITTLE ((guint64)1 << 20)
/* As long as a guest that resets its disks may stand still for what is on its way. */
#define STILL_S 3
/* QEMU's own sizes: what it copies at once, at least, and its mirror's buffer. */
#define BUFFER_LEAST ((gint64)64 << 10)
#define BUFFER_MOST ((gint64)16 << 20)

void
drv_mirror_pace_reset(DrvMirrorPace *pace)
{
    *pace = (DrvMirrorPace){0};
}

static void
begin_round(DrvMirrorPace *pace, gint64 now_us, guint64 done, guint64 left)
{
    pace->begun = TRUE;
    pace->since_us = now_us;
    pace->done = done;
    pace->left = left;
}

static void
end_round(DrvMirrorPace *pace, gint64 now_us, guint64 done, guint64 left)
{
    double seconds = (double)(now_us - pace->since_us) / G_USEC_PER_SEC;
    double carried = (double)(done - pace->done);
    pace->carried = carried / seconds;
    pace->written = MAX((double)left - (double)pace->left + carried, 0) / seconds;
    /* A quarter less in each round is progress: ten rounds for one twentieth. */
    gboolean less = left <= LITTLE || left <= pace->left - pace->left / 4;
    pace->vain = less ? 0 : pace->vain + 1;
}

gboolean
drv_mirror_pace_sample(DrvMirrorPace *pace, gint64 now_us, guint64 done, guint64 left)
{
    if (!pace->begun || done < pace->done) {
        drv_mirror_pace_reset(pace);
        begin_round(pace, now_us, done, left);
    } else if (done - pace->done >= pace->left && now_us - pace->since_us >= ROUND_MIN_US) {
        end_round(pace, now_us, done, left);
        begin_round(pace, now_us, done, left);
    }
    return pace->vain >= VAIN_ROUNDS;
}

/* QEMU waits for one disk after the other, each has its share of the link, and those whose turn it
 * is not go on. What a mirror has begun to go through, as much as its buffer again, comes to that.
 */
gint64
drv_mirror_pace_buffer(gint64 rate, guint disks)
{
    gint64 share = rate / MAX(disks, 1);
    if (rate <= 0 || share / MAX(disks, 1) >= 2 * BUFFER_MOST / STILL_S)
        return 0;
    gint64 bytes = share * STILL_S / (2 * MAX(disks, 1));
    return MAX(bytes - bytes % BUFFER_LEAST, BUFFER_LEAST);
}
