/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/render.h"

#include "common/json.h"
#include "engine/cli/units.h"

/* What a copy of a disk came to, in words. A part of render.h. */
char *
drv_render_copy(JsonObject *job)
{
    JsonObject *result = drv_json_object(job, "result");
    JsonObject *disk = drv_json_object(result, "disk");
    g_autofree char *name = drv_format_text(drv_json_string(job, "vm", "the image"), 60);
    g_autofree char *peer = drv_format_text(drv_json_string(job, "peer", "the destination"), 60);
    g_autofree char *digest = drv_format_text(drv_json_string(result, "digest", "?"), 64);
    g_autofree char *took = drv_format_ms(drv_json_number(result, "total_ms", 0));
    g_autofree char *bytes = drv_format_bytes(drv_json_number(disk, "bytes", 0));
    g_autofree char *data = drv_format_bytes(drv_json_number(disk, "data_bytes", 0));
    g_autofree char *same = drv_format_bytes(drv_json_number(disk, "same_bytes", 0));
    g_autofree char *wire = drv_format_bytes(drv_json_number(disk, "wire_bytes", 0));
    const char *bitmap = drv_json_string(result, "bitmap", NULL);
    const char *left = drv_json_string(result, "left", NULL);
    g_autofree char *begun = bitmap != NULL ? drv_format_text(bitmap, 60) : NULL;
    g_autofree char *note = left != NULL ? drv_format_text(left, 400) : NULL;
    g_autofree char *since =
        begun == NULL
            ? g_strdup("")
            : g_strdup_printf("  bitmap %s records what the VM changes from here on\n", begun);
    g_autofree char *noted = note == NULL ? g_strdup("") : g_strdup_printf("  note: %s\n", note);
    return g_strdup_printf("%s is now at %s: %s in %s\n"
                           "  %s of data sent, %s were there already, %s on the wire\n"
                           "  %.0f lanes, %.0f reconnects, digest sha256 %s\n"
                           "%s%s",
                           name, peer, bytes, took, data, same, wire,
                           drv_json_number(result, "lanes", 0),
                           drv_json_number(result, "reconnects", 0), digest, since, noted);
}
