/* SPDX-License-Identifier: Apache-2.0 */

/* seeds DIR: writes what the fuzzers begin with to DIR/stream and DIR/multifd. */
#include "precopy/test-sample.h"

#include <stdio.h>
#include <stdlib.h>

static void
write_seeds(const char *dir, const char *target, const char *name, const GByteArray *sample)
{
    g_autofree char *folder = g_build_filename(dir, target, NULL);
    if (g_mkdir_with_parents(folder, 0755) != 0) {
        perror(folder);
        exit(1);
    }
    for (guint8 how = 0; how < 16; how++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *path = g_strdup_printf("%s/%s-%u", folder, name, how);
        g_autoptr(GByteArray) seed = g_byte_array_new();
        g_byte_array_append(seed, &how, 1);
        g_byte_array_append(seed, sample->data, sample->len);
        if (!g_file_set_contents(path, (const char *)seed->data, seed->len, &error)) {
            fprintf(stderr, "seeds: %s\n", error->message);
            exit(1);
        }
    }
}

int
main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: seeds DIR\n");
        return 2;
    }
    g_autoptr(GByteArray) multifd = sample_multifd();
    g_autoptr(GByteArray) stream = sample_stream(FALSE, 2);
    g_autoptr(GByteArray) iterables = sample_stream(TRUE, 2);
    write_seeds(argv[1], "stream", "plain", stream);
    write_seeds(argv[1], "stream", "iterables", iterables);
    write_seeds(argv[1], "multifd", "multifd", multifd);
    return 0;
}
