/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <getopt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Makes a file that looks like the memory of a machine in use, of a stated composition and the same
 * for the same seed and program files:
 *
 *     memimage --size MIB [--zero PCT] [--repeat PCT] [--random PCT] [--seed N] --text LIST FILE
 *
 * --zero, --repeat and --random are shares in percent; what is left is program text: the bytes of
 * the files named in LIST, one a line, one after the other and from the
 * start again when they are used up. A repeat is a copy of an earlier page of the image. Pages come
 * in runs of 1 to 32 of one kind, because memory does.
 *
 * Load it with '-device loader,file=FILE,addr=ADDR,force-raw=on', which takes less than 2 GiB.
 */
#define PAGE 4096u
#define MAX_MIB 2047u

typedef enum { ZERO, REPEAT, RANDOM, TEXT, KINDS } Kind;

static const char *const kind_names[KINDS] = {"zero", "repeat", "random", "text"};

typedef struct {
    FILE *list; /* names of files */
    FILE *file; /* the one being read */
    uint64_t files, bytes;
} Text;

typedef struct {
    uint32_t pages;
    uint32_t share[KINDS]; /* percent */
    uint64_t seed;
    const char *list, *out;
} Options;

static uint64_t
next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Opens the next file of the list, rewinding it at its end; 0 when there is none to be had. */
static int
next_file(Text *text)
{
    char name[4096];
    int wrapped = 0;
    if (text->file) {
        fclose(text->file);
        text->file = NULL;
    }
    while (!text->file) {
        if (!fgets(name, sizeof name, text->list)) {
            if (wrapped || text->bytes == 0 || fseek(text->list, 0, SEEK_SET) != 0) {
                return 0;
            }
            wrapped = 1;
            continue;
        }
        name[strcspn(name, "\n")] = '\0';
        text->file = fopen(name, "rb");
    }
    text->files++;
    return 1;
}

static int
text_page(Text *text, uint8_t *page)
{
    size_t have = 0;
    while (have < PAGE) {
        size_t n = text->file ? fread(page + have, 1, PAGE - have, text->file) : 0;
        have += n;
        text->bytes += n;
        if (n == 0 && !next_file(text)) {
            return 0;
        }
    }
    return 1;
}

static void
random_page(uint64_t *state, uint8_t *page)
{
    for (uint32_t i = 0; i < PAGE; i += 8) {
        uint64_t word = next_random(state);
        memcpy(page + i, &word, 8);
    }
}

/* Draws a kind in proportion to the pages it still has to give, so that the shares come out. */
static Kind
draw(uint64_t *state, const uint32_t left[KINDS], uint32_t total)
{
    uint32_t ticket = (uint32_t)(next_random(state) % total);
    Kind kind = ZERO;
    while (ticket >= left[kind]) {
        ticket -= left[kind++];
    }
    return kind;
}

static int
fill(uint8_t *image, const Options *o, Text *text)
{
    uint64_t state = o->seed;
    uint32_t left[KINDS];
    left[TEXT] = o->pages;
    for (Kind k = ZERO; k < TEXT; k++) {
        left[k] = (uint32_t)((uint64_t)o->pages * o->share[k] / 100);
        left[TEXT] -= left[k];
    }
    for (uint32_t at = 0; at < o->pages;) {
        Kind kind = draw(&state, left, o->pages - at);
        uint32_t run = 1 + (uint32_t)(next_random(&state) % 32);
        for (; run > 0 && left[kind] > 0; run--, at++, left[kind]--) {
            uint8_t *page = image + (size_t)at * PAGE;
            if (kind == REPEAT && at > 0) {
                memcpy(page, image + (size_t)(next_random(&state) % at) * PAGE, PAGE);
            } else if (kind == RANDOM) {
                random_page(&state, page);
            } else if (kind == TEXT && !text_page(text, page)) {
                fprintf(stderr, "memimage: %s: names no file that can be read\n", o->list);
                return -1;
            }
        }
    }
    return 0;
}

static int
usage(void)
{
    fprintf(stderr, "usage: memimage --size MIB [--zero PCT] [--repeat PCT] [--random PCT] "
                    "[--seed N] --text LIST FILE\n");
    return 2;
}

static int
parse(int argc, char **argv, Options *o)
{
    static const struct option options[] = {{"size", required_argument, NULL, 's'},
                                            {"zero", required_argument, NULL, 'z'},
                                            {"repeat", required_argument, NULL, 'e'},
                                            {"random", required_argument, NULL, 'r'},
                                            {"seed", required_argument, NULL, 'n'},
                                            {"text", required_argument, NULL, 't'},
                                            {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        unsigned long value = optarg ? strtoul(optarg, NULL, 0) : 0;
        switch (c) {
        case 's':
            o->pages = value <= MAX_MIB ? (uint32_t)value * (1048576u / PAGE) : 0;
            break;
        case 'z':
        case 'e':
        case 'r':
            o->share[c == 'z' ? ZERO : c == 'e' ? REPEAT : RANDOM] = (uint32_t)value;
            break;
        case 'n':
            o->seed = value;
            break;
        case 't':
            o->list = optarg;
            break;
        default:
            return -1;
        }
    }
    uint32_t sum = 0;
    for (Kind k = ZERO; k < TEXT; k++) {
        if (o->share[k] > 100) {
            return -1;
        }
        sum += o->share[k];
    }
    if (o->pages == 0 || sum > 100 || !o->list || optind != argc - 1) {
        return -1;
    }
    o->share[TEXT] = 100 - sum;
    o->out = argv[optind];
    return 0;
}

static int
complain(const char *what)
{
    fprintf(stderr, "memimage: %s: %s\n", what, strerror(errno));
    return 1;
}

int
main(int argc, char **argv)
{
    Options o = {.seed = 1};
    if (parse(argc, argv, &o) != 0) {
        return usage();
    }
    Text text = {.list = fopen(o.list, "r")};
    uint8_t *image = calloc(o.pages, PAGE);
    if (!text.list || !image) {
        return complain(o.list);
    }
    if (fill(image, &o, &text) != 0) {
        return 1;
    }
    FILE *out = fopen(o.out, "wb");
    if (!out) {
        return complain(o.out);
    }
    size_t n = fwrite(image, PAGE, o.pages, out);
    if (fclose(out) != 0 || n != o.pages) {
        return complain(o.out);
    }
    printf("{\"pages\":%u", o.pages);
    for (Kind k = ZERO; k < KINDS; k++) {
        printf(",\"%s_pct\":%u", kind_names[k], o.share[k]);
    }
    printf(",\"seed\":%llu,\"files\":%llu}\n", (unsigned long long)o.seed,
           (unsigned long long)text.files);
    free(image);
    return 0;
}
