/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/micro/micro.h"

#include "engine/transfer/test-pki.h"
#include "engine/transfer/tls.h"

#include <openssl/err.h>
#include <string.h>

/* A connection over memory pipes: what TLS costs with no socket in the way. Both ends run on this
 * one thread, so that a record's time is that of sealing it and opening it. */
#define ROOM ((gsize)65536)

typedef struct {
    DrvTls *tls[2];
    DrvTlsPipe pipe[2];
    guint8 bytes[2][ROOM];
    SSL *ssl[2]; /* client, server */
    guint8 plain[2][DRV_TLS_RECORD];
} Link;

/* What an end has said becomes what the other hears. */
static void
hand_over(Link *link, guint from)
{
    DrvTlsPipe *theirs = &link->pipe[1 - from], *mine = &link->pipe[from];
    theirs->in = mine->out;
    theirs->in_len = mine->out_len;
    theirs->in_pos = 0;
}

static void
said(Link *link, guint end)
{
    link->pipe[end].out_len = 0;
}

static void
connect_ends(Link *link)
{
    g_autoptr(GError) error = NULL;
    for (guint i = 0; i < 2; i++) {
        link->pipe[i] = (DrvTlsPipe){.out = link->bytes[i], .out_size = ROOM};
        link->ssl[i] =
            drv_tls_connection(link->tls[i], &link->pipe[i], i == 0 ? "localhost" : NULL, &error);
        if (link->ssl[i] == NULL)
            g_error("%s", error->message);
    }
    gboolean done[2] = {FALSE, FALSE};
    for (guint turn = 0; turn < 6; turn++) {
        guint end = turn % 2;
        guint8 byte;
        ERR_clear_error();
        said(link, end);
        if (done[end])
            SSL_read(link->ssl[end], &byte, 1); /* takes in the session tickets */
        else
            done[end] = SSL_do_handshake(link->ssl[end]) == 1;
        hand_over(link, end);
    }
    if (!done[0] || !done[1])
        g_error("the two ends do not come together");
}

static void
disconnect(Link *link)
{
    for (guint i = 0; i < 2; i++)
        SSL_free(link->ssl[i]);
}

static void
handshake(gpointer data)
{
    connect_ends(data);
    disconnect(data);
}

static void
record(gpointer data)
{
    Link *link = data;
    gsize n;
    said(link, 0);
    if (SSL_write_ex(link->ssl[0], link->plain[0], DRV_TLS_RECORD, &n) != 1)
        g_error("SSL_write failed");
    hand_over(link, 0);
    if (SSL_read_ex(link->ssl[1], link->plain[1], DRV_TLS_RECORD, &n) != 1 || n != DRV_TLS_RECORD)
        g_error("SSL_read failed");
}

int
main(void)
{
    g_autoptr(TestPki) pki = test_pki_new();
    g_autofree Link *link = g_new0(Link, 1);
    static const char *const names[] = {"one", "two"};
    for (guint i = 0; i < 2; i++) {
        g_autoptr(GError) error = NULL;
        link->tls[i] = drv_tls_new(test_pki_good(pki, names[i]), &error);
        if (link->tls[i] == NULL)
            g_error("%s", error->message);
    }
    micro_run("TLS handshake, both ends", 0, handshake, link);
    connect_ends(link);
    g_print("%s\n", SSL_get_cipher(link->ssl[0]));
    micro_run("TLS record, sealed and opened", DRV_TLS_RECORD, record, link);
    disconnect(link);
    for (guint i = 0; i < 2; i++)
        drv_tls_free(link->tls[i]);
    return 0;
}
