/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/guests/flat/params.h"

#include "tests/guests/flat/console.h"
#include "tests/guests/flat/layout.h"

const char *const mode_names[MODE_LAST] = {"idle", "sparse", "rewrite", "random"};

/* The text after "name=" where it stands as a word of 'line', or NULL. */
static const char *
find_value(const char *line, const char *name)
{
    for (const char *word = line; *word != '\0'; word++) {
        if (word != line && word[-1] != ' ') {
            continue;
        }
        uint32_t i = 0;
        while (name[i] != '\0' && word[i] == name[i]) {
            i++;
        }
        if (name[i] == '\0' && word[i] == '=') {
            return word + i + 1;
        }
    }
    return 0;
}

static int
word_is(const char *value, const char *word)
{
    while (*word != '\0' && *value == *word) {
        value++;
        word++;
    }
    return *word == '\0' && (*value == '\0' || *value == ' ');
}

static uint32_t
number(const char *line, const char *name, uint32_t fallback)
{
    const char *s = find_value(line, name);
    if (!s) {
        return fallback;
    }
    uint32_t base = 10, value = 0;
    if (s[0] == '0' && s[1] == 'x') {
        base = 16;
        s += 2;
    }
    const char *first = s;
    for (; *s != '\0' && *s != ' '; s++) {
        uint32_t digit = *s >= 'a' ? (uint32_t)(*s - 'a') + 10 : (uint32_t)(*s - '0');
        if (digit >= base) {
            fail(name);
        }
        value = value * base + digit;
    }
    if (s == first) {
        fail(name);
    }
    return value;
}

static Mode
parse_mode(const char *line)
{
    const char *value = find_value(line, "mode");
    for (Mode m = 0; value && m < MODE_LAST; m++) {
        if (word_is(value, mode_names[m])) {
            return m;
        }
    }
    if (value) {
        fail("mode");
    }
    return MODE_IDLE;
}

static uint32_t
parse_body(const char *line, Mode mode)
{
    const char *value = find_value(line, "body");
    if (!value) {
        return mode == MODE_RANDOM ? FLAT_MAGIC_RANDOM : FLAT_MAGIC_TEXT;
    }
    if (!word_is(value, "text") && !word_is(value, "random")) {
        fail("body");
    }
    return word_is(value, "random") ? FLAT_MAGIC_RANDOM : FLAT_MAGIC_TEXT;
}

static int
parse_host_pool(const char *line)
{
    const char *value = find_value(line, "pool");
    if (value && !word_is(value, "own") && !word_is(value, "host")) {
        fail("pool");
    }
    return value && word_is(value, "host");
}

Params
params_parse(const char *line)
{
    Params p = {
        .start = number(line, "start", FLAT_PAGES_ADDR),
        .pages = number(line, "pages", 4096),
        .step = number(line, "step", 1),
        .hz = number(line, "hz", 0),
        .rate = number(line, "rate", 0),
        .delay = number(line, "delay", 0),
        .beat = number(line, "beat", 64),
        .disk_sectors = number(line, "disk", 0),
        .burst = number(line, "burst", 1),
        .lull = number(line, "lull", 1),
        .mode = parse_mode(line),
    };
    p.magic = parse_body(line, p.mode);
    p.host_pool = parse_host_pool(line);
    if (p.start < FLAT_POOL_ADDR + FLAT_POOL_WORDS * 4 || p.start % FLAT_PAGE_BYTES != 0) {
        fail("start");
    }
    if (p.pages == 0 || p.pages > (FLAT_PAGES_END - p.start) / FLAT_PAGE_BYTES) {
        fail("pages");
    }
    if (p.step == 0 || p.step > p.pages) {
        fail("step");
    }
    if (p.beat == 0) {
        fail("beat");
    }
    if (p.hz != 0 && (p.hz < 19 || p.hz > 10000)) {
        fail("hz");
    }
    if (p.rate != 0 && (p.hz == 0 || p.mode == MODE_IDLE)) {
        fail("rate needs hz and a writing mode");
    }
    if (p.disk_sectors != 0 && (p.hz == 0 || (p.rate == 0 && p.mode != MODE_IDLE))) {
        fail("disk needs hz, and rate when writing");
    }
    /* A power of two, as the drive wants it. */
    if (p.burst == 0 || p.burst > FLAT_MAX_BURST || (p.burst & (p.burst - 1)) != 0 ||
        p.disk_sectors % p.burst != 0) {
        fail("burst");
    }
    if (p.lull == 0) {
        fail("lull");
    }
    if ((p.mode == MODE_REWRITE && p.magic != FLAT_MAGIC_TEXT) ||
        (p.mode == MODE_RANDOM && p.magic != FLAT_MAGIC_RANDOM)) {
        fail("body does not fit the mode");
    }
    return p;
}
