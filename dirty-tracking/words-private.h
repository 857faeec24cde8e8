/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/* Figures in sentences. Owned by the caller. */

/* "812 KiB", "1.2 GiB". */
char *drv_words_bytes(double bytes);
/* "84 ms", "3.2 s", "12 min". */
char *drv_words_ms(double ms);
