/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/extents.h"

/* 32 MiB of them. */
#define EXTENTS_MAX (1u << 20)

GArray *
drv_extents_new(void)
{
    return g_array_new(FALSE, FALSE, sizeof(DrvExtent));
}

static DrvExtent *
last_of(const GArray *extents)
{
    return extents->len > 0 ? &g_array_index(extents, DrvExtent, extents->len - 1) : NULL;
}

guint64
drv_extents_end(const GArray *extents)
{
    const DrvExtent *last = last_of(extents);
    return last != NULL ? last->end : 0;
}

static gboolean
goes_on(const DrvExtent *last, DrvExtentKind kind, guint64 offset)
{
    return last != NULL && last->kind == kind &&
           (kind != DRV_EXTENT_PLAIN || last->offset + (last->end - last->start) == offset);
}

gboolean
drv_extents_add(GArray *extents, DrvExtentKind kind, guint64 len, guint64 offset)
{
    DrvExtent *last = last_of(extents);
    if (goes_on(last, kind, offset)) {
        last->end += len;
        return TRUE;
    }
    if (extents->len == EXTENTS_MAX)
        return FALSE;
    guint64 start = drv_extents_end(extents);
    DrvExtent extent = {start, start + len, kind == DRV_EXTENT_PLAIN ? offset : 0, kind};
    g_array_append_val(extents, extent);
    return TRUE;
}

const DrvExtent *
drv_extents_find(const GArray *extents, guint64 at)
{
    guint low = 0, high = extents->len - 1;
    while (low < high) {
        guint middle = low + (high - low) / 2;
        if (g_array_index(extents, DrvExtent, middle).end <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return &g_array_index(extents, DrvExtent, low);
}

gboolean
drv_extents_have(const GArray *extents, DrvExtentKind kind)
{
    for (guint i = 0; i < extents->len; i++) {
        if (g_array_index(extents, DrvExtent, i).kind == kind)
            return TRUE;
    }
    return FALSE;
}
