/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/guests/flat/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * Judges a dump of the flat guest's working set (pmemsave of start, pages * 4096), as the guest
 * alone could have left it (layout.h says what it writes and in which order):
 *
 *     lost     the page is all zero: it never arrived
 *     swapped  a page of the pattern, but another page's
 *     torn     parts of one page come from different writes
 *     stale    whole, but of another pass than its place before or after the writer demands
 *     garbage  nothing the guest ever writes
 *
 * The one page that the writer was in when its vCPU was stopped may be half written; it counts as
 * "midwrite", and only where the writer stands and only in the order in which it writes.
 *
 * Where the writer stands is not told but found: the position at which the fewest pages have a
 * generation that does not fit. So a few bad pages cannot move it.
 */
typedef enum { OK, LOST, SWAPPED, TORN, STALE, GARBAGE, VERDICTS } Verdict;

static const char *const verdict_names[VERDICTS] = {"ok",   "lost",  "swapped",
                                                    "torn", "stale", "garbage"};

#define MAX_LISTED 16

typedef struct {
    const uint32_t *dump;
    const uint32_t *pool;
    uint32_t pages, step, magic;
    int whole;        /* the writer writes whole pages, not just their generations */
    Verdict *verdict; /* one a page */
} Check;

typedef struct {
    uint32_t generation; /* of the pages the writer has passed */
    uint32_t position;   /* the index of the page it writes next, or is in */
    uint32_t midwrite;   /* 1 when that page is half written */
} Writer;

static const uint32_t *
page_at(const Check *c, uint32_t index)
{
    return c->dump + (size_t)index * FLAT_PAGE_WORDS;
}

static const uint32_t *
body_of(const Check *c, uint32_t index, uint32_t gen)
{
    return c->pool + flat_body_start(index, gen);
}

static int
is_zero(const uint32_t *page)
{
    return page[0] == 0 && memcmp(page, page + 1, FLAT_PAGE_BYTES - 4) == 0;
}

/* What the page says about itself; whether its generation is the right one comes later. */
static Verdict
judge_alone(const Check *c, uint32_t index)
{
    const uint32_t *page = page_at(c, index);
    uint32_t gen = page[FLAT_W_GEN];

    if (is_zero(page)) {
        return LOST;
    }
    if (page[FLAT_W_MAGIC] != c->magic) {
        return GARBAGE;
    }
    if (page[FLAT_W_INDEX] != index) {
        return SWAPPED;
    }
    uint32_t body_gen = c->whole ? gen : FLAT_FIRST_GEN;
    if (page[FLAT_W_TAIL] != gen || page[FLAT_W_BODY_GEN] != body_gen ||
        memcmp(page + FLAT_W_BODY, body_of(c, index, body_gen), FLAT_BODY_WORDS * 4) != 0) {
        return TORN;
    }
    return OK;
}

/* Does the page hold the first words of its write by 'gen' and the rest of the one before? */
static int
is_half_written(const Check *c, uint32_t index, uint32_t gen)
{
    const uint32_t *page = page_at(c, index);
    if (page[FLAT_W_MAGIC] != c->magic || page[FLAT_W_INDEX] != index || page[FLAT_W_GEN] != gen ||
        page[FLAT_W_TAIL] != gen - 1) {
        return 0;
    }
    const uint32_t *body = page + FLAT_W_BODY;
    if (!c->whole) {
        return page[FLAT_W_BODY_GEN] == FLAT_FIRST_GEN &&
               memcmp(body, body_of(c, index, FLAT_FIRST_GEN), FLAT_BODY_WORDS * 4) == 0;
    }
    const uint32_t *after = body_of(c, index, gen);
    const uint32_t *before = body_of(c, index, gen - 1);
    uint32_t n = 0;
    while (page[FLAT_W_BODY_GEN] == gen && n < FLAT_BODY_WORDS && body[n] == after[n]) {
        n++;
    }
    return (page[FLAT_W_BODY_GEN] == gen || page[FLAT_W_BODY_GEN] == gen - 1) &&
           memcmp(body + n, before + n, (FLAT_BODY_WORDS - n) * 4) == 0;
}

static Writer
find_writer(const Check *c)
{
    Writer w = {.generation = FLAT_FIRST_GEN};
    for (uint32_t i = 0; i < c->pages; i += c->step) {
        uint32_t gen = page_at(c, i)[FLAT_W_GEN];
        /* The first page of a pass, half written, may be the only one of its generation. */
        int counts = c->verdict[i] == OK || (i == 0 && is_half_written(c, i, gen));
        if (counts && gen > w.generation) {
            w.generation = gen;
        }
    }
    /* misfits as seen from position 0: every sound page that is not of the pass before. */
    int64_t misfits = 0, least = 0;
    for (uint32_t i = 0; i < c->pages; i += c->step) {
        if (c->verdict[i] == OK) {
            uint32_t gen = page_at(c, i)[FLAT_W_GEN];
            misfits += gen == w.generation ? -1 : gen == w.generation - 1 ? 1 : 0;
        }
        if (misfits < least) {
            least = misfits;
            w.position = i + c->step;
        }
    }
    return w;
}

static void
judge_generations(Check *c, Writer *w)
{
    if (w->position < c->pages && c->verdict[w->position] == TORN &&
        is_half_written(c, w->position, w->generation)) {
        c->verdict[w->position] = OK;
        w->midwrite = 1;
    }
    for (uint32_t i = 0; i < c->pages; i++) {
        uint32_t expected = i % c->step != 0  ? FLAT_FIRST_GEN
                            : i < w->position ? w->generation
                                              : w->generation - 1;
        int being_written = w->midwrite && i == w->position;
        if (c->verdict[i] == OK && !being_written && page_at(c, i)[FLAT_W_GEN] != expected) {
            c->verdict[i] = STALE;
        }
    }
}

/* One JSON object on one line. Returns the number of bad pages. */
static uint32_t
report(const Check *c, const Writer *w)
{
    uint32_t count[VERDICTS] = {0};
    for (uint32_t i = 0; i < c->pages; i++) {
        count[c->verdict[i]]++;
    }
    printf("{\"pages\":%u,\"generation\":%u,\"position\":%u,\"midwrite\":%u", c->pages,
           w->generation, w->position, w->midwrite);
    for (Verdict v = LOST; v < VERDICTS; v++) {
        printf(",\"%s\":%u", verdict_names[v], count[v]);
    }
    printf(",\"bad\":[");
    for (uint32_t i = 0, listed = 0; i < c->pages && listed < MAX_LISTED; i++) {
        if (c->verdict[i] != OK) {
            printf("%s[%u,\"%s\"]", listed++ > 0 ? "," : "", i, verdict_names[c->verdict[i]]);
        }
    }
    printf("]}\n");
    return c->pages - count[OK];
}

static int
usage(void)
{
    fprintf(stderr, "usage: pagecheck [--mode idle|sparse|rewrite|random] [--body text|random] "
                    "[--step N] DUMP\n");
    return 2;
}

static const void *
map_dump(const char *path, uint32_t *pages)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) {
        fprintf(stderr, "pagecheck: %s: %s\n", path, strerror(errno));
        return NULL;
    }
    if (st.st_size == 0 || st.st_size % FLAT_PAGE_BYTES != 0 ||
        st.st_size / FLAT_PAGE_BYTES > FLAT_MAX_PAGES) {
        fprintf(stderr, "pagecheck: %s: not a whole number of pages that a guest can have\n", path);
        return NULL;
    }
    *pages = (uint32_t)(st.st_size / FLAT_PAGE_BYTES);
    void *dump = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (dump == MAP_FAILED) {
        fprintf(stderr, "pagecheck: %s: %s\n", path, strerror(errno));
        return NULL;
    }
    return dump;
}

static int
parse(int argc, char **argv, Check *c)
{
    static const struct option options[] = {{"mode", required_argument, NULL, 'm'},
                                            {"body", required_argument, NULL, 'b'},
                                            {"step", required_argument, NULL, 's'},
                                            {NULL, 0, NULL, 0}};
    const char *mode = "idle";
    const char *body = NULL;
    c->step = 1;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (o == 'm') {
            mode = optarg;
        } else if (o == 'b') {
            body = optarg;
        } else if (o == 's') {
            c->step = (uint32_t)strtoul(optarg, NULL, 0);
        } else {
            return -1;
        }
    }
    if (!body) {
        body = strcmp(mode, "random") == 0 ? "random" : "text";
    }
    c->whole = strcmp(mode, "rewrite") == 0 || strcmp(mode, "random") == 0;
    c->magic = strcmp(body, "random") == 0 ? FLAT_MAGIC_RANDOM : FLAT_MAGIC_TEXT;
    int known_mode = c->whole || strcmp(mode, "idle") == 0 || strcmp(mode, "sparse") == 0;
    int known_body = c->magic == FLAT_MAGIC_RANDOM || strcmp(body, "text") == 0;
    return known_mode && known_body && c->step > 0 && optind == argc - 1 ? 0 : -1;
}

int
main(int argc, char **argv)
{
    Check c = {0};
    if (parse(argc, argv, &c) != 0) {
        return usage();
    }
    c.dump = map_dump(argv[optind], &c.pages);
    uint32_t *pool = calloc(FLAT_POOL_WORDS, sizeof *pool);
    c.verdict = calloc(c.pages, sizeof *c.verdict);
    if (!c.dump || !pool || !c.verdict) {
        return 2;
    }
    if (c.magic == FLAT_MAGIC_RANDOM) {
        flat_pool_fill_random(pool);
    } else {
        flat_pool_fill_text(pool);
    }
    c.pool = pool;

    for (uint32_t i = 0; i < c.pages; i++) {
        c.verdict[i] = judge_alone(&c, i);
    }
    Writer w = find_writer(&c);
    judge_generations(&c, &w);
    uint32_t bad = report(&c, &w);
    free(pool);
    free(c.verdict);
    return bad > 0;
}
