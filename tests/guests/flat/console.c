/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/guests/flat/console.h"

/* One instruction, so that under KVM a line costs one exit and not one a character. */
static void
say_bytes(const char *bytes, uint32_t n)
{
    __asm__ volatile("rep outsb" : "+S"(bytes), "+c"(n) : "d"(0xe9) : "memory");
}

void
say(const char *text)
{
    uint32_t n = 0;
    while (text[n] != '\0') {
        n++;
    }
    say_bytes(text, n);
}

void
say_hex(const char *prefix, uint32_t value, char end)
{
    static const char digits[16] = "0123456789abcdef";
    char line[16];
    uint32_t n = 0;
    while (*prefix != '\0' && n < 6) {
        line[n++] = *prefix++;
    }
    for (int shift = 28; shift >= 0; shift -= 4) {
        line[n++] = digits[value >> shift & 15];
    }
    line[n++] = end;
    say_bytes(line, n);
}

void
fail(const char *what)
{
    say("error ");
    say(what);
    say("\n");
    for (;;) {
        __asm__ volatile("cli; hlt");
    }
}
