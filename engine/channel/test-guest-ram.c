/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "engine/channel/test-guest-fake.h"

#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define PAGE ((guint64)DRV_GUEST_PAGE)

/* Each offset of each block has a content of its own. */
static void
fill(guint8 *data, guint block, guint64 offset, gsize len)
{
    for (gsize i = 0; i < len; i++)
        data[i] = (guint8)(((offset + i) * 2654435761u >> 13) + block * 7 + 1);
}

static void
assert_filled(const Fake *fake, guint block, guint64 offset, gsize len)
{
    g_autofree guint8 *expected = g_malloc(len), *data = g_malloc(len);
    fill(expected, block, offset, len);
    fake_peek(fake, block, offset, data, len);
    g_assert_cmpmem(data, len, expected, len);
}

static void
assert_bytes(const Fake *fake, guint block, guint64 offset, gsize len, guint8 value)
{
    g_autofree guint8 *data = g_malloc(len);
    fake_peek(fake, block, offset, data, len);
    for (gsize i = 0; i < len; i++)
        g_assert_cmpuint(data[i], ==, value);
}

static void
test_blocks(void)
{
    Fake fake;
    fake_start(&fake);
    g_autoptr(DrvGuestRam) ram = fake_open(&fake);
    g_assert_cmpuint(drv_guest_ram_blocks(ram), ==, FAKE_N);
    for (guint i = 0; i < FAKE_GOOD; i++) {
        g_assert_cmpstr(drv_guest_ram_why(ram, i), ==, NULL);
        g_assert_cmphex(drv_guest_ram_block(ram, i)->hva, ==, fake.blocks[i].hva);
    }
    static const char *const why[FAKE_N] = {
        [FAKE_SEALED] = "QEMU has mapped it without the right to write",
        [FAKE_TORN] = "it is not wholly mapped in QEMU's memory",
        [FAKE_UNKNOWN] = "its address is not known",
        [FAKE_REFUSED] = "somebody said so",
    };
    for (guint i = FAKE_GOOD; i < FAKE_N; i++) {
        g_assert_cmpstr(drv_guest_ram_why(ram, i), ==, why[i]);
        g_assert_cmphex(drv_guest_ram_block(ram, i)->hva, ==, 0);
        g_assert_cmpint(drv_guest_ram_find(ram, fake.blocks[i].id, 6, FAKE_SIZE), ==, -1);
    }
    g_assert_cmpint(drv_guest_ram_find(ram, "block2, and more", 6, FAKE_SIZE), ==, 2);
    g_assert_cmpint(drv_guest_ram_find(ram, "block2", 5, FAKE_SIZE), ==, -1);
    g_assert_cmpint(drv_guest_ram_find(ram, "block2\0", 7, FAKE_SIZE), ==, -1);
    g_assert_cmpint(drv_guest_ram_find(ram, "block2", 6, FAKE_SIZE - PAGE), ==, -1);
    fake_stop(&fake);
}

static void
test_strange_blocks(void)
{
    Fake fake;
    fake_start(&fake);
    g_autoptr(GError) error = NULL;
    DrvGuestBlock blocks[6] = {fake.blocks[FAKE_ANON],    fake.blocks[FAKE_ANON],
                               fake.blocks[FAKE_MEMFD],   fake.blocks[FAKE_MEMFD],
                               fake.blocks[FAKE_PRIVATE], fake.blocks[FAKE_SHARED]};
    blocks[1].hva += PAGE; /* overlaps the first */
    blocks[1].size = PAGE;
    blocks[2].hva++;
    blocks[3].size--;
    blocks[4].size = G_MAXUINT64 - 0xfff;
    memset(blocks[5].id, 'x', sizeof blocks[5].id);
    g_autoptr(DrvGuestRam) ram = drv_guest_ram_open(fake.pid, blocks, 6, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(drv_guest_ram_why(ram, 0), ==,
                    "its range of addresses is that of another block, too");
    g_assert_cmpstr(drv_guest_ram_why(ram, 1), ==,
                    "its range of addresses is that of another block, too");
    g_assert_cmpstr(drv_guest_ram_why(ram, 2), ==, "it is not made of whole pages");
    g_assert_cmpstr(drv_guest_ram_why(ram, 3), ==, "it is not made of whole pages");
    g_assert_cmpstr(drv_guest_ram_why(ram, 4), ==, "its range of addresses is impossible");
    g_assert_cmpuint(strlen(drv_guest_ram_block(ram, 5)->id), ==, 255);
    fake_stop(&fake);
}

static void
test_write(void)
{
    Fake fake;
    fake_start(&fake);
    g_autoptr(DrvGuestRam) ram = fake_open(&fake);
    g_autoptr(GError) error = NULL;
    /* More runs than one call takes, of all blocks in turn, of odd lengths, with gaps. */
    enum { RUNS = 1200, STEP = 2000 };
    g_autofree DrvGuestRun *runs = g_new(DrvGuestRun, RUNS);
    g_autofree guint8 *data = g_malloc(RUNS * STEP);
    for (guint i = 0; i < RUNS; i++) {
        guint64 offset = (i / FAKE_GOOD) * STEP * 3;
        runs[i] = (DrvGuestRun){i % FAKE_GOOD, offset, data + i * STEP, i % 10 == 0 ? 0 : i + 1};
        fill(data + i * STEP, runs[i].block, offset, STEP);
    }
    g_assert_true(drv_guest_ram_write(ram, runs, RUNS, &error));
    g_assert_no_error(error);
    for (guint i = 0; i < RUNS; i++) {
        assert_filled(&fake, runs[i].block, runs[i].offset, runs[i].len);
        if (runs[i].block != FAKE_PRIVATE)
            assert_bytes(&fake, runs[i].block, runs[i].offset + runs[i].len, 1000, 0);
    }
    g_assert_true(drv_guest_ram_write(ram, NULL, 0, &error));
    fake_stop(&fake);
}

/* All of a block in one run, up to its last byte, and read again. */
static void
test_whole(void)
{
    Fake fake;
    fake_start(&fake);
    g_autoptr(DrvGuestRam) ram = fake_open(&fake);
    g_autoptr(GError) error = NULL;
    g_autofree guint8 *data = g_malloc(FAKE_SIZE), *again = g_malloc(FAKE_SIZE);
    for (guint i = 0; i < FAKE_GOOD; i++) {
        fill(data, i, 0, FAKE_SIZE);
        DrvGuestRun run = {i, 0, data, FAKE_SIZE};
        g_assert_true(drv_guest_ram_write(ram, &run, 1, &error));
        assert_filled(&fake, i, 0, FAKE_SIZE);
        g_assert_true(drv_guest_ram_read(ram, i, 0, again, FAKE_SIZE, &error));
        g_assert_cmpmem(again, FAKE_SIZE, data, FAKE_SIZE);
        g_assert_true(drv_guest_ram_read(ram, i, FAKE_SIZE - 5, again, 5, &error));
        g_assert_cmpmem(again, 5, data + FAKE_SIZE - 5, 5);
        g_assert_true(drv_guest_ram_read(ram, i, FAKE_SIZE, again, 0, &error));
    }
    /* What was private stayed so. */
    g_assert_cmpint(pread(fake.file, again, 1, 0), ==, 1);
    g_assert_cmpuint(again[0], ==, 0);
    fake_stop(&fake);
}

static void
assert_refused(gboolean done, GError **error, const char *message)
{
    g_assert_false(done);
    g_assert_error(*error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    g_assert_cmpstr((*error)->message, ==, message);
    g_clear_error(error);
}

static void
test_bounds(void)
{
    Fake fake;
    fake_start(&fake);
    g_autoptr(DrvGuestRam) ram = fake_open(&fake);
    g_autoptr(GError) error = NULL;
    guint8 data[8192];
    memset(data, 0xaa, sizeof data);
    DrvGuestRun runs[2] = {{FAKE_ANON, 0, data, 100}, {FAKE_ANON, FAKE_SIZE - 99, data, 100}};
    assert_refused(drv_guest_ram_write(ram, runs, 2, &error), &error,
                   "100 bytes at 2867101 are beyond the end of RAM block 'block0', which has "
                   "2867200");
    runs[1].offset = G_MAXUINT64 - 50;
    assert_refused(drv_guest_ram_write(ram, runs, 2, &error), &error,
                   "100 bytes at 18446744073709551565 are beyond the end of RAM block 'block0', "
                   "which has 2867200");
    runs[1] = (DrvGuestRun){FAKE_SEALED, 0, data, 100};
    assert_refused(drv_guest_ram_write(ram, runs, 2, &error), &error,
                   "there is no RAM block 4 that can be reached from outside");
    runs[1].block = FAKE_N;
    assert_refused(drv_guest_ram_write(ram, runs, 2, &error), &error,
                   "there is no RAM block 8 that can be reached from outside");
    assert_bytes(&fake, FAKE_ANON, 0, 100, 0); /* the sound run was not written either */

    assert_refused(
        drv_guest_ram_read(ram, FAKE_MEMFD, FAKE_SIZE, data, 1, &error), &error,
        "1 bytes at 2867200 are beyond the end of RAM block 'block1', which has 2867200");
    assert_refused(
        drv_guest_ram_zero(ram, FAKE_ANON, 0, FAKE_SIZE + PAGE, NULL, &error), &error,
        "2871296 bytes at 0 are beyond the end of RAM block 'block0', which has 2867200");
    assert_refused(drv_guest_ram_zero(ram, FAKE_ANON, 0, 100, NULL, &error), &error,
                   "100 bytes at 0 of RAM block 'block0' are not whole pages");
    assert_refused(drv_guest_ram_zero(ram, FAKE_ANON, 1, PAGE, NULL, &error), &error,
                   "4096 bytes at 1 of RAM block 'block0' are not whole pages");
    fake_stop(&fake);
}

/* Pages without memory stay without, zero pages are not written, the others are, and no more. */
static void
test_zero(void)
{
    Fake fake;
    fake_start(&fake);
    g_autoptr(DrvGuestRam) ram = fake_open(&fake);
    g_autoptr(GError) error = NULL;
    guint8 page[DRV_GUEST_PAGE] = {0};
    guint64 written = 77;
    for (guint i = 0; i < FAKE_GOOD; i++) {
        fake_poke(&fake, i, 3 * PAGE, page, PAGE);      /* memory, but zero */
        fake_poke(&fake, i, 100 * PAGE + 4095, "x", 1); /* the last byte of one */
        fake_poke(&fake, i, 101 * PAGE, "x", 1);        /* the first of its neighbour */
        fake_poke(&fake, i, 102 * PAGE, page, PAGE);    /* zero between them */
        fake_poke(&fake, i, 103 * PAGE, "x", 1);
        fake_poke(&fake, i, (FAKE_PAGES - 2) * PAGE, "x", 1); /* in the next window */
        fake_poke(&fake, i, (FAKE_PAGES - 1) * PAGE, "x", 1); /* beyond */
        g_assert_true(drv_guest_ram_zero(ram, i, PAGE, FAKE_SIZE - 2 * PAGE, &written, &error));
        g_assert_no_error(error);
        guint64 full = i == FAKE_PRIVATE ? FAKE_FULL / PAGE : 0;
        g_assert_cmpuint(written, ==, (4 + full) * PAGE);
        if (i != FAKE_MEMFD && i != FAKE_SHARED)
            g_assert_cmpuint(fake_mapped(&fake, i), ==, 7 + full + 1); /* opening looked at one */
        if (i == FAKE_MEMFD)
            g_assert_cmpuint(fake_allocated(fake.memfd), <=, 8 * PAGE);
        assert_bytes(&fake, i, 0, FAKE_SIZE - PAGE, 0);
        assert_bytes(&fake, i, FAKE_SIZE - PAGE, 1, 'x');
        g_assert_true(drv_guest_ram_zero(ram, i, PAGE, FAKE_SIZE - 2 * PAGE, &written, &error));
        g_assert_cmpuint(written, ==, 0);
    }
    fake_stop(&fake);
}

/* Threads that do all there is at once, each to pages of its own. */
typedef struct {
    DrvGuestRam *ram;
    guint number;
} Worker;

#define WORKERS 4u

static gpointer
work(gpointer data)
{
    Worker *self = data;
    g_autoptr(GError) error = NULL;
    guint8 content[DRV_GUEST_PAGE], again[DRV_GUEST_PAGE];
    for (guint64 page = self->number; page < FAKE_PAGES * 8; page += WORKERS) {
        guint block = (guint)(page / FAKE_PAGES) % FAKE_GOOD;
        guint64 offset = page % FAKE_PAGES * PAGE;
        fill(content, block, offset, PAGE);
        DrvGuestRun runs[2] = {{block, offset, content, PAGE / 2},
                               {block, offset + PAGE / 2, content + PAGE / 2, PAGE / 2}};
        drv_guest_ram_zero(self->ram, block, offset, PAGE, NULL, &error);
        g_assert_no_error(error);
        drv_guest_ram_write(self->ram, runs, 2, &error);
        g_assert_no_error(error);
        drv_guest_ram_read(self->ram, block, offset, again, PAGE, &error);
        g_assert_no_error(error);
        g_assert_cmpmem(again, PAGE, content, PAGE);
    }
    return NULL;
}

static void
test_threads(void)
{
    Fake fake;
    fake_start(&fake);
    g_autoptr(DrvGuestRam) ram = fake_open(&fake);
    Worker workers[WORKERS];
    GThread *threads[WORKERS];
    for (guint i = 0; i < WORKERS; i++) {
        workers[i] = (Worker){ram, i};
        threads[i] = g_thread_new("work", work, &workers[i]);
    }
    for (guint i = 0; i < WORKERS; i++)
        g_thread_join(threads[i]);
    for (guint i = 0; i < FAKE_GOOD; i++)
        assert_filled(&fake, i, 0, FAKE_SIZE);
    fake_stop(&fake);
}

static void
test_gone(void)
{
    Fake fake;
    fake_start(&fake);
    g_autoptr(DrvGuestRam) ram = fake_open(&fake);
    pid_t pid = fake.pid;
    g_autofree char *message = g_strdup_printf("QEMU (pid %d) has ended", (int)pid);
    fake_kill(&fake);
    guint8 byte = 1;
    for (guint i = 0; i < FAKE_GOOD; i++) {
        DrvGuestRun run = {i, 0, &byte, 1};
        for (guint what = 0; what < 3; what++) {
            g_autoptr(GError) error = NULL;
            g_assert_false(what == 0   ? drv_guest_ram_write(ram, &run, 1, &error)
                           : what == 1 ? drv_guest_ram_read(ram, i, 0, &byte, 1, &error)
                                       : drv_guest_ram_zero(ram, i, 0, PAGE, NULL, &error));
            g_assert_error(error, DRV_ERROR, DRV_ERROR_QEMU);
            g_assert_cmpstr(error->message, ==, message);
        }
    }
    g_autoptr(GError) error = NULL;
    g_assert_null(drv_guest_ram_open(pid, fake.blocks, FAKE_N, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_QEMU);
    g_assert_true(strstr(error->message, "there is no process") != NULL);
    g_clear_error(&error);
    g_assert_null(drv_guest_ram_open(0, fake.blocks, FAKE_N, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_QEMU);
    fake_stop(&fake);
}

/* Memory that QEMU has given up since: what is before it is written, and then it is said. */
static void
test_unplugged(void)
{
    Fake fake;
    fake_start(&fake);
    g_autoptr(DrvGuestRam) ram = fake_open(&fake);
    g_autoptr(GError) error = NULL;
    g_autofree guint8 *data = g_malloc(FAKE_SIZE);
    fill(data, FAKE_ANON, 0, FAKE_SIZE);
    fake_tear(&fake, FAKE_ANON);
    DrvGuestRun run = {FAKE_ANON, 0, data, FAKE_SIZE};
    g_assert_false(drv_guest_ram_write(ram, &run, 1, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_QEMU);
    g_autofree char *message =
        g_strdup_printf("QEMU (pid %d) has no memory at %u of RAM block 'block0': it was "
                        "unplugged, or the host has run out of memory or of huge pages",
                        (int)fake.pid, FAKE_PAGES / 2 * DRV_GUEST_PAGE);
    g_assert_cmpstr(error->message, ==, message);
    assert_filled(&fake, FAKE_ANON, 0, FAKE_PAGES / 2 * PAGE);
    fake_stop(&fake);
}

/* --- permission; in processes of their own, which lose it --- */

#define NOBODY 65534

static void
refused_by(const Fake *fake)
{
    g_autoptr(GError) error = NULL;
    g_assert_null(drv_guest_ram_open(fake->pid, fake->blocks, FAKE_N, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_USAGE);
    g_printerr("said: %s\n", error->message);
}

static void
other_user(void)
{
    Fake fake;
    fake_start(&fake);
    fake_become(&fake, 4711);
    g_assert_cmpint(setresuid(NOBODY, NOBODY, NOBODY), ==, 0);
    refused_by(&fake);
    exit(0);
}

/* The same user, but QEMU has changed its own on the way: the kernel protects it from then on. */
static void protected(void)
{
    Fake fake;
    fake_start(&fake);
    fake_become(&fake, NOBODY);
    g_assert_cmpint(setresuid(NOBODY, NOBODY, NOBODY), ==, 0);
    refused_by(&fake);
    exit(0);
}

/* As the user that both have from the start, nothing else is needed. */
static void
same_user(void)
{
    Fake fake;
    g_assert_cmpint(setresuid(NOBODY, NOBODY, NOBODY), ==, 0);
    prctl(PR_SET_DUMPABLE, 1); /* what a program has after exec() */
    fake_start(&fake);
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvGuestRam) ram = fake_open(&fake);
    guint64 written = 0;
    fake_poke(&fake, FAKE_MEMFD, 0, "x", 1);
    g_assert_true(drv_guest_ram_zero(ram, FAKE_MEMFD, 0, FAKE_SIZE, &written, &error));
    g_assert_cmpuint(written, ==, PAGE);
    g_assert_cmpuint(fake_allocated(fake.memfd), <=, 2 * PAGE);
    fake_stop(&fake);
    exit(0);
}

static void
run_as_nobody(const char *name, const char *said)
{
    if (geteuid() != 0) {
        g_test_skip("only root can become another user");
        return;
    }
    g_test_trap_subprocess(name, 0, 0);
    g_test_trap_assert_passed();
    if (said != NULL)
        g_test_trap_assert_stderr(said);
}

static void
test_other_user(void)
{
    run_as_nobody("/guest-ram/subprocess/other-user",
                  "*said: droverd may not reach into the memory of QEMU (pid *), which runs as "
                  "user 4711 while droverd runs as user 65534 without CAP_SYS_PTRACE: give it that "
                  "capability, or run both as the same user\n*");
}

static void
test_protected(void)
{
    run_as_nobody("/guest-ram/subprocess/protected",
                  "*said: droverd may not reach into the memory of QEMU (pid *: give * "
                  "CAP_SYS_PTRACE*");
}

static void
test_same_user(void)
{
    g_autofree char *scope = NULL;
    g_file_get_contents("/proc/sys/kernel/yama/ptrace_scope", &scope, NULL, NULL);
    if (scope != NULL && scope[0] > '1')
        g_test_skip("kernel.yama.ptrace_scope forbids it");
    else
        run_as_nobody("/guest-ram/subprocess/same-user", NULL);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/guest-ram/blocks", test_blocks);
    g_test_add_func("/guest-ram/strange-blocks", test_strange_blocks);
    g_test_add_func("/guest-ram/write", test_write);
    g_test_add_func("/guest-ram/whole", test_whole);
    g_test_add_func("/guest-ram/bounds", test_bounds);
    g_test_add_func("/guest-ram/zero", test_zero);
    g_test_add_func("/guest-ram/threads", test_threads);
    g_test_add_func("/guest-ram/gone", test_gone);
    g_test_add_func("/guest-ram/unplugged", test_unplugged);
    g_test_add_func("/guest-ram/other-user", test_other_user);
    g_test_add_func("/guest-ram/protected", test_protected);
    g_test_add_func("/guest-ram/same-user", test_same_user);
    g_test_add_func("/guest-ram/subprocess/other-user", other_user);
    g_test_add_func("/guest-ram/subprocess/protected", protected);
    g_test_add_func("/guest-ram/subprocess/same-user", same_user);
    return g_test_run();
}
