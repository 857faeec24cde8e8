/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdint.h>

typedef enum { MODE_IDLE, MODE_SPARSE, MODE_REWRITE, MODE_RANDOM, MODE_LAST } Mode;

/* What the command line says; guest.c explains each. */
typedef struct {
    uint32_t start, pages, step, hz, rate, delay, beat;
    Mode mode;
    uint32_t magic; /* the kind of body */
    int host_pool;  /* the pool is the host's, reached by DMA */
    uint32_t disk_sectors, burst, lull;
} Params;

extern const char *const mode_names[MODE_LAST];

/* Stops the machine with a word on the console when a parameter makes no sense. */
Params params_parse(const char *line);
