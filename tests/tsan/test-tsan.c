/* SPDX-License-Identifier: Apache-2.0 */
#include <glib.h>
#include <string.h>

/*
 * Is ThreadSanitizer of any use with GLib here? "test-tsan locked" counts under a GMutex and must
 * pass (glib-order.c works); "test-tsan race" counts without and must be reported.
 */
#define ROUNDS 10000

typedef struct {
    GMutex lock;
    gboolean locked;
    int count;
} Counter;

static gpointer
count(gpointer data)
{
    Counter *counter = data;
    for (int i = 0; i < ROUNDS; i++) {
        if (counter->locked) {
            g_mutex_lock(&counter->lock);
        }
        counter->count++;
        if (counter->locked) {
            g_mutex_unlock(&counter->lock);
        }
    }
    return NULL;
}

int
main(int argc, char **argv)
{
    Counter counter = {.locked = argc > 1 && strcmp(argv[1], "locked") == 0};
    g_mutex_init(&counter.lock);
    GThread *a = g_thread_new("a", count, &counter);
    GThread *b = g_thread_new("b", count, &counter);
    g_thread_join(a);
    g_thread_join(b);
    g_mutex_clear(&counter.lock);
    return counter.locked && counter.count != 2 * ROUNDS;
}
