/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/copy-running.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/cli/common.h"
#include "engine/cli/copies.h"
#include "engine/cli/options.h"

#include <string.h>

/*
 * Which disks the guest has, and which images they are, is found by a look at them, as 'drover
 * disks' does. Whether each can be copied is for the daemon to say, which looks at all of them
 * before it reads the first.
 */
typedef struct {
    const DrvCopyRunningParams *params;
    JsonArray *known; /* what the look has found; borrowed */
    GPtrArray *disks;
    GPtrArray *chosen; /* of JsonObject in 'known', in the same order */
} Choice;

/* --- the guest's disks --- */

/* The device's id is a part of its path in QEMU. */
static gboolean
is_device(const char *path, const char *id)
{
    static const char prefix[] = "/machine/peripheral/";
    gsize length = strlen(id);
    if (g_str_equal(path, id))
        return TRUE;
    path += g_str_has_prefix(path, prefix) ? strlen(prefix) : strlen(path);
    return strncmp(path, id, length) == 0 && (path[length] == '\0' || path[length] == '/');
}

static gboolean
is_called(JsonObject *disk, guint how, const char *id)
{
    if (how == 0)
        return g_str_equal(drv_json_string(disk, "id", ""), id);
    if (how == 1)
        return is_device(drv_json_string(disk, "device", ""), id);
    return g_str_equal(drv_json_string(disk, "node", ""), id);
}

/* As the daemon finds it; NULL: there is none. */
static JsonObject *
find(JsonArray *known, const char *id)
{
    for (guint how = 0; how < 3 && *id != '\0'; how++)
        for (guint i = 0; i < json_array_get_length(known); i++)
            if (is_called(drv_json_element(known, i), how, id))
                return drv_json_element(known, i);
    return NULL;
}

static void
refuse_unknown(JsonArray *known, const char *id, GError **error)
{
    g_autoptr(GString) list = g_string_new(NULL);
    for (guint i = 0; i < json_array_get_length(known); i++)
        g_string_append_printf(list, "%s%s", i > 0 ? ", " : "",
                               drv_json_string(drv_json_element(known, i), "id", ""));
    g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                "disk '%.80s' is none of the guest's (%s): choose one of them", id,
                list->len > 0 ? list->str : "it has none");
}

/* --- which of them --- */

static gboolean
add(Choice *choice, JsonObject *disk, const char *id, const char *path, GError **error)
{
    static const DrvOption name = {"disk", "disk", DRV_OPTION_TEXT};
    const char *image = drv_json_string(disk, "file", "");
    if (g_ptr_array_find(choice->chosen, disk, NULL)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "--disk '%s' is given already, maybe by another name: give each disk once", id);
        return FALSE;
    }
    if (path == NULL && !g_path_is_absolute(image)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "disk '%s': its image here is '%.200s', which is no absolute path: say which "
                    "it is to have there with '--disk %s=PATH'",
                    id, image, id);
        return FALSE;
    }
    g_ptr_array_add(choice->chosen, disk);
    JsonObject *spec = drv_copies_add(choice->disks, choice->params->common, id, image);
    return drv_option_take(&name, id, spec, error) &&
           drv_copies_place(spec, path, image, choice->params->dest_dir, error);
}

static gboolean
add_given(Choice *choice, const char *text, GError **error)
{
    const char *path;
    g_autofree char *id = drv_copies_split(text, &path);
    JsonObject *disk = find(choice->known, id);
    if (disk != NULL)
        return add(choice, disk, id, path, error);
    refuse_unknown(choice->known, id, error);
    return FALSE;
}

static gboolean
add_all(Choice *choice, GError **error)
{
    for (guint i = 0; i < json_array_get_length(choice->known); i++) {
        JsonObject *disk = drv_json_element(choice->known, i);
        if (drv_json_flag(disk, "moved", FALSE) &&
            !add(choice, disk, drv_json_string(disk, "id", ""), NULL, error))
            return FALSE;
    }
    if (choice->disks->len == 0)
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "the VM has no disk that it writes to, so there is nothing to copy: 'drover "
                    "disks --qmp SOCKET' lists what it has");
    return choice->disks->len > 0;
}

static gboolean
choose(Choice *choice, GError **error)
{
    char *const *given = choice->params->disks;
    if (given == NULL && !add_all(choice, error))
        return FALSE;
    for (guint i = 0; given != NULL && given[i] != NULL; i++) {
        if (!add_given(choice, given[i], error))
            return FALSE;
    }
    return drv_copies_check(choice->disks, choice->params->dest_dir, error);
}

/* --- the command --- */

/* NULL: there is nothing to go on with, and '*status' says how it ended; -1: 'error' does. */
static JsonObject *
look(const DrvCopyRunningParams *params, DrvClient *client, int *status, GError **error)
{
    const DrvFollowOptions how = {.cancels = TRUE, .quiet = TRUE, .reconnect_s = 1};
    g_autoptr(DrvFollow) follow = drv_follow_new(client, &how);
    g_autoptr(JsonObject) spec = json_object_new(), last = NULL;
    g_autoptr(GError) why = NULL;
    json_object_set_string_member(spec, "qmp", drv_json_string(params->common, "qmp", ""));
    g_autofree char *id = drv_follow_submit(follow, "/v1/disks", spec, error);
    *status = -1;
    if (id == NULL)
        return NULL;
    g_autoptr(JsonObject) job = drv_follow_run(follow, id, DRV_FOLLOW_TO_END, &last, &why);
    if (job != NULL && g_str_equal(drv_json_string(job, "state", ""), "done") &&
        drv_json_array(drv_json_object(job, "result"), "disks") != NULL)
        return g_steal_pointer(&job);
    *status = drv_cli_tell_end(id, job != NULL ? job : last, why, params->json, 0);
    return NULL;
}

int
drv_cli_copy_running(DrvCli *cli, const DrvCopyRunningParams *params, GError **error)
{
    const DrvFollowOptions how = {.cancels = TRUE, .reconnect_s = params->reconnect_s};
    int status;
    g_autoptr(DrvClient) client = drv_cli_connect(cli, error);
    if (client == NULL)
        return -1;
    g_autoptr(JsonObject) found = look(params, client, &status, error);
    if (found == NULL)
        return status;
    g_autoptr(GPtrArray) disks = drv_copies_disks_new(), chosen = g_ptr_array_new();
    Choice choice = {params, drv_json_array(drv_json_object(found, "result"), "disks"), disks,
                     chosen};
    if (!choose(&choice, error))
        return -1;
    g_autoptr(DrvFollow) follow = drv_follow_new(client, &how);
    const DrvCopies what = {.disks = disks,
                            .to = drv_json_string(params->common, "to", ""),
                            .running = TRUE,
                            .json = params->json};
    return drv_copies_run(&what, client, follow, error);
}
