/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/host/config.h"

#include <grp.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/host/address.h"

/*
 * One table of settings; the file, the command line and the messages go by it.
 */
typedef enum {
    KIND_PATH,    /* char * */
    KIND_SOCKET,  /* char *: a path that fits a unix socket's address */
    KIND_ADDRESS, /* char *: ADDR:PORT */
    KIND_NAME,    /* char *: a host's name */
    KIND_LEVEL,   /* DrvLogLevel */
    KIND_NUMBER,  /* gint64 */
    KIND_AUTO,    /* gboolean: auto or off */
    KIND_COMMAND, /* char ** */
    KIND_FOLDERS, /* char **: DIR:DIR */
    KIND_GROUP,   /* gint64: the id of a group of this host, -1 where not given */
    KIND_NAMES    /* char **: names of hosts, between blanks or commas */
} Kind;

typedef struct {
    const char *group;
    const char *key;
    Kind kind;
    gsize offset;
    const char *arg, *help; /* of the option named like the key; NULL: in the file only */
    gboolean required;
    gint64 min, max, standard;
    const char *zero; /* 0, or nothing, is allowed as well, and means this */
} Setting;

#define AT(field) G_STRUCT_OFFSET(DrvConfig, field)

static const Setting settings[] = {
    {"daemon", "state", KIND_PATH, AT(state_dir), "DIR", "Where the journal is kept",
     .required = TRUE},
    {"daemon", "listen", KIND_ADDRESS, AT(listen), "ADDR:PORT",
     "Where other daemons reach this one", .required = TRUE},
    {"daemon", "pki", KIND_PATH, AT(pki_dir), "DIR", "This host's certificate, key and CA",
     .required = TRUE},
    {"daemon", "api", KIND_SOCKET, AT(api), "SOCKET", "The socket for the drover command",
     .required = TRUE},
    {"daemon", "name", KIND_NAME, AT(name), "NAME", "What this host is called"},
    {"daemon", "log-level", KIND_LEVEL, AT(log_level), "LEVEL", "error, warning, info or debug"},
    {"daemon", "images", KIND_FOLDERS, AT(images)},
    {"daemon", "api-group", KIND_GROUP, AT(api_group)},
    {"daemon", "sandbox", KIND_AUTO, AT(sandbox), .standard = TRUE},
    {"transfer", "threads", KIND_NUMBER, AT(threads), .min = 1, .max = 64, .zero = "automatic"},
    {"transfer", "lanes", KIND_NUMBER, AT(lanes), .min = 1, .max = 16, .zero = "automatic"},
    {"transfer", "bandwidth", KIND_NUMBER, AT(bandwidth), .min = 65536,
     .max = G_GINT64_CONSTANT(1) << 40, .zero = "unlimited"},
    {"transfer", "kernel-tls", KIND_AUTO, AT(kernel_tls)},
    {"transfer", "numa", KIND_AUTO, AT(numa), .standard = TRUE},
    {"transfer", "huge-pages", KIND_AUTO, AT(huge_pages)},
    {"migration", "drop-timeout", KIND_NUMBER, AT(drop_timeout_s), .min = 1, .max = 86400,
     .standard = 60},
    {"migration", "dedup-memory", KIND_NUMBER, AT(dedup_memory), .min = 1 << 20,
     .max = G_GINT64_CONSTANT(1) << 40, .standard = 1 << 30, .zero = "none is kept"},
    {"migration", "fence-command", KIND_COMMAND, AT(fence_command)},
    {"incoming", "allow", KIND_NAMES, AT(allow_from)},
    {"incoming", "sessions", KIND_NUMBER, AT(sessions), .min = 1, .max = 256, .standard = 16},
    {"incoming", "tunnels", KIND_FOLDERS, AT(tunnels_to), .zero = "none"},
    {"outgoing", "allow", KIND_NAMES, AT(allow_to)},
    {"outgoing", "tunnels", KIND_FOLDERS, AT(tunnels_from), .zero = "none"},
};

static const char *const levels[] = {"error", "warning", "info", "debug", NULL};

/* Where a value comes from, for messages: a line of a file, or an option (path NULL). */
typedef struct {
    const char *path;
    guint line;
} Origin;

DrvConfig *
drv_config_new(void)
{
    DrvConfig *config = g_new0(DrvConfig, 1);
    config->log_level = DRV_LOG_INFO;
    config->api_group = -1;
    for (guint i = 0; i < G_N_ELEMENTS(settings); i++) {
        if (settings[i].kind == KIND_NUMBER)
            G_STRUCT_MEMBER(gint64, config, settings[i].offset) = settings[i].standard;
        if (settings[i].kind == KIND_AUTO)
            G_STRUCT_MEMBER(gboolean, config, settings[i].offset) = settings[i].standard != 0;
    }
    return config;
}

void
drv_config_free(DrvConfig *config)
{
    if (config == NULL)
        return;
    g_free(config->state_dir);
    g_free(config->listen);
    g_free(config->pki_dir);
    g_free(config->api);
    g_free(config->name);
    g_strfreev(config->fence_command);
    g_strfreev(config->images);
    g_strfreev(config->allow_from);
    g_strfreev(config->allow_to);
    g_strfreev(config->tunnels_to);
    g_strfreev(config->tunnels_from);
    g_free(config);
}

/* "FILE, line N: key" or "--key". */
static char *
name_setting(const Setting *s, const Origin *origin)
{
    if (origin->path == NULL)
        return g_strconcat("--", s->key, NULL);
    return g_strdup_printf("%s, line %u: %s", origin->path, origin->line, s->key);
}

static gboolean
refuse(const Setting *s, const Origin *origin, const char *value, const char *allowed,
       GError **error)
{
    g_autofree char *name = name_setting(s, origin);
    g_autofree char *shown = g_strescape(value, NULL);
    g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE, "%s is '%.80s': it must be %s", name, shown,
                allowed);
    return FALSE;
}

static gboolean
take_number(const Setting *s, const Origin *origin, const char *value, gint64 *field,
            GError **error)
{
    gint64 number;
    if (g_ascii_string_to_signed(value, 10, 0, s->max, &number, NULL) &&
        (number >= s->min || (number == 0 && s->zero != NULL))) {
        *field = number;
        return TRUE;
    }
    g_autofree char *allowed =
        g_strdup_printf("a whole number from %" G_GINT64_FORMAT " to %" G_GINT64_FORMAT "%s%s%s",
                        s->min, s->max, s->zero != NULL ? ", or 0 (" : "",
                        s->zero != NULL ? s->zero : "", s->zero != NULL ? ")" : "");
    return refuse(s, origin, value, allowed, error);
}

static gboolean
take_level(const Setting *s, const Origin *origin, const char *value, DrvLogLevel *field,
           GError **error)
{
    for (guint i = 0; levels[i] != NULL; i++) {
        if (g_str_equal(levels[i], value)) {
            *field = (DrvLogLevel)i;
            return TRUE;
        }
    }
    return refuse(s, origin, value, "error, warning, info or debug", error);
}

static gboolean
take_auto(const Setting *s, const Origin *origin, const char *value, gboolean *field,
          GError **error)
{
    *field = g_str_equal(value, "auto");
    return *field || g_str_equal(value, "off") || refuse(s, origin, value, "off or auto", error);
}

/* A fence that turns out not to run when it is needed is no fence, so it is looked at now. */
static gboolean
take_command(const Setting *s, const Origin *origin, const char *value, char ***field,
             GError **error)
{
    g_auto(GStrv) words = NULL;
    if (!g_shell_parse_argv(value, NULL, &words, NULL) || words[0][0] != '/')
        return refuse(s, origin, value, "an absolute path and arguments, quoted as for a shell",
                      error);
    if (access(words[0], X_OK) != 0 || g_file_test(words[0], G_FILE_TEST_IS_DIR))
        return refuse(s, origin, value, "a program that is there and may be run", error);
    g_strfreev(*field);
    *field = g_steal_pointer(&words);
    return TRUE;
}

static gboolean
take_folders(const Setting *s, const Origin *origin, const char *value, char ***field,
             GError **error)
{
    g_auto(GStrv) folders = g_strsplit(value, ":", -1);
    for (guint i = 0; folders[i] != NULL || (i == 0 && s->zero == NULL); i++) {
        if (folders[i] == NULL || !g_path_is_absolute(folders[i]) ||
            !g_file_test(folders[i], G_FILE_TEST_IS_DIR))
            return refuse(s, origin, value,
                          "absolute paths of folders that are there, with ':' "
                          "between them",
                          error);
    }
    g_strfreev(*field);
    *field = g_steal_pointer(&folders);
    return TRUE;
}

static gboolean
take_group(const Setting *s, const Origin *origin, const char *value, gint64 *field, GError **error)
{
    const struct group *group = value[0] != '\0' ? getgrnam(value) : NULL;
    if (group == NULL)
        return refuse(s, origin, value, "the name of a group of this host", error);
    *field = (gint64)group->gr_gid;
    return TRUE;
}

/* A name that no certificate can carry would shut out the host that is meant, so it is refused. */
static gboolean
take_names(const Setting *s, const Origin *origin, const char *value, char ***field, GError **error)
{
    g_auto(GStrv) words = g_strsplit_set(value, " \t,", -1);
    g_autoptr(GStrvBuilder) names = g_strv_builder_new();
    for (guint i = 0; words[i] != NULL; i++) {
        if (words[i][0] == '\0')
            continue;
        if (!drv_address_is_host_name(words[i]) && !drv_address_is_ip(words[i]))
            return refuse(s, origin, words[i],
                          "names of hosts as in their certificates, with blanks in between", error);
        g_strv_builder_add(names, words[i]);
    }
    g_strfreev(*field);
    *field = g_strv_builder_end(names);
    return TRUE;
}

static gboolean
check_address(const Setting *s, const Origin *origin, const char *value, GError **error)
{
    if (drv_address_parse(value, NULL, NULL, error))
        return TRUE;
    g_autofree char *name = name_setting(s, origin);
    g_prefix_error(error, "%s: ", name);
    return FALSE;
}

static gboolean
check_text(const Setting *s, const Origin *origin, const char *value, GError **error)
{
    switch (s->kind) {
    case KIND_SOCKET:
        if (value[0] == '\0' || strlen(value) >= sizeof(((struct sockaddr_un *)0)->sun_path))
            return refuse(s, origin, value, "a path of at most 107 bytes", error);
        return TRUE;
    case KIND_ADDRESS:
        return check_address(s, origin, value, error);
    case KIND_NAME:
        return drv_address_is_host_name(value) || drv_address_is_ip(value) ||
               refuse(s, origin, value, "a host name or IP address, as in the certificate", error);
    default:
        return value[0] != '\0' || refuse(s, origin, value, "a path", error);
    }
}

static gboolean
take(DrvConfig *config, const Setting *s, const Origin *origin, const char *value, GError **error)
{
    gpointer field = G_STRUCT_MEMBER_P(config, s->offset);
    switch (s->kind) {
    case KIND_NUMBER:
        return take_number(s, origin, value, field, error);
    case KIND_LEVEL:
        return take_level(s, origin, value, field, error);
    case KIND_AUTO:
        return take_auto(s, origin, value, field, error);
    case KIND_COMMAND:
        return take_command(s, origin, value, field, error);
    case KIND_FOLDERS:
        return take_folders(s, origin, value, field, error);
    case KIND_GROUP:
        return take_group(s, origin, value, field, error);
    case KIND_NAMES:
        return take_names(s, origin, value, field, error);
    default:
        if (!check_text(s, origin, value, error))
            return FALSE;
        g_free(*(char **)field);
        *(char **)field = g_strdup(value);
        return TRUE;
    }
}

/*
 * The line of a key's last mention in a group, or of the group itself for a NULL key; GKeyFile does
 * not tell. 0 when it is not found.
 */
static guint
find_line(const char *text, const char *group, const char *key)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    g_autofree char *heading = g_strdup_printf("[%s]", group);
    gboolean inside = FALSE;
    guint found = 0;
    for (guint i = 0; lines[i] != NULL; i++) {
        char *line = g_strstrip(lines[i]);
        if (line[0] == '[') {
            inside = g_str_equal(line, heading);
            if (inside && key == NULL && found == 0)
                found = i + 1;
        } else if (inside && key != NULL) {
            line[strcspn(line, "=")] = '\0';
            if (g_str_equal(g_strchomp(line), key))
                found = i + 1;
        }
    }
    return found;
}

static const Setting *
find_setting(const char *group, const char *key)
{
    for (guint i = 0; i < G_N_ELEMENTS(settings); i++) {
        if (g_str_equal(settings[i].group, group) &&
            (key == NULL || g_str_equal(settings[i].key, key)))
            return &settings[i];
    }
    return NULL;
}

static gboolean
refuse_key(const char *group, const char *key, const Origin *origin, GError **error)
{
    g_autoptr(GString) known = g_string_new(NULL);
    for (guint i = 0; i < G_N_ELEMENTS(settings); i++) {
        if (g_str_equal(settings[i].group, group))
            g_string_append_printf(known, "%s%s", known->len > 0 ? ", " : "", settings[i].key);
    }
    g_autofree char *shown = g_strescape(key, NULL);
    g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                "%s, line %u: '%.80s' is not known in [%s]: there are %s", origin->path,
                origin->line, shown, group, known->str);
    return FALSE;
}

static gboolean
load_group(DrvConfig *config, GKeyFile *file, const char *text, const char *path, const char *group,
           GError **error)
{
    if (find_setting(group, NULL) == NULL) {
        g_autofree char *shown = g_strescape(group, NULL);
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "%s, line %u: the group [%.80s] is not known: there are [daemon], [transfer], "
                    "[migration], [incoming] and [outgoing]",
                    path, find_line(text, group, NULL), shown);
        return FALSE;
    }
    g_auto(GStrv) keys = g_key_file_get_keys(file, group, NULL, NULL);
    for (guint i = 0; keys != NULL && keys[i] != NULL; i++) {
        Origin origin = {path, find_line(text, group, keys[i])};
        const Setting *s = find_setting(group, keys[i]);
        if (s == NULL)
            return refuse_key(group, keys[i], &origin, error);
        /* As it stands there: a backslash is a backslash, also in a command's quotes. */
        g_autofree char *value = g_key_file_get_value(file, group, keys[i], NULL);
        if (!take(config, s, &origin, g_strstrip(value), error))
            return FALSE;
    }
    return TRUE;
}

/* What is not text could be no part of a sentence about it. */
static gboolean
check_utf8(const char *path, const char *text, gsize len, GError **error)
{
    const char *end;
    guint line = 1;
    if (g_utf8_validate_len(text, len, &end))
        return TRUE;
    for (const char *c = text; c < end; c++)
        line += *c == '\n';
    g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE, "%s, line %u: it must be UTF-8 text", path,
                line);
    return FALSE;
}

gboolean
drv_config_load(DrvConfig *config, const char *path, GError **error)
{
    g_autoptr(GKeyFile) file = g_key_file_new();
    g_autoptr(GError) why = NULL;
    g_autofree char *text = NULL;
    gsize len;
    gboolean read = g_file_get_contents(path, &text, &len, &why);
    if (read && !check_utf8(path, text, len, error))
        return FALSE;
    if (!read || !g_key_file_load_from_data(file, text, len, G_KEY_FILE_NONE, &why)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE, "cannot use the configuration file '%s': %s",
                    path, why->message);
        return FALSE;
    }
    g_auto(GStrv) groups = g_key_file_get_groups(file, NULL);
    for (guint i = 0; groups[i] != NULL; i++) {
        if (!load_group(config, file, text, path, groups[i], error))
            return FALSE;
    }
    return TRUE;
}

/* What the command line says, before it is looked at. */
typedef struct {
    char *values[G_N_ELEMENTS(settings)];
    char *config_path;
    gboolean show_version;
} Options;

static void
options_clear(Options *options)
{
    for (guint i = 0; i < G_N_ELEMENTS(settings); i++)
        g_free(options->values[i]);
    g_free(options->config_path);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Options, options_clear)

static gboolean
parse_options(Options *options, int *argc, char ***argv, GError **error)
{
    GOptionEntry entries[G_N_ELEMENTS(settings) + 3] = {
        {"config", 0, 0, G_OPTION_ARG_FILENAME, &options->config_path,
         "Read settings from FILE; options come before them", "FILE"},
        {"version", 0, 0, G_OPTION_ARG_NONE, &options->show_version, "Print the version", NULL},
    };
    guint n = 2;
    for (guint i = 0; i < G_N_ELEMENTS(settings); i++) {
        const Setting *s = &settings[i];
        if (s->arg != NULL)
            entries[n++] = (GOptionEntry){
                s->key, 0, 0, G_OPTION_ARG_FILENAME, &options->values[i], s->help, s->arg};
    }
    g_autoptr(GOptionContext) context = g_option_context_new("- move running virtual machines");
    g_option_context_add_main_entries(context, entries, NULL);
    g_autoptr(GError) why = NULL;
    if (!g_option_context_parse(context, argc, argv, &why)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE, "%s: 'droverd --help' lists the options",
                    why->message);
        return FALSE;
    }
    if (*argc > 1) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "'%.80s' is not an option: 'droverd --help' lists them", (*argv)[1]);
        return FALSE;
    }
    return TRUE;
}

static gboolean
apply(DrvConfig *config, const Options *options, GError **error)
{
    if (options->config_path != NULL && !drv_config_load(config, options->config_path, error))
        return FALSE;
    const Origin origin = {NULL, 0};
    for (guint i = 0; i < G_N_ELEMENTS(settings); i++) {
        const Setting *s = &settings[i];
        if (options->values[i] != NULL && !take(config, s, &origin, options->values[i], error))
            return FALSE;
        if (s->required && G_STRUCT_MEMBER(char *, config, s->offset) == NULL) {
            g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                        "--%s is missing: give it, or '%s=' under [%s] in the configuration file",
                        s->key, s->key, s->group);
            return FALSE;
        }
    }
    return TRUE;
}

DrvConfig *
drv_config_from_args(int *argc, char ***argv, GError **error)
{
    g_auto(Options) options = {.show_version = FALSE};
    if (!parse_options(&options, argc, argv, error))
        return NULL;
    g_autoptr(DrvConfig) config = drv_config_new();
    config->show_version = options.show_version;
    if (!options.show_version && !apply(config, &options, error))
        return NULL;
    return g_steal_pointer(&config);
}
