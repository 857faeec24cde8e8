/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/services.h"

struct _DrvServices {
    DrvServicesParams params;
    DrvJournal *journal;
    DrvTransfer *transfer; /* borrowed */
    DrvPeers *peers;
    DrvAborts *aborts;
    DrvTally *tally;
    GHashTable *pinned; /* owner → DrvCpus */
    DrvSharedPages *shared;
};

const DrvConfig *
drv_services_config(const DrvServices *services)
{
    return services->params.config;
}

DrvJournal *
drv_services_journal(const DrvServices *services)
{
    return services->journal;
}

DrvTransfer *
drv_services_transfer(const DrvServices *services)
{
    return services->transfer;
}

DrvPeers *
drv_services_peers(const DrvServices *services)
{
    return services->peers;
}

DrvAborts *
drv_services_aborts(const DrvServices *services)
{
    return services->aborts;
}

DrvTally *
drv_services_tally(const DrvServices *services)
{
    return services->tally;
}

DrvSharedPages *
drv_services_shared_pages(const DrvServices *services)
{
    return services->shared;
}

char *
drv_services_socket_path(const DrvServices *services, const char *id, const char *what)
{
    g_autofree char *dir = g_canonicalize_filename(services->params.config->state_dir, NULL);
    return g_strdup_printf("%s/%s.%s", dir, id, what);
}

void
drv_services_keep_off(DrvServices *services, gconstpointer owner, const DrvCpus *pinned)
{
    gboolean none = pinned == NULL || drv_cpus_is_empty(pinned);
    DrvCpus all = {{0}};
    GHashTableIter iter;
    gpointer cpus;
    if (none && !g_hash_table_contains(services->pinned, owner))
        return;
    if (none)
        g_hash_table_remove(services->pinned, owner);
    else
        g_hash_table_insert(services->pinned, (gpointer)owner, g_memdup2(pinned, sizeof *pinned));
    g_hash_table_iter_init(&iter, services->pinned);
    while (g_hash_table_iter_next(&iter, NULL, &cpus))
        all = drv_cpus_or(&all, cpus);
    if (services->transfer != NULL)
        drv_transfer_keep_off(services->transfer, &all);
}

void
drv_services_changed(DrvServices *services, const char *id)
{
    if (services->params.changed != NULL)
        services->params.changed(id, services->params.data);
}

void
drv_services_fatal(DrvServices *services, const GError *error)
{
    services->params.fatal(error, services->params.data);
}

/* --- life --- */

DrvServices *
drv_services_new(const DrvServicesParams *params, GError **error)
{
    DrvJournal *journal = drv_journal_open(params->config->state_dir, error);
    if (journal == NULL)
        return NULL;
    DrvServices *services = g_new0(DrvServices, 1);
    services->params = *params;
    services->journal = journal;
    services->pinned = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    services->peers = drv_peers_new((guint)params->config->lanes);
    services->aborts = drv_aborts_new(journal, services->peers);
    services->tally = drv_tally_new();
    services->shared = drv_shared_pages_new(params->config->dedup_memory);
    return services;
}

void
drv_services_set_transfer(DrvServices *services, DrvTransfer *transfer)
{
    services->transfer = transfer;
    drv_peers_set_transfer(services->peers, transfer);
}

void
drv_services_free(DrvServices *services)
{
    if (services == NULL)
        return;
    drv_tally_free(services->tally);
    drv_aborts_free(services->aborts);
    drv_shared_pages_free(services->shared);
    drv_peers_free(services->peers);
    drv_journal_close(services->journal);
    g_hash_table_unref(services->pinned);
    g_free(services);
}
