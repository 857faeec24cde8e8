/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/offer.h"

#include "common/error.h"
#include "common/json.h"

gboolean
drv_offer_credit(JsonObject *object, guint *credit, GError **error)
{
    gint64 value = drv_json_int(object, "credit", 0);
    if (value < 1 || value > DRV_CREDIT_MAX) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                    "the peer offers a credit of %" G_GINT64_FORMAT " frames", value);
        return FALSE;
    }
    *credit = (guint)value;
    return TRUE;
}

gboolean
drv_offer_parse(JsonObject *args, DrvSession *session, guint32 *id, guint *credit, GError **error)
{
    gint64 value = drv_json_int(args, "channel", 0);
    if (!drv_offer_credit(args, credit, error))
        return FALSE;
    if (value < 1 || value > G_MAXUINT32 || !drv_session_peer_may_open(session, (guint32)value)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                    "the peer may not open channel %" G_GINT64_FORMAT, value);
        return FALSE;
    }
    *id = (guint32)value;
    return TRUE;
}
