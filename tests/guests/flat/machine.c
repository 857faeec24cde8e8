/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/guests/flat/machine.h"

#include "tests/guests/flat/console.h"

#define PIT_HZ 1193182u

#define FWCFG_DMA_PORT 0x518 /* the low half of the address; a write starts the transfer */
#define FWCFG_DIRECTORY 0x19
#define FWCFG_NAME_BYTES 56

enum { FWCFG_READ = 2, FWCFG_SKIP = 4, FWCFG_SELECT = 8 };

typedef struct {
    uint32_t bytes; /* all big endian */
    uint16_t selector;
    uint16_t reserved;
    char name[FWCFG_NAME_BYTES];
} FwcfgFile;

typedef struct {
    uint32_t control, bytes, address_high, address; /* all big endian; control is 0 when done */
} FwcfgRequest;

extern volatile uint32_t flat_ticks;
volatile uint32_t flat_ticks; /* counted by the timer interrupt in boot.S */
extern void flat_timer_entry(void);

void
out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

uint8_t
in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

void
out32_many(uint16_t port, const uint32_t *words, uint32_t n)
{
    __asm__ volatile("rep outsl" : "+S"(words), "+c"(n) : "d"(port) : "memory");
}

static inline void
out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

void
timer_start(uint32_t hz)
{
    static uint32_t idt[2 * 0x21];
    static struct {
        uint16_t limit;
        uint32_t base;
    } __attribute__((packed)) pointer;

    uint32_t entry = (uint32_t)flat_timer_entry;
    idt[2 * 0x20] = 0x08u << 16 | (entry & 0xffff);
    idt[2 * 0x20 + 1] = (entry & 0xffff0000u) | 0x8e00;
    pointer.limit = sizeof idt - 1;
    pointer.base = (uint32_t)idt;
    __asm__ volatile("lidt %0" : : "m"(pointer));

    out8(0x20, 0x11); /* PICs: initialise, vectors 0x20 and 0x28, cascade, 8086 mode */
    out8(0xa0, 0x11);
    out8(0x21, 0x20);
    out8(0xa1, 0x28);
    out8(0x21, 0x04);
    out8(0xa1, 0x02);
    out8(0x21, 0x01);
    out8(0xa1, 0x01);
    out8(0x21, 0xfe); /* only the timer */
    out8(0xa1, 0xff);

    uint32_t divisor = PIT_HZ / hz;
    out8(0x43, 0x34); /* channel 0, low and high byte, rate generator */
    out8(0x40, (uint8_t)divisor);
    out8(0x40, (uint8_t)(divisor >> 8));
}

uint32_t
timer_wait(uint32_t seen)
{
    while (flat_ticks == seen) {
        __asm__ volatile("sti; hlt; cli" : : : "memory", "cc");
    }
    return flat_ticks;
}

/* Two requests that stay in place: only what differs is written for each page (see touch_run). */
void
fwcfg_read(uint16_t selector, uint32_t offset, void *to, uint32_t bytes)
{
    static volatile FwcfgRequest skip, read;

    skip.control = __builtin_bswap32((uint32_t)selector << 16 | FWCFG_SELECT | FWCFG_SKIP);
    skip.bytes = __builtin_bswap32(offset);
    out32(FWCFG_DMA_PORT, __builtin_bswap32((uint32_t)&skip));

    read.control = __builtin_bswap32(FWCFG_READ);
    read.bytes = __builtin_bswap32(bytes);
    read.address = __builtin_bswap32((uint32_t)to);
    out32(FWCFG_DMA_PORT, __builtin_bswap32((uint32_t)&read));
    if (read.control != 0) {
        fail("the firmware device refuses DMA");
    }
}

static int
same_name(const char *a, const char *b)
{
    uint32_t i = 0;
    while (i < FWCFG_NAME_BYTES && a[i] == b[i] && a[i] != '\0') {
        i++;
    }
    return i < FWCFG_NAME_BYTES && a[i] == b[i];
}

uint16_t
fwcfg_find(const char *name)
{
    uint32_t count;
    fwcfg_read(FWCFG_DIRECTORY, 0, &count, sizeof count);
    count = __builtin_bswap32(count);
    for (uint32_t i = 0; i < count; i++) {
        FwcfgFile file;
        fwcfg_read(FWCFG_DIRECTORY, sizeof count + i * sizeof file, &file, sizeof file);
        if (same_name(file.name, name)) {
            return __builtin_bswap16(file.selector);
        }
    }
    return 0;
}
