/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/spec.h"

#include <string.h>
#include <sys/un.h>

#include "common/error.h"
#include "common/json.h"
#include "engine/host/address.h"

/*
 * One table says everything about the members; parsing, checking, defaults and printing walk it.
 */
typedef enum {
    KIND_PATH,    /* char *: a unix socket */
    KIND_ADDRESS, /* char *: ADDR:PORT */
    KIND_NAME,    /* char *: free text */
    KIND_NUMBER,  /* gint64 */
    KIND_CHOICE,  /* an enum, in the order of 'choices' */
    KIND_FLAG     /* gboolean */
} Kind;

typedef struct {
    const char *name;
    Kind kind;
    gsize offset;
    gboolean required;
    gint64 min, max, standard; /* numbers */
    const char *zero;          /* numbers: 0 is allowed as well, and means this */
    const char *choices[5];    /* choices: the first is the default */
} Member;

#define AT(field) G_STRUCT_OFFSET(DrvJobSpec, field)

static const Member members[] = {
    {"qmp", KIND_PATH, AT(qmp), .required = TRUE},
    {"to", KIND_ADDRESS, AT(to), .required = TRUE},
    {"dest_qmp", KIND_PATH, AT(dest_qmp), .required = TRUE},
    {"name", KIND_NAME, AT(name)},
    {"lanes", KIND_NUMBER, AT(lanes), .min = 1, .max = 16, .zero = "automatic"},
    {"codec", KIND_CHOICE, AT(codec), .choices = {"auto", "none", "lz4", "zstd"}},
    {"mode", KIND_CHOICE, AT(mode), .choices = {"auto", "relay", "direct"}},
    {"dedup_memory", KIND_NUMBER, AT(dedup_memory), .min = 65536,
     .max = G_GINT64_CONSTANT(16) << 30, .standard = DRV_SPEC_AUTO,
     .zero = "no duplicates are found"},
    {"multifd", KIND_NUMBER, AT(multifd), .min = 1, .max = 255, .zero = "none"},
    /* Slower than 64 KiB/s not even a guest's devices arrive within any drop timeout. */
    {"bandwidth", KIND_NUMBER, AT(bandwidth), .min = 65536, .max = G_GINT64_CONSTANT(1) << 40,
     .zero = "unlimited"},
    {"downtime_ms", KIND_NUMBER, AT(downtime_ms), .min = 1, .max = 2000000, .standard = 300},
    {"max_downtime_ms", KIND_NUMBER, AT(max_downtime_ms), .min = 1, .max = 2000000,
     .zero = "not above downtime_ms"},
    {"converge", KIND_CHOICE, AT(converge), .choices = {"wait", "throttle", "give-up"}},
    {"timeout_s", KIND_NUMBER, AT(timeout_s), .min = 1, .max = 30 * 86400, .zero = "none"},
    {"verify", KIND_CHOICE, AT(verify), .choices = {"stream", "memory", "none"}},
    {"disks", KIND_CHOICE, AT(disks), .choices = {"none", "mirror"}},
    {"disks_chain", KIND_CHOICE, AT(disks_chain), .choices = {"flatten", "keep"}},
    {"disks_overwrite", KIND_FLAG, AT(disks_overwrite)},
    {"disks_delta", KIND_FLAG, AT(disks_delta)},
    {"drop_timeout_s", KIND_NUMBER, AT(drop_timeout_s), .min = 1, .max = 86400, .standard = 60},
    {"keep_source", KIND_FLAG, AT(keep_source)},
};

static const Member *
find_member(const char *name)
{
    for (guint i = 0; i < G_N_ELEMENTS(members); i++) {
        if (g_str_equal(members[i].name, name))
            return &members[i];
    }
    return NULL;
}

/* The value as JSON, cut to a length that fits a sentence. */
static char *
show(JsonNode *node)
{
    g_autofree char *text = json_to_string(node, FALSE);
    if (strlen(text) <= 80)
        return g_steal_pointer(&text);
    g_autofree char *cut = g_utf8_substring(text, 0, MIN(g_utf8_strlen(text, -1), 77));
    return g_strconcat(cut, "...", NULL);
}

static gboolean
refuse(const Member *m, JsonNode *node, const char *allowed, GError **error)
{
    g_autofree char *value = show(node);
    g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE, "\"%s\" is %s: it must be %s", m->name, value,
                allowed);
    return FALSE;
}

static gboolean
take_number(const Member *m, JsonNode *node, gint64 *field, GError **error)
{
    g_autofree char *range =
        g_strdup_printf("a whole number from %" G_GINT64_FORMAT " to %" G_GINT64_FORMAT "%s%s%s",
                        m->min, m->max, m->zero != NULL ? ", or 0 (" : "",
                        m->zero != NULL ? m->zero : "", m->zero != NULL ? ")" : "");
    if (json_node_get_value_type(node) != G_TYPE_INT64)
        return refuse(m, node, range, error);
    gint64 value = json_node_get_int(node);
    if ((value < m->min || value > m->max) && (value != 0 || m->zero == NULL))
        return refuse(m, node, range, error);
    *field = value;
    return TRUE;
}

static gboolean
take_choice(const Member *m, JsonNode *node, guint *field, GError **error)
{
    if (json_node_get_value_type(node) == G_TYPE_STRING) {
        for (guint i = 0; m->choices[i] != NULL; i++) {
            if (g_str_equal(m->choices[i], json_node_get_string(node))) {
                *field = i;
                return TRUE;
            }
        }
    }
    g_autofree char *list = g_strjoinv("\", \"", (char **)m->choices);
    g_autofree char *allowed = g_strdup_printf("one of \"%s\"", list);
    return refuse(m, node, allowed, error);
}

static gboolean
take_flag(const Member *m, JsonNode *node, gboolean *field, GError **error)
{
    if (json_node_get_value_type(node) != G_TYPE_BOOLEAN)
        return refuse(m, node, "true or false", error);
    *field = json_node_get_boolean(node);
    return TRUE;
}

/* No control characters: the text goes into log lines and terminals. */
static gboolean
is_plain(const char *text, gsize max)
{
    if (text[0] == '\0' || strlen(text) > max || !g_utf8_validate(text, -1, NULL))
        return FALSE;
    for (const char *p = text; *p != '\0'; p = g_utf8_next_char(p)) {
        if (g_unichar_iscntrl(g_utf8_get_char(p)))
            return FALSE;
    }
    return TRUE;
}

static gboolean
check_text(const Member *m, JsonNode *node, const char *text, GError **error)
{
    const gsize path_max = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;
    guint16 port;
    switch (m->kind) {
    case KIND_PATH:
        /* The daemon has a working directory of its own, and the other host has one more. */
        if (text[0] != '/' || !is_plain(text, path_max))
            return refuse(m, node, "an absolute path of at most 107 bytes", error);
        return TRUE;
    case KIND_ADDRESS:
        if (!drv_address_parse(text, NULL, &port, error)) {
            g_prefix_error(error, "\"%s\": ", m->name);
            return FALSE;
        }
        return port != 0 || refuse(m, node, "an ADDR:PORT with a port from 1 to 65535", error);
    default:
        return is_plain(text, 255) ||
               refuse(m, node, "1 to 255 bytes of text without control characters", error);
    }
}

static gboolean
take_text(const Member *m, JsonNode *node, char **field, GError **error)
{
    if (json_node_get_value_type(node) != G_TYPE_STRING)
        return refuse(m, node, "a string", error);
    if (!check_text(m, node, json_node_get_string(node), error))
        return FALSE;
    *field = json_node_dup_string(node);
    return TRUE;
}

static gboolean
take_member(DrvJobSpec *spec, const Member *m, JsonNode *node, GError **error)
{
    gpointer field = G_STRUCT_MEMBER_P(spec, m->offset);
    switch (m->kind) {
    case KIND_NUMBER:
        return take_number(m, node, field, error);
    case KIND_CHOICE:
        return take_choice(m, node, field, error);
    case KIND_FLAG:
        return take_flag(m, node, field, error);
    default:
        return take_text(m, node, field, error);
    }
}

static gboolean
refuse_unknown(JsonObject *object, GError **error)
{
    JsonObjectIter iter;
    const char *name;
    json_object_iter_init(&iter, object);
    while (json_object_iter_next(&iter, &name, NULL)) {
        if (find_member(name) != NULL)
            continue;
        g_autofree char *shown = g_strescape(name, NULL);
        g_autoptr(GString) known = g_string_new(NULL);
        for (guint i = 0; i < G_N_ELEMENTS(members); i++)
            g_string_append_printf(known, "%s%s", i > 0 ? ", " : "", members[i].name);
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE, "\"%.80s\" is not known: a job has %s",
                    shown, known->str);
        return FALSE;
    }
    return TRUE;
}

/* What the members say together. */
static gboolean
check_delta(const DrvJobSpec *spec, GError **error)
{
    if (!spec->disks_delta ||
        (spec->disks == DRV_SPEC_DISKS_MIRROR && spec->disks_chain == DRV_SPEC_CHAIN_FLATTEN))
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                "\"disks_delta\" is of whole disks that move: %s, or leave it out",
                spec->disks != DRV_SPEC_DISKS_MIRROR ? "set \"disks\" to \"mirror\""
                                                     : "set \"disks_chain\" to \"flatten\"");
    return FALSE;
}

static gboolean
check_together(const DrvJobSpec *spec, GError **error)
{
    if (!check_delta(spec, error))
        return FALSE;
    if (spec->max_downtime_ms == 0 || spec->max_downtime_ms >= spec->downtime_ms)
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                "\"max_downtime_ms\" is %d, which is below \"downtime_ms\", %d: make it larger, or "
                "leave it out",
                (int)spec->max_downtime_ms, (int)spec->downtime_ms);
    return FALSE;
}

DrvJobSpec *
drv_job_spec_from_json(JsonObject *object, GError **error)
{
    if (!refuse_unknown(object, error))
        return NULL;
    g_autoptr(DrvJobSpec) spec = g_new0(DrvJobSpec, 1);
    for (guint i = 0; i < G_N_ELEMENTS(members); i++) {
        const Member *m = &members[i];
        JsonNode *node = json_object_get_member(object, m->name);
        if (node == NULL && m->required) {
            g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE, "\"%s\" is missing: a job needs it",
                        m->name);
            return NULL;
        }
        if (node == NULL) {
            if (m->kind == KIND_NUMBER)
                G_STRUCT_MEMBER(gint64, spec, m->offset) = m->standard;
        } else if (!take_member(spec, m, node, error)) {
            return NULL;
        }
    }
    return check_together(spec, error) ? g_steal_pointer(&spec) : NULL;
}

DrvJobSpec *
drv_job_spec_parse(const char *text, GError **error)
{
    g_autoptr(JsonObject) object = drv_json_parse_object(text, strlen(text), error);
    if (object == NULL) {
        g_prefix_error(error, "the job is ");
        return NULL;
    }
    return drv_job_spec_from_json(object, error);
}

JsonObject *
drv_job_spec_to_json(const DrvJobSpec *spec)
{
    JsonObject *object = json_object_new();
    for (guint i = 0; i < G_N_ELEMENTS(members); i++) {
        const Member *m = &members[i];
        gconstpointer field = G_STRUCT_MEMBER_P(spec, m->offset);
        switch (m->kind) {
        case KIND_NUMBER:
            if (*(const gint64 *)field != DRV_SPEC_AUTO)
                json_object_set_int_member(object, m->name, *(const gint64 *)field);
            break;
        case KIND_CHOICE:
            json_object_set_string_member(object, m->name, m->choices[*(const guint *)field]);
            break;
        case KIND_FLAG:
            json_object_set_boolean_member(object, m->name, *(const gboolean *)field);
            break;
        default:
            if (*(char *const *)field != NULL)
                json_object_set_string_member(object, m->name, *(char *const *)field);
        }
    }
    return object;
}

char *
drv_job_spec_to_text(const DrvJobSpec *spec)
{
    g_autoptr(JsonNode) node = json_node_alloc();
    json_node_take_object(json_node_init(node, JSON_NODE_OBJECT), drv_job_spec_to_json(spec));
    return json_to_string(node, FALSE);
}

void
drv_job_spec_free(DrvJobSpec *spec)
{
    if (spec == NULL)
        return;
    g_free(spec->qmp);
    g_free(spec->to);
    g_free(spec->dest_qmp);
    g_free(spec->name);
    g_free(spec);
}
