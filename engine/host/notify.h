/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Tells the service manager how the daemon stands ("READY=1", "STOPPING=1"), where one asked for it
 * through NOTIFY_SOCKET: sd_notify(3)'s protocol, a datagram. Failures are of no consequence. */
void drv_notify(const char *state);
