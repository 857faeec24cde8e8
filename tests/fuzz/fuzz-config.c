/* SPDX-License-Identifier: Apache-2.0 */

/* A configuration file: taken, and then within its bounds, or refused with a sentence. */
#include <sys/mman.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/host/config.h"
#include "tests/fuzz/fuzz.h"

int
LLVMFuzzerTestOneInput(const guint8 *data, size_t size)
{
    int fd = memfd_create("config", MFD_CLOEXEC);
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    g_autoptr(DrvConfig) config = drv_config_new();
    g_autoptr(GError) error = NULL;
    g_assert(fd >= 0 && write(fd, data, size) == (gssize)size);
    gboolean taken = drv_config_load(config, path, &error);
    close(fd);
    g_assert(taken == (error == NULL));
    if (taken) {
        g_assert(config->threads >= 0 && config->threads <= 64);
        g_assert(config->lanes >= 0 && config->lanes <= 16);
        g_assert(config->drop_timeout_s >= 1 && config->drop_timeout_s <= 86400);
    } else {
        g_assert(g_error_matches(error, DRV_ERROR, DRV_ERROR_USAGE));
        g_assert(g_utf8_validate(error->message, -1, NULL));
    }
    return 0;
}
