/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/guests/flat/pool.h"

#include "tests/guests/flat/console.h"
#include "tests/guests/flat/layout.h"
#include "tests/guests/flat/machine.h"

#define POOL_FILE "opt/drover/pool"

Pool
pool_prepare(const Params *params)
{
    Pool pool = {0};
    if (params->host_pool) {
        pool.file = fwcfg_find(POOL_FILE);
        if (pool.file == 0) {
            fail("no -fw_cfg file " POOL_FILE);
        }
    } else if (params->magic == FLAT_MAGIC_RANDOM) {
        flat_pool_fill_random((uint32_t *)FLAT_POOL_ADDR);
    } else {
        flat_pool_fill_text((uint32_t *)FLAT_POOL_ADDR);
    }
    return pool;
}

void
pool_copy(const Pool *pool, uint32_t start, uint32_t *to, uint32_t words)
{
    if (pool->file != 0) {
        fwcfg_read(pool->file, start * 4, to, words * 4);
        return;
    }
    const uint32_t *from = (const uint32_t *)FLAT_POOL_ADDR + start;
    __asm__ volatile("rep movsl" : "+S"(from), "+D"(to), "+c"(words) : : "memory");
}
