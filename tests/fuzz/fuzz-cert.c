/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The certificate of a peer (DER): OpenSSL has checked its signature, and not what its authority
 * lets a host be called. The name is UTF-8 of a bounded length, or there is none; and what is said
 * of it, and of its dates, is text.
 */
#include "common/error.h"
#include "engine/host/config.h"
#include "engine/host/pki-x509.h"
#include "engine/job/allow.h"
#include "engine/transfer/tls.h"
#include "tests/fuzz/entry.h"

#include <openssl/err.h>

static void
see_refusal(gboolean good, GError *error)
{
    g_assert(good == (error == NULL));
    g_assert(error == NULL || g_error_matches(error, DRV_ERROR, DRV_ERROR_TLS));
    g_assert(error == NULL || g_utf8_validate(error->message, -1, NULL));
    for (const char *p = error != NULL ? error->message : ""; *p != '\0'; p++)
        g_assert(!g_ascii_iscntrl(*p));
}

static void
see_name(const char *name)
{
    char *listed[] = {(char *)"web1", NULL};
    g_autoptr(DrvConfig) config = drv_config_new();
    g_autoptr(GError) from = NULL, to = NULL;
    config->allow_from = g_strdupv(listed);
    config->allow_to = g_strdupv(listed);
    gboolean takes = drv_allow_call(config, name, "job.prepare", &from);
    g_assert(takes == (g_ascii_strcasecmp(name, "web1") == 0));
    see_refusal(takes, from);
    see_refusal(drv_allow_to(config, name, &to), to);
}

int
LLVMFuzzerTestOneInput(const guint8 *data, size_t size)
{
    const guint8 *at = data;
    g_autoptr(X509) cert = d2i_X509(NULL, &at, (long)size);
    ERR_clear_error();
    if (cert == NULL)
        return 0;
    g_autoptr(GError) error = NULL;
    g_autofree char *name = drv_tls_cert_name(cert);
    g_assert(ERR_peek_error() == 0); /* it would be taken for the next connection's */
    see_refusal(drv_x509_check_dates(cert, "cert.pem", &error), error);
    if (name != NULL) {
        g_assert(name[0] != '\0' && strlen(name) <= 255 && g_utf8_validate(name, -1, NULL));
        see_name(name);
    }
    return 0;
}
