/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/peer.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/channel/test-rig.h"

#include <string.h>

/* Calls from a to b, which answers as the call's name says. */
typedef struct {
    Rig rig;
    DrvPeer *a, *b;
    guint replies;
    JsonObject *ok; /* of the last reply */
    GError *error;
    guint told;
    gboolean within; /* a call is being made */
} Pair;

static char *
long_text(void)
{
    return g_strnfill(DRV_MESSAGE_MAX, 'x');
}

static JsonObject *
with_text(const char *text)
{
    JsonObject *object = json_object_new();
    json_object_set_string_member(object, "text", text);
    return object;
}

static void
on_call(DrvPeer *peer, guint64 id, const char *op, JsonObject *args, gpointer data)
{
    g_autofree char *text = long_text();
    g_autoptr(GError) error = NULL;
    if (g_str_equal(op, "echo")) {
        drv_peer_answer(peer, id, with_text(drv_json_string(args, "text", "?")));
    } else if (g_str_equal(op, "much")) {
        drv_peer_answer(peer, id, with_text(text));
    } else if (g_str_equal(op, "refuse")) {
        error = g_error_new_literal(DRV_ERROR, DRV_ERROR_MISMATCH, "not that");
        drv_peer_refuse(peer, id, error);
    } else if (g_str_equal(op, "refuse-at-length")) {
        error = g_error_new_literal(DRV_ERROR, DRV_ERROR_MISMATCH, text);
        drv_peer_refuse(peer, id, error);
    }
}

static void
on_tell(DrvPeer *peer, const char *op, JsonObject *args, gpointer data)
{
    Pair *pair = data;
    pair->told++;
}

static const DrvPeerOps ops = {.call = on_call, .tell = on_tell};

static void
pair_start(Pair *pair)
{
    *pair = (Pair){0};
    rig_init(&pair->rig, 1, 1, 0);
    rig_connect(&pair->rig, 0);
    pair->a = drv_peer_accept(pair->rig.a.session);
    pair->b = drv_peer_accept(pair->rig.b.session);
    drv_peer_listen(pair->b, &ops, pair);
}

static void
pair_stop(Pair *pair)
{
    g_clear_pointer(&pair->ok, json_object_unref);
    g_clear_error(&pair->error);
    drv_peer_unref(pair->a);
    drv_peer_unref(pair->b);
    rig_clear(&pair->rig);
}

static void
take_reply(DrvPeer *peer, JsonObject *ok, const GError *error, gpointer data)
{
    Pair *pair = data;
    g_assert_false(pair->within);
    pair->replies++;
    pair->ok = ok != NULL ? json_object_ref(ok) : NULL;
    pair->error = error != NULL ? g_error_copy(error) : NULL;
}

static gboolean
has_replied(gpointer pair)
{
    return ((Pair *)pair)->replies > 0;
}

/* Its reply is in 'ok' or 'error'. */
static void
call(Pair *pair, const char *op, const char *text)
{
    g_clear_pointer(&pair->ok, json_object_unref);
    g_clear_error(&pair->error);
    pair->replies = 0;
    pair->within = TRUE;
    drv_peer_call(pair->a, op, with_text(text), take_reply, pair);
    pair->within = FALSE;
    rig_wait(has_replied, pair);
    g_assert_cmpuint(pair->replies, ==, 1);
    g_assert_true((pair->ok == NULL) != (pair->error == NULL));
}

static void
test_calls(void)
{
    Pair pair;
    pair_start(&pair);
    call(&pair, "echo", "hello");
    g_assert_cmpstr(drv_json_string(pair.ok, "text", ""), ==, "hello");
    call(&pair, "refuse", "");
    g_assert_error(pair.error, DRV_ERROR, DRV_ERROR_MISMATCH);
    g_assert_cmpstr(pair.error->message, ==, "not that");
    pair_stop(&pair);
}

/* Nobody waits for what cannot be sent. */
static void
test_too_long(void)
{
    Pair pair;
    pair_start(&pair);
    g_autofree char *text = long_text();
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*not sent: too long");
    call(&pair, "echo", text);
    g_assert_error(pair.error, DRV_ERROR, DRV_ERROR_LIMIT);
    g_test_assert_expected_messages();
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*not sent: too long");
    call(&pair, "much", "");
    g_assert_error(pair.error, DRV_ERROR, DRV_ERROR_LIMIT);
    g_assert_cmpstr(pair.error->message, ==, "its answer is too long for a message");
    g_test_assert_expected_messages();
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*not sent: too long");
    call(&pair, "refuse-at-length", "");
    g_assert_error(pair.error, DRV_ERROR, DRV_ERROR_MISMATCH);
    g_assert_cmpstr(pair.error->message, ==, "its reason is too long for a message");
    g_test_assert_expected_messages();
    /* The next one is answered as ever. */
    drv_peer_tell(pair.a, "news", NULL);
    call(&pair, "echo", "again");
    g_assert_cmpstr(drv_json_string(pair.ok, "text", ""), ==, "again");
    g_assert_cmpuint(pair.told, ==, 1);
    pair_stop(&pair);
}

/* A call that is open when the session ends, and one that comes later. */
static void
test_closed(void)
{
    Pair pair;
    pair_start(&pair);
    drv_peer_call(pair.a, "never-answered", NULL, take_reply, &pair);
    drv_peer_close(pair.a);
    rig_wait(has_replied, &pair);
    g_assert_error(pair.error, DRV_ERROR, DRV_ERROR_CANCELLED);
    call(&pair, "echo", "");
    g_assert_error(pair.error, DRV_ERROR, DRV_ERROR_CANCELLED);
    pair_stop(&pair);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/peer/calls", test_calls);
    g_test_add_func("/peer/too-long", test_too_long);
    g_test_add_func("/peer/closed", test_closed);
    return g_test_run();
}
