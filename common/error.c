/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"

GQuark
drv_error_quark(void)
{
    return g_quark_from_static_string("drv-error-quark");
}

static const char *const names[] = {
    [DRV_ERROR_USAGE] = "usage",
    [DRV_ERROR_IO] = "io",
    [DRV_ERROR_UNREACHABLE] = "unreachable",
    [DRV_ERROR_TLS] = "tls",
    [DRV_ERROR_PROTOCOL] = "protocol",
    [DRV_ERROR_QEMU] = "qemu",
    [DRV_ERROR_STATE] = "state",
    [DRV_ERROR_MISMATCH] = "mismatch",
    [DRV_ERROR_TIMEOUT] = "timeout",
    [DRV_ERROR_CANCELLED] = "cancelled",
    [DRV_ERROR_NOT_FOUND] = "not-found",
    [DRV_ERROR_LIMIT] = "limit",
    [DRV_ERROR_IN_DOUBT] = "in-doubt",
};

const char *
drv_error_code_name(DrvErrorCode code)
{
    g_return_val_if_fail((guint)code < G_N_ELEMENTS(names), "io");
    return names[code];
}

const char *
drv_error_name(const GError *error)
{
    if (error->domain != DRV_ERROR)
        return names[DRV_ERROR_IO];
    return drv_error_code_name((DrvErrorCode)error->code);
}

DrvErrorCode
drv_error_code_parse(const char *name)
{
    for (guint i = 0; i < G_N_ELEMENTS(names); i++)
        if (g_str_equal(name, names[i]))
            return i;
    return DRV_ERROR_IO;
}
