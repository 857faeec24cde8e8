/* SPDX-License-Identifier: Apache-2.0 */
#include <dlfcn.h>
#include <glib.h>

/*
 * Tells ThreadSanitizer about GLib's locks. GLib itself is not instrumented and its GMutex is a
 * bare futex, so without this every access under a GMutex looks like a race. Preloaded into the
 * tests of a TSan build: each function calls GLib's own, and says what it orders.
 *
 * The annotations are weak: in a program without TSan (a QEMU that a test starts) they are not
 * there, and this does nothing.
 */
void __tsan_acquire(void *address) __attribute__((weak));
void __tsan_release(void *address) __attribute__((weak));

static void
acquired(gconstpointer address)
{
    if (__tsan_acquire) {
        __tsan_acquire((void *)address);
    }
}

static void
released(gconstpointer address)
{
    if (__tsan_release) {
        __tsan_release((void *)address);
    }
}

static void
resolve(gpointer *function, const char *name)
{
    if (!g_atomic_pointer_get(function)) {
        g_atomic_pointer_set(function, dlsym(RTLD_NEXT, name));
    }
}

/* GLib's own function of the name of the one that is being defined. */
#define REAL(name)                                                                                 \
    static __typeof__(&name) real;                                                                 \
    resolve((gpointer *)&real, #name)

void(g_mutex_lock)(GMutex *mutex)
{
    REAL(g_mutex_lock);
    real(mutex);
    acquired(mutex);
}

gboolean(g_mutex_trylock)(GMutex *mutex)
{
    REAL(g_mutex_trylock);
    gboolean locked = real(mutex);
    if (locked) {
        acquired(mutex);
    }
    return locked;
}

void(g_mutex_unlock)(GMutex *mutex)
{
    REAL(g_mutex_unlock);
    released(mutex);
    real(mutex);
}

void(g_cond_wait)(GCond *cond, GMutex *mutex)
{
    REAL(g_cond_wait);
    released(mutex);
    real(cond, mutex);
    acquired(mutex);
}

gboolean(g_cond_wait_until)(GCond *cond, GMutex *mutex, gint64 end_time)
{
    REAL(g_cond_wait_until);
    released(mutex);
    gboolean signalled = real(cond, mutex, end_time);
    acquired(mutex);
    return signalled;
}

/* Reference counts: whoever drops the last one sees what the others did before they dropped. */

gboolean(g_atomic_ref_count_dec)(gatomicrefcount *arc)
{
    REAL(g_atomic_ref_count_dec);
    released(arc);
    gboolean last = real(arc);
    if (last) {
        acquired(arc);
    }
    return last;
}

/*
 * GLib frees the bytes within, where nothing can be said in between: so each drop is ordered after
 * all before it, which is the same but for two that cross.
 */
void(g_bytes_unref)(GBytes *bytes)
{
    REAL(g_bytes_unref);
    released(bytes);
    acquired(bytes);
    real(bytes);
}

static _Thread_local GDestroyNotify clear_func;

static void
clear_acquired(gpointer mem)
{
    acquired(mem);
    clear_func(mem);
}

void(g_atomic_rc_box_release_full)(gpointer mem, GDestroyNotify clear)
{
    REAL(g_atomic_rc_box_release_full);
    GDestroyNotify outer = clear_func;
    clear_func = clear;
    released(mem);
    real(mem, clear ? clear_acquired : NULL);
    clear_func = outer;
}

gpointer(g_async_queue_pop)(GAsyncQueue *queue)
{
    REAL(g_async_queue_pop);
    gpointer data = real(queue);
    acquired(queue);
    return data;
}

gpointer(g_async_queue_try_pop)(GAsyncQueue *queue)
{
    REAL(g_async_queue_try_pop);
    gpointer data = real(queue);
    acquired(queue);
    return data;
}

gpointer(g_async_queue_timeout_pop)(GAsyncQueue *queue, guint64 timeout)
{
    REAL(g_async_queue_timeout_pop);
    gpointer data = real(queue, timeout);
    acquired(queue);
    return data;
}

void(g_async_queue_push)(GAsyncQueue *queue, gpointer data)
{
    REAL(g_async_queue_push);
    released(queue);
    real(queue, data);
}
