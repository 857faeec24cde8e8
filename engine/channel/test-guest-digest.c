/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "engine/channel/guest-digest.h"
#include "engine/channel/test-guest-fake.h"

#include <string.h>

#define LEN DRV_GUEST_DIGEST_LEN

static void
digest_of(DrvGuestRam *ram, const guint *blocks, guint n, guint threads, guint64 seed,
          guint8 *digests)
{
    g_autoptr(GError) error = NULL;
    guint64 done = 77;
    DrvGuestDigestOptions options = {.threads = threads, .seed = seed, .done = &done};
    g_assert_true(drv_guest_digest(ram, blocks, n, &options, digests, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(drv_guest_digest_done(&done), ==, n * FAKE_SIZE);
}

static void
fill(const Fake *fake, guint block)
{
    guint8 page[DRV_GUEST_PAGE];
    for (guint i = 0; i < FAKE_PAGES; i += 3) {
        memset(page, (int)i, sizeof page);
        fake_poke(fake, block, (guint64)i * DRV_GUEST_PAGE, page, sizeof page);
    }
}

/* The same content, whatever memory holds it and however many compute it; another for any bit. */
static void
test_content(void)
{
    Fake fake;
    fake_start(&fake);
    g_autoptr(DrvGuestRam) ram = fake_open(&fake);
    static const guint blocks[] = {FAKE_ANON, FAKE_MEMFD, FAKE_SHARED};
    guint8 one[3 * LEN], other[3 * LEN];
    for (guint i = 0; i < 3; i++)
        fill(&fake, blocks[i]);
    digest_of(ram, blocks, 3, 1, 9, one);
    g_assert_cmpmem(one, LEN, one + LEN, LEN);
    g_assert_cmpmem(one, LEN, one + 2 * LEN, LEN);
    for (guint threads = 0; threads < 20; threads += 3) {
        digest_of(ram, blocks, 3, threads, 9, other);
        g_assert_cmpmem(one, sizeof one, other, sizeof other);
    }
    digest_of(ram, blocks, 1, 1, 10, other);
    g_assert_cmpint(memcmp(one, other, LEN), !=, 0);

    for (guint64 at = 0; at < FAKE_SIZE; at += 300 * DRV_GUEST_PAGE - 1) {
        guint8 was, is;
        fake_peek(&fake, FAKE_ANON, at, &was, 1);
        is = was ^ 1;
        fake_poke(&fake, FAKE_ANON, at, &is, 1);
        digest_of(ram, blocks, 1, 2, 9, other);
        g_assert_cmpint(memcmp(one, other, LEN), !=, 0);
        fake_poke(&fake, FAKE_ANON, at, &was, 1);
    }
    digest_of(ram, blocks, 1, 2, 9, other);
    g_assert_cmpmem(one, LEN, other, LEN);
    fake_stop(&fake);
}

/* Memory that was never touched is zeros, like zeros that were written, and stays untouched. */
static void
test_untouched(void)
{
    Fake fake;
    fake_start(&fake);
    g_autoptr(DrvGuestRam) ram = fake_open(&fake);
    static const guint blocks[] = {FAKE_ANON, FAKE_MEMFD, FAKE_SHARED};
    guint8 untouched[3 * LEN], written[3 * LEN];
    digest_of(ram, blocks, 3, 2, 0, untouched);
    g_assert_cmpuint(fake_mapped(&fake, FAKE_ANON), <=, 1);
    g_assert_cmpuint(fake_allocated(fake.memfd), <=, DRV_GUEST_PAGE);
    g_autofree guint8 *zeros = g_malloc0(FAKE_SIZE);
    for (guint i = 0; i < 3; i++)
        fake_poke(&fake, blocks[i], 0, zeros, FAKE_SIZE);
    digest_of(ram, blocks, 3, 2, 0, written);
    g_assert_cmpmem(untouched, sizeof untouched, written, sizeof written);
    fake_stop(&fake);
}

/* Untouched memory of a file is the file's content. */
static void
test_private_file(void)
{
    Fake fake;
    fake_start(&fake);
    g_autoptr(DrvGuestRam) ram = fake_open(&fake);
    static const guint blocks[] = {FAKE_PRIVATE, FAKE_ANON};
    guint8 digests[2 * LEN];
    g_autofree guint8 *full = g_malloc(FAKE_FULL);
    memset(full, 0xee, FAKE_FULL);
    digest_of(ram, blocks, 2, 1, 0, digests);
    g_assert_cmpint(memcmp(digests, digests + LEN, LEN), !=, 0);
    fake_poke(&fake, FAKE_ANON, FAKE_FULL, full, FAKE_FULL);
    digest_of(ram, blocks, 2, 1, 0, digests);
    g_assert_cmpmem(digests, LEN, digests + LEN, LEN);
    g_assert_cmpuint(fake_allocated(fake.file), <=, FAKE_FULL + DRV_GUEST_PAGE);
    fake_stop(&fake);
}

/* Pages that are compared one by one do not count in their block's digest. */
static void
test_apart(void)
{
    Fake fake;
    fake_start(&fake);
    g_autoptr(DrvGuestRam) ram = fake_open(&fake);
    g_autoptr(GError) error = NULL;
    static const guint block = FAKE_ANON;
    DrvGuestDigestOptions options = {.apart = {FAKE_ANON, 250, 10}}; /* across a MiB's end */
    guint8 before[LEN], after[LEN], pages[10 * LEN], later[10 * LEN];
    fill(&fake, block);
    g_assert_true(drv_guest_digest(ram, &block, 1, &options, before, &error));
    g_assert_true(drv_guest_digest_pages(ram, &options.apart, 0, pages, &error));
    for (guint64 page = 249; page < 261; page++) {
        guint8 was, is;
        guint64 at = page * DRV_GUEST_PAGE + 17;
        gboolean within = page >= 250 && page < 260;
        fake_peek(&fake, block, at, &was, 1);
        is = was ^ 4;
        fake_poke(&fake, block, at, &is, 1);
        g_assert_true(drv_guest_digest(ram, &block, 1, &options, after, &error));
        g_assert_cmpint(memcmp(before, after, LEN) == 0, ==, within);
        g_assert_true(drv_guest_digest_pages(ram, &options.apart, 0, later, &error));
        for (guint i = 0; i < 10; i++)
            g_assert_cmpint(memcmp(pages + i * LEN, later + i * LEN, LEN) == 0, ==,
                            page != 250 + i);
        fake_poke(&fake, block, at, &was, 1);
    }
    g_assert_true(drv_guest_digest_pages(ram, &options.apart, 1, later, &error));
    g_assert_cmpint(memcmp(pages, later, LEN), !=, 0);
    fake_stop(&fake);
}

static void
test_pages_out_of_bounds(void)
{
    static const DrvGuestPages wrong[] = {
        {FAKE_ANON, FAKE_PAGES - 1, 2},
        {FAKE_ANON, FAKE_PAGES + 1, 1},
        {FAKE_SEALED, 0, 1},
        {FAKE_ANON, G_MAXUINT64, 2},
        {FAKE_ANON, 0, 257},
        {FAKE_N, 0, 1},
    };
    Fake fake;
    guint8 digests[257 * LEN];
    fake_start(&fake);
    g_autoptr(DrvGuestRam) ram = fake_open(&fake);
    for (guint i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_false(drv_guest_digest_pages(ram, &wrong[i], 0, digests, &error));
        g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    }
    fake_stop(&fake);
}

static void
test_errors(void)
{
    Fake fake;
    fake_start(&fake);
    g_autoptr(DrvGuestRam) ram = fake_open(&fake);
    g_autoptr(GError) error = NULL;
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    DrvGuestDigestOptions options = {.threads = 3, .cancellable = cancellable};
    guint8 digests[2 * LEN];
    guint blocks[2] = {FAKE_ANON, FAKE_SEALED};
    g_assert_false(drv_guest_digest(ram, blocks, 2, &options, digests, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    g_assert_cmpstr(error->message, ==, "there is no RAM block 4 that can be reached from outside");
    g_clear_error(&error);
    blocks[1] = FAKE_N;
    g_assert_false(drv_guest_digest(ram, blocks, 2, &options, digests, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    g_clear_error(&error);

    blocks[1] = FAKE_MEMFD;
    fill(&fake, FAKE_ANON);
    fill(&fake, FAKE_MEMFD);
    g_cancellable_cancel(cancellable);
    g_assert_false(drv_guest_digest(ram, blocks, 2, &options, digests, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
    g_clear_error(&error);
    g_cancellable_reset(cancellable);

    fake_tear(&fake, FAKE_ANON); /* what is not there must not count as zeros */
    g_assert_false(drv_guest_digest(ram, blocks, 1, &options, digests, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_QEMU);
    g_assert_true(g_str_has_suffix(error->message, "has changed meanwhile: it is not wholly mapped "
                                                   "in QEMU's memory"));
    g_clear_error(&error);
    fake_kill(&fake);
    g_assert_false(drv_guest_digest(ram, blocks, 2, &options, digests, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_QEMU);
    g_assert_true(g_str_has_suffix(error->message, "has ended"));
    fake_stop(&fake);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/guest-digest/content", test_content);
    g_test_add_func("/guest-digest/untouched", test_untouched);
    g_test_add_func("/guest-digest/private-file", test_private_file);
    g_test_add_func("/guest-digest/apart", test_apart);
    g_test_add_func("/guest-digest/pages-out-of-bounds", test_pages_out_of_bounds);
    g_test_add_func("/guest-digest/errors", test_errors);
    return g_test_run();
}
