/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-glib/json-glib.h>

/*
 * Job objects as people read them. Pure: JSON in, text out. Whatever a job lacks is left out, and
 * nothing in it can harm a terminal. Texts are owned by the caller.
 */

/* Why a job is where it is, and what its progress is, in one line. Fits into 'width' characters
 * (0: any), and says the important things first. */
char *drv_render_progress(JsonObject *job, guint width);

/* What a migration (or a prediction) came to, for one that is done: a few lines, each ended by a
 * newline.
 * 'promise_ms' is the downtime that was allowed, where the result does not say; 0: not known. */
char *drv_render_summary(JsonObject *job, double promise_ms);

/* What a prediction says: the verdict and why, and a few lines of figures. */
char *drv_render_prediction(JsonObject *job);

/* How a migration went, a line at a time, by its result: nothing where nothing was out of the
 * ordinary. 'text' is safe to be printed. */
typedef void (*DrvRenderLine)(GString *out, const char *name, const char *text);
void drv_render_course(JsonObject *result, DrvRenderLine line, GString *out);

/* Its rounds, and where the guest wrote most, in the same way. */
void drv_render_rounds(JsonObject *result, DrvRenderLine line, GString *out);

/* What a copy came to. */
char *drv_render_copy(JsonObject *job);

/* A host's NUMA nodes, and where a VM is on them if that is in it. */
char *drv_render_numa(JsonObject *host);

/* A VM's disks, and what there is of them at the destination if that is in it. */
char *drv_render_disks(JsonObject *job);

/* How a job ended that is not done, as a sentence without a full stop. */
char *drv_render_outcome(JsonObject *job);

/* Everything about one job: lines of "name  value". 'now_s' is seconds since 1970. */
char *drv_render_report(JsonObject *job, double now_s);

/* The jobs, aligned, under a line of titles. Lines are cut to 'width' characters (0: never). */
char *drv_render_table(JsonArray *jobs, double now_s, guint width);

/* The daemon's status object, as lines of "name  value". */
char *drv_render_status(JsonObject *status);

/* When a job was made, in seconds since 1970; 0 where it does not say. */
double drv_render_created(JsonObject *job);
