/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/* Numbers as people write and read them. Texts are owned by the caller. */

/* "0 B", "812 KiB", "1.2 GiB". */
char *drv_format_bytes(double bytes);

/* Milliseconds: "84 ms", "3.2 s", "2 min 5 s", "1 h 3 min", "2 d 4 h". */
char *drv_format_ms(double ms);

/* One that stands for an age, without fractions: "5 s", "3 min", "4 h", "12 d". */
char *drv_format_age(double seconds);

/* A copy of foreign text for a terminal: line ends become spaces, other control
 * characters and broken UTF-8 '?', and what is beyond 'max' characters is cut. */
char *drv_format_text(const char *text, glong max);

/*
 * Whole numbers with a unit: bytes ("64K", "1.5GiB"; K, M, G, T and KiB ... are powers of 1024, kB,
 * MB ... of 1000), seconds ("90", "90s", "2m", "1h", "1d") and milliseconds ("300", "300ms",
 * "2s"). FALSE, and the result untouched, for anything else, negative or beyond 2^62.
 */
gboolean drv_parse_bytes(const char *text, guint64 *bytes);
gboolean drv_parse_seconds(const char *text, guint64 *seconds);
gboolean drv_parse_ms(const char *text, guint64 *ms);
