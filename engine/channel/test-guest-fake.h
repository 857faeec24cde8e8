/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/guest-ram.h"

/* A process with some memory, in QEMU's place. */
enum {
    FAKE_ANON,    /* private, no file */
    FAKE_MEMFD,   /* shared */
    FAKE_PRIVATE, /* private, of a memfd of which FAKE_FULL bytes from FAKE_FULL on are 0xee */
    FAKE_SHARED,  /* shared, of a file that nobody has open */
    FAKE_SEALED,  /* read-only */
    FAKE_TORN,    /* the second half is not mapped */
    FAKE_UNKNOWN, /* hva 0, without a reason */
    FAKE_REFUSED, /* hva 0, with a reason */
    FAKE_N
};

#define FAKE_GOOD (FAKE_SHARED + 1) /* those before it are reachable */
#define FAKE_PAGES 700u             /* more than a window, no whole MiB */
#define FAKE_SIZE ((guint64)FAKE_PAGES * DRV_GUEST_PAGE)
#define FAKE_FULL ((guint64)1 << 20)

typedef struct {
    pid_t pid;
    int commands; /* writing end */
    int answers;
    int mem;   /* /proc/PID/mem: another way into it */
    int memfd; /* of FAKE_MEMFD */
    int file;  /* of FAKE_PRIVATE */
    DrvGuestBlock blocks[FAKE_N];
} Fake;

void fake_start(Fake *fake);
void fake_kill(Fake *fake); /* it is gone and nobody's child any more when this returns */
void fake_stop(Fake *fake);
/* Has it unmap the second half of a block. */
void fake_tear(Fake *fake, guint block);
/* It becomes another user's. */
void fake_become(Fake *fake, uid_t uid);

DrvGuestRam *fake_open(const Fake *fake);
/* Memory as it is, without the code under test. */
void fake_peek(const Fake *fake, guint block, guint64 offset, void *data, gsize len);
void fake_poke(const Fake *fake, guint block, guint64 offset, const void *data, gsize len);
/* Pages of a block in its page table. */
guint fake_mapped(const Fake *fake, guint block);
/* Bytes of memory that a memfd has. */
guint64 fake_allocated(int fd);
