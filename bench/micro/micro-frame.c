/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/micro/micro.h"

#include "engine/transfer/frame.h"

/* What every frame costs beside its bytes, and the checksum, which costs by the byte. */
typedef struct {
    DrvFrameHeader header;
    guint8 wire[DRV_FRAME_HEADER];
    guint8 *raw;
    DrvChecksum sum;
} Frame;

static void
encode(gpointer data)
{
    Frame *frame = data;
    frame->header.seq++;
    drv_frame_encode(&frame->header, frame->wire);
}

static void
decode(gpointer data)
{
    Frame *frame = data;
    if (!drv_frame_decode(frame->wire, &frame->header, NULL))
        g_error("the frame does not decode");
}

static void
checksum(gpointer data)
{
    Frame *frame = data;
    frame->sum = drv_checksum(frame->raw, DRV_FRAME_RAW_MAX);
}

int
main(void)
{
    g_autofree guint8 *raw = micro_memory(MICRO_MIB);
    Frame frame = {.raw = raw,
                   .header = {.type = DRV_FRAME_DATA,
                              .codec = DRV_CODEC_LZ4,
                              .channel = 1,
                              .raw_len = DRV_FRAME_RAW_MAX,
                              .wire_len = DRV_FRAME_RAW_MAX / 2}};
    micro_run("frame header, encode", 0, encode, &frame);
    micro_run("frame header, decode", 0, decode, &frame);
    micro_run("checksum of a frame", DRV_FRAME_RAW_MAX, checksum, &frame);
    return 0;
}
