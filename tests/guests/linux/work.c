/* SPDX-License-Identifier: Apache-2.0 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/*
 * The work of the Linux guest: "work MIB RATE" keeps MIB mebibytes of memory, writes to RATE pages
 * of it a second, each with content of its own, and says "work N" ten times a second (N counts up
 * from 1). It checks what it wrote before it writes again, and says "work bad PAGE" when a page is
 * not as it was left: then the machine lost memory.
 */
#define PAGE_WORDS 512u
#define TICK_NS 100000000L
#define TICKS_PER_S 10u

static uint64_t
word_of(size_t page, uint64_t generation)
{
    return (page + 1) * 0x9e3779b97f4a7c15u ^ generation * 0xc2b2ae3d27d4eb4fu;
}

static void
write_page(uint64_t *memory, size_t page, uint64_t generation)
{
    for (size_t i = 0; i < PAGE_WORDS; i++) {
        memory[page * PAGE_WORDS + i] = word_of(page, generation) + i;
    }
}

static int
page_is(const uint64_t *memory, size_t page, uint64_t generation)
{
    for (size_t i = 0; i < PAGE_WORDS; i++) {
        if (memory[page * PAGE_WORDS + i] != word_of(page, generation) + i) {
            return 0;
        }
    }
    return 1;
}

int
main(int argc, char **argv)
{
    size_t pages = argc > 1 ? strtoul(argv[1], NULL, 0) * 256 : 0;
    size_t per_tick = argc > 2 ? strtoul(argv[2], NULL, 0) / TICKS_PER_S : 0;
    uint64_t *memory = NULL;

    if (pages > 0) {
        memory = mmap(NULL, pages * PAGE_WORDS * 8, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) {
            printf("work failed: not enough memory\n");
            return 1;
        }
        for (size_t i = 0; i < pages; i++) {
            write_page(memory, i, 0);
        }
    }
    printf("work ready\n");

    uint64_t generation = 0;
    size_t at = 0;
    for (unsigned long n = 1;; n++) {
        for (size_t i = 0; i < per_tick && pages > 0; i++) {
            if (!page_is(memory, at, generation)) {
                printf("work bad %zu\n", at);
            }
            write_page(memory, at, generation + 1);
            if (++at == pages) {
                at = 0;
                generation++;
            }
        }
        printf("work %lu\n", n);
        fflush(stdout);
        nanosleep(&(struct timespec){.tv_nsec = TICK_NS}, NULL);
    }
}
