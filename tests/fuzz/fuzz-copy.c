/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Both ends of an image's copy against a peer that says what it likes, over a socket as the engine
 * has it, and with its threads; the image is in memory. The first byte says which end, and how the
 * image is: what is kept in the end is what the digest says that came last.
 */
#include <sys/socket.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/image/receive.h"
#include "engine/image/send.h"
#include "engine/image/stream.h"
#include "tests/fuzz/entry.h"

#define BLOCK DRV_IMAGE_BLOCK_MIN
#define SIZE (5 * BLOCK + 512)
#define THREADS 2

/* Stands in for target.c: no file is made. */
struct _DrvTarget {
    DrvStore store;
    gboolean base, committed;
    guint8 *bytes;
};

static gboolean
read_bytes(DrvStore *store, guint user, guint64 offset, guint8 *bytes, gsize len, GError **error)
{
    memcpy(bytes, ((DrvTarget *)store)->bytes + offset, len);
    return TRUE;
}

static gboolean
write_bytes(DrvStore *store, guint user, guint64 offset, const guint8 *bytes, gsize len,
            GError **error)
{
    g_assert(user < store->users);
    memcpy(((DrvTarget *)store)->bytes + offset, bytes, len);
    return TRUE;
}

static gboolean
zero(DrvStore *store, guint user, guint64 offset, guint64 len, GError **error)
{
    memset(((DrvTarget *)store)->bytes + offset, 0, len);
    return TRUE;
}

static gboolean
extent(DrvStore *store, guint user, guint64 offset, guint64 *len, gboolean *is_zero, GError **error)
{
    *len = store->size - offset;
    *is_zero = FALSE;
    return TRUE;
}

static gboolean
flush(DrvStore *store, guint user, GError **error)
{
    return TRUE;
}

static const DrvStoreOps ops = {
    .read = read_bytes, .write = write_bytes, .zero = zero, .extent = extent, .flush = flush};

DrvStore *
drv_target_store(DrvTarget *target)
{
    return &target->store;
}

gboolean
drv_target_has_base(const DrvTarget *target)
{
    return target->base;
}

gboolean
drv_target_seal(DrvTarget *target, GError **error)
{
    target->committed = TRUE;
    return TRUE;
}

static void
receive(DrvTarget *target, int fd)
{
    DrvCopyCount count = {.total = SIZE};
    g_autoptr(GError) error = NULL;
    g_autofree char *root = drv_image_receive(target, SIZE, fd, &count, &error);
    g_assert(target->committed == (root != NULL) && (root == NULL) == (error != NULL));
    g_assert(drv_copy_count_get(&count.data) + drv_copy_count_get(&count.zero) <= SIZE);
    if (root == NULL)
        return;
    g_autoptr(DrvImageDigest) digest = drv_image_digest_new(SIZE, NULL);
    for (guint64 at = 0; at < digest->blocks; at++)
        drv_image_digest_hash(digest, at, target->bytes + at * BLOCK,
                              drv_image_digest_leaf(digest, at));
    g_autofree char *really = drv_image_digest_root(digest);
    g_assert(strcmp(root, really) == 0);
}

/* 'since' is none that the peer can have: what it tells must not make this end leave anything
 * unread. */
static void
send_it(DrvTarget *image, int fd, gboolean since)
{
    DrvCopyCount count = {.total = SIZE};
    g_autoptr(GError) error = NULL;
    g_autofree char *root = drv_image_send(&image->store, THREADS, fd, image->base,
                                           since ? "00" : NULL, &count, &error);
    g_assert((root == NULL) == (error != NULL));
    g_assert(drv_copy_count_get(&count.unread) == 0);
}

/* Takes what comes, so that nobody waits for it. */
static gpointer
hear(gpointer data)
{
    guint8 piece[4096];
    while (recv(GPOINTER_TO_INT(data), piece, sizeof piece, 0) > 0)
        continue;
    return NULL;
}

static void
hush(const char *domain, GLogLevelFlags level, const char *message, gpointer data)
{
}

int
LLVMFuzzerTestOneInput(const guint8 *data, size_t size)
{
    int fds[2];
    if (size == 0)
        return 0;
    g_log_set_handler(NULL, G_LOG_LEVEL_MESSAGE, hush, NULL);
    g_autofree guint8 *bytes = g_malloc0(SIZE);
    gboolean sends = (data[0] & 1) != 0;
    DrvTarget image = {
        .store = {&ops, SIZE, MAX(drv_image_receive_users(), THREADS + 1), TRUE, (char *)"/image"},
        .base = (data[0] & 2) != 0,
        .bytes = bytes};
    if (image.base)
        memset(bytes + BLOCK, 7, BLOCK + 1);
    g_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    drv_stream_write(fds[0], data + 1, size - 1, NULL); /* less than a socket holds */
    shutdown(fds[0], SHUT_WR);
    if (sends) {
        GThread *hears = g_thread_new("hears", hear, GINT_TO_POINTER(fds[0]));
        send_it(&image, fds[1], (data[0] & 4) != 0);
        shutdown(fds[1], SHUT_RDWR);
        g_thread_join(hears);
    } else {
        receive(&image, fds[1]); /* what it tells of its blocks is little */
    }
    close(fds[0]);
    close(fds[1]);
    return 0;
}
