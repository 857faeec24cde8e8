/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * Prometheus's text exposition format, version 0.0.4
 * (prometheus.io/docs/instrumenting/exposition_formats): for each metric a head, then its values,
 * one for each set of labels.
 */
#define DRV_EXPOSITION_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* 'type' is "counter", "gauge" or "histogram"; counters are named "..._total". */
void drv_exposition_head(GString *out, const char *name, const char *type, const char *help);

/* A value of the metric whose head came last. 'labels' are as drv_exposition_labels() makes them,
 * or "". */
void drv_exposition_value(GString *out, const char *name, const char *labels, double value);

/* name="value" pairs of what follows (char *), up to NULL, with the values escaped. Owned by the
 * caller. */
char *drv_exposition_labels(const char *name, ...) G_GNUC_NULL_TERMINATED;
