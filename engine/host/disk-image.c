/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/host/disk-image.h"

#include "common/json.h"
#include "qmp/json.h"

#include <string.h>

/* The deepest chain that is told of. */
#define CHAIN_MAX 200

static void
free_file(gpointer data)
{
    DrvDiskFile *file = data;
    g_free(file->path);
    g_free(file->format);
    g_free(file);
}

void
drv_disk_image_free(DrvDiskImage *image)
{
    if (image == NULL)
        return;
    g_ptr_array_unref(image->files);
    g_free(image->options);
    g_free(image);
}

static void
free_image(gpointer data)
{
    drv_disk_image_free(data);
}

/* QEMU describes an image by its options where a name alone would not do: "json:{...}". The file in
 * it is still what a person, or another image, knows it by. */
static char *
name_file(const char *name)
{
    static const char prefix[] = "json:";
    if (!g_str_has_prefix(name, prefix))
        return g_strdup(name);
    const char *text = name + strlen(prefix);
    g_autoptr(JsonObject) options = drv_json_parse_object(text, strlen(text), NULL);
    JsonObject *file = drv_json_object(options, "file");
    const char *path = drv_json_string(file != NULL ? file : options, "filename", NULL);
    return g_strdup(path != NULL ? path : name);
}

static void
add_files(GPtrArray *files, JsonObject *image)
{
    for (; image != NULL && files->len < CHAIN_MAX;
         image = drv_json_object(image, "backing-image")) {
        DrvDiskFile *file = g_new0(DrvDiskFile, 1);
        file->path = name_file(drv_json_string(image, "filename", ""));
        file->format = g_strdup(drv_json_string(image, "format", ""));
        file->allocated = drv_json_int(image, "actual-size", -1);
        g_ptr_array_add(files, file);
    }
}

static guint
length(JsonArray *array)
{
    return array != NULL ? json_array_get_length(array) : 0;
}

/* --- options --- */

static void
add_option(GString *options, const char *name, const char *value)
{
    g_string_append_printf(options, "%s%s=%s", options->len > 0 ? "," : "", name, value);
}

static void
add_number(GString *options, const char *name, gint64 value, gint64 standard)
{
    g_autofree char *text = g_strdup_printf("%" G_GINT64_FORMAT, value);
    if (value > 0 && value != standard)
        add_option(options, name, text);
}

/* Only words that are known: they become part of a command line, if on another host. */
static char *
qcow2_options(JsonObject *image, JsonObject *data)
{
    g_autoptr(GString) options = g_string_new(NULL);
    if (g_str_equal(drv_json_string(data, "compat", "1.1"), "0.10"))
        add_option(options, "compat", "0.10");
    add_number(options, "cluster_size", drv_json_int(image, "cluster-size", 0), 65536);
    add_number(options, "refcount_bits", drv_json_int(data, "refcount-bits", 0), 16);
    if (drv_json_flag(data, "extended-l2", FALSE))
        add_option(options, "extended_l2", "on");
    if (drv_json_flag(data, "lazy-refcounts", FALSE))
        add_option(options, "lazy_refcounts", "on");
    if (g_str_equal(drv_json_string(data, "compression-type", "zlib"), "zstd"))
        add_option(options, "compression_type", "zstd");
    return options->len > 0 ? g_string_free(g_steal_pointer(&options), FALSE) : NULL;
}

/* --- from QEMU --- */

static DrvDiskImage *
parse(JsonObject *inserted)
{
    DrvDiskImage *image = g_new0(DrvDiskImage, 1);
    JsonObject *top = drv_json_object(inserted, "image");
    JsonObject *specific = drv_json_object(top, "format-specific");
    JsonObject *data = drv_json_object(specific, "data");
    image->files = g_ptr_array_new_with_free_func(free_file);
    add_files(image->files, top);
    image->snapshots = length(drv_json_array(top, "snapshots"));
    /* Of these QEMU knows also such as are not kept; in the image there may be some that it has not
     * loaded. */
    image->bitmaps = MAX(length(drv_json_array(inserted, "dirty-bitmaps")),
                         length(drv_json_array(data, "bitmaps")));
    if (g_str_equal(drv_json_string(specific, "type", ""), "qcow2"))
        image->options = qcow2_options(top, data);
    return image;
}

GPtrArray *
drv_disk_images_parse(JsonNode *answer)
{
    GPtrArray *images = g_ptr_array_new_with_free_func(free_image);
    JsonArray *all = qmp_node_array(answer);
    for (guint i = 0; i < length(all); i++)
        g_ptr_array_add(images, parse(drv_json_object(drv_json_element(all, i), "inserted")));
    return images;
}

GStrv
drv_disk_image_left(const DrvDiskImage *image, gboolean encrypted)
{
    g_autoptr(GStrvBuilder) left = g_strv_builder_new();
    g_autofree char *snapshots = g_strdup_printf("%u snapshot%s inside the image", image->snapshots,
                                                 image->snapshots == 1 ? "" : "s");
    g_autofree char *bitmaps = g_strdup_printf("%u bitmap%s of what was changed", image->bitmaps,
                                               image->bitmaps == 1 ? "" : "s");
    if (image->snapshots > 0)
        g_strv_builder_add(left, snapshots);
    if (image->bitmaps > 0)
        g_strv_builder_add(left, bitmaps);
    if (encrypted)
        g_strv_builder_add(left, "the encryption: the other image has to have its own");
    return g_strv_builder_end(left);
}

guint64
drv_disk_image_allocated(const DrvDiskImage *image, gboolean chain)
{
    guint64 sum = 0;
    for (guint i = 0; i < image->files->len && (i == 0 || chain); i++)
        sum += (guint64)MAX(((const DrvDiskFile *)image->files->pdata[i])->allocated, 0);
    return sum;
}
