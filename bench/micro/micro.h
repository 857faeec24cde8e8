/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * Microbenchmarks: a piece of work is done over and over on one thread, in several bouts, and the
 * median of the bouts is printed with the slowest and the fastest. They tell which part of the data
 * path costs what on a machine, and whether a change moved it. What is the share of a part in a
 * migration, bench/run tells.
 */

/* Does the work once. What it computes must go somewhere, lest the compiler leave it out. */
typedef void (*MicroWork)(gpointer data);

/* One line: how long the work takes, and how many bytes a second it goes through ('bytes' each
 * time; 0: not a matter of bytes). */
void micro_run(const char *name, gsize bytes, MicroWork work, gpointer data);

/* The same line for bouts that the caller has timed itself: 'seconds' each, for 'times' times the
 * work. */
#define MICRO_BOUTS 5
void micro_print(const char *name, gsize bytes, gdouble seconds[MICRO_BOUTS], guint64 times);

/* Memory as that of a machine in use, of the same composition that bench/run's guests have: 'len'
 * bytes of it, a multiple of MiB. Free with g_free(). Ends the program where it cannot be made. */
#define MICRO_MIB ((gsize)1 << 20)
guint8 *micro_memory(gsize len);
