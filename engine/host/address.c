/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/host/address.h"

#include <arpa/inet.h>
#include <string.h>

#include "common/error.h"

static gboolean
is_family(int family, const char *text)
{
    guint8 binary[sizeof(struct in6_addr)];
    return inet_pton(family, text, binary) == 1;
}

gboolean
drv_address_is_ip(const char *text)
{
    return is_family(AF_INET, text) || is_family(AF_INET6, text);
}

gboolean
drv_address_is_host_name(const char *text)
{
    gsize len = strlen(text);
    if (len == 0 || len > 253 || text[0] == '-' || text[len - 1] == '.')
        return FALSE;
    char before = '.';
    gboolean numeric = TRUE;
    for (const char *p = text; *p != '\0'; before = *p++) {
        if (!g_ascii_isalnum(*p) && strchr("-_.", *p) == NULL)
            return FALSE;
        if (*p == '.' && before == '.')
            return FALSE;
        numeric = numeric && (g_ascii_isdigit(*p) || *p == '.');
    }
    return !numeric;
}

/* IPv6 with an optional "%scope", which only the kernel can judge. */
static gboolean
is_scoped_ipv6(const char *text)
{
    const char *scope = strchr(text, '%');
    if (scope == NULL)
        return is_family(AF_INET6, text);
    g_autofree char *address = g_strndup(text, (gsize)(scope - text));
    return scope[1] != '\0' && is_family(AF_INET6, address);
}

static gboolean
refuse(const char *text, const char *why, GError **error)
{
    g_autofree char *shown = g_strescape(text, NULL);
    g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE, "'%.80s' is not an ADDR:PORT: %s", shown, why);
    return FALSE;
}

gboolean
drv_address_parse(const char *text, char **host, guint16 *port, GError **error)
{
    const char *colon = strrchr(text, ':');
    const char *bracket = strrchr(text, ']');
    gboolean bracketed = text[0] == '[' && bracket != NULL;
    if (colon == NULL || (bracketed && colon < bracket))
        return refuse(text, "the port is missing, as in host2:7001", error);
    if (!bracketed && strchr(text, ':') != colon)
        return refuse(text, "an IPv6 address needs brackets, as in [fd00::2]:7001", error);
    if (bracketed && colon != bracket + 1)
        return refuse(text, "':' and the port must follow the ']'", error);
    if (colon == text)
        return refuse(text, "the address is missing (0.0.0.0 or [::] stand for every interface)",
                      error);

    guint64 number;
    if (!g_ascii_string_to_unsigned(colon + 1, 10, 0, G_MAXUINT16, &number, NULL))
        return refuse(text, "the port must be a number from 0 to 65535", error);

    g_autofree char *name = bracketed ? g_strndup(text + 1, (gsize)(bracket - text - 1))
                                      : g_strndup(text, (gsize)(colon - text));
    if (bracketed ? !is_scoped_ipv6(name)
                  : !is_family(AF_INET, name) && !drv_address_is_host_name(name))
        return refuse(text,
                      bracketed ? "what is in brackets is not an IPv6 address"
                                : "what stands before the ':' is neither a host name nor an IPv4 "
                                  "address",
                      error);
    if (host != NULL)
        *host = g_steal_pointer(&name);
    if (port != NULL)
        *port = (guint16)number;
    return TRUE;
}

char *
drv_address_format(const char *host, guint16 port)
{
    return g_strdup_printf(strchr(host, ':') != NULL ? "[%s]:%u" : "%s:%u", host, port);
}
