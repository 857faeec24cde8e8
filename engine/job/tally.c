/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/tally.h"

#include "common/exposition.h"
#include "common/json.h"

#include <string.h>

/* Seconds; what a guest's user notices is between the first and the last. */
static const double bounds[] = {0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5};

struct _DrvTally {
    GHashTable *ended;      /* labels → guint64: jobs */
    GHashTable *bytes;      /* labels → guint64: of what they carried, before compression */
    GHashTable *wire_bytes; /* labels → guint64: for it, on the wire */
    guint64 reconnects;
    guint64 within[G_N_ELEMENTS(bounds)]; /* downtimes of up to each bound */
    guint64 downtimes;
    double downtime_s;
    guint64 broken;                                      /* promises of them */
    double to_local, to_remote, from_local, from_remote; /* bytes */
};

DrvTally *
drv_tally_new(void)
{
    DrvTally *tally = g_new0(DrvTally, 1);
    tally->ended = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    tally->bytes = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    tally->wire_bytes = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    return tally;
}

void
drv_tally_free(DrvTally *tally)
{
    if (tally == NULL)
        return;
    g_hash_table_unref(tally->ended);
    g_hash_table_unref(tally->bytes);
    g_hash_table_unref(tally->wire_bytes);
    g_free(tally);
}

/* Takes the labels. */
static void
count(GHashTable *sums, char *labels, gint64 n)
{
    guint64 *sum = g_hash_table_lookup(sums, labels);
    if (sum == NULL) {
        sum = g_new0(guint64, 1);
        g_hash_table_insert(sums, labels, sum);
    } else {
        g_free(labels);
    }
    *sum += (guint64)MAX(n, 0);
}

static void
count_carried(DrvTally *tally, JsonObject *result, const char *what)
{
    JsonObject *part = drv_json_object(result, what);
    gint64 bytes = part != NULL ? drv_json_int(part, "bytes", 0) : 0;
    if (bytes <= 0)
        return;
    count(tally->bytes, drv_exposition_labels("of", what, NULL), bytes);
    count(tally->wire_bytes, drv_exposition_labels("of", what, NULL),
          drv_json_int(part, "wire_bytes", 0));
}

static void
count_downtime(DrvTally *tally, JsonObject *result)
{
    double seconds = drv_json_number(result, "downtime_ms", 0) / 1000;
    for (guint i = 0; i < G_N_ELEMENTS(bounds); i++)
        tally->within[i] += seconds <= bounds[i] ? 1 : 0;
    tally->downtimes++;
    tally->downtime_s += seconds;
    tally->broken += drv_json_flag(result, "downtime_kept", TRUE) ? 0 : 1;
}

void
drv_tally_ended(DrvTally *tally, const char *kind, const DrvJobRecord *rec)
{
    const char *role = rec->role == DRV_ROLE_SOURCE ? "source" : "dest";
    count(tally->ended,
          drv_exposition_labels("kind", kind, "role", role, "outcome",
                                drv_state_outcome(rec->state), NULL),
          1);
    g_autoptr(JsonObject) result =
        rec->result != NULL ? drv_json_parse_object(rec->result, strlen(rec->result), NULL) : NULL;
    if (result == NULL)
        return;
    count_carried(tally, result, "ram");
    count_carried(tally, result, "disk");
    tally->reconnects += (guint64)MAX(drv_json_int(result, "reconnects", 0), 0);
    if (g_str_equal(kind, "migrate") && rec->state == DRV_STATE_DONE)
        count_downtime(tally, result);
}

void
drv_tally_placed(DrvTally *tally, const DrvGuestPlaced *placed)
{
    if (placed->sampled == 0)
        return;
    double scale = (double)placed->bytes / (double)placed->sampled;
    tally->to_local += (double)placed->pages_local * scale;
    tally->to_remote += (double)(placed->sampled - placed->pages_local) * scale;
    tally->from_local += (double)placed->buffers_local * scale;
    tally->from_remote += (double)(placed->sampled - placed->buffers_local) * scale;
}

/* --- as text --- */

static void
write_sums(GString *out, GHashTable *sums, const char *name, const char *help)
{
    g_autoptr(GList) labels = g_list_sort(g_hash_table_get_keys(sums), (GCompareFunc)strcmp);
    drv_exposition_head(out, name, "counter", help);
    for (GList *l = labels; l != NULL; l = l->next)
        drv_exposition_value(out, name, l->data,
                             (double)*(guint64 *)g_hash_table_lookup(sums, l->data));
}

static void
write_one(GString *out, const char *name, const char *help, double value)
{
    drv_exposition_head(out, name, "counter", help);
    drv_exposition_value(out, name, "", value);
}

static void
write_downtimes(const DrvTally *tally, GString *out)
{
    drv_exposition_head(out, "drover_downtime_seconds", "histogram",
                        "How long guests that left this host were down.");
    for (guint i = 0; i < G_N_ELEMENTS(bounds); i++) {
        char text[G_ASCII_DTOSTR_BUF_SIZE];
        g_autofree char *le =
            drv_exposition_labels("le", g_ascii_formatd(text, sizeof text, "%g", bounds[i]), NULL);
        drv_exposition_value(out, "drover_downtime_seconds_bucket", le, (double)tally->within[i]);
    }
    drv_exposition_value(out, "drover_downtime_seconds_bucket", "le=\"+Inf\"",
                         (double)tally->downtimes);
    drv_exposition_value(out, "drover_downtime_seconds_sum", "", tally->downtime_s);
    drv_exposition_value(out, "drover_downtime_seconds_count", "", (double)tally->downtimes);
}

static void
write_nodes(const DrvTally *tally, GString *out)
{
    static const char name[] = "drover_numa_bytes_total";
    const struct {
        const char *labels;
        double bytes;
    } all[] = {{"access=\"write\",node=\"local\"", tally->to_local},
               {"access=\"write\",node=\"remote\"", tally->to_remote},
               {"access=\"read\",node=\"local\"", tally->from_local},
               {"access=\"read\",node=\"remote\"", tally->from_remote}};
    drv_exposition_head(out, name, "counter",
                        "Bytes written into guests and read from buffers, on the NUMA node of the "
                        "thread that did or on another, from samples.");
    for (guint i = 0; i < G_N_ELEMENTS(all); i++)
        drv_exposition_value(out, name, all[i].labels, all[i].bytes);
}

void
drv_tally_write(const DrvTally *tally, GString *out)
{
    write_sums(out, tally->ended, "drover_jobs_ended_total", "Jobs that are over.");
    write_sums(out, tally->bytes, "drover_carried_bytes_total",
               "Bytes of guests' memory and of disks that left this host, before compression.");
    write_sums(out, tally->wire_bytes, "drover_wire_bytes_total", "Bytes on the wire for these.");
    write_one(out, "drover_reconnects_total",
              "Sessions taken up again after their connections "
              "broke.",
              (double)tally->reconnects);
    write_downtimes(tally, out);
    write_one(out, "drover_downtime_broken_total", "Guests that were down for longer than allowed.",
              (double)tally->broken);
    write_nodes(tally, out);
}
