/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/guests/flat/layout.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * mkpool text|random FILE: the flat guest's pool of page bodies, for
 * '-fw_cfg name=opt/drover/pool,file=FILE' and pool=host.
 */
int
main(int argc, char **argv)
{
    if (argc != 3 || (strcmp(argv[1], "text") != 0 && strcmp(argv[1], "random") != 0)) {
        fprintf(stderr, "usage: mkpool text|random FILE\n");
        return 2;
    }
    uint32_t *pool = calloc(FLAT_POOL_WORDS, sizeof *pool);
    FILE *out = fopen(argv[2], "wb");
    if (!pool || !out) {
        fprintf(stderr, "mkpool: %s: %s\n", argv[2], strerror(errno));
        return 1;
    }
    if (strcmp(argv[1], "random") == 0) {
        flat_pool_fill_random(pool);
    } else {
        flat_pool_fill_text(pool);
    }
    size_t n = fwrite(pool, sizeof *pool, FLAT_POOL_WORDS, out);
    if (fclose(out) != 0 || n != FLAT_POOL_WORDS) {
        fprintf(stderr, "mkpool: %s: %s\n", argv[2], strerror(errno));
        return 1;
    }
    free(pool);
    return 0;
}
