/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "engine/channel/guest-sample.h"
#include "engine/channel/test-guest-fake.h"

#include <string.h>

static DrvGuestRam *
open_blocks(const Fake *fake, const guint *blocks, guint n)
{
    g_autoptr(GError) error = NULL;
    DrvGuestBlock chosen[FAKE_N];
    for (guint i = 0; i < n; i++)
        chosen[i] = fake->blocks[blocks[i]];
    DrvGuestRam *ram = drv_guest_ram_open(fake->pid, chosen, n, &error);
    g_assert_no_error(error);
    return ram;
}

/* Every fourth page random, every fourth text, every fourth zeros that were written. */
static void
fill(const Fake *fake, guint block)
{
    guint8 page[DRV_GUEST_PAGE];
    for (guint i = 0; i < FAKE_PAGES; i++) {
        for (guint j = 0; j < sizeof page; j++)
            page[j] = i % 4 == 0   ? (guint8)g_test_rand_int()
                      : i % 4 == 1 ? (guint8)("the quick brown fox "[j % 20])
                                   : 0;
        if (i % 4 != 3)
            fake_poke(fake, block, (guint64)i * DRV_GUEST_PAGE, page, sizeof page);
    }
}

static void
test_shares(void)
{
    static const guint blocks[] = {FAKE_ANON, FAKE_MEMFD};
    Fake fake;
    DrvGuestSample sample;
    g_autoptr(GError) error = NULL;
    fake_start(&fake);
    fill(&fake, FAKE_ANON);
    fill(&fake, FAKE_MEMFD);
    guint mapped = fake_mapped(&fake, FAKE_ANON);
    guint64 allocated = fake_allocated(fake.memfd);
    g_autoptr(DrvGuestRam) ram = open_blocks(&fake, blocks, 2);
    g_assert_true(drv_guest_ram_sample(ram, 800, &sample, &error));
    g_assert_no_error(error);
    /* Looking changes nothing. */
    g_assert_cmpuint(fake_mapped(&fake, FAKE_ANON), ==, mapped);
    g_assert_cmpuint(fake_allocated(fake.memfd), ==, allocated);
    /* Runs of 8 have two of each kind, wherever they begin. */
    g_assert_cmpuint(sample.pages, ==, 800);
    g_assert_cmpuint(sample.nonzero, ==, 400);
    g_assert_cmpuint(sample.bytes, ==, 400 * DRV_GUEST_PAGE);
    /* Half of that does not pack at all, the other half to nearly nothing. */
    g_assert_cmpfloat_with_epsilon(sample.ratio[DRV_CODEC_ZSTD], 2, 0.2);
    for (DrvCodec codec = DRV_CODEC_LZ4; codec < DRV_CODEC_COUNT; codec++) {
        g_assert_cmpfloat(sample.ratio[codec], >=, 1);
        g_assert_cmpfloat(sample.ratio[codec], <, 2.2);
        g_assert_cmpfloat(sample.speed[codec], >, 1e6);
    }
    g_assert_cmpfloat(sample.ratio[DRV_CODEC_NONE], ==, 0);
    fake_stop(&fake);
}

/* Nothing was ever written: nothing is to be packed, and nothing is touched. */
static void
test_untouched(void)
{
    static const guint blocks[] = {FAKE_TORN, FAKE_ANON, FAKE_MEMFD};
    Fake fake;
    DrvGuestSample sample;
    fake_start(&fake);
    g_autoptr(DrvGuestRam) ram = open_blocks(&fake, blocks, 3); /* which looks at one page */
    guint mapped = fake_mapped(&fake, FAKE_ANON);
    guint64 allocated = fake_allocated(fake.memfd);
    /* More than there are pages: each once at most. */
    g_assert_true(drv_guest_ram_sample(ram, G_MAXUINT, &sample, NULL));
    g_assert_cmpuint(sample.pages, ==, 2 * (FAKE_PAGES / 8 * 8));
    g_assert_cmpuint(sample.nonzero, ==, 0);
    g_assert_cmpfloat(sample.ratio[DRV_CODEC_LZ4], ==, 0);
    g_assert_cmpuint(fake_mapped(&fake, FAKE_ANON), ==, mapped);
    g_assert_cmpuint(fake_allocated(fake.memfd), ==, allocated);
    fake_stop(&fake);
}

static void
take_result(GObject *source, GAsyncResult *result, gpointer data)
{
    *(GAsyncResult **)data = g_object_ref(result);
}

static gboolean
sample_aside(DrvGuestRam *ram, DrvGuestSample *sample, GError **error)
{
    GAsyncResult *result = NULL;
    drv_guest_ram_sample_async(ram, 100, NULL, take_result, &result);
    while (result == NULL)
        g_main_context_iteration(NULL, TRUE);
    gboolean good = drv_guest_ram_sample_finish(result, sample, error);
    g_object_unref(result);
    return good;
}

static void
test_aside(void)
{
    static const guint blocks[] = {FAKE_ANON}, bad[] = {FAKE_REFUSED, FAKE_UNKNOWN};
    Fake fake;
    DrvGuestSample sample;
    g_autoptr(GError) error = NULL;
    fake_start(&fake);
    fill(&fake, FAKE_ANON);
    g_assert_true(sample_aside(open_blocks(&fake, blocks, 1), &sample, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(sample.nonzero, >, 0);

    g_assert_false(sample_aside(open_blocks(&fake, bad, 2), &sample, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_NOT_FOUND);
    g_assert_true(g_str_has_prefix(error->message, "no RAM block of the guest is reachable: "));
    g_clear_error(&error);

    DrvGuestRam *gone = open_blocks(&fake, blocks, 1);
    fake_kill(&fake);
    g_assert_false(sample_aside(gone, &sample, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_QEMU);
    fake_stop(&fake);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/guest-sample/shares", test_shares);
    g_test_add_func("/guest-sample/untouched", test_untouched);
    g_test_add_func("/guest-sample/aside", test_aside);
    return g_test_run();
}
