/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "qmp/features.h"

/*
 * The migration capabilities and parameters that drover sets in a QEMU, and putting them back: a
 * guest that stays keeps the settings that its owner chose. Builds arguments only; all are owned by
 * the caller.
 */

typedef struct {
    gint64 multifd;     /* channels, 0 for none */
    gint64 downtime_ms; /* source only; 0: leave as it is */
} DrvSettings;

/* For migrate-set-capabilities. What this QEMU does not know is left out. */
JsonNode *drv_settings_capabilities(QmpFeatures *features, const DrvSettings *settings);
/* For migrate-set-parameters. */
JsonNode *drv_settings_parameters(QmpFeatures *features, const DrvSettings *settings);

/* The same arguments that put back what query-migrate-capabilities and query-migrate-parameters
 * once said. NULL when the reply makes no sense. */
JsonNode *drv_settings_restore_capabilities(JsonNode *reply);
JsonNode *drv_settings_restore_parameters(QmpFeatures *features, JsonNode *reply);
