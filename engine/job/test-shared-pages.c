/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/shared-pages.h"

#include "common/json.h"

#define MIB ((gint64)1 << 20)
#define TO "10.0.0.2:7001"

/* A source and a destination, and what they say to each other. */
typedef struct {
    DrvSharedPages *source, *dest;
} Hosts;

static Hosts
hosts_new(gint64 limit)
{
    return (Hosts){drv_shared_pages_new(0), drv_shared_pages_new(limit)};
}

static void
hosts_clear(Hosts *h)
{
    drv_shared_pages_free(h->source);
    drv_shared_pages_free(h->dest);
}

/* A job's two halves, as far as they share pages. */
typedef struct {
    DrvKeptPages *kept;
    DrvPageStore *store;
} Job;

static Job
begin(Hosts *h, const char *peer, gint64 bytes)
{
    g_autoptr(JsonObject) asked = drv_shared_pages_ask(h->source, TO, bytes);
    g_autoptr(JsonObject) answer = NULL;
    Job job = {0};
    if (asked != NULL)
        job.store = drv_shared_pages_serve(h->dest, peer, asked, &answer);
    g_assert_true((job.store != NULL) == (answer != NULL));
    job.kept = drv_shared_pages_agree(h->source, TO, answer);
    return job;
}

static void
end(Job *job)
{
    g_clear_pointer(&job->kept, drv_kept_pages_unref);
    g_clear_pointer(&job->store, drv_page_store_unref);
}

static void
test_one_store(void)
{
    Hosts h = hosts_new(64 * MIB);
    Job a = begin(&h, "src", 16 * MIB), b = begin(&h, "src", 32 * MIB);
    g_assert_true(a.kept != NULL && a.kept == b.kept);
    g_assert_true(a.store == b.store);
    g_assert_cmpuint(drv_page_store_slots(a.store), ==, 16 * MIB / DRV_PAGE_LEN);
    end(&a);
    end(&b);
    hosts_clear(&h);
}

/* Both have asked before the first has its answer. */
static void
test_asked_at_once(void)
{
    Hosts h = hosts_new(64 * MIB);
    g_autoptr(JsonObject) one = drv_shared_pages_ask(h.source, TO, MIB);
    g_autoptr(JsonObject) two = drv_shared_pages_ask(h.source, TO, MIB);
    g_autoptr(JsonObject) answer = NULL, again = NULL;
    g_autoptr(DrvPageStore) a = drv_shared_pages_serve(h.dest, "src", one, &answer);
    g_autoptr(DrvPageStore) b = drv_shared_pages_serve(h.dest, "src", two, &again);
    g_autoptr(DrvKeptPages) first = drv_shared_pages_agree(h.source, TO, again);
    g_autoptr(DrvKeptPages) second = drv_shared_pages_agree(h.source, TO, answer);
    g_assert_true(a == b && first == second && first != NULL);
    hosts_clear(&h);
}

static void
test_close_succession(void)
{
    Hosts h = hosts_new(64 * MIB);
    Job a = begin(&h, "src", MIB);
    const DrvKeptPages *kept = a.kept;
    const DrvPageStore *store = a.store;
    drv_shared_pages_age(h.source, 10 * DRV_SHARED_LINGER_S);
    drv_shared_pages_age(h.dest, 10 * DRV_SHARED_LINGER_S); /* a job may take long */
    end(&a);
    drv_shared_pages_age(h.source, DRV_SHARED_LINGER_S - 5);
    drv_shared_pages_age(h.dest, DRV_SHARED_LINGER_S - 5);
    Job b = begin(&h, "src", MIB);
    g_assert_true(b.kept == kept && b.store == store);
    end(&b);
    hosts_clear(&h);
}

/* Either end has forgotten it: both begin anew, whatever the other one believes. */
static void
test_forgotten(void)
{
    for (guint who = 0; who < 4; who++) {
        Hosts h = hosts_new(64 * MIB);
        Job a = begin(&h, "src", MIB), b = {0};
        drv_kept_pages_join(a.kept, TRUE);
        g_autoptr(DrvKeptPages) old = drv_kept_pages_ref(a.kept); /* so that no other is there */
        g_autoptr(DrvPageStore) store = drv_page_store_ref(a.store);
        end(&a);
        if (who == 0) { /* the destination was restarted */
            drv_shared_pages_free(h.dest);
            h.dest = drv_shared_pages_new(64 * MIB);
        } else if (who == 1) { /* the source was */
            drv_shared_pages_free(h.source);
            h.source = drv_shared_pages_new(0);
        } else if (who == 2) { /* nobody has come for long */
            g_clear_pointer(&store, drv_page_store_unref);
            drv_shared_pages_age(h.dest, DRV_SHARED_LINGER_S);
        } else {
            g_clear_pointer(&old, drv_kept_pages_unref);
            drv_shared_pages_age(h.source, DRV_SHARED_LINGER_S);
        }
        b = begin(&h, "src", MIB);
        g_assert_nonnull(b.kept);
        if (old != NULL)
            g_assert_true(b.kept != old);
        if (store != NULL)
            g_assert_true(b.store != store);
        end(&b);
        hosts_clear(&h);
    }
}

/* What is kept for one host is not for another, whatever id that names. */
static void
test_peers_are_apart(void)
{
    Hosts h = hosts_new(64 * MIB);
    g_autoptr(JsonObject) asked = drv_shared_pages_ask(h.source, TO, MIB);
    g_autoptr(JsonObject) one = NULL, two = NULL;
    g_autoptr(DrvPageStore) a = drv_shared_pages_serve(h.dest, "src", asked, &one);
    g_autoptr(DrvPageStore) b = drv_shared_pages_serve(h.dest, "other", asked, &two);
    g_assert_true(a != NULL && b != NULL && a != b);
    g_assert_cmpstr(drv_json_string(one, "epoch", ""), !=, drv_json_string(two, "epoch", ""));
    hosts_clear(&h);
}

static void
test_limit(void)
{
    Hosts h = hosts_new(8 * MIB), other = {drv_shared_pages_new(0), h.dest};
    Job a = begin(&h, "src", 6 * MIB);
    Job b = begin(&other, "other", 6 * MIB); /* what is left */
    g_assert_cmpuint(drv_page_store_slots(b.store), ==, 2 * MIB / DRV_PAGE_LEN);
    Hosts third = {drv_shared_pages_new(0), h.dest};
    Job c = begin(&third, "third", 6 * MIB); /* nothing is: goes without */
    g_assert_null(c.store);
    g_assert_null(c.kept);
    end(&a); /* idle now, and in the way */
    Job d = begin(&third, "third", 6 * MIB);
    g_assert_cmpuint(drv_page_store_slots(d.store), ==, 6 * MIB / DRV_PAGE_LEN);
    end(&b);
    end(&d);
    drv_shared_pages_free(other.source);
    drv_shared_pages_free(third.source);
    hosts_clear(&h);

    h = hosts_new(0); /* switched off */
    a = begin(&h, "src", 6 * MIB);
    g_assert_null(a.kept);
    hosts_clear(&h);
}

/* A source that comes back with another id has no use for its former store. */
static void
test_own_idle_one_goes(void)
{
    Hosts h = hosts_new(8 * MIB), again = {drv_shared_pages_new(0), h.dest};
    Job a = begin(&h, "src", 6 * MIB);
    end(&a);
    Job b = begin(&again, "src", 6 * MIB);
    g_assert_cmpuint(drv_page_store_slots(b.store), ==, 6 * MIB / DRV_PAGE_LEN);
    end(&b);
    drv_shared_pages_free(again.source);
    hosts_clear(&h);
}

static void
test_nothing_asked(void)
{
    Hosts h = hosts_new(8 * MIB);
    g_assert_null(drv_shared_pages_ask(h.source, TO, 0));
    g_assert_null(drv_shared_pages_ask(h.source, TO, 65536)); /* not worth it */
    Job a = begin(&h, "src", 0);
    g_assert_null(a.kept);
    hosts_clear(&h);
}

static void
test_nonsense(void)
{
    static const char *const asks[] = {
        "{}",
        "{\"store\":\"x\",\"bytes\":1048576}",
        "{\"store\":\"00112233445566778899aabbccddeeff\"}",
        "{\"store\":\"00112233445566778899aabbccddeeff\",\"bytes\":-1}",
        "{\"store\":\"00112233445566778899aabbccddeeff\",\"bytes\":1}",
        "{\"store\":\"00112233445566778899AABBCCDDEEFF\",\"bytes\":1048576}",
        "{\"store\":7,\"bytes\":\"1048576\"}",
    };
    static const char *const answers[] = {
        "{}",
        "{\"epoch\":\"x\",\"slots\":256}",
        "{\"epoch\":\"00112233445566778899aabbccddeeff\",\"slots\":0}",
        "{\"epoch\":\"00112233445566778899aabbccddeeff\",\"slots\":-5}",
        "{\"epoch\":\"00112233445566778899aabbccddeeff\",\"slots\":257}",
        "{\"epoch\":\"00112233445566778899aabbccddeeff\",\"slots\":9223372036854775807}",
        "{\"slots\":256}",
    };
    Hosts h = hosts_new(8 * MIB);
    for (guint i = 0; i < G_N_ELEMENTS(asks); i++) {
        g_autoptr(JsonObject) asked = drv_json_parse_object(asks[i], strlen(asks[i]), NULL);
        JsonObject *answer = NULL;
        g_assert_null(drv_shared_pages_serve(h.dest, "src", asked, &answer));
        g_assert_null(answer);
    }
    g_autoptr(JsonObject) asked = drv_shared_pages_ask(h.source, TO, MIB);
    g_assert_nonnull(asked);
    for (guint i = 0; i < G_N_ELEMENTS(answers); i++) {
        g_autoptr(JsonObject) answer = drv_json_parse_object(answers[i], strlen(answers[i]), NULL);
        g_assert_nonnull(answer);
        g_assert_null(drv_shared_pages_agree(h.source, TO, answer));
        g_assert_null(drv_shared_pages_agree(h.source, "elsewhere:1", answer));
    }
    hosts_clear(&h);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/shared-pages/one-store", test_one_store);
    g_test_add_func("/shared-pages/asked-at-once", test_asked_at_once);
    g_test_add_func("/shared-pages/close-succession", test_close_succession);
    g_test_add_func("/shared-pages/forgotten", test_forgotten);
    g_test_add_func("/shared-pages/peers-are-apart", test_peers_are_apart);
    g_test_add_func("/shared-pages/limit", test_limit);
    g_test_add_func("/shared-pages/own-idle-one-goes", test_own_idle_one_goes);
    g_test_add_func("/shared-pages/nothing-asked", test_nothing_asked);
    g_test_add_func("/shared-pages/nonsense", test_nonsense);
    return g_test_run();
}
