/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-glib/json-glib.h>

/*
 * The migration capabilities and parameters that drover sets in a QEMU, and putting them back: a
 * guest that stays keeps the settings that its owner chose. Builds arguments only; all are owned by
 * the caller.
 *
 * 'known' is what query-migrate-capabilities or query-migrate-parameters has answered: QEMU knows
 * the settings that it names there, and to ask for its whole schema would hold its main loop up for
 * 30 ms.
 */

typedef struct {
    gint64 multifd;     /* channels, 0 for none */
    gint64 downtime_ms; /* source only; 0: leave as it is */
    gboolean throttle;  /* source only: QEMU is ready to, but does not before it is asked */
    gboolean pause;     /* source only: before the switchover, for the disks */
} DrvSettings;

/* For migrate-set-capabilities. What this QEMU does not know is left out. */
JsonNode *drv_settings_capabilities(JsonNode *known, const DrvSettings *settings);
/* For migrate-set-parameters. */
JsonNode *drv_settings_parameters(JsonNode *known, const DrvSettings *settings);

/* The same during a migration: a downtime limit; and throttling, by so many percent of CPU time, as
 * soon as QEMU looks at its dirty log again. */
JsonNode *drv_settings_longer_downtime(guint ms);
JsonNode *drv_settings_throttle(guint pct);

/* The same arguments that put back what is 'known'. NULL when that makes no sense. */
JsonNode *drv_settings_restore_capabilities(JsonNode *known);
JsonNode *drv_settings_restore_parameters(JsonNode *known);
