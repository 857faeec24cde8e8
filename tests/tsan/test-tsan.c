/* SPDX-License-Identifier: Apache-2.0 */
#include <glib.h>
#include <pthread.h>
#include <string.h>

/*
 * Is ThreadSanitizer of any use with GLib here? "test-tsan locked" counts under a GMutex and must
 * pass (glib-order.c works); "test-tsan race" counts without and must be reported.
 */
#define ROUNDS 1000000

typedef struct {
    GMutex lock;
    pthread_barrier_t start; /* both threads run at once, or there is no race to find */
    gboolean locked;
    volatile int count; /* every one of the increments happens */
} Counter;

static gpointer
count(gpointer data)
{
    Counter *counter = data;
    pthread_barrier_wait(&counter->start);
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
    pthread_barrier_init(&counter.start, NULL, 2);
    GThread *a = g_thread_new("a", count, &counter);
    GThread *b = g_thread_new("b", count, &counter);
    g_thread_join(a);
    g_thread_join(b);
    g_mutex_clear(&counter.lock);
    pthread_barrier_destroy(&counter.start);
    return counter.locked && counter.count != 2 * ROUNDS;
}
