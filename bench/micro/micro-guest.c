/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/micro/micro.h"

#include "engine/channel/guest-digest.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/*
 * What it costs to write into another process's memory, beside writing into one's own: batches of
 * 128 KiB from a buffer that stays in the cache, to one place after the other in a guest.
 */

#define GUEST ((gsize)512 << 20)
#define BATCH ((gsize)128 << 10)
#define HUGE ((gsize)2 << 20)

enum { SMALL_PAGES, HUGE_PAGES, N_BLOCKS };

typedef struct {
    pid_t pid;
    int commands[2], answers[2];
    guint8 *own, *batch;
    guint8 *blocks[N_BLOCKS];
    DrvGuestRam *ram;
    guint block, threads;
    gsize run; /* bytes */
    gsize at;
} Guest;

static guint8 *
map(int advice)
{
    guint8 *all =
        mmap(NULL, GUEST + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED)
        g_error("no memory");
    guint8 *block = (guint8 *)(((guintptr)all + HUGE - 1) & ~(guintptr)(HUGE - 1));
    madvise(block, GUEST, advice);
    return block;
}

/* The guest's process: drops its memory whenever it is told. */
static void
be_guest(Guest *guest)
{
    char byte;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (write(guest->answers[1], "", 1) == 1 && read(guest->commands[0], &byte, 1) == 1)
        for (guint i = 0; i < N_BLOCKS; i++)
            madvise(guest->blocks[i], GUEST, MADV_DONTNEED);
    _exit(0);
}

static void
drop(Guest *guest)
{
    char byte;
    if (write(guest->commands[1], "", 1) != 1 || read(guest->answers[0], &byte, 1) != 1)
        g_error("the guest has died");
}

static void
start(Guest *guest)
{
    char byte;
    g_autoptr(GError) error = NULL;
    guest->own = map(MADV_HUGEPAGE);
    memset(guest->own, 1, GUEST);
    guest->blocks[SMALL_PAGES] = map(MADV_NOHUGEPAGE);
    guest->blocks[HUGE_PAGES] = map(MADV_HUGEPAGE);
    if (pipe(guest->commands) < 0 || pipe(guest->answers) < 0)
        g_error("no pipe");
    guest->pid = fork();
    if (guest->pid == 0)
        be_guest(guest);
    DrvGuestBlock blocks[N_BLOCKS] = {{"small", GUEST, (guintptr)guest->blocks[SMALL_PAGES], NULL},
                                      {"huge", GUEST, (guintptr)guest->blocks[HUGE_PAGES], NULL}};
    if (guest->pid < 0 || read(guest->answers[0], &byte, 1) != 1)
        g_error("no process");
    guest->ram = drv_guest_ram_open(guest->pid, blocks, N_BLOCKS, &error);
    if (guest->ram == NULL)
        g_error("%s", error->message);
    guest->batch = micro_memory(MICRO_MIB);
}

static void
check(gboolean done, GError *error)
{
    if (!done)
        g_error("%s", error->message);
}

/* The next place for a batch; not the neighbour, so that runs of batches do not join. */
static gsize
next(Guest *guest)
{
    guest->at = (guest->at + 37 * BATCH) % GUEST;
    return guest->at;
}

static void
copy_own(gpointer data)
{
    Guest *guest = data;
    memcpy(guest->own + next(guest), guest->batch, BATCH);
}

static void
write_batch(gpointer data)
{
    Guest *guest = data;
    DrvGuestRun runs[BATCH / DRV_GUEST_PAGE];
    GError *error = NULL;
    guint n = 0;
    gsize to = next(guest);
    /* Runs of less than a batch leave gaps of the same length. */
    gsize step = guest->run < BATCH ? 2 * guest->run : guest->run;
    for (gsize from = 0; from < BATCH; from += guest->run, n++)
        runs[n] =
            (DrvGuestRun){guest->block, (to + n * step) % GUEST, guest->batch + from, guest->run};
    check(drv_guest_ram_write(guest->ram, runs, n, &error), error);
}

static void
write_all(Guest *guest, const char *name)
{
    gdouble seconds[MICRO_BOUTS];
    for (guint i = 0; i < MICRO_BOUTS; i++) {
        drop(guest);
        gint64 began = g_get_monotonic_time();
        for (gsize done = 0; done < GUEST; done += BATCH)
            write_batch(guest);
        seconds[i] = (gdouble)(g_get_monotonic_time() - began) / G_USEC_PER_SEC;
    }
    micro_print(name, BATCH, seconds, GUEST / BATCH);
}

static void
zero_batch(gpointer data)
{
    Guest *guest = data;
    GError *error = NULL;
    check(drv_guest_ram_zero(guest->ram, guest->block, next(guest), BATCH, NULL, &error), error);
}

static void
digest(gpointer data)
{
    Guest *guest = data;
    guint8 digests[DRV_GUEST_DIGEST_LEN];
    GError *error = NULL;
    DrvGuestDigestOptions options = {.threads = guest->threads};
    check(drv_guest_digest(guest->ram, &guest->block, 1, &options, digests, &error), error);
}

int
main(void)
{
    static const char *const pages[N_BLOCKS] = {"4 KiB pages", "huge pages"};
    Guest guest = {.run = BATCH, .threads = 1};
    start(&guest);
    micro_run("memcpy, own huge pages", BATCH, copy_own, &guest);
    for (guest.block = 0; guest.block < N_BLOCKS; guest.block++) {
        g_print("guest RAM in %s:\n", pages[guest.block]);
        guest.run = BATCH;
        write_all(&guest, "write, first time");
        micro_run("write, runs of 128 KiB", BATCH, write_batch, &guest);
        guest.run = 16384;
        micro_run("write, runs of 16 KiB", BATCH, write_batch, &guest);
        guest.run = DRV_GUEST_PAGE;
        micro_run("write, single pages", BATCH, write_batch, &guest);
        guest.threads = 1;
        micro_run("digest, one thread", GUEST, digest, &guest);
        guest.threads = 2;
        micro_run("digest, two threads", GUEST, digest, &guest);
        micro_run("zero what is zero already", BATCH, zero_batch, &guest);
        drop(&guest);
        micro_run("zero what was never touched", BATCH, zero_batch, &guest);
        micro_run("digest of what was never touched", GUEST, digest, &guest);
    }
    drv_guest_ram_free(guest.ram);
    g_free(guest.batch);
    kill(guest.pid, SIGKILL);
    waitpid(guest.pid, NULL, 0);
    return 0;
}
