/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/store.h"

#include "common/error.h"
#include "engine/channel/listener.h"
#include "engine/image/tool.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <libnbd.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/*
 * qemu-nbd is given a socket that listens already (descriptor 3 when it is alone, as systemd hands
 * them over), and to which we are connected before it is even started. The connections are answered
 * when QEMU has opened the image, or dropped when it could not. It ends by itself when the last one
 * is closed, be it by our death, and then leaves the image as it should be left.
 *
 * But it does not end if nobody has ever got as far as to talk to it. So a shell stays with it,
 * which ends it when our end of a pipe is closed before we have said that we do. Once is not
 * enough: qemu-nbd forgets a SIGTERM that comes after its handler is there and before its main loop
 * begins.
 */
#define KEEPER                                                                                     \
    "export LISTEN_FDS=1\n"                                                                        \
    "sh -c 'export LISTEN_PID=$$; exec \"$@\"' sh \"$@\" &\n"                                      \
    "exec 3<&- 4<&-\n"                                                                             \
    "read connected || while kill $! 2>&-; do sleep 0.1; done\n"                                   \
    "wait $!\n"

typedef struct {
    DrvStore base;
    GSubprocess *process;        /* NULL: somebody else's server */
    struct nbd_handle **handles; /* one for each user */
    int *sockets;                /* theirs once more, of somebody else's server; -1: none */
    char *bitmap;                /* its name as a context of NBD; NULL: none */
    gboolean plain;              /* nothing but reads, and none beyond a multiple of PLAIN_PIECE */
    gsize least; /* what a request's length must be a multiple of: a compressed cluster, or 1 */
    gboolean in_turn; /* one write at a time */
    GMutex turn;
} Nbd;

/* QEMU writes a vdi's header and its table of blocks anew, outside of its own lock, with each block
 * that is added: of two such requests at once the older state may be what is left in the file. */
#define WRITTEN_IN_TURN "vdi"

/* How many bytes one NBD request may have. */
#define PIECE (2u << 20)
#define PLAIN_PIECE (64u << 10)
/* The only flag of a bitmap's context. */
#define DIRTY 1
#define ZERO_PIECE (G_GUINT64_CONSTANT(1) << 30)

static gboolean
failed(GError **error)
{
    int number = nbd_get_errno();
    g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU, "%s%s",
                number != 0 ? g_strerror(number) : nbd_get_error(),
                number == ENOSPC ? " (make room, and start it again)" : "");
    return FALSE;
}

/* Ranges begin at multiples of 'least'. What is left over at the image's end goes through a piece
 * of that length. */
static gboolean
nbd_store_read(DrvStore *store, guint user, guint64 offset, guint8 *bytes, gsize len,
               GError **error)
{
    Nbd *self = (Nbd *)store;
    gsize rest = len % self->least, whole = len - rest;
    gsize piece = self->plain ? PLAIN_PIECE : PIECE;
    for (gsize done = 0; done < whole;) {
        gsize part = MIN(whole - done, piece - (offset + done) % piece);
        if (nbd_pread(self->handles[user], bytes + done, part, offset + done, 0) < 0)
            return failed(error);
        done += part;
    }
    if (rest == 0)
        return TRUE;
    g_autofree guint8 *last = g_malloc(self->least);
    if (nbd_pread(self->handles[user], last, self->least, offset + whole, 0) < 0)
        return failed(error);
    memcpy(bytes + whole, last, rest);
    return TRUE;
}

static gboolean
write_pieces(Nbd *self, guint user, guint64 offset, const guint8 *bytes, gsize len, GError **error)
{
    gsize rest = len % self->least, whole = len - rest;
    for (gsize done = 0; done < whole;) {
        gsize part = MIN(whole - done, PIECE);
        if (nbd_pwrite(self->handles[user], bytes + done, part, offset + done, 0) < 0)
            return failed(error);
        done += part;
    }
    if (rest == 0)
        return TRUE;
    g_autofree guint8 *last = g_malloc0(self->least);
    memcpy(last, bytes + whole, rest);
    return nbd_pwrite(self->handles[user], last, self->least, offset + whole, 0) == 0 ||
           failed(error);
}

static gboolean
zero_pieces(Nbd *self, guint user, guint64 offset, guint64 len, GError **error)
{
    guint64 all = (len + self->least - 1) / self->least * self->least;
    for (guint64 done = 0; done < all;) {
        guint64 part = MIN(all - done, ZERO_PIECE);
        if (nbd_zero(self->handles[user], part, offset + done, 0) < 0)
            return failed(error);
        done += part;
    }
    return TRUE;
}

static void
begin_turn(Nbd *self)
{
    if (self->in_turn)
        g_mutex_lock(&self->turn);
}

static void
end_turn(Nbd *self)
{
    if (self->in_turn)
        g_mutex_unlock(&self->turn);
}

static gboolean
nbd_store_write(DrvStore *store, guint user, guint64 offset, const guint8 *bytes, gsize len,
                GError **error)
{
    Nbd *self = (Nbd *)store;
    begin_turn(self);
    gboolean good = write_pieces(self, user, offset, bytes, len, error);
    end_turn(self);
    return good;
}

static gboolean
nbd_store_zero(DrvStore *store, guint user, guint64 offset, guint64 len, GError **error)
{
    Nbd *self = (Nbd *)store;
    begin_turn(self);
    gboolean good = zero_pieces(self, user, offset, len, error);
    end_turn(self);
    return good;
}

typedef struct {
    const char *context;
    guint32 flag;
    guint64 len;
    gboolean set, ended, seen;
} Extents;

/* Adds up what is alike from the start. */
static int
take_extents(void *data, const char *context, uint64_t offset, uint32_t *entries, size_t count,
             int *error)
{
    Extents *sum = data;
    if (!g_str_equal(context, sum->context))
        return 0;
    for (size_t i = 0; i + 1 < count && !sum->ended; i += 2) {
        gboolean set = (entries[i + 1] & sum->flag) != 0;
        sum->ended = sum->seen && set != sum->set;
        if (!sum->ended)
            sum->len += entries[i];
        sum->set = sum->seen ? sum->set : set;
        sum->seen = TRUE;
    }
    return 0;
}

/* '*len' is the rest of the image, '*set' what holds where the server tells nothing. */
static gboolean
ask_status(Nbd *self, guint user, const char *context, guint32 flag, guint64 offset, guint64 *len,
           gboolean *set, GError **error)
{
    Extents sum = {.context = context, .flag = flag};
    nbd_extent_callback take = {.callback = take_extents, .user_data = &sum};
    if (nbd_can_meta_context(self->handles[user], context) <= 0)
        return TRUE;
    if (nbd_block_status(self->handles[user], MIN(*len, ZERO_PIECE), offset, take, 0) < 0)
        return failed(error);
    if (sum.len > 0) {
        *len = sum.len;
        *set = sum.set;
    }
    return TRUE;
}

static gboolean
nbd_store_extent(DrvStore *store, guint user, guint64 offset, guint64 *len, gboolean *zero,
                 GError **error)
{
    *len = store->size - offset;
    *zero = FALSE;
    return ask_status((Nbd *)store, user, LIBNBD_CONTEXT_BASE_ALLOCATION, LIBNBD_STATE_ZERO, offset,
                      len, zero, error);
}

static gboolean
nbd_store_changed(DrvStore *store, guint user, guint64 offset, guint64 *len, gboolean *changed,
                  GError **error)
{
    Nbd *self = (Nbd *)store;
    return self->bitmap == NULL ||
           ask_status(self, user, self->bitmap, DIRTY, offset, len, changed, error);
}

static gboolean
nbd_store_flush(DrvStore *store, guint user, GError **error)
{
    Nbd *self = (Nbd *)store;
    return nbd_can_flush(self->handles[user]) <= 0 || nbd_flush(self->handles[user], 0) == 0 ||
           failed(error);
}

/* What it says when it has ended: all of it is in the pipe, or ends it. */
static char *
last_words(Nbd *self)
{
    GInputStream *pipe = g_subprocess_get_stderr_pipe(self->process);
    char text[4096];
    gsize len = 0;
    g_input_stream_read_all(pipe, text, sizeof text - 1, &len, NULL, NULL);
    text[len] = '\0';
    return drv_tool_words(text, self->base.shown);
}

static void
free_export(Nbd *self)
{
    for (guint i = 0; i < self->base.users; i++) {
        if (self->sockets[i] >= 0)
            close(self->sockets[i]);
    }
    g_free(self->base.shown);
    g_free(self->sockets);
    g_free(self->handles);
    g_free(self);
}

static gboolean
nbd_store_close(DrvStore *store, GError **error)
{
    Nbd *self = (Nbd *)store;
    for (guint i = 0; i < store->users; i++) {
        if (self->handles[i] == NULL)
            continue;
        if (self->process != NULL)
            nbd_shutdown(self->handles[i], 0);
        else
            nbd_aio_disconnect(self->handles[i], 0); /* nobody waits for the others */
        nbd_close(self->handles[i]);
    }
    if (self->process == NULL) {
        free_export(self);
        return TRUE;
    }
    g_output_stream_close(g_subprocess_get_stdin_pipe(self->process), NULL, NULL);
    g_autofree char *words = last_words(self);
    gboolean good = g_subprocess_wait_check(self->process, NULL, NULL);
    if (!good)
        g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU, "%s", words);
    g_object_unref(self->process);
    g_mutex_clear(&self->turn);
    g_free(self->base.shown);
    g_free(self->bitmap);
    g_free(self->handles);
    g_free(self);
    return good;
}

static void
close_all(const int *fds, guint n)
{
    for (guint i = 0; i < n; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

/* One that listens, and 'n' that are connected to it, at an address that only this user can reach
 * and that is not there any more afterwards. FALSE: none is open. */
static gboolean
connect_at(const char *path, int *listener, int *ends, guint n)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    guint open = 0;
    g_strlcpy(at.sun_path, path, sizeof at.sun_path);
    *listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    gboolean good = *listener >= 0 && bind(*listener, (struct sockaddr *)&at, sizeof at) == 0 &&
                    listen(*listener, (int)n) == 0;
    for (; good && open < n; open++) {
        ends[open] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        good = ends[open] >= 0 && connect(ends[open], (struct sockaddr *)&at, sizeof at) == 0;
    }
    int number = errno;
    unlink(path);
    if (!good) {
        close_all(ends, open);
        close_all(listener, 1);
    }
    errno = number;
    return good;
}

/* Those that qemu-nbd is to have, and ours. */
static gboolean
make_sockets(int *listener, int *ends, guint n, GError **error)
{
    g_autoptr(GError) why = NULL;
    g_autofree char *dir = g_dir_make_tmp("drover-nbd-XXXXXX", &why);
    if (dir == NULL) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "there is no place for qemu-nbd's socket: %s",
                    why->message);
        return FALSE;
    }
    g_autofree char *path = g_build_filename(dir, "nbd", NULL);
    gboolean good = connect_at(path, listener, ends, n);
    if (!good)
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "no socket for qemu-nbd can be made at %s: %s",
                    path, g_strerror(errno));
    g_rmdir(dir);
    return good;
}

static GPtrArray *
command(const DrvStoreNbdParams *params)
{
    GPtrArray *argv = g_ptr_array_new_with_free_func(g_free);
    static const char *const fixed[] = {"/bin/sh", "-c",       KEEPER,
                                        "sh",      "qemu-nbd", "--discard=unmap"};
    for (guint i = 0; i < G_N_ELEMENTS(fixed); i++)
        g_ptr_array_add(argv, g_strdup(fixed[i]));
    g_ptr_array_add(argv, g_strdup(params->direct ? "--cache=none" : "--cache=writeback"));
    g_ptr_array_add(argv, g_strdup_printf("--shared=%u", params->users));
    if (!params->writable)
        g_ptr_array_add(argv, g_strdup("--read-only"));
    if (params->bitmap != NULL)
        g_ptr_array_add(argv, g_strdup_printf("--bitmap=%s", params->bitmap));
    g_auto(GStrv) parts = g_strsplit(params->path, ",", -1);
    g_autofree char *path = g_strjoinv(",,", parts); /* as QEMU's options escape a comma */
    g_ptr_array_add(argv, g_strdup("--image-opts"));
    g_ptr_array_add(argv,
                    params->compress
                        ? g_strdup_printf("driver=compress,file.driver=%s,file.file.driver="
                                          "file,file.file.filename=%s",
                                          params->format, path)
                        : g_strdup_printf("driver=%s,file.filename=%s", params->format, path));
    g_ptr_array_add(argv, NULL);
    return argv;
}

static GSubprocess *
spawn(const DrvStoreNbdParams *params, int listener, GError **error)
{
    g_autoptr(GPtrArray) argv = command(params);
    g_autoptr(GError) why = NULL;
    g_autoptr(GSubprocessLauncher) launcher = g_subprocess_launcher_new(
        G_SUBPROCESS_FLAGS_STDIN_PIPE | G_SUBPROCESS_FLAGS_STDOUT_SILENCE |
        G_SUBPROCESS_FLAGS_STDERR_PIPE);
    g_subprocess_launcher_take_fd(launcher, listener, 3);
    if (params->fd >= 0)
        g_subprocess_launcher_take_fd(launcher, fcntl(params->fd, F_DUPFD_CLOEXEC, 0), DRV_TOOL_FD);
    GSubprocess *process =
        g_subprocess_launcher_spawnv(launcher, (const gchar *const *)argv->pdata, &why);
    if (process == NULL)
        g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU, "qemu-nbd cannot be run: %s", why->message);
    return process;
}

/* What the first connection was told. */
static gboolean
take_sizes(Nbd *self, GError **error)
{
    gint64 size = nbd_get_size(self->handles[0]);
    gint64 least = nbd_get_block_size(self->handles[0], LIBNBD_SIZE_MINIMUM);
    if (size < 0 || least < 0 || least > PIECE)
        return failed(error);
    self->base.size = (guint64)size;
    self->least = (gsize)MAX(least, 1);
    return TRUE;
}

/* Takes the sockets. */
static gboolean
shake_hands(Nbd *self, int *ends, GError **error)
{
    gboolean good = TRUE;
    for (guint i = 0; good && i < self->base.users; i++) {
        struct nbd_handle *nbd = nbd_create();
        self->handles[i] = nbd;
        good = nbd != NULL && nbd_add_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) >= 0 &&
               (self->bitmap == NULL || nbd_add_meta_context(nbd, self->bitmap) >= 0);
        if (good)
            good = nbd_connect_socket(nbd, g_steal_fd(&ends[i])) >= 0;
    }
    good = good ? take_sizes(self, error) : failed(error);
    close_all(ends, self->base.users);
    return good;
}

static const DrvStoreOps ops = {
    .read = nbd_store_read,
    .write = nbd_store_write,
    .zero = nbd_store_zero,
    .extent = nbd_store_extent,
    .changed = nbd_store_changed,
    .flush = nbd_store_flush,
    .close = nbd_store_close,
};

static DrvStore *
open_with(GSubprocess *process, int *ends, const DrvStoreNbdParams *params, GError **error)
{
    Nbd *self = g_new0(Nbd, 1);
    self->base = (DrvStore){&ops, 0, params->users, params->writable, g_strdup(params->shown)};
    self->process = process;
    self->in_turn = g_str_equal(params->format, WRITTEN_IN_TURN);
    g_mutex_init(&self->turn);
    self->handles = g_new0(struct nbd_handle *, params->users);
    if (params->bitmap != NULL)
        self->bitmap = g_strdup_printf("qemu:dirty-bitmap:%s", params->bitmap);
    g_autoptr(GError) why = NULL, words = NULL;
    if (shake_hands(self, ends, &why)) {
        g_output_stream_write_all(g_subprocess_get_stdin_pipe(process), "\n", 1, NULL, NULL, NULL);
        return &self->base;
    }
    /* What QEMU says is better than that the connection was dropped. */
    if (nbd_store_close(&self->base, &words))
        words = g_steal_pointer(&why);
    g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU, "%s cannot be opened: %s", params->shown,
                words->message);
    return NULL;
}

DrvStore *
drv_store_nbd(const DrvStoreNbdParams *params, GError **error)
{
    g_autofree int *ends = g_new(int, params->users);
    int listener;
    if (!make_sockets(&listener, ends, params->users, error))
        return NULL;
    GSubprocess *process = spawn(params, listener, error);
    if (process != NULL)
        return open_with(process, ends, params, error);
    close_all(ends, params->users);
    return NULL;
}

/* --- somebody else's server --- */

DrvStore *
drv_store_export(const char *socket, const char *shown, guint users, GError **error)
{
    Nbd *self = g_new0(Nbd, 1);
    gboolean good = TRUE;
    self->base = (DrvStore){&ops, 0, users, FALSE, g_strdup(shown)};
    self->handles = g_new0(struct nbd_handle *, users);
    self->sockets = g_new(int, users);
    for (guint i = 0; i < users; i++) {
        self->sockets[i] = good ? drv_unix_connect(socket, error) : -1;
        good = good && self->sockets[i] >= 0;
    }
    if (good)
        return &self->base;
    nbd_store_close(&self->base, NULL);
    return NULL;
}

/* libnbd has a descriptor of its own of the socket, which it closes when it likes. */
static gboolean
greet(struct nbd_handle *nbd, int socket, const char *name, gboolean plain, GError **error)
{
    int fd = fcntl(socket, F_DUPFD_CLOEXEC, 0);
    if (fd < 0) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "%s", g_strerror(errno));
        return FALSE;
    }
    return (nbd_set_request_structured_replies(nbd, !plain) == 0 &&
            nbd_add_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) == 0 &&
            nbd_set_export_name(nbd, name) == 0 && nbd_connect_socket(nbd, fd) == 0) ||
           failed(error);
}

void
drv_store_export_plain(DrvStore *store)
{
    ((Nbd *)store)->plain = TRUE;
}

gboolean
drv_store_export_greet(DrvStore *store, const char *name, GError **error)
{
    Nbd *self = (Nbd *)store;
    gboolean good = TRUE;
    for (guint i = 0; good && i < store->users; i++) {
        self->handles[i] = nbd_create();
        good = self->handles[i] != NULL
                   ? greet(self->handles[i], self->sockets[i], name, self->plain, error)
                   : failed(error);
    }
    if (good && take_sizes(self, error))
        return TRUE;
    g_prefix_error(error, "%s cannot be opened: ", store->shown);
    return FALSE;
}

void
drv_store_export_break(DrvStore *store)
{
    Nbd *self = (Nbd *)store;
    for (guint i = 0; i < store->users; i++)
        shutdown(self->sockets[i], SHUT_RDWR);
}
