/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/display.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/json.h"
#include "engine/cli/render.h"
#include "engine/cli/units.h"

struct _DrvDisplay {
    gboolean live;   /* a terminal that can be drawn on */
    gboolean drawn;  /* there is a line */
    char *state;     /* of the last line; elsewhere than on a terminal, like the rest */
    gboolean linked; /* the link was up then */
    gint64 next_us;  /* monotonic: when the next line is due */
    char *note;      /* what was last said beside the progress */
};

DrvDisplay *
drv_display_new(void)
{
    DrvDisplay *display = g_new0(DrvDisplay, 1);
    const char *term = g_getenv("TERM");
    display->live = isatty(STDERR_FILENO) && term != NULL && !g_str_equal(term, "dumb");
    return display;
}

void
drv_display_free(DrvDisplay *display)
{
    if (display == NULL)
        return;
    drv_display_clear(display);
    g_free(display->state);
    g_free(display->note);
    g_free(display);
}

guint
drv_display_width(int fd)
{
    struct winsize size;
    if (!isatty(fd))
        return 0;
    return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

void
drv_display_clear(DrvDisplay *display)
{
    if (!display->drawn)
        return;
    fputs("\r\033[K", stderr);
    fflush(stderr);
    display->drawn = FALSE;
}

static gboolean
is_due(DrvDisplay *display, JsonObject *job)
{
    const char *state = drv_json_string(job, "state", "?");
    gboolean linked = drv_json_flag(drv_json_object(job, "progress"), "connected", TRUE);
    gint64 now = g_get_monotonic_time();
    if (display->state != NULL && g_str_equal(state, display->state) && linked == display->linked &&
        now < display->next_us)
        return FALSE;
    g_free(display->state);
    display->state = g_strdup(state);
    display->linked = linked;
    display->next_us = now + G_USEC_PER_SEC;
    return TRUE;
}

/* A note is a sentence whose figures change all the time: it is news when what they are to explain
 * has changed. */
static gboolean
is_news(const char *note, const char *before)
{
    const char *figures = strchr(note, ':');
    gsize len = figures != NULL ? (gsize)(figures - note) : strlen(note);
    return before == NULL || strncmp(note, before, len) != 0;
}

/* What the daemon thinks of it stays on the screen: the line is gone in a moment. */
static void
show_note(DrvDisplay *display, JsonObject *job)
{
    const char *note = drv_json_string(drv_json_object(job, "progress"), "note", NULL);
    if (note == NULL || !is_news(note, display->note))
        return;
    g_free(display->note);
    display->note = g_strdup(note);
    g_autofree char *safe = drv_format_text(note, 1000);
    drv_display_note(display, "%s", safe);
}

void
drv_display_update(DrvDisplay *display, JsonObject *job)
{
    show_note(display, job);
    if (display->live) {
        /* The last column stays free: some terminals wrap as soon as it is written. */
        guint width = drv_display_width(STDERR_FILENO);
        g_autofree char *line = drv_render_progress(job, width > 1 ? width - 1 : 1);
        fprintf(stderr, "\r%s\033[K", line);
        fflush(stderr);
        display->drawn = TRUE;
    } else if (is_due(display, job)) {
        g_autofree char *line = drv_render_progress(job, 0);
        fprintf(stderr, "%s\n", line);
    }
}

void
drv_display_note(DrvDisplay *display, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    drv_display_clear(display);
    fprintf(stderr, "%s\n", text);
}
