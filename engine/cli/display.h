/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-glib/json-glib.h>

/*
 * Progress on stderr: on a terminal one line that is drawn over and over, elsewhere a line a second
 * and one at each change of state.
 */
typedef struct _DrvDisplay DrvDisplay;

DrvDisplay *drv_display_new(void);
/* Also removes the line. */
void drv_display_free(DrvDisplay *display);

void drv_display_update(DrvDisplay *display, JsonObject *job);

/* A sentence that stays, above the line. */
void drv_display_note(DrvDisplay *display, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* Removes the line, until the next update. */
void drv_display_clear(DrvDisplay *display);

/* The width of the terminal that 'fd' is, in characters; 0 where it is none. */
guint drv_display_width(int fd);
