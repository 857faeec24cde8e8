/* SPDX-License-Identifier: Apache-2.0 */
#include <dlfcn.h>
#include <glib.h>

/*
 * What ThreadSanitizer cannot see by itself. GLib is not built with it, and its locks are futexes
 * of its own instead of pthread's, so every access under a GMutex would be reported as a race.
 * These stand before GLib's functions, call them, and say what they do: a lock acquires what the
 * last unlock released, a reference count's decrement both releases and acquires. Nothing else is
 * annotated: io_uring's completions come to the thread that submitted, so they order nothing.
 *
 * GLib's slices hand memory from thread to thread without malloc(), which is seen, so they are
 * switched off (G_SLICE in meson.build); and a lock that GLib makes when it is first used is
 * published by an atomic within it.
 *
 * Linked into the tests of a build with -Db_sanitize=thread, and only there.
 */
void __tsan_acquire(void *address);
void __tsan_release(void *address);

void *test_tsan_real(const char *name);
const char *__tsan_default_suppressions(void);

const char *
__tsan_default_suppressions(void)
{
    return "race:g_rw_lock_reader_lock\n";
}

void *
test_tsan_real(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

/* 'real' is GLib's own function of that name, found once. TSan looks at these functions, too: the
 * pointer is never touched but atomically. */
#define REAL(name)                                                                                 \
    static gpointer found;                                                                         \
    if (g_atomic_pointer_get(&found) == NULL)                                                      \
        g_atomic_pointer_set(&found, test_tsan_real(#name));                                       \
    __typeof__(&name) real = (__typeof__(&name))g_atomic_pointer_get(&found)

void
g_mutex_lock(GMutex *mutex)
{
    REAL(g_mutex_lock);
    real(mutex);
    __tsan_acquire(mutex);
}

void
g_mutex_unlock(GMutex *mutex)
{
    REAL(g_mutex_unlock);
    __tsan_release(mutex);
    real(mutex);
}

void
g_cond_wait(GCond *cond, GMutex *mutex)
{
    REAL(g_cond_wait);
    __tsan_release(mutex);
    real(cond, mutex);
    __tsan_acquire(mutex);
}

gboolean(g_atomic_ref_count_dec)(gatomicrefcount *count)
{
    REAL(g_atomic_ref_count_dec);
    __tsan_release(count);
    gboolean last = real(count);
    if (last)
        __tsan_acquire(count);
    return last;
}

void
g_bytes_unref(GBytes *bytes)
{
    REAL(g_bytes_unref);
    if (bytes == NULL)
        return;
    __tsan_release(bytes);
    __tsan_acquire(bytes);
    real(bytes);
}
