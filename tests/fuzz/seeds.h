/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/* A file of its own; the program ends when it cannot be written. */
void write_seed(const char *dir, const char *target, const char *name, guint number,
                const guint8 *data, gsize len);
void write_text(const char *dir, const char *target, guint number, const char *text);

/* Of what is not QEMU's stream or a frame: requests to the API, certificates, copies, files. */
void write_engine_seeds(const char *dir);
