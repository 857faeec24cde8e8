/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/convert.h"

#include "common/error.h"
#include "engine/image/probe.h"
#include "engine/image/source.h"
#include "engine/image/target.h"
#include "engine/image/write.h"

#include <string.h>

/* More than there may be CPUs, so that the disk has to do while pieces are hashed: each thread
 * reads one piece ahead at most, and waits for what it has written. */
#define THREADS 8

static gboolean
write_piece(guint user, const DrvPiece *piece, gpointer data, GError **error)
{
    const DrvWriter *writer = data;
    if (piece->bytes == NULL)
        return drv_write_zeros(writer, user, piece->first, piece->blocks, error);
    return drv_write_piece(writer, user, piece->first, piece->bytes, piece->len, error);
}

/* Options become parts of qemu-img's command line and of files' headers: another file may not be
 * brought in by them. */
static gboolean
check_options(const char *options, GError **error)
{
    static const char *const others[] = {
        "backing_file", "backing_fmt", "data_file", "encrypt", "encryption", "help",
        /* vmdk of several files, or written in order only */
        "subformat=monolithicFlat", "subformat=twoGb", "subformat=stream"};
    g_auto(GStrv) parts = g_strsplit(options, ",", -1);
    for (guint i = 0; parts[i] != NULL; i++) {
        gboolean good = strchr(parts[i], '=') != NULL;
        for (guint k = 0; good && k < G_N_ELEMENTS(others); k++)
            good = !g_str_has_prefix(parts[i], others[k]);
        if (!good) {
            g_autofree char *shown = g_strescape(parts[i], NULL);
            g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                        "the option '%.60s' cannot be used here: give NAME=VALUE as qemu-img "
                        "create -o takes them, for an image of one file without encryption",
                        shown);
            return FALSE;
        }
    }
    return TRUE;
}

gboolean
drv_convert_check(const char *format, const char *dest_format, const char *options,
                  gboolean compress, GError **error)
{
    if ((format != NULL && !drv_image_format_check(format, error)) ||
        (dest_format != NULL && !drv_image_format_writable(dest_format, error)) ||
        (options != NULL && !check_options(options, error)))
        return FALSE;
    const char *made = dest_format != NULL ? dest_format : format;
    if (compress && options != NULL && strstr(options, "cluster_size") != NULL) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "a compressed image has clusters of 64 KiB: leave cluster_size out");
        return FALSE;
    }
    if (!compress || (made != NULL && g_str_equal(made, "qcow2")))
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                "only qcow2 can be compressed: give --dest-format qcow2");
    return FALSE;
}

static char *
convert(DrvStore *source, DrvTarget *target, guint threads, DrvCopyCount *count, GError **error)
{
    g_autoptr(DrvImageDigest) digest = drv_image_digest_new(source->size, error);
    if (digest == NULL)
        return NULL;
    DrvWriter writer = {
        .store = drv_target_store(target),
        .digest = digest,
        .blank = !drv_target_has_base(target),
        .count = count,
    };
    if (!drv_scan(source, digest, FALSE, threads, count, write_piece, NULL, &writer, error) ||
        !drv_target_commit(target, error))
        return NULL;
    return drv_image_digest_root(digest);
}

char *
drv_convert(const DrvConvertParams *params, DrvCopyCount *count, GError **error)
{
    const guint threads = THREADS;
    g_autofree char *format = NULL;
    DrvStore *source =
        drv_source_open(params->in, params->format, NULL, threads + 1, NULL, &format, error);
    if (source == NULL)
        return NULL;
    const char *made = params->dest_format != NULL ? params->dest_format : format;
    DrvTargetParams to = {
        .path = params->out,
        .format = made,
        .options = params->options,
        .compress = params->compress,
        .size = source->size,
        .users = threads,
    };
    count->total = source->size;
    g_autoptr(DrvTarget) target = NULL;
    if (drv_convert_check(params->format, made, params->options, params->compress, error))
        target = drv_target_open(&to, error);
    g_autofree char *root = target != NULL ? convert(source, target, threads, count, error) : NULL;
    drv_store_close(source, NULL);
    return g_steal_pointer(&root);
}
