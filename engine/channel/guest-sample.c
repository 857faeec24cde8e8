/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/guest-sample.h"

#include "common/error.h"
#include "engine/channel/guest-ram-private.h"
#include "engine/transfer/compress.h"

#include <string.h>

/*
 * The memory is cut into as many parts of the same size as runs are to be read, and a run is read
 * at a random place of each: neighbours are alike, so runs far apart tell more, and what is packed
 * together in a migration is neighbours, too.
 */
#define RUN 8u
#define FRAME (128u * 1024)

static const DrvCodec tried[] = {DRV_CODEC_LZ4, DRV_CODEC_ZSTD};

typedef struct {
    DrvGuestRam *ram;
    DrvGuestSample *sample;
    DrvCompressor *compressor;
    guint8 *frame; /* pages that are not zero, to be packed */
    guint8 *packed;
    guint filled;
    guint64 out[DRV_CODEC_COUNT];
    gint64 us[DRV_CODEC_COUNT];
} Sampling;

static void
pack(Sampling *s)
{
    if (s->filled == 0)
        return;
    for (guint i = 0; i < G_N_ELEMENTS(tried); i++) {
        gint64 begin = g_get_monotonic_time();
        gsize len = drv_compress(s->compressor, tried[i], s->frame, s->filled, s->packed);
        s->us[tried[i]] += g_get_monotonic_time() - begin;
        s->out[tried[i]] += len > 0 ? len : s->filled;
    }
    s->sample->bytes += s->filled;
    s->filled = 0;
}

static void
conclude(Sampling *s)
{
    pack(s);
    for (guint i = 0; s->sample->bytes > 0 && i < G_N_ELEMENTS(tried); i++) {
        double bytes = (double)s->sample->bytes;
        s->sample->ratio[tried[i]] = bytes / (double)s->out[tried[i]];
        s->sample->speed[tried[i]] = bytes * G_USEC_PER_SEC / (double)MAX(s->us[tried[i]], 1);
    }
}

static gboolean
is_zero(const guint8 *page)
{
    return page[0] == 0 && memcmp(page, page + 1, DRV_GUEST_PAGE - 1) == 0;
}

/* Reads it to where it is to be packed, and leaves it there if it is. */
static gboolean
take_page(Sampling *s, guint block, guint64 page, GError **error)
{
    guint8 *to = s->frame + s->filled;
    if (!drv_guest_ram_read(s->ram, block, page * DRV_GUEST_PAGE, to, DRV_GUEST_PAGE, error))
        return FALSE;
    if (is_zero(to))
        return TRUE;
    s->sample->nonzero++;
    s->filled += DRV_GUEST_PAGE;
    if (s->filled == FRAME)
        pack(s);
    return TRUE;
}

static gboolean
take_run(Sampling *s, guint block, guint64 first, guint n, GError **error)
{
    gboolean zero[RUN];
    drv_guest_known_zero(s->ram, &s->ram->parts[block], first, n, zero);
    s->sample->pages += n;
    for (guint i = 0; i < n; i++)
        if (!zero[i] && !take_page(s, block, first + i, error))
            return FALSE;
    return TRUE;
}

static guint64
random_up_to(guint64 most)
{
    return MIN((guint64)(g_random_double() * ((double)most + 1)), most);
}

static gboolean
take_block(Sampling *s, guint block, guint64 pages, GError **error)
{
    guint64 total = s->ram->parts[block].info.size / DRV_GUEST_PAGE;
    guint64 runs = MAX(MIN(pages, total) / RUN, 1);
    guint64 part = total / runs;
    guint n = (guint)MIN(RUN, part);
    for (guint64 i = 0; n > 0 && i < runs; i++)
        if (!take_run(s, block, i * part + random_up_to(part - n), n, error))
            return FALSE;
    return TRUE;
}

static gboolean
take_all(Sampling *s, guint pages, GError **error)
{
    double total = 0;
    for (guint i = 0; i < s->ram->n; i++)
        total += s->ram->parts[i].why == NULL ? (double)s->ram->parts[i].info.size : 0;
    if (total <= 0) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_NOT_FOUND,
                    "no RAM block of the guest is reachable%s%s", s->ram->n > 0 ? ": " : "",
                    s->ram->n > 0 ? s->ram->parts[0].why : "");
        return FALSE;
    }
    for (guint i = 0; i < s->ram->n; i++) {
        double share = (double)s->ram->parts[i].info.size / total;
        if (s->ram->parts[i].why == NULL && !take_block(s, i, (guint64)(share * pages), error))
            return FALSE;
    }
    return TRUE;
}

gboolean
drv_guest_ram_sample(DrvGuestRam *ram, guint pages, DrvGuestSample *sample, GError **error)
{
    *sample = (DrvGuestSample){0};
    Sampling s = {
        .ram = ram,
        .sample = sample,
        .compressor = drv_compressor_new(),
        .frame = g_malloc(FRAME),
        .packed = g_malloc(FRAME),
    };
    gboolean good = take_all(&s, pages, error);
    if (good)
        conclude(&s);
    drv_compressor_free(s.compressor);
    g_free(s.frame);
    g_free(s.packed);
    return good;
}

/* --- on a thread --- */

typedef struct {
    DrvGuestRam *ram;
    guint pages;
} Job;

static void
free_job(gpointer data)
{
    Job *job = data;
    drv_guest_ram_free(job->ram);
    g_free(job);
}

static void
run(GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
    const Job *job = data;
    GError *error = NULL;
    g_autofree DrvGuestSample *sample = g_new0(DrvGuestSample, 1);
    if (drv_guest_ram_sample(job->ram, job->pages, sample, &error))
        g_task_return_pointer(task, g_steal_pointer(&sample), g_free);
    else
        g_task_return_error(task, error);
}

void
drv_guest_ram_sample_async(DrvGuestRam *ram, guint pages, GCancellable *cancellable,
                           GAsyncReadyCallback callback, gpointer user_data)
{
    g_autoptr(GTask) task = g_task_new(NULL, cancellable, callback, user_data);
    Job *job = g_new(Job, 1);
    *job = (Job){ram, pages};
    g_task_set_task_data(task, job, free_job);
    g_task_run_in_thread(task, run);
}

gboolean
drv_guest_ram_sample_finish(GAsyncResult *result, DrvGuestSample *sample, GError **error)
{
    g_autofree DrvGuestSample *found = g_task_propagate_pointer(G_TASK(result), error);
    if (found != NULL)
        *sample = *found;
    return found != NULL;
}
