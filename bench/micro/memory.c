/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/micro/micro.h"

#include <glib/gstdio.h>

/* What every Debian has that builds drover; what is missing is passed over. */
static const char programs[] = "/usr/bin/python3\n"
                               "/usr/bin/perl\n"
                               "/usr/bin/bash\n"
                               "/usr/bin/git\n"
                               "/usr/lib/x86_64-linux-gnu/libcrypto.so.3\n"
                               "/usr/lib/x86_64-linux-gnu/libc.so.6\n"
                               "/usr/lib/x86_64-linux-gnu/libglib-2.0.so.0\n";

static void
make_image(const char *list, const char *image, gsize len)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *size = g_strdup_printf("%" G_GSIZE_FORMAT, len / MICRO_MIB);
    g_autofree char *said = NULL;
    g_autofree char *complaint = NULL;
    const char *tool = g_getenv("DRV_MEMIMAGE");
    const char *argv[] = {tool != NULL ? tool : "memimage",
                          "--size",
                          size,
                          "--zero",
                          "40",
                          "--repeat",
                          "5",
                          "--random",
                          "15",
                          "--text",
                          list,
                          image,
                          NULL};
    int status = 0;
    if (!g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &said, &complaint,
                      &status, &error))
        g_error("%s: set DRV_MEMIMAGE to tests/tools/memimage of the build", error->message);
    if (!g_spawn_check_wait_status(status, NULL))
        g_error("memimage failed: %s", complaint);
}

guint8 *
micro_memory(gsize len)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = g_dir_make_tmp("drover-micro-XXXXXX", &error);
    if (dir == NULL)
        g_error("%s", error->message);
    g_autofree char *list = g_build_filename(dir, "programs", NULL);
    g_autofree char *image = g_build_filename(dir, "image", NULL);
    char *bytes = NULL;
    gsize have = 0;
    if (!g_file_set_contents(list, programs, -1, &error))
        g_error("%s", error->message);
    make_image(list, image, len);
    if (!g_file_get_contents(image, &bytes, &have, &error))
        g_error("%s", error->message);
    g_assert(have == len);
    g_remove(list);
    g_remove(image);
    g_rmdir(dir);
    return (guint8 *)bytes;
}
