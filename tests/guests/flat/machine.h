/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdint.h>

void out8(uint16_t port, uint8_t value);
uint8_t in8(uint16_t port);
void out32_many(uint16_t port, const uint32_t *words, uint32_t n);

/* Starts the timer at 'hz' interrupts a second, 19 to 10000. */
void timer_start(uint32_t hz);

/* Sleeps until at least one tick has passed since 'seen'; returns the new count. */
uint32_t timer_wait(uint32_t seen);

/* The selector of a file that the host offers by -fw_cfg, 0 when there is none. */
uint16_t fwcfg_find(const char *name);

/* Lets the host's firmware device copy a piece of a file to memory, as a disk would by DMA. */
void fwcfg_read(uint16_t selector, uint32_t offset, void *to, uint32_t bytes);
