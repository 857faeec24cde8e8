/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/nbd-handshake.h"

#include "common/cursor.h"
#include "common/error.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * The server begins ("NBDMAGIC", "IHAVEOPT", u16 flags), the client answers with u32 flags and then
 * has options:
 *
 *   option   u64 "IHAVEOPT", u32 option, u32 length, data
 *   reply    u64 magic, u32 option, u32 type, u32 length, data
 *
 * until one of them, GO, is acknowledged.
 */

#define NBD_MAGIC G_GUINT64_CONSTANT(0x4e42444d41474943)
#define OPTION_MAGIC G_GUINT64_CONSTANT(0x49484156454f5054)
#define REPLY_MAGIC G_GUINT64_CONSTANT(0x0003e889045565a9)
#define FLAG_FIXED 1u
#define FLAG_NO_ZEROES 2u
#define HELLO_BYTES 18u
#define CLIENT_FLAGS_BYTES 4u
#define OPTION_BYTES 16u
#define REPLY_BYTES 20u

enum {
    OPT_EXPORT_NAME = 1,
    OPT_ABORT = 2,
    OPT_INFO = 6,
    OPT_GO = 7,
    OPT_STRUCTURED_REPLY = 8,
    OPT_LIST_META_CONTEXT = 9,
    OPT_SET_META_CONTEXT = 10,
    OPT_EXTENDED_HEADERS = 11,
};

#define REP_ACK 1u
#define REP_INFO 3u
#define REP_META_CONTEXT 4u
#define REP_IS_ERROR (1u << 31)
#define REP_UNSUPPORTED (REP_IS_ERROR | 1)
#define REP_INVALID (REP_IS_ERROR | 3)
#define REP_UNKNOWN (REP_IS_ERROR | 6)

#define INFO_EXPORT 0u
#define INFO_BLOCK_SIZE 3u

#define CONTEXT "base:allocation"
/* Longer than anything that these two say; a name has 31 bytes. */
#define DATA_MAX 4096u
/* Who says more than that is no QEMU, and never comes to an end. */
#define MESSAGES_MAX 100u

typedef struct {
    int fd;
    gint64 deadline_us;
    guint8 data[DATA_MAX]; /* of the latest message */
    guint32 len;
    guint messages; /* so many */
} Wire;

/* --- bytes --- */

static gboolean
wait_for(const Wire *w, short events, GError **error)
{
    struct pollfd p = {.fd = w->fd, .events = events};
    gint64 left_us = w->deadline_us - g_get_monotonic_time();
    int n = left_us > 0 ? poll(&p, 1, (int)(left_us / 1000) + 1) : 0;
    if (n > 0 || (n < 0 && errno == EINTR))
        return TRUE;
    if (n == 0)
        g_set_error(error, DRV_ERROR, DRV_ERROR_TIMEOUT, "it does not answer over NBD");
    else
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "poll: %s", g_strerror(errno));
    return FALSE;
}

/* All of it, one way or the other. */
static gboolean
move(const Wire *w, gboolean out, void *bytes, gsize len, GError **error)
{
    for (gsize done = 0; done < len;) {
        guint8 *at = (guint8 *)bytes + done;
        ssize_t n = out ? send(w->fd, at, len - done, MSG_DONTWAIT | MSG_NOSIGNAL)
                        : recv(w->fd, at, len - done, MSG_DONTWAIT);
        if (n > 0) {
            done += (gsize)n;
        } else if (n == 0) {
            g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU, "it has hung up in the NBD handshake");
            return FALSE;
        } else if (errno == EAGAIN) {
            if (!wait_for(w, out ? POLLOUT : POLLIN, error))
                return FALSE;
        } else if (errno != EINTR) {
            g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU, "it has hung up in the NBD handshake: %s",
                        g_strerror(errno));
            return FALSE;
        }
    }
    return TRUE;
}

static gboolean
wrong(GError **error, const char *what)
{
    g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL, "its NBD makes no sense: %s", what);
    return FALSE;
}

/* The data that a header has announced. */
static gboolean
take_data(Wire *w, guint32 len, GError **error)
{
    w->len = len;
    if (len > sizeof w->data)
        return wrong(error, "a message that is too long");
    if (++w->messages > MESSAGES_MAX)
        return wrong(error, "message after message");
    return move(w, FALSE, w->data, len, error);
}

static Wire *
wire_new(int fd, guint timeout_ms)
{
    Wire *w = g_new0(Wire, 1);
    w->fd = fd;
    w->deadline_us = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    return w;
}

static void
put_text(DrvCursor *c, const char *text)
{
    drv_cursor_put_u32(c, (guint32)strlen(text));
    drv_cursor_put_bytes(c, text, strlen(text));
}

static gboolean
text_is(DrvCursor *c, const char *text)
{
    guint32 len = drv_cursor_get_u32(c);
    const guint8 *bytes = drv_cursor_take(c, len);
    return bytes != NULL && len == strlen(text) && memcmp(bytes, text, len) == 0;
}

/* --- the client --- */

static gboolean
ask(const Wire *w, guint32 option, const DrvCursor *data, GError **error)
{
    guint8 bytes[OPTION_BYTES + DATA_MAX];
    DrvCursor c = drv_cursor_writer(bytes, sizeof bytes);
    drv_cursor_put_u64(&c, OPTION_MAGIC);
    drv_cursor_put_u32(&c, option);
    drv_cursor_put_u32(&c, data != NULL ? (guint32)data->pos : 0);
    if (data != NULL)
        drv_cursor_put_bytes(&c, data->data, data->pos);
    return move(w, TRUE, bytes, c.pos, error);
}

/* The next reply to it, whose data is in 'w' then. 0 with an error. */
static guint32
hear(Wire *w, guint32 option, GError **error)
{
    guint8 header[REPLY_BYTES];
    if (!move(w, FALSE, header, sizeof header, error))
        return 0;
    DrvCursor c = drv_cursor_reader(header, sizeof header);
    guint64 magic = drv_cursor_get_u64(&c);
    guint32 to = drv_cursor_get_u32(&c);
    guint32 type = drv_cursor_get_u32(&c);
    if (magic != REPLY_MAGIC || to != option || type == 0) {
        wrong(error, "a reply to something else");
        return 0;
    }
    return take_data(w, drv_cursor_get_u32(&c), error) ? type : 0;
}

/* An option that is taken or not. */
static gboolean
ask_for(Wire *w, guint32 option, gboolean *agreed, GError **error)
{
    if (!ask(w, option, NULL, error))
        return FALSE;
    guint32 type = hear(w, option, error);
    *agreed = type == REP_ACK;
    return type != 0;
}

static gboolean
ask_headers(Wire *w, gboolean extended, DrvNbdExport *export, GError **error)
{
    if (extended && !ask_for(w, OPT_EXTENDED_HEADERS, &export->extended, error))
        return FALSE;
    export->structured = export->extended;
    return export->structured || ask_for(w, OPT_STRUCTURED_REPLY, &export->structured, error);
}

static gboolean
ask_status(Wire *w, const char *name, DrvNbdExport *export, GError **error)
{
    guint8 bytes[DATA_MAX];
    DrvCursor c = drv_cursor_writer(bytes, sizeof bytes);
    put_text(&c, name);
    drv_cursor_put_u32(&c, 1);
    put_text(&c, CONTEXT);
    if (!ask(w, OPT_SET_META_CONTEXT, &c, error))
        return FALSE;
    for (;;) {
        guint32 type = hear(w, OPT_SET_META_CONTEXT, error);
        if (type != REP_META_CONTEXT)
            return type != 0;
        DrvCursor reply = drv_cursor_reader(w->data, w->len);
        export->context = drv_cursor_get_u32(&reply);
        export->status = drv_cursor_ok(&reply);
    }
}

static gboolean
take_info(const Wire *w, DrvNbdExport *export, gboolean *sized, GError **error)
{
    DrvCursor c = drv_cursor_reader(w->data, w->len);
    guint16 what = drv_cursor_get_u16(&c);
    if (what == INFO_EXPORT) {
        export->size = drv_cursor_get_u64(&c);
        export->flags = drv_cursor_get_u16(&c);
        *sized = TRUE;
    } else if (what == INFO_BLOCK_SIZE) {
        export->block_min = drv_cursor_get_u32(&c);
        export->block_preferred = drv_cursor_get_u32(&c);
        export->block_max = drv_cursor_get_u32(&c);
    }
    return drv_cursor_ok(&c) || wrong(error, "a reply that is cut short");
}

static gboolean
ask_to_go(Wire *w, const char *name, DrvNbdExport *export, GError **error)
{
    guint8 bytes[DATA_MAX];
    gboolean sized = FALSE;
    DrvCursor c = drv_cursor_writer(bytes, sizeof bytes);
    put_text(&c, name);
    drv_cursor_put_u16(&c, 1);
    drv_cursor_put_u16(&c, INFO_BLOCK_SIZE);
    if (!ask(w, OPT_GO, &c, error))
        return FALSE;
    for (;;) {
        guint32 type = hear(w, OPT_GO, error);
        if (type == 0)
            return FALSE;
        if (type == REP_ACK)
            return sized || wrong(error, "it does not say how large it is");
        if (type != REP_INFO) {
            g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU, "it does not serve '%s' over NBD: %.*s",
                        name, (int)w->len, (const char *)w->data);
            return FALSE;
        }
        if (!take_info(w, export, &sized, error))
            return FALSE;
    }
}

gboolean
drv_nbd_greet(int fd, const char *name, guint timeout_ms, gboolean extended, DrvNbdExport *export,
              GError **error)
{
    g_autofree Wire *w = wire_new(fd, timeout_ms);
    guint8 hello[HELLO_BYTES], flags[CLIENT_FLAGS_BYTES];
    *export = (DrvNbdExport){0};
    if (!move(w, FALSE, hello, sizeof hello, error))
        return FALSE;
    DrvCursor c = drv_cursor_reader(hello, sizeof hello);
    gboolean nbd = drv_cursor_get_u64(&c) == NBD_MAGIC && drv_cursor_get_u64(&c) == OPTION_MAGIC;
    guint16 can = drv_cursor_get_u16(&c);
    if (!nbd || (can & FLAG_FIXED) == 0)
        return wrong(error, "it does not greet as a server of these days");
    c = drv_cursor_writer(flags, sizeof flags);
    drv_cursor_put_u32(&c, FLAG_FIXED | (can & FLAG_NO_ZEROES));
    return move(w, TRUE, flags, sizeof flags, error) && ask_headers(w, extended, export, error) &&
           (!export->structured || ask_status(w, name, export, error)) &&
           ask_to_go(w, name, export, error);
}

/* --- the server --- */

typedef struct {
    Wire *wire;
    const char *name;
    const DrvNbdExport *export;
    gboolean extended, structured; /* were asked for, and are offered */
} Server;

static gboolean
reply(const Server *self, guint32 option, guint32 type, const DrvCursor *data, GError **error)
{
    guint8 bytes[REPLY_BYTES + DATA_MAX];
    DrvCursor c = drv_cursor_writer(bytes, sizeof bytes);
    drv_cursor_put_u64(&c, REPLY_MAGIC);
    drv_cursor_put_u32(&c, option);
    drv_cursor_put_u32(&c, type);
    drv_cursor_put_u32(&c, data != NULL ? (guint32)data->pos : 0);
    if (data != NULL)
        drv_cursor_put_bytes(&c, data->data, data->pos);
    return move(self->wire, TRUE, bytes, c.pos, error);
}

static gboolean
tell_export(const Server *self, guint32 option, GError **error)
{
    const DrvNbdExport *e = self->export;
    guint8 bytes[16];
    DrvCursor c = drv_cursor_writer(bytes, sizeof bytes);
    drv_cursor_put_u16(&c, INFO_EXPORT);
    drv_cursor_put_u64(&c, e->size);
    drv_cursor_put_u16(&c, e->flags);
    if (!reply(self, option, REP_INFO, &c, error))
        return FALSE;
    if (e->block_max != 0) {
        c = drv_cursor_writer(bytes, sizeof bytes);
        drv_cursor_put_u16(&c, INFO_BLOCK_SIZE);
        drv_cursor_put_u32(&c, e->block_min);
        drv_cursor_put_u32(&c, e->block_preferred);
        drv_cursor_put_u32(&c, e->block_max);
        if (!reply(self, option, REP_INFO, &c, error))
            return FALSE;
    }
    return reply(self, option, REP_ACK, NULL, error);
}

/* INFO and GO. 'gone': the handshake is over. */
static gboolean
answer_info(const Server *self, guint32 option, gboolean *gone, GError **error)
{
    DrvCursor c = drv_cursor_reader(self->wire->data, self->wire->len);
    if (!text_is(&c, self->name))
        return reply(self, option, REP_UNKNOWN, NULL, error);
    *gone = option == OPT_GO;
    return tell_export(self, option, error);
}

/* Only one of the queries can be met, so it is looked for. */
static gboolean
asks_for_status(const Server *self)
{
    gboolean found = FALSE;
    DrvCursor c = drv_cursor_reader(self->wire->data, self->wire->len);
    if (!text_is(&c, self->name))
        return FALSE;
    guint32 queries = drv_cursor_get_u32(&c);
    for (guint32 i = 0; i < queries && drv_cursor_ok(&c); i++)
        found |= text_is(&c, CONTEXT);
    return found && drv_cursor_ok(&c);
}

static gboolean
answer_context(Server *self, guint32 option, GError **error)
{
    const DrvNbdExport *e = self->export;
    gboolean sets = option == OPT_SET_META_CONTEXT;
    if (!self->structured)
        return reply(self, option, REP_INVALID, NULL, error);
    gboolean tells = e->status && asks_for_status(self);
    guint8 bytes[64];
    DrvCursor c = drv_cursor_writer(bytes, sizeof bytes);
    drv_cursor_put_u32(&c, sets ? e->context : 0);
    drv_cursor_put_bytes(&c, CONTEXT, strlen(CONTEXT));
    return (!tells || reply(self, option, REP_META_CONTEXT, &c, error)) &&
           reply(self, option, REP_ACK, NULL, error);
}

static gboolean
answer(Server *self, guint32 option, gboolean *gone, GError **error)
{
    if (option == OPT_GO || option == OPT_INFO)
        return answer_info(self, option, gone, error);
    if (option == OPT_SET_META_CONTEXT || option == OPT_LIST_META_CONTEXT)
        return answer_context(self, option, error);
    if (option == OPT_EXTENDED_HEADERS && self->export->extended) {
        self->extended = self->structured = TRUE;
        return reply(self, option, REP_ACK, NULL, error);
    }
    if (option == OPT_STRUCTURED_REPLY && self->export->structured && !self->export->extended) {
        self->structured = TRUE;
        return reply(self, option, REP_ACK, NULL, error);
    }
    if (option == OPT_EXPORT_NAME) /* which has no answer that says no */
        return wrong(error, "it asks as clients did long ago");
    if (option != OPT_ABORT)
        return reply(self, option, REP_UNSUPPORTED, NULL, error);
    g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU, "it gives the NBD handshake up");
    return FALSE;
}

/* One option, and what is said to it. */
static gboolean
serve_option(Server *self, gboolean *gone, GError **error)
{
    guint8 header[OPTION_BYTES];
    if (!move(self->wire, FALSE, header, sizeof header, error))
        return FALSE;
    DrvCursor c = drv_cursor_reader(header, sizeof header);
    if (drv_cursor_get_u64(&c) != OPTION_MAGIC)
        return wrong(error, "something else than an option");
    guint32 option = drv_cursor_get_u32(&c);
    return take_data(self->wire, drv_cursor_get_u32(&c), error) &&
           answer(self, option, gone, error);
}

/* What was not asked for must not come: the server at the other end was asked for all of it, and
 * sends what it was asked for. */
static gboolean
agrees(const Server *self, GError **error)
{
    if (self->export->extended && !self->extended)
        return wrong(error, "it takes no extended headers");
    if (self->export->structured && !self->structured)
        return wrong(error, "it takes no structured replies");
    return TRUE;
}

gboolean
drv_nbd_welcome(int fd, const char *name, guint timeout_ms, const DrvNbdExport *export,
                GError **error)
{
    g_autofree Wire *w = wire_new(fd, timeout_ms);
    Server self = {.wire = w, .name = name, .export = export};
    guint8 hello[HELLO_BYTES], flags[CLIENT_FLAGS_BYTES];
    gboolean gone = FALSE;
    DrvCursor c = drv_cursor_writer(hello, sizeof hello);
    drv_cursor_put_u64(&c, NBD_MAGIC);
    drv_cursor_put_u64(&c, OPTION_MAGIC);
    drv_cursor_put_u16(&c, FLAG_FIXED | FLAG_NO_ZEROES);
    if (!move(w, TRUE, hello, sizeof hello, error) || !move(w, FALSE, flags, sizeof flags, error))
        return FALSE;
    c = drv_cursor_reader(flags, sizeof flags);
    guint32 takes = drv_cursor_get_u32(&c);
    if ((takes & FLAG_FIXED) == 0 || (takes & ~(FLAG_FIXED | FLAG_NO_ZEROES)) != 0)
        return wrong(error, "it does not greet as a client of these days");
    while (!gone)
        if (!serve_option(&self, &gone, error))
            return FALSE;
    return agrees(&self, error);
}

/* --- on a thread --- */

typedef struct {
    int fd; /* -1: it was given back */
    char *name;
    guint timeout_ms;
    DrvNbdExport export; /* of the greeting side: whether "extended" is to be asked for */
} Side;

static void
free_side(gpointer data)
{
    Side *side = data;
    if (side->fd >= 0)
        close(side->fd);
    g_free(side->name);
    g_free(side);
}

static void
finish(GTask *task, gboolean agreed, GError *error)
{
    if (agreed)
        g_task_return_boolean(task, TRUE);
    else
        g_task_return_error(task, error);
}

static gpointer
greet(gpointer data)
{
    g_autoptr(GTask) task = data;
    Side *side = g_task_get_task_data(task);
    GError *error = NULL;
    gboolean agreed = drv_nbd_greet(side->fd, side->name, side->timeout_ms, side->export.extended,
                                    &side->export, &error);
    finish(task, agreed, error);
    return NULL;
}

static gpointer
welcome(gpointer data)
{
    g_autoptr(GTask) task = data;
    Side *side = g_task_get_task_data(task);
    GError *error = NULL;
    gboolean agreed =
        drv_nbd_welcome(side->fd, side->name, side->timeout_ms, &side->export, &error);
    finish(task, agreed, error);
    return NULL;
}

/* Not one of GLib's pool, which other tasks may keep busy for long: a guest waits for it. */
static void
begin(GThreadFunc run, int fd, const char *name, guint timeout_ms, const DrvNbdExport *export,
      GAsyncReadyCallback callback, gpointer data)
{
    GError *error = NULL;
    g_autoptr(GTask) task = g_task_new(NULL, NULL, callback, data);
    Side *side = g_new0(Side, 1);
    *side = (Side){fd, g_strdup(name), timeout_ms, *export};
    g_task_set_task_data(task, side, free_side);
    GThread *thread = g_thread_try_new("nbd-handshake", run, g_object_ref(task), &error);
    if (thread != NULL) {
        g_thread_unref(thread);
        return;
    }
    g_task_return_error(task, error);
    g_object_unref(task);
}

void
drv_nbd_greet_async(int fd, const char *name, guint timeout_ms, gboolean extended,
                    GAsyncReadyCallback callback, gpointer data)
{
    begin(greet, fd, name, timeout_ms, &(DrvNbdExport){.extended = extended}, callback, data);
}

void
drv_nbd_welcome_async(int fd, const char *name, guint timeout_ms, const DrvNbdExport *export,
                      GAsyncReadyCallback callback, gpointer data)
{
    begin(welcome, fd, name, timeout_ms, export, callback, data);
}

int
drv_nbd_agree_finish(GAsyncResult *result, DrvNbdExport *export, GError **error)
{
    Side *side = g_task_get_task_data(G_TASK(result));
    if (!g_task_propagate_boolean(G_TASK(result), error))
        return -1;
    if (export != NULL)
        *export = side->export;
    int fd = side->fd;
    side->fd = -1;
    return fd;
}

/* --- between the daemons --- */

JsonObject *
drv_nbd_export_to_json(const DrvNbdExport *export)
{
    JsonObject *object = json_object_new();
    json_object_set_int_member(object, "size", (gint64) export->size);
    json_object_set_int_member(object, "flags", export->flags);
    json_object_set_int_member(object, "block_min", export->block_min);
    json_object_set_int_member(object, "block_preferred", export->block_preferred);
    json_object_set_int_member(object, "block_max", export->block_max);
    json_object_set_boolean_member(object, "extended", export->extended);
    json_object_set_boolean_member(object, "structured", export->structured);
    if (export->status)
        json_object_set_int_member(object, "context", export->context);
    return object;
}

/* 'most' where it is missing or out of bounds, and 'good' is FALSE then. */
static guint64
number(JsonObject *object, const char *name, guint64 most, gboolean *good)
{
    gint64 value = drv_json_int(object, name, -1);
    *good = *good && value >= 0 && (guint64)value <= most;
    return *good ? (guint64)value : most;
}

gboolean
drv_nbd_export_from_json(JsonObject *object, DrvNbdExport *export, GError **error)
{
    gboolean good = TRUE;
    *export = (DrvNbdExport){
        .size = number(object, "size", G_MAXINT64, &good),
        .flags = (guint16)number(object, "flags", G_MAXUINT16, &good),
        .block_min = (guint32)number(object, "block_min", G_MAXUINT32, &good),
        .block_preferred = (guint32)number(object, "block_preferred", G_MAXUINT32, &good),
        .block_max = (guint32)number(object, "block_max", G_MAXUINT32, &good),
        .extended = drv_json_flag(object, "extended", FALSE),
        .structured = drv_json_flag(object, "structured", FALSE),
        .status = object != NULL && json_object_has_member(object, "context"),
    };
    if (export->status)
        export->context = (guint32)number(object, "context", G_MAXUINT32, &good);
    return good || wrong(error, "the export as the other daemon tells it");
}
