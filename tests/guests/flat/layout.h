/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdint.h>

/*
 * What the flat guest keeps in its working set: the one description that the guest (which writes
 * it), mkpool (which prepares it) and pagecheck (which judges it) share. Freestanding C, integers
 * only, little endian by nature: all three run on x86.
 *
 * A page is 1024 words of 32 bits:
 *
 *     word 0       magic, which also tells the kind of body
 *     word 1       the page's own index: tells a page that landed in another's place
 *     word 2       generation: the writer's pass that last touched the page
 *     word 3       the generation that wrote the body (sparse writers leave the body alone)
 *     word 4..1022 the body
 *     word 1023    the generation again: tells a page made of two halves of different age
 *
 * The body is a window of a pool of words, at an offset hashed from (index, body generation). So a
 * guest can write a whole page with one copy (under an emulating KVM a loop over the words would
 * take milliseconds a page), and a checker can still recompute every word. The window starts
 * at any word, so no two pages look alike to a compressor that works on a page or a few dozen.
 *
 * The writer goes through its pages in order, a page from word 0 to word 1023, and adds one to the
 * generation after the last page. In memory that is frozen at any moment the pages before the
 * writer's position have generation G, those after it G - 1, and at most one page is half written.
 */
#define FLAT_PAGE_WORDS 1024u
#define FLAT_PAGE_BYTES 4096u

#define FLAT_MAGIC_TEXT 0x54565244u   /* "DRVT": compressible body */
#define FLAT_MAGIC_RANDOM 0x52565244u /* "DRVR": incompressible body */

enum {
    FLAT_W_MAGIC,
    FLAT_W_INDEX,
    FLAT_W_GEN,
    FLAT_W_BODY_GEN,
    FLAT_W_BODY,
    FLAT_W_TAIL = FLAT_PAGE_WORDS - 1
};

#define FLAT_BODY_WORDS (FLAT_W_TAIL - FLAT_W_BODY)
#define FLAT_FIRST_GEN 1u

/* The pool: windows start in its first FLAT_POOL_STARTS words, the last may run past them. */
#define FLAT_POOL_STARTS (1u << 20)
#define FLAT_POOL_WORDS (FLAT_POOL_STARTS + FLAT_PAGE_WORDS)
#define FLAT_POOL_ADDR 0x00800000u
#define FLAT_PAGES_ADDR 0x01000000u /* the default start of the working set, above the pool */
#define FLAT_PAGES_END 0xe0000000u  /* no PC has RAM below 4 GiB from here on */
#define FLAT_MAX_PAGES ((FLAT_PAGES_END - FLAT_PAGES_ADDR) / FLAT_PAGE_BYTES)

/*
 * What it keeps on its disk, if it is told to write to one: sectors of 128 words, numbered from 1
 * in the order in which they are written, again and again from the first to the last.
 *
 *     word 0       magic
 *     word 1       the sector's own index: (number - 1) modulo how many there are
 *     word 2       the number
 *     word 3..126  a window of the pool, at an offset hashed from (index, number)
 *     word 127     the number again
 *
 * Its memory says, at FLAT_DISK_ADDR, how far the disk is: all up to 'done' is written, and of the
 * burst up to 'begun' any sector may be. A write that was lost on the way shows in a sector whose
 * number is smaller than it must be, one that was made twice or by another in a larger one.
 */
#define FLAT_SECTOR_WORDS 128u
#define FLAT_MAGIC_DISK 0x44565244u /* "DRVD" */
#define FLAT_MAX_BURST 16u          /* sectors */
#define FLAT_DISK_ADDR 0x0010f000u  /* in what counts as the program, far behind its end */

enum {
    FLAT_S_MAGIC,
    FLAT_S_INDEX,
    FLAT_S_NUMBER,
    FLAT_S_BODY,
    FLAT_S_TAIL = FLAT_SECTOR_WORDS - 1
};

typedef struct {
    uint32_t magic, sectors, burst;
    uint32_t begun, done; /* numbers of sectors */
    uint32_t errors;      /* that the disk has told of */
} FlatDisk;

static inline uint32_t
flat_xorshift(uint32_t x)
{
    x ^= x << 13;
    x ^= x >> 17;
    return x ^ x << 5;
}

/* Where in the pool the body of page 'index' begins, when written by pass 'gen'. */
static inline uint32_t
flat_body_start(uint32_t index, uint32_t gen)
{
    uint32_t h = index * 0x9e3779b1u ^ gen * 0x85ebca6bu;
    h ^= h >> 15;
    h *= 0x2c1b3c6du;
    h ^= h >> 13;
    return h & (FLAT_POOL_STARTS - 1);
}

static inline void
flat_pool_fill_random(uint32_t *pool)
{
    uint32_t x = 0x1234567u;
    for (uint32_t i = 0; i < FLAT_POOL_WORDS; i++) {
        x = flat_xorshift(x);
        pool[i] = x;
    }
}

/* Text-like: phrases of 16 bytes out of 64, mixed with words of their own; lz4 gets about 2.5:1. */
static inline void
flat_pool_fill_text(uint32_t *pool)
{
    uint32_t x = 0x7654321u;
    for (uint32_t i = 0; i < FLAT_POOL_WORDS; i += 4) {
        x = flat_xorshift(x);
        uint32_t w = x & 3 ? (x >> 8 & 63) + 1 : x;
        for (uint32_t k = 0; k < 4; k++) {
            w = flat_xorshift(w);
            pool[i + k] = w;
        }
    }
}
