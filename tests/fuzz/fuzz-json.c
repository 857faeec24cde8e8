/* SPDX-License-Identifier: Apache-2.0 */

/* What other daemons and the API's users send: no object and an error, or one that is the same
 * again when it is written and read once more. */
#include "common/error.h"
#include "common/json.h"
#include "tests/fuzz/fuzz.h"

int
LLVMFuzzerTestOneInput(const guint8 *data, size_t size)
{
    g_autofree char *copy = g_memdup2(data, size);
    g_autoptr(GError) error = NULL, theirs = NULL;
    g_autoptr(JsonObject) object = drv_json_parse_object(size > 0 ? copy : "", size, &error);
    g_assert((object == NULL) == (error != NULL));
    if (object == NULL)
        return 0;
    drv_json_string(object, "job", "");
    drv_json_int(object, "lane", 0);
    drv_json_number(object, "rate", 0);
    drv_json_flag(object, "cancelled", FALSE);
    drv_json_element(drv_json_array(object, "disks"), 0);
    g_assert(drv_json_get_error(object, &theirs) == (theirs != NULL));
    g_autofree char *text = drv_json_text(object);
    /* json-glib writes 5e+19.0 and inf: nothing of ours is so large. */
    if (strstr(text, "e+") != NULL || strstr(text, "inf") != NULL)
        return 0;
    g_autoptr(JsonObject) same = drv_json_parse_object(text, strlen(text), NULL);
    g_assert(same != NULL && json_object_get_size(same) == json_object_get_size(object));
    return 0;
}
