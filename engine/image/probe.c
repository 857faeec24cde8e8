/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/probe.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/image/map.h"
#include "engine/image/tool.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

/* The deepest backing chain that is looked at. */
#define CHAIN_MAX 200

void
drv_image_info_free(DrvImageInfo *info)
{
    if (info == NULL)
        return;
    g_free(info->format);
    g_ptr_array_unref(info->files);
    g_ptr_array_unref(info->bitmaps);
    g_free(info);
}

gboolean
drv_image_format_check(const char *format, GError **error)
{
    gsize len = strlen(format);
    for (gsize i = 0; i < len; i++) {
        if (!g_ascii_isalnum(format[i]) && strchr("-_", format[i]) == NULL)
            len = 0;
    }
    if (len > 0 && len <= 20)
        return TRUE;
    g_autofree char *shown = g_strescape(format, NULL);
    g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                "'%.40s' is no image format: give one as raw, qcow2, vmdk, vdi or vhdx", shown);
    return FALSE;
}

gboolean
drv_image_format_writable(const char *format, GError **error)
{
    static const char *const formats[] = {"raw", "qcow2", "vmdk", "vdi", "vhdx"};
    for (guint i = 0; i < G_N_ELEMENTS(formats); i++) {
        if (g_str_equal(format, formats[i]))
            return TRUE;
    }
    g_autofree char *shown = g_strescape(format, NULL);
    g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                "an image of format '%.40s' cannot be made: choose raw, qcow2, vmdk, vdi or vhdx "
                "with --dest-format",
                shown);
    return FALSE;
}

gboolean
drv_image_kind_check(const char *path, GError **error)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "%s", g_strerror(errno));
        return FALSE;
    }
    if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode))
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_STATE, "it is neither a file nor a block device");
    return FALSE;
}

/* --- qemu-img info --- */

static JsonArray *
ask(const char *path, const char *format, JsonParser *parser, GError **error)
{
    const char *argv[10] = {"qemu-img", "info", "--output=json", "--backing-chain"};
    guint count = 4;
    if (format != NULL) {
        argv[count++] = "-f";
        argv[count++] = format;
    }
    argv[count] = path;
    g_autofree char *text = drv_tool_run(argv, -1, NULL, NULL, NULL, error);
    if (text == NULL)
        return NULL;
    JsonNode *root =
        json_parser_load_from_data(parser, text, -1, NULL) ? json_parser_get_root(parser) : NULL;
    JsonArray *chain =
        root != NULL && JSON_NODE_HOLDS_ARRAY(root) ? json_node_get_array(root) : NULL;
    if (drv_json_element(chain, 0) != NULL)
        return chain;
    g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU, "qemu-img does not describe it");
    return NULL;
}

/* The other files that hold an image's data: a qcow2's data file (as it is in the header: QEMU
 * takes a relative one from where it runs, so it can be none of ours), a vmdk's extents. */
static void
add_data_files(GPtrArray *files, JsonObject *image)
{
    const char *name = drv_json_string(image, "filename", "");
    JsonObject *data = drv_json_object(drv_json_object(image, "format-specific"), "data");
    const char *other = drv_json_string(data, "data-file", NULL);
    if (other != NULL)
        g_ptr_array_add(files, g_strdup(other));
    JsonArray *extents = drv_json_array(data, "extents");
    for (guint i = 0; extents != NULL && i < json_array_get_length(extents); i++) {
        other = drv_json_string(drv_json_element(extents, i), "filename", "");
        if (!g_str_equal(other, name))
            g_ptr_array_add(files, g_strdup(other));
    }
}

static gboolean
has_flag(JsonObject *bitmap, const char *flag)
{
    JsonArray *flags = drv_json_array(bitmap, "flags");
    for (guint i = 0; flags != NULL && i < json_array_get_length(flags); i++) {
        JsonNode *node = json_array_get_element(flags, i);
        if (JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_STRING &&
            g_str_equal(json_node_get_string(node), flag))
            return TRUE;
    }
    return FALSE;
}

/* One that is not "auto" stands still, and one "in-use" was not closed by the QEMU that had it: of
 * both it is not known what they have missed. */
static void
add_bitmaps(GPtrArray *names, JsonObject *image)
{
    JsonObject *data = drv_json_object(drv_json_object(image, "format-specific"), "data");
    JsonArray *bitmaps = drv_json_array(data, "bitmaps");
    for (guint i = 0; bitmaps != NULL && i < json_array_get_length(bitmaps); i++) {
        JsonObject *bitmap = drv_json_element(bitmaps, i);
        if (has_flag(bitmap, "auto") && !has_flag(bitmap, "in-use"))
            g_ptr_array_add(names, g_strdup(drv_json_string(bitmap, "name", "")));
    }
}

static DrvImageInfo *
describe(JsonArray *chain, GError **error)
{
    g_autoptr(DrvImageInfo) info = g_new0(DrvImageInfo, 1);
    JsonObject *top = drv_json_element(chain, 0);
    gint64 size = drv_json_int(top, "virtual-size", -1);
    guint count = json_array_get_length(chain);
    info->format = g_strdup(drv_json_string(top, "format", ""));
    info->files = g_ptr_array_new_with_free_func(g_free);
    info->bitmaps = g_ptr_array_new_with_free_func(g_free);
    add_bitmaps(info->bitmaps, top);
    info->size = (guint64)size;
    info->backed = count > 1;
    for (guint i = 0; i < count && i < CHAIN_MAX; i++) {
        JsonObject *image = drv_json_element(chain, i);
        g_ptr_array_add(info->files, g_strdup(drv_json_string(image, "filename", "")));
        add_data_files(info->files, image);
    }
    if (size >= 0 && count <= CHAIN_MAX)
        return g_steal_pointer(&info);
    g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU, "qemu-img does not tell its size");
    return NULL;
}

static gboolean
is_encrypted(JsonArray *chain)
{
    for (guint i = 0; i < json_array_get_length(chain); i++) {
        JsonObject *image = drv_json_element(chain, i);
        if (drv_json_flag(image, "encrypted", FALSE) ||
            g_str_equal(drv_json_string(image, "format", ""), "luks"))
            return TRUE;
    }
    return FALSE;
}

static gboolean
check_readable(JsonArray *chain, GError **error)
{
    JsonObject *top = drv_json_element(chain, 0);
    JsonObject *data = drv_json_object(drv_json_object(top, "format-specific"), "data");
    if (is_encrypted(chain)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "it is encrypted, and drover has no key: copy it as it is, with --format raw "
                    "and --dest-format raw");
        return FALSE;
    }
    if (!drv_json_flag(data, "corrupt", FALSE))
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU,
                "it is marked corrupt: see 'qemu-img check -r all'");
    return FALSE;
}

/* --- qemu-img check and map --- */

/* Damage that opening it does not show: clusters that point past the end of a cut file, say, which
 * QEMU would read as zeros. Leaks are harmless, and formats without a check are believed. */
static gboolean
check_clusters(const char *path, const char *format, GError **error)
{
    const char *const argv[] = {"qemu-img", "check", "-f", format, path, NULL};
    enum { GOOD = 0, LEAKS = 3, HAS_NO_CHECK = 63 };
    int status = GOOD;
    g_autofree char *words = NULL;
    const DrvToolCall call = {.argv = argv, .fd = -1, .limit_ms = DRV_TOOL_LONG_MS};
    g_autofree char *text = drv_tool_call(&call, &status, &words, error);
    if (text == NULL)
        return FALSE;
    if (status == GOOD || status == LEAKS || status == HAS_NO_CHECK)
        return TRUE;
    g_auto(GStrv) lines = g_strsplit(words, "; ", 2);
    g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU,
                "it is damaged (%s): see 'qemu-img check -r all', or restore it", lines[0]);
    return FALSE;
}

static gboolean
check_within(JsonObject *extent, gpointer data, GError **error)
{
    const guint64 *size = data;
    gint64 at = drv_json_int(extent, "offset", -1), len = drv_json_int(extent, "length", 0);
    if (at < 0 || len < 0 || (guint64)at + (guint64)len <= *size)
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU,
                "it is damaged (the file has %" G_GUINT64_FORMAT
                " bytes, and data up to byte %" G_GUINT64_FORMAT "): restore it",
                *size, (guint64)at + (guint64)len);
    return FALSE;
}

/* The same for formats whose check does not look for the end of the file, or not closely. */
static gboolean
check_end(const char *path, const char *format, GError **error)
{
    g_autoptr(GError) why = NULL;
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode))
        return TRUE;
    guint64 size = (guint64)st.st_size;
    if (drv_image_map(path, format, DRV_TOOL_LONG_MS, check_within, &size, &why) ||
        g_error_matches(why, DRV_ERROR, DRV_ERROR_PROTOCOL)) /* a later QEMU's, maybe */
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&why));
    return FALSE;
}

/* An offset tells something only where all data is in one file. */
static gboolean
check_whole(const char *path, const DrvImageInfo *info, GError **error)
{
    if (g_str_equal(info->format, "raw"))
        return TRUE;
    return check_clusters(path, info->format, error) &&
           (g_str_equal(info->format, "qcow2") || info->files->len > 1 ||
            check_end(path, info->format, error));
}

static DrvImageInfo *
probe(const char *path, const char *format, gboolean source, GError **error)
{
    g_autoptr(JsonParser) parser = json_parser_new();
    g_autoptr(GError) why = NULL;
    g_autoptr(DrvImageInfo) info = NULL;
    if (format != NULL && !drv_image_format_check(format, error))
        return NULL;
    JsonArray *chain = drv_image_kind_check(path, &why) ? ask(path, format, parser, &why) : NULL;
    if (chain != NULL)
        info = describe(chain, &why);
    gboolean good = info != NULL;
    if (good && source)
        good = check_readable(chain, &why) && check_whole(path, info, &why);
    if (good)
        return g_steal_pointer(&info);
    g_set_error(error, why->domain, why->code, "%s cannot be used: %s", path, why->message);
    return NULL;
}

DrvImageInfo *
drv_image_probe(const char *path, const char *format, GError **error)
{
    return probe(path, format, FALSE, error);
}

DrvImageInfo *
drv_image_probe_source(const char *path, const char *format, GError **error)
{
    return probe(path, format, TRUE, error);
}
