/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/job/journal.h"

#include <json-glib/json-glib.h>

/*
 * The ids of this daemon's copies to 'dest', on whatever host, that have ended without the image,
 * or are about to: the latest few. Such a copy sends nothing any more, but the destination may not
 * know that yet, and would keep its place for it. Ids are random, and a journal has one user, so
 * whoever names one speaks of a copy of its own. Owned by the caller.
 */
JsonArray *drv_copies_over(DrvJournal *journal, const char *dest);
