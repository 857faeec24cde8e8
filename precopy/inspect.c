/* SPDX-License-Identifier: Apache-2.0 */

/*
 * precopy-inspect: parses a recorded stream, in pieces, and says what is in it, as JSON. Ends with
 * status 1 when what comes out of the parser is not what went in. For tests and for people.
 */
#include "precopy/multifd.h"
#include "precopy/stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    gboolean multifd;
    gint piece;       /* bytes; 0: random lengths */
    gint flush_every; /* pieces; 0: never */
    gint flips;       /* random bits to change before parsing */
    gint64 cut;       /* bytes to keep; -1: all */
    gint seed;
    gint page_len;
    gboolean list;
} options = {.piece = 1 << 18, .cut = -1, .page_len = 4096};

static const GOptionEntry entries[] = {
    {"multifd", 'm', 0, G_OPTION_ARG_NONE, &options.multifd, "a multifd channel", NULL},
    {"page-size", 0, 0, G_OPTION_ARG_INT, &options.page_len, "of a multifd channel's pages",
     "BYTES"},
    {"piece", 'p', 0, G_OPTION_ARG_INT, &options.piece, "feed so much at a time, 0: random",
     "BYTES"},
    {"flush-every", 0, 0, G_OPTION_ARG_INT, &options.flush_every, "flush after so many", "PIECES"},
    {"flips", 0, 0, G_OPTION_ARG_INT, &options.flips, "change random bits first", "N"},
    {"cut", 0, 0, G_OPTION_ARG_INT64, &options.cut, "take only the beginning", "BYTES"},
    {"seed", 0, 0, G_OPTION_ARG_INT, &options.seed, "of what is random", "N"},
    {"list", 'l', 0, G_OPTION_ARG_NONE, &options.list, "every event, on stderr", NULL},
    {NULL},
};

typedef struct {
    const guint8 *expected; /* what has to come out next, and how much of it is left */
    gsize left;
    gboolean differs;

    guint64 opaque, carried; /* bytes */
    guint64 events;
    guint64 zero, normal, xbzrle, compressed; /* pages */
    guint64 xbzrle_bytes;                     /* as QEMU counts: without the word */
    guint64 runs, eos, flushes, commands, eofs, inits, packets, syncs, states, wraps;
    guint64 last; /* block and offset of the last page, to see the guest's pages begin anew */
    GString *sections;
} Seen;

static void
see_piece(Seen *seen, const DrvPiece *piece, gboolean opaque)
{
    seen->events++;
    if (piece->len > seen->left || memcmp(piece->bytes, seen->expected, piece->len) != 0)
        seen->differs = TRUE;
    else
        seen->expected += piece->len;
    seen->left -= MIN(piece->len, seen->left);
    seen->opaque += opaque ? piece->len : 0;
    seen->carried += piece->carried ? piece->len : 0;
}

/* ---- the main stream ---- */

static void
see_pages(Seen *seen, const DrvStreamEvent *event)
{
    guint64 *counts[] = {[DRV_PAGES_ZERO] = &seen->zero,
                         [DRV_PAGES_NORMAL] = &seen->normal,
                         [DRV_PAGES_XBZRLE] = &seen->xbzrle,
                         [DRV_PAGES_COMPRESSED] = &seen->compressed};
    guint64 at = (guint64)event->pages.block << 48 | event->pages.offset / event->pages.page_len;
    *counts[event->pages.kind] += event->pages.count;
    if (event->pages.kind == DRV_PAGES_XBZRLE)
        seen->xbzrle_bytes += event->piece.unit_len - DRV_STREAM_WORD;
    seen->runs++;
    seen->wraps += at < seen->last;
    seen->last = at + event->pages.count - 1;
}

static void
see_section(Seen *seen, const DrvStreamEvent *event)
{
    if (event->section.type != DRV_SECTION_START && event->section.type != DRV_SECTION_FULL)
        return;
    g_string_append_printf(seen->sections, "%s\"%.*s\"", seen->sections->len > 0 ? "," : "",
                           (int)event->name_len, event->name);
}

static void
see_event(Seen *seen, const DrvStream *stream, const DrvStreamEvent *event)
{
    see_piece(seen, &event->piece, event->kind == DRV_STREAM_OPAQUE);
    if (options.list)
        fprintf(stderr, "kind %d, %zu bytes, %.*s id %u\n", event->kind, event->piece.len,
                (int)event->name_len, event->name_len > 0 ? event->name : "",
                event->kind == DRV_STREAM_SECTION ? event->section.id : 0);
    switch (event->kind) {
    case DRV_STREAM_RAM_PAGES:
        see_pages(seen, event);
        break;
    case DRV_STREAM_SECTION:
        see_section(seen, event);
        break;
    case DRV_STREAM_RAM_EOS:
        seen->eos++;
        break;
    case DRV_STREAM_RAM_FLUSH:
        seen->flushes++;
        break;
    case DRV_STREAM_COMMAND:
        seen->commands++;
        break;
    case DRV_STREAM_EOF:
        seen->eofs++;
        break;
    default:
        break;
    }
}

static void
feed_stream(DrvStream *stream, Seen *seen, const guint8 *data, gsize len, gboolean flush)
{
    DrvStreamEvent event;
    drv_stream_push(stream, data, len);
    while (drv_stream_next(stream, &event))
        see_event(seen, stream, &event);
    if (flush && drv_stream_flush(stream, &event))
        see_event(seen, stream, &event);
}

/* ---- a multifd channel ---- */

static void
see_multifd(Seen *seen, const DrvMultifd *multifd, const DrvMultifdEvent *event)
{
    const DrvMultifdPacket *packet = drv_multifd_packet(multifd);
    see_piece(seen, &event->piece, event->kind == DRV_MULTIFD_OPAQUE);
    switch (event->kind) {
    case DRV_MULTIFD_INIT:
        seen->inits++;
        break;
    case DRV_MULTIFD_PACKET:
        seen->packets++;
        seen->syncs += (packet->flags & DRV_MULTIFD_SYNC) != 0;
        seen->states += (packet->flags & DRV_MULTIFD_DEVICE_STATE) != 0;
        seen->zero += packet->zero;
        seen->compressed += (packet->flags & DRV_MULTIFD_COMPRESSION) ? packet->normal : 0;
        if (options.list)
            fprintf(stderr, "packet %" G_GUINT64_FORMAT " flags %x normal %u zero %u data %u %s\n",
                    packet->number, packet->flags, packet->normal, packet->zero, packet->data_len,
                    packet->block);
        break;
    case DRV_MULTIFD_PAGES:
        seen->normal += event->pages.count;
        seen->runs++;
        break;
    case DRV_MULTIFD_OPAQUE:
        break;
    }
}

static void
feed_multifd(DrvMultifd *multifd, Seen *seen, const guint8 *data, gsize len, gboolean flush)
{
    DrvMultifdEvent event;
    drv_multifd_push(multifd, data, len);
    while (drv_multifd_next(multifd, &event))
        see_multifd(seen, multifd, &event);
    if (flush && drv_multifd_flush(multifd, &event))
        see_multifd(seen, multifd, &event);
}

/* ---- */

static void
flip_bits(guint8 *data, gsize len, GRand *rand)
{
    for (gint i = 0; i < options.flips && len > 0; i++) {
        gsize at = (gsize)(g_rand_double(rand) * (double)len);
        data[MIN(at, len - 1)] ^= (guint8)(1u << g_rand_int_range(rand, 0, 8));
    }
}

static gsize
piece_len(GRand *rand, gsize left)
{
    gsize n = (gsize)options.piece;
    /* Every magnitude is as likely as another. */
    if (options.piece == 0)
        n = (gsize)g_rand_int_range(rand, 1, 2 << g_rand_int_range(rand, 0, 18));
    return MIN(n, left);
}

static void
print_seen(const Seen *seen, gsize len, gboolean exact)
{
    printf("{\"bytes\":%zu,\"same\":%s,\"exact\":%s", len, seen->differs ? "false" : "true",
           exact ? "true" : "false");
#define COUNT(name) printf(",\"" #name "\":%" G_GUINT64_FORMAT, seen->name)
    COUNT(events);
    COUNT(opaque);
    COUNT(carried);
    COUNT(zero);
    COUNT(normal);
    COUNT(xbzrle);
    COUNT(xbzrle_bytes);
    COUNT(compressed);
    COUNT(runs);
    COUNT(wraps);
    COUNT(eos);
    COUNT(flushes);
    COUNT(commands);
    COUNT(eofs);
    COUNT(inits);
    COUNT(packets);
    COUNT(syncs);
    COUNT(states);
#undef COUNT
    printf(",\"sections\":[%s]}\n", seen->sections->str);
}

static void
inspect(Seen *seen, const guint8 *data, gsize len, GRand *rand)
{
    g_autoptr(DrvStream) stream = drv_stream_new();
    g_autoptr(DrvMultifd) multifd = drv_multifd_new((guint32)options.page_len);
    seen->expected = data;
    seen->left = len;
    gsize pieces = 0;
    for (gsize at = 0, n; at < len; at += n) {
        n = piece_len(rand, len - at);
        /* A copy of its own: reading beyond a piece is seen by a sanitizer. */
        g_autofree guint8 *piece = g_memdup2(data + at, n);
        gboolean last = at + n == len;
        gboolean flush = options.flush_every > 0 && ++pieces % (gsize)options.flush_every == 0;
        if (options.multifd)
            feed_multifd(multifd, seen, piece, n, flush || last);
        else
            feed_stream(stream, seen, piece, n, flush || last);
    }
    seen->differs |= seen->left != 0;
    print_seen(seen, len, options.multifd ? drv_multifd_exact(multifd) : drv_stream_exact(stream));
}

int
main(int argc, char **argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new("FILE");
    g_autoptr(GError) error = NULL;
    g_autofree char *data = NULL;
    gsize len;
    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) || argc != 2 ||
        !g_file_get_contents(argv[1], &data, &len, &error)) {
        fprintf(stderr, "precopy-inspect: %s\n", error ? error->message : "name one FILE");
        return 2;
    }
    g_autoptr(GRand) rand = g_rand_new_with_seed((guint32)options.seed);
    Seen seen = {.sections = g_string_new(NULL)};
    if (options.cut >= 0)
        len = MIN(len, (gsize)options.cut);
    flip_bits((guint8 *)data, len, rand);
    inspect(&seen, (const guint8 *)data, len, rand);
    g_string_free(seen.sections, TRUE);
    return seen.differs ? 1 : 0;
}
