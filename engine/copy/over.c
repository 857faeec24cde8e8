/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/copy/over.h"

#include "engine/copy/spec.h"

/* The other end gives up by itself after a while: what is older matters to nobody. */
#define LOOK_AT 256
#define TELL 16

static gboolean
is_over(const DrvJobRecord *rec, const char *dest)
{
    if (rec->role != DRV_ROLE_SOURCE || !drv_copy_spec_is(rec->spec) ||
        (rec->state != DRV_STATE_ROLLING_BACK && rec->state != DRV_STATE_FAILED &&
         rec->state != DRV_STATE_CANCELLED))
        return FALSE;
    g_autoptr(DrvCopySpec) spec = drv_copy_spec_parse(rec->spec, NULL);
    return spec != NULL && g_str_equal(spec->dest, dest);
}

JsonArray *
drv_copies_over(DrvJournal *journal, const char *dest)
{
    JsonArray *over = json_array_new();
    g_autoptr(GPtrArray) records = drv_journal_list(journal, LOOK_AT, FALSE, NULL);
    for (guint i = 0; records != NULL && i < records->len; i++) {
        const DrvJobRecord *rec = records->pdata[i];
        if (is_over(rec, dest) && json_array_get_length(over) < TELL)
            json_array_add_string_element(over, rec->id);
    }
    return over;
}
