/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "engine/host/dirty-rate.h"
#include "qmp/test-fake.h"

#include <string.h>

#define UNEXPECTED "Parameter 'calc-time-unit' is unexpected"

static void
refuse(Fake *fake, const char *id, const char *why)
{
    g_autofree char *line = g_strdup_printf(
        "{\"id\":\"%s\",\"error\":{\"class\":\"GenericError\",\"desc\":\"%s\"}}\r\n", id, why);
    fake_say(fake, line);
}

/* The next command's arguments must be 'expected'; says yes, or why not. */
static void
answer(Fake *fake, const char *expected, const char *refusal)
{
    g_autofree char *line = fake_hear(fake);
    g_autoptr(JsonNode) node = json_from_string(line, NULL);
    JsonObject *object = qmp_node_object(node);
    const char *id = qmp_get_string(object, "id");
    g_autofree char *args = json_to_string(json_object_get_member(object, "arguments"), FALSE);
    g_assert_cmpstr(qmp_get_string(object, "execute"), ==, "calc-dirty-rate");
    g_assert_cmpstr(args, ==, expected);
    if (refusal != NULL)
        refuse(fake, id, refusal);
    else
        fake_return(fake, id, "{}");
}

static void
tell(Fake *fake, const char *reply)
{
    g_autofree char *id = fake_hear_command(fake, "query-dirty-rate");
    fake_return(fake, id, reply);
}

static GAsyncResult **
begin(Fake *fake, gboolean kvm, guint ms, GAsyncResult **result)
{
    DrvVm vm = {.kvm = kvm};
    *result = NULL;
    drv_dirty_rate_async(fake->client, &vm, ms, NULL, fake_store, result);
    return result;
}

static gboolean
end(GAsyncResult **result, DrvDirtyRate *rate, GError **error)
{
    fake_wait(*result != NULL);
    gboolean good = drv_dirty_rate_finish(*result, rate, error);
    g_clear_object(result);
    return good;
}

#define MEASURED "{\"status\":\"measured\",\"dirty-rate\":20,\"calc-time\":250}"

/* QEMU since 8.2, KVM with the ring: the first that is asked for. */
static void
test_ring(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    GAsyncResult *result;
    DrvDirtyRate rate;
    begin(fake, TRUE, 250, &result);
    answer(fake, "{\"mode\":\"dirty-ring\",\"calc-time\":250,\"calc-time-unit\":\"millisecond\"}",
           NULL);
    tell(fake, "{\"status\":\"measuring\"}");
    tell(fake, MEASURED);
    g_assert_true(end(&result, &rate, NULL));
    g_assert_cmpint(rate.mode, ==, DRV_DIRTY_RING);
    g_assert_cmpuint(rate.ms, ==, 250);
    g_assert_cmpuint(rate.bytes, ==, 5 * 1048576);
}

/* QEMU 7.2, KVM without: it knows no milliseconds, and has no ring. */
static void
test_bitmap(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    GAsyncResult *result;
    DrvDirtyRate rate;
    begin(fake, TRUE, 1200, &result);
    answer(fake, "{\"mode\":\"dirty-ring\",\"calc-time\":1200,\"calc-time-unit\":\"millisecond\"}",
           UNEXPECTED);
    answer(fake, "{\"mode\":\"dirty-ring\",\"calc-time\":2}",
           "mode dirty-ring is not enabled, use other method instead.");
    answer(fake, "{\"mode\":\"dirty-bitmap\",\"calc-time\":2}", NULL);
    tell(fake, MEASURED);
    g_assert_true(end(&result, &rate, NULL));
    g_assert_cmpint(rate.mode, ==, DRV_DIRTY_BITMAP);
    g_assert_cmpuint(rate.ms, ==, 2000);
    g_assert_cmpuint(rate.bytes, ==, 40 * 1048576);
}

/* Under TCG neither may be asked for: 7.2 would die. */
static void
test_sampling(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    GAsyncResult *result;
    DrvDirtyRate rate;
    begin(fake, FALSE, 1, &result);
    answer(fake,
           "{\"mode\":\"page-sampling\",\"calc-time\":50,\"calc-time-unit\":\"millisecond\","
           "\"sample-pages\":2048}",
           UNEXPECTED);
    answer(fake, "{\"mode\":\"page-sampling\",\"calc-time\":1,\"sample-pages\":2048}", NULL);
    tell(fake, "{\"status\":\"measured\",\"dirty-rate\":-1}");
    g_assert_true(end(&result, &rate, NULL));
    g_assert_cmpint(rate.mode, ==, DRV_DIRTY_SAMPLING);
    g_assert_cmpuint(rate.bytes, ==, 0);
    g_assert_cmpstr(drv_dirty_mode_name(rate.mode), ==, "page-sampling");
}

/* Nothing of it is possible: QEMU's last word is the error. */
static void
test_refused(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    g_autoptr(GError) error = NULL;
    GAsyncResult *result;
    DrvDirtyRate rate;
    begin(fake, FALSE, 1000, &result);
    answer(fake,
           "{\"mode\":\"page-sampling\",\"calc-time\":1000,\"calc-time-unit\":\"millisecond\","
           "\"sample-pages\":2048}",
           "it is being measured already");
    g_assert_false(end(&result, &rate, &error));
    g_assert_error(error, QMP_ERROR, QMP_ERROR_COMMAND);
    g_assert_nonnull(strstr(error->message, "it is being measured already"));
}

#define BEGIN_RING "{\"mode\":\"dirty-ring\",\"calc-time\":50,\"calc-time-unit\":\"millisecond\"}"

static void
test_nonsense(void)
{
    static const struct {
        const char *reply, *words;
    } cases[] = {
        {"{\"status\":\"unstarted\"}", "it says 'unstarted'"},
        {"{\"status\":\"measured\"}", "it says 'measured'"},
        {"[]", "it says 'nothing'"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(Fake) fake = fake_new_ready();
        g_autoptr(GError) error = NULL;
        GAsyncResult *result;
        DrvDirtyRate rate;
        begin(fake, TRUE, 50, &result);
        answer(fake, BEGIN_RING, NULL);
        tell(fake, cases[i].reply);
        g_assert_false(end(&result, &rate, &error));
        g_assert_error(error, DRV_ERROR, DRV_ERROR_TIMEOUT);
        g_assert_nonnull(strstr(error->message, cases[i].words));
    }
}

static void
test_gone(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    g_autoptr(GError) error = NULL;
    GAsyncResult *result;
    DrvDirtyRate rate;
    begin(fake, TRUE, 50, &result);
    answer(fake, BEGIN_RING, NULL);
    g_autofree char *id = fake_hear_command(fake, "query-dirty-rate");
    fake_hang_up(fake);
    g_assert_false(end(&result, &rate, &error));
    g_assert_error(error, QMP_ERROR, QMP_ERROR_CLOSED);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fake_watchdog();
    g_test_add_func("/dirty-rate/ring", test_ring);
    g_test_add_func("/dirty-rate/bitmap", test_bitmap);
    g_test_add_func("/dirty-rate/sampling", test_sampling);
    g_test_add_func("/dirty-rate/refused", test_refused);
    g_test_add_func("/dirty-rate/nonsense", test_nonsense);
    g_test_add_func("/dirty-rate/gone", test_gone);
    return g_test_run();
}
