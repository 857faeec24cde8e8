/* SPDX-License-Identifier: Apache-2.0 */
#include "common/mailbox.h"

#define POSTERS 4
#define EACH 20000

typedef struct {
    DrvMailbox *box;
    guint next[POSTERS]; /* what each poster's next number must be */
    guint total;
    GMainLoop *loop;
} Reader;

typedef struct {
    Reader *reader;
    guint who;
} Poster;

static void
take(gpointer target, gpointer data)
{
    Reader *reader = target;
    guint value = GPOINTER_TO_UINT(data);
    guint who = value % POSTERS;
    g_assert_cmpuint(value / POSTERS, ==, reader->next[who]);
    reader->next[who]++;
    if (++reader->total == POSTERS * EACH)
        g_main_loop_quit(reader->loop);
}

static gpointer
post_all(gpointer data)
{
    Poster *p = data;
    for (guint i = 0; i < EACH; i++)
        drv_mailbox_post(p->reader->box, take, p->reader, GUINT_TO_POINTER(i * POSTERS + p->who));
    return NULL;
}

/* Nothing is lost and each poster's order is kept, with all of them posting at once. */
static void
test_order(void)
{
    Reader reader = {.box = drv_mailbox_new(), .loop = g_main_loop_new(NULL, FALSE)};
    GSource *source = drv_mailbox_attach(reader.box, NULL);
    Poster posters[POSTERS];
    GThread *threads[POSTERS];
    for (guint i = 0; i < POSTERS; i++) {
        posters[i] = (Poster){&reader, i};
        threads[i] = g_thread_new("poster", post_all, &posters[i]);
    }
    g_main_loop_run(reader.loop);
    for (guint i = 0; i < POSTERS; i++)
        g_thread_join(threads[i]);
    g_assert_cmpuint(reader.total, ==, POSTERS * EACH);
    g_source_destroy(source);
    g_source_unref(source);
    g_main_loop_unref(reader.loop);
    drv_mailbox_free(reader.box);
}

static void
post_another(gpointer target, gpointer data)
{
    guint *left = data;
    if (--*left > 0)
        drv_mailbox_post(target, post_another, target, left);
}

/* A closure that posts is served in the same dispatch. */
static void
test_nested(void)
{
    g_autoptr(DrvMailbox) box = drv_mailbox_new();
    guint left = 5;
    drv_mailbox_post(box, post_another, box, &left);
    g_assert_cmpuint(drv_mailbox_dispatch(box), ==, 5);
    g_assert_cmpuint(left, ==, 0);
    g_assert_cmpuint(drv_mailbox_dispatch(box), ==, 0);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/mailbox/order", test_order);
    g_test_add_func("/mailbox/nested", test_nested);
    return g_test_run();
}
