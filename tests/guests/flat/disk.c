/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/guests/flat/disk.h"

#include "tests/guests/flat/console.h"
#include "tests/guests/flat/layout.h"
#include "tests/guests/flat/machine.h"

enum {
    PORT_DATA = 0x1f0,
    PORT_COUNT = 0x1f2,
    PORT_LBA = 0x1f3, /* and the next two */
    PORT_DRIVE = 0x1f6,
    PORT_COMMAND = 0x1f7,
    PORT_CONTROL = 0x3f6 /* read: the status, and no interrupt is acknowledged by it */
};

enum { STATUS_ERROR = 0x01, STATUS_DATA = 0x08, STATUS_FAULT = 0x20, STATUS_BUSY = 0x80 };
enum { COMMAND_SET_MULTIPLE = 0xc6, COMMAND_WRITE_MULTIPLE = 0xc5 };

#define NO_INTERRUPTS 0x02
#define MASTER_LBA 0xe0
#define BURSTS_A_WORD 16

static FlatDisk *const record = (FlatDisk *)FLAT_DISK_ADDR;

static int
busy(void)
{
    return (in8(PORT_CONTROL) & STATUS_BUSY) != 0;
}

static int
went_wrong(void)
{
    return (in8(PORT_CONTROL) & (STATUS_ERROR | STATUS_FAULT)) != 0;
}

static void
command(uint8_t what, uint32_t sector, uint32_t count)
{
    out8(PORT_DRIVE, (uint8_t)(MASTER_LBA | sector >> 24));
    out8(PORT_COUNT, (uint8_t)count);
    out8(PORT_LBA, (uint8_t)sector);
    out8(PORT_LBA + 1, (uint8_t)(sector >> 8));
    out8(PORT_LBA + 2, (uint8_t)(sector >> 16));
    out8(PORT_COMMAND, what);
}

void
disk_prepare(Disk *disk, const Pool *pool, const Params *params)
{
    *disk = (Disk){.pool = pool, .lull = params->lull, .until = 1, .until_word = BURSTS_A_WORD};
    *record = (FlatDisk){
        .magic = FLAT_MAGIC_DISK, .sectors = params->disk_sectors, .burst = params->burst};
    out8(PORT_DRIVE, MASTER_LBA);
    out8(PORT_CONTROL, NO_INTERRUPTS);
    command(COMMAND_SET_MULTIPLE, 0, params->burst);
    if (in8(PORT_CONTROL) == 0 || busy() || went_wrong()) {
        fail("no IDE disk that takes so much at once");
    }
}

static void
compose(const Disk *disk, uint32_t *sector, uint32_t number)
{
    uint32_t index = (number - 1) % record->sectors;
    sector[FLAT_S_MAGIC] = FLAT_MAGIC_DISK;
    sector[FLAT_S_INDEX] = index;
    sector[FLAT_S_NUMBER] = number;
    pool_copy(disk->pool, flat_body_start(index, number), sector + FLAT_S_BODY,
              FLAT_S_TAIL - FLAT_S_BODY);
    sector[FLAT_S_TAIL] = number;
}

static void
begin_burst(const Disk *disk)
{
    static uint32_t data[FLAT_MAX_BURST * FLAT_SECTOR_WORDS];

    for (uint32_t i = 0; i < record->burst; i++) {
        compose(disk, data + i * FLAT_SECTOR_WORDS, record->done + 1 + i);
    }
    command(COMMAND_WRITE_MULTIPLE, record->done % record->sectors, record->burst);
    while (busy()) {
    }
    if (!(in8(PORT_CONTROL) & STATUS_DATA)) {
        record->errors++;
        say("disk failed\n");
        return;
    }
    /* Noted before the first byte: what the disk may hold, the memory knows of. */
    record->begun = record->done + record->burst;
    out32_many(PORT_DATA, data, record->burst * FLAT_SECTOR_WORDS);
}

static void
end_burst(Disk *disk)
{
    if (went_wrong()) {
        record->errors++;
        record->begun = record->done; /* once more */
        say("disk failed\n");
        return;
    }
    record->done = record->begun;
    if (--disk->until_word == 0) {
        disk->until_word = BURSTS_A_WORD;
        say_hex("d ", record->done, '\n');
    }
}

void
disk_tick(Disk *disk)
{
    if (disk->until > 0) {
        disk->until--;
    }
    if (busy()) {
        return;
    }
    if (record->begun != record->done) {
        end_burst(disk);
    }
    if (disk->until == 0) {
        begin_burst(disk);
        disk->until = disk->lull;
    }
}
