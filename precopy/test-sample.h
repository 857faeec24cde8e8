/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "precopy/stream.h"

/* Streams as QEMU writes them, made with the emitter, for the unit tests and fuzzers' seeds. */

#define SAMPLE_PAGE 4096u
#define SAMPLE_RAM_ID 2u
#define SAMPLE_DEVICE_ID 7u

/* What the sample holds. */
#define SAMPLE_PART_NORMAL 3u /* pages in each of two later rounds */
#define SAMPLE_ZERO 41u
#define SAMPLE_DEVICE_BYTES 3000u

/* Three rounds of RAM in two blocks, the first with 'normal' pages that are not zero, at most 50,
 * with multifd's flush, an opaque part between them when 'with_iterable', then devices, the end,
 * and a description. */
GByteArray *sample_stream(gboolean with_iterable, guint normal);

/* An init, a SYNC of each kind, plain pages with zero pages, compressed ones, device state. */
GByteArray *sample_multifd(void);

void sample_u8(GByteArray *out, guint8 value);
void sample_u32(GByteArray *out, guint32 value);
void sample_u64(GByteArray *out, guint64 value);

/* A head of a multifd packet, without data; offsets are i * the page's length. */
void sample_packet(GByteArray *out, guint32 flags, guint32 allocated, guint32 normal, guint32 zero,
                   guint32 data_len);
