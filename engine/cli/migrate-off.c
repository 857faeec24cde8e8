/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/migrate-off.h"

#include "common/error.h"
#include "engine/cli/common.h"
#include "engine/cli/copies.h"
#include "engine/cli/options.h"

static const DrvOption options[] = {
    {"to", "to", DRV_OPTION_TEXT, .required = TRUE},
    {"format", "format", DRV_OPTION_TEXT},
    {"dest-format", "dest_format", DRV_OPTION_TEXT},
    {"since", "since", DRV_OPTION_TEXT},
    {"lanes", "lanes", DRV_OPTION_COUNT, .min = 1, .max = 16},
    {"bandwidth", "bandwidth", DRV_OPTION_BYTES, .min = 65536, .max = G_GUINT64_CONSTANT(1) << 40,
     .zero = "unlimited"},
    {"drop-timeout", "drop_timeout_s", DRV_OPTION_SECONDS, .min = 1, .max = 86400},
};

static JsonObject *
make_common(const DrvOffParams *params, GError **error)
{
    const char *const texts[] = {params->to,          params->format, params->dest_format,
                                 params->since,       params->lanes,  params->bandwidth,
                                 params->drop_timeout};
    G_STATIC_ASSERT(G_N_ELEMENTS(texts) == G_N_ELEMENTS(options));
    g_autoptr(JsonObject) common = json_object_new();
    return drv_options_take(options, G_N_ELEMENTS(options), texts, common, error)
               ? g_steal_pointer(&common)
               : NULL;
}

static gboolean
add_disk(GPtrArray *disks, JsonObject *common, const DrvOffParams *params, guint i, GError **error)
{
    static const DrvOption disk = {"disk", "image", DRV_OPTION_PATH},
                           base = {"base", "base", DRV_OPTION_TEXT};
    const char *path;
    g_autofree char *given = drv_copies_split(params->disks[i], &path);
    g_autofree char *image = g_canonicalize_filename(given, NULL);
    JsonObject *spec = drv_copies_add(disks, common, image, image);
    return drv_option_take(&disk, given, spec, error) &&
           drv_option_take(&base, params->base != NULL ? params->base[i] : NULL, spec, error) &&
           drv_copies_place(spec, path, image, params->dest_dir, error);
}

static gboolean
check_count(const DrvOffParams *params, GError **error)
{
    guint n = params->disks != NULL ? g_strv_length(params->disks) : 0;
    guint bases = params->base != NULL ? g_strv_length(params->base) : 0;
    if (n == 0)
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "--disk is missing: give the image of each of the VM's disks");
    else if (bases != (params->since != NULL ? n : 0))
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "--since and --base go together, with the digest of each --disk's copy as "
                    "--base, in their order: there are %u of --base, and %u of --disk",
                    bases, n);
    else
        return TRUE;
    return FALSE;
}

static GPtrArray *
make_disks(const DrvOffParams *params, GError **error)
{
    g_autoptr(GPtrArray) disks = drv_copies_disks_new();
    g_autoptr(JsonObject) common = check_count(params, error) ? make_common(params, error) : NULL;
    for (guint i = 0; common != NULL && params->disks[i] != NULL; i++) {
        if (!add_disk(disks, common, params, i, error))
            return NULL;
    }
    return common != NULL && drv_copies_check(disks, params->dest_dir, error)
               ? g_steal_pointer(&disks)
               : NULL;
}

int
drv_cli_migrate_off(DrvCli *cli, const DrvOffParams *params, GError **error)
{
    DrvFollowOptions how = {.cancels = TRUE};
    g_autoptr(GPtrArray) disks = make_disks(params, error);
    if (disks == NULL || !drv_option_reconnect(params->reconnect, &how.reconnect_s, error))
        return -1;
    g_autoptr(DrvClient) client = drv_cli_connect(cli, error);
    if (client == NULL)
        return -1;
    g_autoptr(DrvFollow) follow = drv_follow_new(client, &how);
    const DrvCopies what = {disks, params->name, params->to, .json = params->json};
    return drv_copies_run(&what, client, follow, error);
}
