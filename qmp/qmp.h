/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* libqmp, all of it: a QMP client on GLib and json-glib. See docs/qmp.md. */
#include "qmp/client.h"
#include "qmp/error.h"
#include "qmp/features.h"
#include "qmp/json.h"
#include "qmp/limits.h"
#include "qmp/sync.h"
