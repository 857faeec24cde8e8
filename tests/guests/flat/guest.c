/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/guests/flat/console.h"
#include "tests/guests/flat/disk.h"
#include "tests/guests/flat/layout.h"
#include "tests/guests/flat/machine.h"
#include "tests/guests/flat/params.h"
#include "tests/guests/flat/pool.h"

/*
 * The flat guest: a machine with no operating system that does nothing but write memory in a known
 * pattern (layout.h) and say how far it is. It runs in flat 32-bit protected mode without paging,
 * so that it works under KVM where KVM can only run such code, and the same under TCG.
 *
 * Parameters, on the multiboot command line (-append "name=value ..."), numbers in C notation:
 *
 *     start=ADDR   first byte of the working set (default 0x1000000)
 *     pages=N      its size in pages of 4096 bytes (default 4096)
 *     mode=idle    write nothing after the initial fill
 *          sparse  write two words of each page: the generation at its head and at its tail
 *          rewrite write the whole page, compressible
 *          random  write the whole page, incompressible
 *     body=text|random  what the initial fill looks like (default: what the mode writes; text)
 *     step=N       write only every Nth page (default 1)
 *     pool=own     make the pool of page bodies here and copy from it (default)
 *          host    it is the host's file opt/drover/pool (-fw_cfg, made by mkpool), and the host's
 *                  firmware device copies each body by DMA: under an emulating KVM this is fifty
 *                  times as fast, and it dirties pages behind KVM's back as a disk would
 *     hz=N         run the timer at N interrupts a second (19 to 10000; default 0: no interrupts)
 *     rate=N       write N pages a timer tick, then sleep until the next (needs hz=; default: no
 *                  limit; not when idle)
 *     delay=N      spin N rounds after each page (default 0): pacing without interrupts
 *     beat=N       say something every N pages; when idle, every N ticks or delays (default 64)
 *
 *     disk=N       write to the first N sectors of the first IDE disk, all the time (disk.h; needs
 * hz= and rate=, or mode=idle) burst=N      so many sectors in one write, a power of two up to 16
 * (default 1) lull=N       ticks between two writes (default 1)
 *
 * What it says, on the debug console (port 0xe9), one line each:
 *
 *     drover flat guest START PAGES MODE      once, at the start (numbers in hex)
 *     f XXXXXXXX                              while filling: pages filled so far, in hex
 *     ready                                   the whole working set is valid from here on
 *     XXXXXXXX                                the heartbeat: units of work done since, in hex
 *     d XXXXXXXX                              sectors written to the disk so far, in hex
 *     disk failed                             a write failed; it is done once more
 *     error WORDS                             a parameter makes no sense; the guest stops
 *
 * The counter is the guest's only idea of progress: nothing here depends on the host or on wall
 * time, so that a machine that was moved cannot tell, except by a gap in what it says.
 */
typedef struct {
    const Params *params;
    Pool pool;
    Disk disk;
    uint32_t count;      /* units of work done */
    uint32_t until_beat; /* units until the next heartbeat */
    uint32_t in_tick;    /* pages written since the last tick */
    uint32_t last_tick;
} Writer;

void flat_main(uint32_t magic, const uint32_t *info);

static inline void
spin(uint32_t rounds)
{
    while (rounds-- > 0) {
        __asm__ volatile("");
    }
}

static void
write_whole(const Writer *w, volatile uint32_t *page, uint32_t index, uint32_t gen)
{
    page[FLAT_W_MAGIC] = w->params->magic;
    page[FLAT_W_INDEX] = index;
    page[FLAT_W_GEN] = gen;
    page[FLAT_W_BODY_GEN] = gen;
    pool_copy(&w->pool, flat_body_start(index, gen), (uint32_t *)page + FLAT_W_BODY,
              FLAT_BODY_WORDS);
    page[FLAT_W_TAIL] = gen;
}

static void
fill(const Writer *w)
{
    volatile uint32_t *page = (uint32_t *)w->params->start;
    for (uint32_t i = 0; i < w->params->pages; i++, page += FLAT_PAGE_WORDS) {
        write_whole(w, page, i, FLAT_FIRST_GEN);
        if ((i + 1) % 256 == 0) {
            say_hex("f ", i + 1, '\n');
        }
    }
}

static uint32_t
at_most(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* How many pages may be written before something else is due (a beat, a tick). */
static uint32_t
run_length(const Writer *w)
{
    uint32_t n = w->until_beat;
    if (w->params->rate != 0) {
        n = at_most(n, w->params->rate - w->in_tick);
    }
    return n;
}

static void
wait_tick(Writer *w)
{
    w->last_tick = timer_wait(w->last_tick);
    if (w->params->disk_sectors != 0) {
        disk_tick(&w->disk);
    }
}

static void
account(Writer *w, uint32_t n)
{
    w->count += n;
    w->until_beat -= n;
    if (w->until_beat == 0) {
        say_hex("", w->count, '\n');
        w->until_beat = w->params->beat;
    }
    w->in_tick += n;
    if (w->params->rate != 0 && w->in_tick == w->params->rate) {
        wait_tick(w);
        w->in_tick = 0;
    }
}

/*
 * The hottest loop there is: five instructions a page, because an emulating KVM executes well under
 * a million a second. 'bytes' is the distance between two pages.
 */
static uint32_t *
touch_run(uint32_t *page, uint32_t n, uint32_t bytes, uint32_t gen)
{
    __asm__ volatile("1: mov %[gen], 8(%[page])\n\t"
                     "mov %[gen], 4092(%[page])\n\t"
                     "add %[bytes], %[page]\n\t"
                     "dec %[n]\n\t"
                     "jnz 1b"
                     : [page] "+r"(page), [n] "+r"(n)
                     : [gen] "r"(gen), [bytes] "r"(bytes)
                     : "memory", "cc");
    return page;
}

static void
pass(Writer *w, uint32_t gen)
{
    const Params *p = w->params;
    uint32_t bytes = p->step * FLAT_PAGE_BYTES;
    uint32_t left = (p->pages - 1) / p->step + 1;
    uint32_t index = 0;
    uint32_t *page = (uint32_t *)p->start;

    while (left > 0) {
        uint32_t n = p->delay != 0 ? 1 : at_most(left, run_length(w));
        if (p->mode == MODE_SPARSE) {
            page = touch_run(page, n, bytes, gen);
            index += n * p->step;
        } else {
            for (uint32_t i = 0; i < n; i++) {
                write_whole(w, page, index, gen);
                page += p->step * FLAT_PAGE_WORDS;
                index += p->step;
            }
        }
        spin(p->delay);
        left -= n;
        account(w, n);
    }
}

__attribute__((noreturn)) static void
run(Writer *w)
{
    const Params *p = w->params;
    for (uint32_t gen = FLAT_FIRST_GEN + 1;; gen++) {
        if (p->mode != MODE_IDLE) {
            pass(w, gen);
            continue;
        }
        if (p->hz != 0) {
            wait_tick(w);
        } else {
            spin(p->delay != 0 ? p->delay : 1000);
        }
        account(w, 1);
    }
}

void
flat_main(uint32_t magic, const uint32_t *info)
{
    if (magic != 0x2badb002 || !(info[0] & 4)) {
        fail("no multiboot command line");
    }
    const Params p = params_parse((const char *)info[4]);
    Writer w = {.params = &p, .until_beat = p.beat};

    say("drover flat guest ");
    say_hex("", p.start, ' ');
    say_hex("", p.pages, ' ');
    say(mode_names[p.mode]);
    say("\n");
    w.pool = pool_prepare(&p);
    fill(&w);
    if (p.disk_sectors != 0) {
        disk_prepare(&w.disk, &w.pool, &p);
    }
    say("ready\n");
    if (p.hz != 0) {
        timer_start(p.hz);
    }
    run(&w);
}
