/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/host/disks.h"

#include "common/error.h"
#include "qmp/json.h"

#include <string.h>

/*
 * Two QEMUs that were started with the same options call a disk the same, but what it is called by
 * depends on these options:
 *
 *   -drive id=ID             the id, or one that QEMU makes up from the interface ("virtio0")
 *   -device ...,id=ID        "/machine/peripheral/ID", with "/virtio-backend" for virtio
 *   -device without id       "/machine/peripheral-anon/device[N]", by order
 *   machine's own devices    "/machine/unattached/device[N]": another N in another version of QEMU
 *   -blockdev node-name=N    the node's name; QEMU's own begin with '#' and mean nothing
 *
 * The first that both have decides.
 */

void
drv_disk_free(DrvDisk *disk)
{
    if (disk == NULL)
        return;
    g_free(disk->name);
    g_free(disk->drive);
    g_free(disk->qdev);
    g_free(disk->node);
    g_free(disk->format);
    g_free(disk);
}

static void
free_disk(gpointer data)
{
    drv_disk_free(data);
}

static GPtrArray *
new_disks(void)
{
    return g_ptr_array_new_with_free_func(free_disk);
}

static char *
text(JsonObject *object, const char *member)
{
    const char *found = qmp_get_string(object, member);
    return g_strdup(found != NULL ? found : "");
}

/* The device's id in its path, where the user has given it one; NULL: he has not. */
static char *
device_id(const char *qdev)
{
    static const char prefix[] = "/machine/peripheral/";
    if (!g_str_has_prefix(qdev, prefix))
        return NULL;
    const char *id = qdev + strlen(prefix);
    return g_strndup(id, strcspn(id, "/"));
}

static char *
name_disk(const DrvDisk *disk)
{
    char *id = device_id(disk->qdev);
    if (*disk->drive != '\0' || (id == NULL && (*disk->node == '\0' || *disk->node == '#'))) {
        g_free(id);
        return g_strdup(*disk->drive != '\0' ? disk->drive : disk->qdev);
    }
    return id != NULL ? id : g_strdup(disk->node);
}

/* --- from QEMU --- */

static gboolean
take_medium(DrvDisk *disk, JsonObject *inserted, GError **error)
{
    gint64 size = -1, depth = 0;
    qmp_get_int(qmp_get_object(inserted, "image"), "virtual-size", &size);
    qmp_get_bool(inserted, "ro", &disk->read_only);
    disk->node = text(inserted, "node-name");
    disk->format = text(inserted, "drv");
    disk->medium = TRUE;
    disk->backing = qmp_get_int(inserted, "backing_file_depth", &depth) && depth > 0;
    qmp_get_bool(inserted, "encrypted", &disk->encrypted);
    disk->encrypted |= g_str_equal(disk->format, "luks");
    if (size >= 0 && *disk->node != '\0') {
        disk->size = (guint64)size;
        return TRUE;
    }
    g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU,
                "QEMU does not say how large the disk '%s' is, or which node it is",
                *disk->drive != '\0' ? disk->drive : disk->qdev);
    return FALSE;
}

static DrvDisk *
parse_disk(JsonObject *object, GError **error)
{
    g_autoptr(DrvDisk) disk = g_new0(DrvDisk, 1);
    JsonObject *inserted = qmp_get_object(object, "inserted");
    disk->drive = text(object, "device");
    disk->qdev = text(object, "qdev");
    qmp_get_bool(object, "removable", &disk->removable);
    if (inserted == NULL) {
        disk->node = g_strdup("");
        disk->format = g_strdup("");
    } else if (!take_medium(disk, inserted, error)) {
        return NULL;
    }
    disk->name = name_disk(disk);
    return g_steal_pointer(&disk);
}

GPtrArray *
drv_disks_parse(JsonNode *answer, GError **error)
{
    g_autoptr(GPtrArray) disks = new_disks();
    JsonArray *all = qmp_node_array(answer);
    guint count = all != NULL ? json_array_get_length(all) : 0;
    if (count > DRV_DISKS_MAX) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_LIMIT,
                    "the VM has %u disks, and drover moves at most %d: detach some", count,
                    DRV_DISKS_MAX);
        return NULL;
    }
    for (guint i = 0; i < count; i++) {
        DrvDisk *disk = parse_disk(qmp_node_object(json_array_get_element(all, i)), error);
        if (disk == NULL)
            return NULL;
        g_ptr_array_add(disks, disk);
    }
    return g_steal_pointer(&disks);
}

static gboolean
is_called(const DrvDisk *disk, guint how, const char *id)
{
    if (how == 0)
        return g_str_equal(disk->drive, id);
    if (how == 2)
        return g_str_equal(disk->node, id);
    g_autofree char *device = device_id(disk->qdev);
    return g_strcmp0(device, id) == 0 || g_str_equal(disk->qdev, id);
}

const DrvDisk *
drv_disks_find(GPtrArray *disks, const char *id)
{
    for (guint how = 0; how < 3 && *id != '\0'; how++)
        for (guint i = 0; i < disks->len; i++)
            if (is_called(disks->pdata[i], how, id))
                return disks->pdata[i];
    return NULL;
}

char *
drv_disks_list(GPtrArray *disks)
{
    GString *list = g_string_new(NULL);
    for (guint i = 0; i < disks->len; i++)
        g_string_append_printf(list, "%s%s", i > 0 ? ", " : "",
                               ((const DrvDisk *)disks->pdata[i])->name);
    return g_string_free(list, FALSE);
}

gboolean
drv_disk_is_written(const DrvDisk *disk)
{
    return disk->medium && !disk->read_only;
}

const char *
drv_disk_skipped(const DrvDisk *disk)
{
    return disk->medium ? "read-only" : "no medium";
}

/* --- between daemons --- */

JsonArray *
drv_disks_to_json(GPtrArray *disks)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < disks->len; i++) {
        const DrvDisk *disk = disks->pdata[i];
        if (!drv_disk_is_written(disk))
            continue;
        JsonObject *object = json_object_new();
        json_object_set_string_member(object, "name", disk->name);
        json_object_set_string_member(object, "drive", disk->drive);
        json_object_set_string_member(object, "qdev", disk->qdev);
        json_object_set_string_member(object, "node", disk->node);
        json_object_set_string_member(object, "format", disk->format);
        json_object_set_boolean_member(object, "backing", disk->backing);
        json_object_set_boolean_member(object, "encrypted", disk->encrypted);
        json_object_set_int_member(object, "size", (gint64)disk->size);
        json_array_add_object_element(array, object);
    }
    return array;
}

static DrvDisk *
disk_from_json(JsonObject *object)
{
    gint64 size = -1;
    if (!qmp_get_int(object, "size", &size) || size < 0 || qmp_get_string(object, "name") == NULL)
        return NULL;
    DrvDisk *disk = g_new0(DrvDisk, 1);
    disk->name = text(object, "name");
    disk->drive = text(object, "drive");
    disk->qdev = text(object, "qdev");
    disk->node = text(object, "node");
    disk->format = text(object, "format");
    disk->size = (guint64)size;
    qmp_get_bool(object, "backing", &disk->backing);
    qmp_get_bool(object, "encrypted", &disk->encrypted);
    disk->medium = TRUE;
    return disk;
}

GPtrArray *
drv_disks_from_json(JsonArray *array, GError **error)
{
    g_autoptr(GPtrArray) disks = new_disks();
    guint count = array != NULL ? json_array_get_length(array) : 0;
    for (guint i = 0; i < count; i++) {
        DrvDisk *disk = count <= DRV_DISKS_MAX
                            ? disk_from_json(qmp_node_object(json_array_get_element(array, i)))
                            : NULL;
        if (disk == NULL) {
            g_set_error_literal(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                                "the source's list of disks makes no sense");
            return NULL;
        }
        g_ptr_array_add(disks, disk);
    }
    return g_steal_pointer(&disks);
}

/* --- which is which --- */

static gboolean
same_text(const char *a, const char *b)
{
    return *a != '\0' && g_str_equal(a, b);
}

static gboolean
same_drive(const DrvDisk *a, const DrvDisk *b)
{
    return same_text(a->drive, b->drive);
}

static gboolean
same_device(const DrvDisk *a, const DrvDisk *b)
{
    return same_text(a->qdev, b->qdev);
}

static gboolean
same_node(const DrvDisk *a, const DrvDisk *b)
{
    return same_text(a->node, b->node) && *a->node != '#';
}

static DrvDisk *
find_pair(const DrvDisk *disk, GPtrArray *there, GPtrArray *taken)
{
    static gboolean (*const alike[])(const DrvDisk *, const DrvDisk *) = {same_drive, same_device,
                                                                          same_node};
    for (guint k = 0; k < G_N_ELEMENTS(alike); k++)
        for (guint i = 0; i < there->len; i++)
            if (alike[k](disk, there->pdata[i]) && !g_ptr_array_find(taken, there->pdata[i], NULL))
                return there->pdata[i];
    return NULL;
}

static gboolean
fits(const DrvDisk *disk, const DrvDisk *other, gboolean keep_chain, GError **error)
{
    if (other == NULL)
        g_set_error(error, DRV_ERROR, DRV_ERROR_MISMATCH,
                    "the destination's QEMU has no disk '%s': start it with the same -drive or "
                    "-blockdev options as the source",
                    disk->name);
    else if (!other->medium)
        g_set_error(error, DRV_ERROR, DRV_ERROR_MISMATCH,
                    "disk '%s' has no medium at the destination: start its QEMU with an image of "
                    "%" G_GUINT64_FORMAT " bytes there",
                    disk->name, disk->size);
    else if (other->read_only)
        g_set_error(error, DRV_ERROR, DRV_ERROR_MISMATCH,
                    "disk '%s' is read-only at the destination: start its QEMU without read-only "
                    "or readonly for it",
                    disk->name);
    else if (other->size != disk->size)
        g_set_error(error, DRV_ERROR, DRV_ERROR_MISMATCH,
                    "disk '%s' has %" G_GUINT64_FORMAT " bytes at the source and "
                    "%" G_GUINT64_FORMAT " at the destination: make its image there anew with "
                    "'qemu-img create -f %s FILE %" G_GUINT64_FORMAT "'",
                    disk->name, disk->size, other->size,
                    *other->format != '\0' ? other->format : "qcow2", disk->size);
    else if (keep_chain && disk->backing && !other->backing)
        g_set_error(error, DRV_ERROR, DRV_ERROR_MISMATCH,
                    "disk '%s' has a backing file at the source and none at the destination: make "
                    "its image there with 'qemu-img create -b' from a copy of that file, or move "
                    "all of it with '--disks-chain flatten'",
                    disk->name);
    else if (disk->encrypted && !other->encrypted)
        g_set_error(error, DRV_ERROR, DRV_ERROR_MISMATCH,
                    "disk '%s' is encrypted at the source and would not be at the destination: "
                    "start its QEMU with an encrypted image there ('qemu-img create -o "
                    "encrypt.format=luks', with a key of its own)",
                    disk->name);
    else
        return TRUE;
    return FALSE;
}

GPtrArray *
drv_disks_pair(GPtrArray *disks, GPtrArray *there, gboolean keep_chain, GError **error)
{
    g_autoptr(GPtrArray) pairs = g_ptr_array_new();
    for (guint i = 0; i < disks->len; i++) {
        DrvDisk *other = find_pair(disks->pdata[i], there, pairs);
        if (!fits(disks->pdata[i], other, keep_chain, error))
            return NULL;
        g_ptr_array_add(pairs, other);
    }
    return g_steal_pointer(&pairs);
}
