/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "tests/model/world.h"

/* All that can become of world_begin(), breadth first. */
typedef struct {
    guint worlds;
    guint steps;      /* from one world to another */
    guint depth;      /* of the longest of the shortest ways to a world */
    gboolean cut;     /* there are more than was allowed */
    guint good;       /* worlds that world_good() likes */
    guint by_person;  /* worlds from where only a person makes it good */
    char *wrong;      /* the first violation, NULL: none ... */
    char *way;        /* ... and the shortest way to it, a line a step */
    char *person_way; /* the way to the first world that needs a person although no QEMU has died */
} Findings;

/* With so many faults, at any time; 'most' worlds, beyond that it is cut. Free with
 * findings_clear(). */
void explore(Mutant mutant, guint faults, guint most, Findings *findings);
void findings_clear(Findings *findings);
