/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/share.h"

struct _DrvShares {
    GMutex lock;
    GHashTable *by_name; /* name → DrvShare; under the lock */
};

void
drv_account_add(DrvAccount *account, gsize bytes)
{
    for (; account != NULL; account = account->above)
        g_atomic_int_add(&account->bytes, (gint)bytes);
}

void
drv_account_take(DrvAccount *account, gsize bytes)
{
    for (; account != NULL; account = account->above) {
        gint before = g_atomic_int_add(&account->bytes, -(gint)bytes);
        g_assert(before >= (gint)bytes);
    }
}

gboolean
drv_share_is_overdrawn(const DrvAccount *session)
{
    return session->above != NULL &&
           g_atomic_int_get(&session->above->bytes) > DRV_SHARE_MESSAGES &&
           g_atomic_int_get(&session->bytes) > DRV_SHARE_MESSAGES_LEAST;
}

static void
free_share(gpointer data)
{
    DrvShare *share = data;
    g_free(share->name);
    g_free(share);
}

DrvShares *
drv_shares_new(void)
{
    DrvShares *shares = g_new0(DrvShares, 1);
    g_mutex_init(&shares->lock);
    shares->by_name = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, free_share);
    return shares;
}

void
drv_shares_free(DrvShares *shares)
{
    if (shares == NULL)
        return;
    g_hash_table_unref(shares->by_name);
    g_mutex_clear(&shares->lock);
    g_free(shares);
}

DrvShare *
drv_shares_of(DrvShares *shares, const char *name)
{
    g_mutex_lock(&shares->lock);
    DrvShare *share = g_hash_table_lookup(shares->by_name, name);
    if (share == NULL) {
        share = g_new0(DrvShare, 1);
        share->name = g_strdup(name);
        g_hash_table_insert(shares->by_name, share->name, share);
    }
    g_mutex_unlock(&shares->lock);
    return share;
}
