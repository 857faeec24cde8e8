/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdint.h>

/* The debug console (port 0xe9). */
void say(const char *text);

/* 'prefix' (at most 6 characters), eight hex digits, 'end'. */
void say_hex(const char *prefix, uint32_t value, char end);

/* Says "error 'what'" and stops the machine for good. */
__attribute__((noreturn)) void fail(const char *what);
