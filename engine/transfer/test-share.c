/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/share.h"

static void
test_names(void)
{
    DrvShares *shares = drv_shares_new();
    DrvShare *a = drv_shares_of(shares, "a");
    g_assert_cmpstr(a->name, ==, "a");
    g_assert_true(drv_shares_of(shares, "b") != a);
    g_assert_true(drv_shares_of(shares, "a") == a);
    drv_shares_free(shares);
    drv_shares_free(NULL);
}

/* Sessions of one host pay for it together; one that holds little is left alone. */
static void
test_overdrawn(void)
{
    DrvShare share = {0};
    DrvAccount greedy = {0, &share.messages}, modest = {0, &share.messages}, free_of_it = {0};
    drv_account_add(&greedy, DRV_SHARE_MESSAGES);
    g_assert_false(drv_share_is_overdrawn(&greedy));
    drv_account_add(&modest, DRV_SHARE_MESSAGES_LEAST);
    g_assert_true(drv_share_is_overdrawn(&greedy));
    g_assert_false(drv_share_is_overdrawn(&modest));
    drv_account_add(&modest, 1);
    g_assert_true(drv_share_is_overdrawn(&modest));
    drv_account_take(&greedy, DRV_SHARE_MESSAGES);
    g_assert_false(drv_share_is_overdrawn(&modest));
    g_assert_cmpint(share.messages.bytes, ==, DRV_SHARE_MESSAGES_LEAST + 1);
    drv_account_add(&free_of_it, 2 * DRV_SHARE_MESSAGES);
    g_assert_false(drv_share_is_overdrawn(&free_of_it));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/share/names", test_names);
    g_test_add_func("/share/overdrawn", test_overdrawn);
    return g_test_run();
}
