/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/scheduler.h"

#define QUANTUM ((gint64)DRV_FRAME_RAW_MAX)

void
drv_scheduler_init(DrvScheduler *scheduler, DrvShaper *host)
{
    *scheduler = (DrvScheduler){.host = host};
    for (guint i = 0; i < DRV_CLASSES; i++)
        g_queue_init(&scheduler->rings[i]);
}

void
drv_send_queue_init(DrvSendQueue *queue, DrvClass class, guint weight, DrvShaper *shaper)
{
    *queue = (DrvSendQueue){.class = class, .weight = MAX(weight, 1), .shaper = shaper};
    queue->link.data = queue;
}

static void
link_queue(DrvScheduler *scheduler, DrvSendQueue *queue)
{
    if (!queue->linked && queue->frames.length > 0) {
        g_queue_push_tail_link(&scheduler->rings[queue->class], &queue->link);
        queue->linked = TRUE;
    }
}

static void
unlink_queue(DrvScheduler *scheduler, DrvSendQueue *queue)
{
    if (queue->linked) {
        g_queue_unlink(&scheduler->rings[queue->class], &queue->link);
        queue->linked = FALSE;
    }
}

void
drv_scheduler_push(DrvScheduler *scheduler, DrvSendQueue *queue, DrvFrame *frame)
{
    GList *after = queue->frames.tail;
    while (after != NULL && ((DrvFrame *)after->data)->seq > frame->seq)
        after = after->prev;
    drv_frame_ref(frame);
    frame->lane = 0;
    if (after != NULL)
        g_queue_insert_after_link(&queue->frames, after, &frame->link);
    else
        g_queue_push_head_link(&queue->frames, &frame->link);
    link_queue(scheduler, queue);
}

void
drv_scheduler_remove(DrvScheduler *scheduler, DrvSendQueue *queue)
{
    unlink_queue(scheduler, queue);
    GList *link;
    while ((link = g_queue_pop_head_link(&queue->frames)) != NULL)
        drv_frame_unref(link->data);
}

void
drv_scheduler_clear(DrvScheduler *scheduler)
{
    for (guint i = 0; i < DRV_CLASSES; i++)
        while (scheduler->rings[i].head != NULL)
            drv_scheduler_remove(scheduler, scheduler->rings[i].head->data);
}

void
drv_scheduler_set_class(DrvScheduler *scheduler, DrvSendQueue *queue, DrvClass class)
{
    unlink_queue(scheduler, queue);
    queue->class = class;
    link_queue(scheduler, queue);
}

/* Drops frames from the head that the peer turned out to have. */
static DrvFrame *
first_wanted(DrvScheduler *scheduler, DrvSendQueue *queue)
{
    for (;;) {
        GList *link = g_queue_peek_head_link(&queue->frames);
        if (link == NULL)
            return NULL;
        DrvFrame *frame = link->data;
        if (!frame->settled)
            return frame;
        g_queue_unlink(&queue->frames, link);
        drv_frame_unref(frame);
    }
}

static DrvFrame *
next_of_class(DrvScheduler *scheduler, DrvClass class, gint64 now_us, gint64 *retry_at)
{
    GQueue *ring = &scheduler->rings[class];
    /* Every queue is looked at until one is ready; a deficit too small is topped up once a lap, so
     * two laps do. */
    for (guint looks = 2 * ring->length; looks > 0 && ring->length > 0; looks--) {
        DrvSendQueue *queue = ring->head->data;
        DrvFrame *frame = first_wanted(scheduler, queue);
        if (frame == NULL) {
            unlink_queue(scheduler, queue);
            queue->deficit = 0;
            continue;
        }
        gint64 ready_at =
            class == DRV_CLASS_CONTROL ? now_us : drv_shaper_ready_at(queue->shaper, now_us);
        if (ready_at > now_us || queue->deficit < (gint64)frame->len) {
            if (ready_at > now_us)
                *retry_at = MIN(*retry_at, ready_at);
            else
                queue->deficit += QUANTUM * queue->weight;
            g_queue_unlink(ring, &queue->link);
            g_queue_push_tail_link(ring, &queue->link);
            continue;
        }
        queue->deficit -= frame->len;
        g_queue_unlink(&queue->frames, &frame->link);
        if (queue->frames.length == 0) {
            unlink_queue(scheduler, queue);
            queue->deficit = 0;
        }
        return frame;
    }
    return NULL;
}

DrvFrame *
drv_scheduler_next(DrvScheduler *scheduler, gint64 now_us, gint64 *retry_at)
{
    *retry_at = G_MAXINT64;
    for (guint class = 0; class < DRV_CLASSES; class ++) {
        if (class == DRV_CLASS_CONTROL + 1) {
            gint64 host = drv_shaper_ready_at(scheduler->host, now_us);
            if (host > now_us) {
                for (guint c = class; c < DRV_CLASSES; c++)
                    if (scheduler->rings[c].length > 0)
                        *retry_at = MIN(*retry_at, host);
                return NULL;
            }
        }
        DrvFrame *frame = next_of_class(scheduler, class, now_us, retry_at);
        if (frame != NULL)
            return frame;
    }
    return NULL;
}

void
drv_scheduler_charge(DrvScheduler *scheduler, DrvSendQueue *queue, gsize bytes, gint64 now_us)
{
    drv_shaper_charge(queue->shaper, bytes, now_us);
    drv_shaper_charge(scheduler->host, bytes, now_us);
}
