/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "qmp/limits.h"

/* Private to libqmp: cuts the bytes from a QMP server into JSON objects that are safe to parse. */
typedef struct _QmpFramer QmpFramer;

/* 'limits' is borrowed and read at every call, so that they may be changed on the way. */
QmpFramer *qmp_framer_new(const QmpLimits *limits);
void qmp_framer_free(QmpFramer *framer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QmpFramer, qmp_framer_free)

/* Adds bytes, in whatever pieces they arrive. Invalidates what qmp_framer_next() gave out. */
void qmp_framer_push(QmpFramer *framer, const void *data, gsize len);

/*
 * The next complete object in *text, *len bytes, borrowed until the next push; or NULL there when
 * more bytes are needed. FALSE with QMP_ERROR_PROTOCOL when the bytes are not QMP or break a limit;
 * nothing more comes out of the framer then.
 */
gboolean qmp_framer_next(QmpFramer *framer, const char **text, gsize *len, GError **error);

/* Bytes of an object that is not complete yet. */
gsize qmp_framer_partial(const QmpFramer *framer);
