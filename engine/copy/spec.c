/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/copy/spec.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/host/address.h"
#include "engine/image/convert.h"
#include "engine/image/stream.h"
#include "engine/job/journal.h"

#include <string.h>

/* The journal's jobs are migrations, but for those that say what else they are. */
#define KIND "kind"
#define COPY "copy"

typedef enum { TEXT, PATH, NUMBER, FLAG, DELTA } Kind;

#define AT(field) G_STRUCT_OFFSET(DrvCopySpec, field)

static const struct {
    const char *name;
    Kind kind;
    gsize offset;
    gboolean required;
    gint64 min, max, standard; /* of numbers; 0 is the default's and allowed where 'standard' is */
} members[] = {
    {"image", PATH, AT(image)},
    {"qmp", PATH, AT(qmp)},
    {"disk", TEXT, AT(disk)},
    {"bitmap", TEXT, AT(bitmap)},
    {"scratch", PATH, AT(scratch)},
    {"to", TEXT, AT(to), .required = TRUE},
    {"dest", PATH, AT(dest), .required = TRUE},
    {"format", TEXT, AT(format)},
    {"dest_format", TEXT, AT(dest_format)},
    {"options", TEXT, AT(options)},
    {"compress", FLAG, AT(compress)},
    {"delta", DELTA, AT(whole)},
    {"since", TEXT, AT(since)},
    {"base", TEXT, AT(base)},
    {"group", TEXT, AT(group)},
    {"of", NUMBER, AT(of), .min = 2, .max = 64},
    {"lanes", NUMBER, AT(lanes), .min = 1, .max = 16},
    {"bandwidth", NUMBER, AT(bandwidth), .min = 65536, .max = G_GINT64_CONSTANT(1) << 40},
    {"drop_timeout_s", NUMBER, AT(drop_timeout_s), .min = 1, .max = 86400, .standard = 60},
};

void
drv_copy_spec_free(DrvCopySpec *spec)
{
    if (spec == NULL)
        return;
    g_free(spec->image);
    g_free(spec->qmp);
    g_free(spec->disk);
    g_free(spec->bitmap);
    g_free(spec->scratch);
    g_free(spec->to);
    g_free(spec->dest);
    g_free(spec->format);
    g_free(spec->dest_format);
    g_free(spec->options);
    g_free(spec->since);
    g_free(spec->base);
    g_free(spec->group);
    g_free(spec->host);
    g_free(spec);
}

gboolean
drv_copy_spec_is(const char *text)
{
    g_autoptr(JsonObject) object =
        text != NULL ? drv_json_parse_object(text, strlen(text), NULL) : NULL;
    return object != NULL && g_str_equal(drv_json_string(object, KIND, ""), COPY);
}

static char *
text_of(const char *text, const char *name)
{
    g_autoptr(JsonObject) object =
        text != NULL ? drv_json_parse_object(text, strlen(text), NULL) : NULL;
    gboolean copy = object != NULL && g_str_equal(drv_json_string(object, KIND, ""), COPY);
    return copy ? g_strdup(drv_json_string(object, name, NULL)) : NULL;
}

char *
drv_copy_spec_qmp(const char *text)
{
    return text_of(text, "qmp");
}

char *
drv_copy_spec_group(const char *text)
{
    return text_of(text, "group");
}

void
drv_copy_spec_mark(JsonObject *object)
{
    json_object_set_string_member(object, KIND, COPY);
}

static gboolean
refuse(guint i, JsonNode *node, const char *allowed, GError **error)
{
    g_autofree char *text = node != NULL ? drv_json_to_text(node) : g_strdup("missing");
    g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE, "\"%s\" is %.80s: it must be %s",
                members[i].name, text, allowed);
    return FALSE;
}

static gboolean
take_text(DrvCopySpec *spec, guint i, JsonNode *node, GError **error)
{
    const char *text = node != NULL && JSON_NODE_HOLDS_VALUE(node) &&
                               json_node_get_value_type(node) == G_TYPE_STRING
                           ? json_node_get_string(node)
                           : NULL;
    if (members[i].kind == DELTA) {
        spec->whole = g_strcmp0(text, "off") == 0;
        return spec->whole || g_strcmp0(text, "auto") == 0 ||
               refuse(i, node, "\"auto\" or \"off\"", error);
    }
    if (text == NULL || text[0] == '\0')
        return refuse(i, node, "a text", error);
    if (members[i].kind == PATH && !g_path_is_absolute(text))
        return refuse(i, node, "an absolute path", error);
    G_STRUCT_MEMBER(char *, spec, members[i].offset) = g_strdup(text);
    return TRUE;
}

static gboolean
take_number(DrvCopySpec *spec, guint i, JsonNode *node, GError **error)
{
    gint64 value = JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_INT64
                       ? json_node_get_int(node)
                       : -1;
    G_STRUCT_MEMBER(gint64, spec, members[i].offset) = value;
    if ((value >= members[i].min && value <= members[i].max) ||
        (value == 0 && members[i].standard == 0))
        return TRUE;
    g_autofree char *allowed =
        g_strdup_printf("a whole number from %" G_GINT64_FORMAT " to %" G_GINT64_FORMAT,
                        members[i].min, members[i].max);
    return refuse(i, node, allowed, error);
}

static gboolean
take(DrvCopySpec *spec, guint i, JsonNode *node, GError **error)
{
    if (node == NULL) {
        if (members[i].kind == NUMBER)
            G_STRUCT_MEMBER(gint64, spec, members[i].offset) = members[i].standard;
        return !members[i].required || refuse(i, node, "given", error);
    }
    if (members[i].kind == NUMBER)
        return take_number(spec, i, node, error);
    if (members[i].kind != FLAG)
        return take_text(spec, i, node, error);
    spec->compress = json_node_get_boolean(node);
    return (JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_BOOLEAN) ||
           refuse(i, node, "true or false", error);
}

static gboolean
check_known(JsonObject *object, GError **error)
{
    g_autoptr(GList) names = json_object_get_members(object);
    for (GList *at = names; at != NULL; at = at->next) {
        gboolean known = g_str_equal(at->data, KIND);
        for (guint i = 0; i < G_N_ELEMENTS(members) && !known; i++)
            known = g_str_equal(at->data, members[i].name);
        if (!known) {
            g_autofree char *shown = g_strescape(at->data, NULL);
            g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                        "\"%.40s\" is no member of a copy: docs/http-api.md lists them", shown);
            return FALSE;
        }
    }
    return TRUE;
}

/* What belongs to an image and what to a guest's disk. */
static gboolean
check_source(const DrvCopySpec *spec, GError **error)
{
    if ((spec->image != NULL) == (spec->qmp != NULL))
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "either an image is copied or a disk of a running guest: give IMAGE, or --qmp "
                    "and --disk");
    else if ((spec->qmp != NULL) != (spec->disk != NULL))
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "--qmp and --disk go together: give the QMP socket of the guest's QEMU, and "
                    "which of its disks is to be copied");
    else if (spec->qmp == NULL && (spec->bitmap != NULL || spec->scratch != NULL))
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "--bitmap and --scratch are for disks of running guests: give --qmp and "
                    "--disk, or leave them out");
    else if (spec->qmp != NULL && (spec->format != NULL || spec->since != NULL))
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "--format and --since are for images that no QEMU has open: leave them out "
                    "with --qmp");
    else
        return TRUE;
    return FALSE;
}

static gboolean
check_since(const DrvCopySpec *spec, GError **error)
{
    static const char digits[] = "0123456789abcdefABCDEF";
    if (spec->since == NULL && spec->base == NULL)
        return TRUE;
    if (spec->since == NULL || spec->base == NULL || spec->whole)
        g_set_error(
            error, DRV_ERROR, DRV_ERROR_USAGE,
            "--since and --base go together, and not with --delta off: give the bitmap, and "
            "the digest of the copy that was made when it began");
    else if (strlen(spec->base) != DRV_RECORD_ROOT_LEN ||
             strspn(spec->base, digits) != DRV_RECORD_ROOT_LEN)
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "--base '%.80s' is no digest: give the 64 digits that a copy reports",
                    spec->base);
    else
        return TRUE;
    return FALSE;
}

static gboolean
check_group(const DrvCopySpec *spec, GError **error)
{
    if (spec->group == NULL && spec->of == 0)
        return TRUE;
    if (spec->group == NULL || spec->of == 0)
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "\"group\" and \"of\" go together: say how many copies the group has");
    else if (!drv_job_valid_id(spec->group))
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "\"group\" is '%.80s': it must be 1 to 32 letters, digits and dashes",
                    spec->group);
    else
        return TRUE;
    return FALSE;
}

DrvCopySpec *
drv_copy_spec_from_json(JsonObject *object, GError **error)
{
    g_autoptr(DrvCopySpec) spec = g_new0(DrvCopySpec, 1);
    if (!check_known(object, error))
        return NULL;
    for (guint i = 0; i < G_N_ELEMENTS(members); i++) {
        if (!take(spec, i, json_object_get_member(object, members[i].name), error))
            return NULL;
    }
    if (!check_source(spec, error) || !check_since(spec, error) || !check_group(spec, error) ||
        !drv_address_parse(spec->to, &spec->host, &spec->port, error) ||
        !drv_convert_check(spec->format, spec->dest_format, spec->options,
                           spec->compress && spec->dest_format != NULL, error))
        return NULL;
    return g_steal_pointer(&spec);
}

DrvCopySpec *
drv_copy_spec_parse(const char *text, GError **error)
{
    g_autoptr(JsonObject) object = drv_json_parse_object(text, strlen(text), error);
    return object != NULL ? drv_copy_spec_from_json(object, error) : NULL;
}
