/* SPDX-License-Identifier: Apache-2.0 */
#include "precopy/test-sample.h"

#include "precopy/emit.h"

#include <string.h>

#define ROOM (1 << 20)

void
sample_u8(GByteArray *out, guint8 value)
{
    g_byte_array_append(out, &value, 1);
}

void
sample_u32(GByteArray *out, guint32 value)
{
    value = GUINT32_TO_BE(value);
    g_byte_array_append(out, (const guint8 *)&value, sizeof value);
}

void
sample_u64(GByteArray *out, guint64 value)
{
    value = GUINT64_TO_BE(value);
    g_byte_array_append(out, (const guint8 *)&value, sizeof value);
}

static const DrvRamBlock blocks[] = {
    {.id = "pc.ram", .size = 128 * SAMPLE_PAGE},
    {.id = "0000:00:02.0/vga.vram", .size = 16 * SAMPLE_PAGE},
};

static void
put_pages(DrvEmit *emit, DrvCursor *out, guint block, DrvPagesKind kind, guint first, guint n)
{
    guint8 page[SAMPLE_PAGE] = {0};
    for (guint i = first; i < first + n; i++) {
        if (kind == DRV_PAGES_NORMAL)
            memset(page, (int)(i | 0x80), sizeof page);
        drv_emit_page(emit, out, &blocks[block], block, kind, (guint64)i * SAMPLE_PAGE, page,
                      kind == DRV_PAGES_NORMAL ? sizeof page : 1);
    }
}

static void
put_configuration(DrvCursor *out)
{
    static const char machine[] = "pc-i440fx-7.2";
    static const char capabilities[] = "configuration/capabilities";
    static const char capability[] = "x-ignore-shared";
    drv_cursor_put_u8(out, 7);
    drv_cursor_put_u32(out, sizeof machine - 1);
    drv_cursor_put_bytes(out, machine, sizeof machine - 1);
    drv_cursor_put_u8(out, 5);
    drv_cursor_put_u8(out, sizeof capabilities - 1);
    drv_cursor_put_bytes(out, capabilities, sizeof capabilities - 1);
    drv_cursor_put_u32(out, 1);
    drv_cursor_put_u32(out, 1);
    drv_cursor_put_u8(out, sizeof capability - 1);
    drv_cursor_put_bytes(out, capability, sizeof capability - 1);
}

/* Bytes of a device, with footers among them that are none. */
static void
put_device_bytes(DrvCursor *out)
{
    for (guint i = 0; i < SAMPLE_DEVICE_BYTES / 5; i++) {
        drv_cursor_put_u8(out, 0x7e);
        drv_cursor_put_u32(out, SAMPLE_DEVICE_ID);
    }
}

static void
put_ping(DrvCursor *out)
{
    drv_cursor_put_u8(out, 8);
    drv_cursor_put_u16(out, DRV_COMMAND_PING);
    drv_cursor_put_u16(out, 4);
    drv_cursor_put_u32(out, 1);
}

static void
put_ram_part(DrvEmit *emit, DrvCursor *out, DrvSectionType type)
{
    drv_emit_section(out, type, SAMPLE_RAM_ID, NULL, 0);
    put_pages(emit, out, 0, DRV_PAGES_NORMAL, 3, SAMPLE_PART_NORMAL);
    drv_emit_flush_word(out);
    drv_emit_eos(out);
    drv_emit_footer(out, SAMPLE_RAM_ID);
}

static void
put_iterable(DrvCursor *out, DrvSectionType type)
{
    drv_emit_section(out, type, SAMPLE_RAM_ID + 1, "dirty-bitmap", 1);
    drv_cursor_put_u32(out, 0x7e000000);
    drv_emit_footer(out, SAMPLE_RAM_ID + 1);
}

static void
put_end(DrvCursor *out)
{
    static const char json[] = "{\"devices\": []}";
    drv_cursor_put_u8(out, 0);
    drv_cursor_put_u8(out, 6);
    drv_cursor_put_u32(out, sizeof json - 1);
    drv_cursor_put_bytes(out, json, sizeof json - 1);
}

GByteArray *
sample_stream(gboolean with_iterable, guint normal)
{
    GByteArray *bytes = g_byte_array_sized_new(ROOM);
    g_byte_array_set_size(bytes, ROOM);
    DrvCursor out = drv_cursor_writer(bytes->data, ROOM);
    DrvEmit emit = DRV_EMIT_INIT;

    drv_emit_header(&out);
    put_configuration(&out);
    put_ping(&out);
    drv_emit_section(&out, DRV_SECTION_START, SAMPLE_RAM_ID, "ram", 4);
    drv_emit_blocks(&out, blocks, G_N_ELEMENTS(blocks));
    drv_emit_eos(&out);
    drv_emit_footer(&out, SAMPLE_RAM_ID);
    if (with_iterable)
        put_iterable(&out, DRV_SECTION_START);
    drv_emit_section(&out, DRV_SECTION_PART, SAMPLE_RAM_ID, NULL, 0);
    put_pages(&emit, &out, 0, DRV_PAGES_NORMAL, 0, normal);
    put_pages(&emit, &out, 0, DRV_PAGES_ZERO, 50, 40);
    put_pages(&emit, &out, 1, DRV_PAGES_ZERO, 3, 1);
    drv_emit_eos(&out);
    drv_emit_footer(&out, SAMPLE_RAM_ID);
    if (with_iterable)
        put_iterable(&out, DRV_SECTION_PART);
    put_ram_part(&emit, &out, DRV_SECTION_PART);
    put_ram_part(&emit, &out, DRV_SECTION_END);
    drv_emit_section(&out, DRV_SECTION_FULL, SAMPLE_DEVICE_ID, "cpu", 12);
    put_device_bytes(&out);
    drv_emit_footer(&out, SAMPLE_DEVICE_ID);
    drv_emit_section(&out, DRV_SECTION_FULL, SAMPLE_DEVICE_ID + 1, "apic", 3);
    put_device_bytes(&out);
    drv_emit_footer(&out, SAMPLE_DEVICE_ID + 1);
    put_end(&out);

    g_assert_true(drv_cursor_ok(&out));
    g_byte_array_set_size(bytes, (guint)out.pos);
    return bytes;
}

/* ---- multifd ---- */

static void
put_filled(GByteArray *out, guint8 value, gsize n)
{
    guint at = out->len;
    g_byte_array_set_size(out, at + (guint)n);
    memset(out->data + at, value, n);
}

static void
put_id(GByteArray *out, const char *id)
{
    put_filled(out, 0xee, 256); /* QEMU leaves rests of other ids after the terminator */
    memcpy(out->data + out->len - 256, id, strlen(id) + 1);
}

void
sample_packet(GByteArray *out, guint32 flags, guint32 allocated, guint32 normal, guint32 zero,
              guint32 data_len)
{
    sample_u32(out, 0x11223344);
    sample_u32(out, 1);
    sample_u32(out, flags);
    sample_u32(out, allocated);
    sample_u32(out, normal);
    sample_u32(out, data_len);
    sample_u64(out, 77);
    sample_u32(out, zero);
    put_filled(out, 0, 28);
    put_id(out, "pc.ram");
    for (guint i = 0; i < 128; i++)
        sample_u64(out, (guint64)i * SAMPLE_PAGE);
}

GByteArray *
sample_multifd(void)
{
    GByteArray *out = g_byte_array_new();
    sample_u32(out, 0x11223344);
    sample_u32(out, 1);
    put_filled(out, 0xab, 16);
    sample_u8(out, 3);
    put_filled(out, 0, 39);

    sample_packet(out, 1, 0, 0, 0, 0);        /* SYNC of 10.0 */
    sample_packet(out, 1, 128, 0, 0, 524288); /* SYNC of 7.2, with a length of before */
    sample_packet(out, 0, 128, 5, 7, 5 * SAMPLE_PAGE);
    put_filled(out, 0x11, 5 * SAMPLE_PAGE);
    sample_packet(out, 2 << 1, 128, 9, 0, 777); /* zstd */
    put_filled(out, 0x22, 777);

    sample_u32(out, 0x11223344);
    sample_u32(out, 1);
    sample_u32(out, 0x40);
    put_id(out, "0000:00:03.0/vfio");
    sample_u32(out, 4);
    sample_u32(out, 333);
    put_filled(out, 0x33, 333);

    sample_packet(out, 1, 128, 1, 0, SAMPLE_PAGE); /* SYNC with a page, of 7.2 */
    put_filled(out, 0x44, SAMPLE_PAGE);
    return out;
}
