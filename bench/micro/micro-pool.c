/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/micro/micro.h"

#include "numa/buffer.h"

#include <liburing.h>
#include <string.h>

/*
 * What it costs to have buffers when a session begins: 64 MiB in slabs as the pool takes them,
 * mapped, there before they are needed and locked on a node, against memory that comes as it is
 * touched; and registering them with a ring, which pins their pages.
 */
#define SLABS 32
#define SLAB (2 * MICRO_MIB)

typedef struct {
    DrvBufferWish wish;
    gboolean touch; /* as data would, later */
    gboolean pin;
    guint lacks;
} Work;

static void
pin(struct iovec *slabs)
{
    struct io_uring ring;
    if (io_uring_queue_init(8, &ring, 0) != 0)
        g_error("io_uring cannot be used");
    if (io_uring_register_buffers(&ring, slabs, SLABS) != 0)
        g_error("buffers cannot be registered");
    io_uring_queue_exit(&ring);
}

static void
take(gpointer data)
{
    Work *work = data;
    DrvBuffer buffers[SLABS];
    struct iovec slabs[SLABS];
    for (guint i = 0; i < SLABS; i++) {
        if (!drv_buffer_map(SLAB, &work->wish, &buffers[i]))
            g_error("there is no memory");
        slabs[i] = (struct iovec){buffers[i].data, SLAB};
        work->lacks |= buffers[i].lacks;
        if (work->touch)
            memset(buffers[i].data, 1, SLAB);
    }
    if (work->pin)
        pin(slabs);
    for (guint i = 0; i < SLABS; i++)
        drv_buffer_unmap(&buffers[i]);
}

int
main(void)
{
    static const struct {
        const char *name;
        Work work;
    } all[] = {
        {"pool, 64 MiB on a node, locked", {.wish = {.node = 0}}},
        {"pool, 64 MiB as they are touched", {.wish = {.node = -1}, .touch = TRUE}},
        {"pool, 64 MiB on a node, registered", {.wish = {.node = 0}, .pin = TRUE}},
        {"pool, 64 MiB of huge pages", {.wish = {.node = 0, .huge_pages = TRUE}}},
    };
    for (guint i = 0; i < G_N_ELEMENTS(all); i++) {
        Work work = all[i].work;
        micro_run(all[i].name, SLABS * SLAB, take, &work);
        for (guint lack = 0; lack < DRV_SHORT_COUNT; lack++)
            if ((work.lacks & 1u << lack) != 0)
                g_print("  %s\n", drv_short_text(1u << lack));
    }
    return 0;
}
