/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "tests/guests/flat/params.h"

/* Where the bodies of pages and sectors come from (layout.h). */
typedef struct {
    uint16_t file; /* the host's; 0: our own, at FLAT_POOL_ADDR */
} Pool;

Pool pool_prepare(const Params *params);

/* 'words' words from word 'start' on. */
void pool_copy(const Pool *pool, uint32_t start, uint32_t *to, uint32_t words);
