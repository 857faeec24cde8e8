/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/api/routes.h"

#include <string.h>

#include "common/error.h"
#include "common/exposition.h"
#include "common/json.h"

typedef enum { BODY_IGNORED, BODY_REQUIRED } Body;

typedef struct {
    const DrvApiRouter *router;
    SoupServerMessage *msg;
    GHashTable *query; /* may be NULL */
    const char *id;    /* what stands for '*' in the pattern, or NULL */
    JsonObject *body;  /* NULL where the route takes none */
} Request;

/* Gives the reply, owned by the caller. NULL with an error; NULL without one where the request is
 * being answered already. */
typedef JsonNode *(*RouteFunc)(const Request *req, GError **error);

/* A whole number in the query, 'standard' where it is missing. */
static gboolean
query_number(const Request *req, const char *name, guint min, guint max, guint standard, guint *out,
             GError **error)
{
    const char *text = req->query != NULL ? g_hash_table_lookup(req->query, name) : NULL;
    guint64 value = standard;
    if (text != NULL && !g_ascii_string_to_unsigned(text, 10, min, max, &value, NULL)) {
        g_autofree char *shown = g_strescape(text, NULL);
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "\"%s\" is \"%.40s\": it must be a whole number from %u to %u", name, shown,
                    min, max);
        return FALSE;
    }
    *out = (guint)value;
    return TRUE;
}

static JsonNode *
get_status(const Request *req, GError **error)
{
    return drv_api_status(req->router->ops, req->router->self);
}

static JsonNode *
get_metrics(const Request *req, GError **error)
{
    char *text = req->router->ops->metrics(req->router->self);
    soup_server_message_set_status(req->msg, SOUP_STATUS_OK, NULL);
    soup_server_message_set_response(req->msg, DRV_EXPOSITION_TYPE, SOUP_MEMORY_TAKE, text,
                                     strlen(text));
    return NULL;
}

static JsonNode *
get_jobs(const Request *req, GError **error)
{
    guint limit;
    if (!query_number(req, "limit", 1, DRV_API_MAX_LIMIT, 100, &limit, error))
        return NULL;
    JsonNode *jobs = drv_api_list_jobs(req->router->ops, req->router->self, limit, error);
    if (jobs == NULL)
        return NULL;
    JsonObject *reply = json_object_new();
    json_object_set_member(reply, "jobs", jobs);
    return drv_json_take_object(reply);
}

static JsonNode *
get_job(const Request *req, GError **error)
{
    return drv_api_show_job(req->router->ops, req->router->self, req->id, error);
}

static JsonNode *
watch_job(const Request *req, GError **error)
{
    guint interval;
    if (query_number(req, "interval_ms", DRV_API_MIN_INTERVAL_MS, DRV_API_MAX_INTERVAL_MS,
                     DRV_API_INTERVAL_MS, &interval, error))
        drv_api_watchers_add(req->router->watchers, req->msg, req->id, interval, error);
    return NULL;
}

static JsonNode *
started(const Request *req, char *id)
{
    if (id == NULL)
        return NULL;
    g_autofree char *where = g_strconcat("/v1/jobs/", id, NULL);
    soup_message_headers_replace(soup_server_message_get_response_headers(req->msg), "Location",
                                 where);
    JsonObject *reply = json_object_new();
    json_object_set_string_member(reply, "job", id);
    g_free(id);
    return drv_json_take_object(reply);
}

static JsonNode *
post_migrate(const Request *req, GError **error)
{
    return started(req, drv_api_migrate(req->router->ops, req->router->self, req->body, error));
}

static JsonNode *
post_tunnel(const Request *req, GError **error)
{
    return started(req, drv_api_tunnel(req->router->ops, req->router->self, req->body, error));
}

static JsonNode *
post_copy(const Request *req, GError **error)
{
    return started(req, drv_api_copy(req->router->ops, req->router->self, req->body, error));
}

static JsonNode *
post_predict(const Request *req, GError **error)
{
    return started(req, drv_api_predict(req->router->ops, req->router->self, req->body, error));
}

static JsonNode *
get_numa(const Request *req, GError **error)
{
    return drv_api_numa(req->router->ops, req->router->self);
}

static JsonNode *
post_numa(const Request *req, GError **error)
{
    return started(req, drv_api_numa_look(req->router->ops, req->router->self, req->body, error));
}

static JsonNode *
post_disks(const Request *req, GError **error)
{
    return started(req, drv_api_disks(req->router->ops, req->router->self, req->body, error));
}

/* The job, after something was done to it; that may have been its end, and a job that leaves no
 * trace (a tunnel) be gone already. */
static JsonNode *
changed_job(const Request *req, GError **error)
{
    g_autoptr(GError) why = NULL;
    JsonNode *job = get_job(req, &why);
    if (job != NULL)
        return job;
    if (!g_error_matches(why, DRV_ERROR, DRV_ERROR_NOT_FOUND)) {
        g_propagate_error(error, g_steal_pointer(&why));
        return NULL;
    }
    JsonObject *gone = json_object_new();
    json_object_set_string_member(gone, "job", req->id);
    json_object_set_boolean_member(gone, "final", TRUE);
    return drv_json_take_object(gone);
}

static JsonNode *
post_cancel(const Request *req, GError **error)
{
    if (!drv_api_cancel(req->router->ops, req->router->self, req->id, error))
        return NULL;
    return changed_job(req, error);
}

static JsonNode *
post_resolve(const Request *req, GError **error)
{
    const char *run_on = drv_json_string(req->body, "run_on", NULL);
    if (!drv_api_resolve(req->router->ops, req->router->self, req->id, run_on, error))
        return NULL;
    return changed_job(req, error);
}

static const struct {
    const char *method;
    const char *pattern; /* '*' is one segment: a job's id */
    RouteFunc func;
    Body body;
    guint status; /* of success */
} routes[] = {
    {"GET", "/v1/status", get_status, BODY_IGNORED, SOUP_STATUS_OK},
    {"GET", "/v1/metrics", get_metrics, BODY_IGNORED, SOUP_STATUS_OK},
    {"GET", "/v1/jobs", get_jobs, BODY_IGNORED, SOUP_STATUS_OK},
    {"GET", "/v1/jobs/*", get_job, BODY_IGNORED, SOUP_STATUS_OK},
    {"GET", "/v1/jobs/*/watch", watch_job, BODY_IGNORED, SOUP_STATUS_OK},
    {"POST", "/v1/migrate", post_migrate, BODY_REQUIRED, SOUP_STATUS_CREATED},
    {"POST", "/v1/tunnels", post_tunnel, BODY_REQUIRED, SOUP_STATUS_CREATED},
    {"POST", "/v1/copies", post_copy, BODY_REQUIRED, SOUP_STATUS_CREATED},
    {"POST", "/v1/predict", post_predict, BODY_REQUIRED, SOUP_STATUS_CREATED},
    {"GET", "/v1/numa", get_numa, BODY_IGNORED, SOUP_STATUS_OK},
    {"POST", "/v1/numa", post_numa, BODY_REQUIRED, SOUP_STATUS_CREATED},
    {"POST", "/v1/disks", post_disks, BODY_REQUIRED, SOUP_STATUS_CREATED},
    {"POST", "/v1/jobs/*/cancel", post_cancel, BODY_IGNORED, SOUP_STATUS_ACCEPTED},
    {"POST", "/v1/jobs/*/resolve", post_resolve, BODY_REQUIRED, SOUP_STATUS_ACCEPTED},
};

static guint
http_status(const GError *error)
{
    if (error->domain != DRV_ERROR)
        return SOUP_STATUS_INTERNAL_SERVER_ERROR;
    switch ((DrvErrorCode)error->code) {
    case DRV_ERROR_USAGE:
        return SOUP_STATUS_BAD_REQUEST;
    case DRV_ERROR_NOT_FOUND:
        return SOUP_STATUS_NOT_FOUND;
    case DRV_ERROR_STATE:
    case DRV_ERROR_MISMATCH:
    case DRV_ERROR_CANCELLED:
    case DRV_ERROR_IN_DOUBT:
        return SOUP_STATUS_CONFLICT;
    case DRV_ERROR_LIMIT:
        return SOUP_STATUS_SERVICE_UNAVAILABLE;
    case DRV_ERROR_UNREACHABLE:
    case DRV_ERROR_TLS:
    case DRV_ERROR_PROTOCOL:
    case DRV_ERROR_QEMU:
        return SOUP_STATUS_BAD_GATEWAY;
    case DRV_ERROR_TIMEOUT:
        return SOUP_STATUS_GATEWAY_TIMEOUT;
    default:
        return SOUP_STATUS_INTERNAL_SERVER_ERROR;
    }
}

static void
reply(SoupServerMessage *msg, guint status, JsonNode *node)
{
    g_autofree char *text = drv_json_to_text(node);
    char *line = g_strconcat(text, "\n", NULL);
    soup_server_message_set_status(msg, status, NULL);
    soup_server_message_set_response(msg, "application/json", SOUP_MEMORY_TAKE, line, strlen(line));
}

static void
refuse_as(SoupServerMessage *msg, guint status, const GError *error)
{
    g_autoptr(JsonNode) node = drv_json_error(error);
    reply(msg, status, node);
}

void
drv_api_refuse(SoupServerMessage *msg, const GError *error)
{
    refuse_as(msg, http_status(error), error);
}

/* The id is what '*' stands for, owned by the caller; NULL where the pattern has none. */
static gboolean
matches(const char *pattern, const char *path, char **id)
{
    const char *star = strchr(pattern, '*');
    *id = NULL;
    if (star == NULL)
        return g_str_equal(pattern, path);
    gsize head = (gsize)(star - pattern);
    if (strncmp(pattern, path, head) != 0)
        return FALSE;
    const char *from = path + head;
    gsize len = strcspn(from, "/");
    if (len == 0 || !g_str_equal(from + len, star + 1))
        return FALSE;
    *id = g_strndup(from, len);
    return TRUE;
}

static gboolean
read_body(Request *req, GError **error)
{
    SoupMessageBody *body = soup_server_message_get_request_body(req->msg);
    g_autoptr(GBytes) bytes = soup_message_body_flatten(body);
    gsize len;
    const char *text = g_bytes_get_data(bytes, &len);
    req->body = drv_json_parse_object(text != NULL ? text : "", len, error);
    if (req->body == NULL)
        g_prefix_error(error, "the request's body is ");
    return req->body != NULL;
}

#define USER "drv-user"

void
drv_api_mark_user(GSocketAddress *remote, GSocket *socket)
{
    g_autoptr(GCredentials) who = g_socket_get_credentials(socket, NULL);
    if (who != NULL)
        g_object_set_data_full(G_OBJECT(remote), USER, g_steal_pointer(&who), g_object_unref);
}

static void
tell_asked(const Request *req, guint i, JsonNode *answer, const GError *error)
{
    if (g_str_equal(routes[i].method, "GET") || req->router->ops->asked == NULL)
        return;
    GSocketAddress *remote = soup_server_message_get_remote_address(req->msg);
    GCredentials *who = remote != NULL ? g_object_get_data(G_OBJECT(remote), USER) : NULL;
    uid_t uid = who != NULL ? g_credentials_get_unix_user(who, NULL) : (uid_t)-1;
    JsonObject *object = answer != NULL ? json_node_get_object(answer) : NULL;
    g_autofree char *what = g_strdup_printf("%s %s", routes[i].method, routes[i].pattern);
    req->router->ops->asked(req->router->self, uid == (uid_t)-1 ? -1 : (gint64)uid, what,
                            req->id != NULL ? req->id : drv_json_string(object, "job", NULL),
                            error);
}

static void
run(Request *req, guint i)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) node = NULL;
    if (routes[i].body == BODY_IGNORED || read_body(req, &error))
        node = routes[i].func(req, &error);
    tell_asked(req, i, node, error);
    if (node != NULL)
        reply(req->msg, routes[i].status, node);
    else if (error != NULL)
        drv_api_refuse(req->msg, error);
    g_clear_pointer(&req->body, json_object_unref);
}

void
drv_api_route(const DrvApiRouter *router, SoupServerMessage *msg, const char *path,
              GHashTable *query)
{
    g_autoptr(GString) allowed = g_string_new(NULL);
    const char *method = soup_server_message_get_method(msg);
    for (guint i = 0; i < G_N_ELEMENTS(routes); i++) {
        g_autofree char *id = NULL;
        if (!matches(routes[i].pattern, path, &id))
            continue;
        if (g_str_equal(routes[i].method, method)) {
            Request req = {.router = router, .msg = msg, .query = query, .id = id};
            run(&req, i);
            return;
        }
        g_string_append_printf(allowed, "%s%s", allowed->len > 0 ? ", " : "", routes[i].method);
    }
    g_autoptr(GError) error = NULL;
    g_autofree char *shown = g_strescape(path, NULL);
    if (allowed->len > 0) {
        soup_message_headers_replace(soup_server_message_get_response_headers(msg), "Allow",
                                     allowed->str);
        g_autofree char *asked = g_strescape(method, NULL);
        g_set_error(&error, DRV_ERROR, DRV_ERROR_USAGE, "%.80s takes %s only, not %.20s", shown,
                    allowed->str, asked);
        refuse_as(msg, SOUP_STATUS_METHOD_NOT_ALLOWED, error);
    } else {
        g_set_error(&error, DRV_ERROR, DRV_ERROR_NOT_FOUND,
                    "there is nothing at %.80s: docs/http-api.md lists what there is", shown);
        drv_api_refuse(msg, error);
    }
}
