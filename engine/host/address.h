/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * Splits "ADDR:PORT". ADDR is a host name, an IPv4 address, or an IPv6 address in brackets (with a
 * scope, if need be: "[fe80::1%eth0]:7001"); the brackets are not part of 'host'. Names are not
 * looked up.
 *
 * Port 0 is accepted: to a listener it means any free port; who connects refuses it.
 *
 * 'host' (owned by the caller, g_free) and 'port' may be NULL when only the check is wanted; they
 * are untouched on failure. Fails with DRV_ERROR_USAGE.
 */
gboolean drv_address_parse(const char *text, char **host, guint16 *port, GError **error);

/* The way back, with brackets where they are needed. Owned by the caller. */
char *drv_address_format(const char *host, guint16 port);

/* Whether the text is an IPv4 or IPv6 address as such: no port, brackets or scope. */
gboolean drv_address_is_ip(const char *text);

/* Whether the text can be a host name: letters, digits, '-', '_' and single dots between them, at
 * most 253 bytes, and not something that is all digits and dots (a mistyped IPv4 address). */
gboolean drv_address_is_host_name(const char *text);
