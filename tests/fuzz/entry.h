/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>
#include <stddef.h>
#include <string.h>

/* What libFuzzer calls. */
int LLVMFuzzerTestOneInput(const guint8 *data, size_t size);
