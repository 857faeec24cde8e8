/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/host/config.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"

/* A file with that text; the caller frees the path and removes the file. */
static char *
write_config(const char *text)
{
    char *path = NULL;
    int fd = g_file_open_tmp("droverd-XXXXXX.conf", &path, NULL);
    g_assert_cmpint(fd, >=, 0);
    close(fd);
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    return path;
}

/* As droverd would: 'line' split at blanks. */
static DrvConfig *
from_line(const char *line, GError **error)
{
    g_autofree char *whole = g_strconcat("droverd ", line, NULL);
    g_auto(GStrv) words = g_strsplit(whole, " ", -1);
    int argc = (int)g_strv_length(words);
    /* The option parser takes words out, which are then nobody's: give it a copy of the array. */
    g_autofree char **argv = g_memdup2(words, sizeof(char *) * (gsize)(argc + 1));
    return drv_config_from_args(&argc, &argv, error);
}

#define LEAST "--state /s --listen [::]:7001 --pki /p --api /a.sock"

static void
test_command_line(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvConfig) config = from_line(LEAST, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(config->state_dir, ==, "/s");
    g_assert_cmpstr(config->listen, ==, "[::]:7001");
    g_assert_cmpstr(config->pki_dir, ==, "/p");
    g_assert_cmpstr(config->api, ==, "/a.sock");
    g_assert_null(config->name);
    g_assert_cmpint(config->log_level, ==, DRV_LOG_INFO);
    g_assert_cmpint(config->threads, ==, 0);
    g_assert_cmpint(config->lanes, ==, 0);
    g_assert_cmpint(config->bandwidth, ==, 0);
    g_assert_false(config->kernel_tls);
    g_assert_true(config->numa);
    g_assert_false(config->huge_pages);
    g_assert_cmpint(config->drop_timeout_s, ==, 60);
    g_assert_null(config->fence_command);
    g_assert_false(config->show_version);

    g_autoptr(DrvConfig) version = from_line("--version", &error);
    g_assert_no_error(error);
    g_assert_true(version->show_version);
}

static void
test_file(void)
{
    g_autofree char *path = write_config("# a comment\n"
                                         "[daemon]\n"
                                         "state=/var/lib/drover\n"
                                         "listen = 0.0.0.0:7001  \n"
                                         "pki=/etc/drover/pki\n"
                                         "api=/run/drover.sock\n"
                                         "name=host1\n"
                                         "log-level=debug\n"
                                         "images=/tmp:/usr\n"
                                         "\n"
                                         "[transfer]\n"
                                         "threads=64\n"
                                         "lanes=4\n"
                                         "bandwidth=125000000\n"
                                         "kernel-tls=auto\n"
                                         "numa=off\n"
                                         "huge-pages=auto\n"
                                         "[migration]\n"
                                         "drop-timeout=5\n"
                                         "fence-command=/bin/sh -c 'exit 0'\n");
    g_autoptr(GError) error = NULL;
    g_autofree char *alone = g_strconcat("--config ", path, NULL);
    g_autoptr(DrvConfig) config = from_line(alone, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(config->state_dir, ==, "/var/lib/drover");
    g_assert_cmpstr(config->listen, ==, "0.0.0.0:7001");
    g_assert_cmpstr(config->pki_dir, ==, "/etc/drover/pki");
    g_assert_cmpstr(config->api, ==, "/run/drover.sock");
    g_assert_cmpstr(config->name, ==, "host1");
    g_assert_cmpint(config->log_level, ==, DRV_LOG_DEBUG);
    g_assert_cmpuint(g_strv_length(config->images), ==, 2);
    g_assert_cmpstr(config->images[1], ==, "/usr");
    g_assert_cmpint(config->threads, ==, 64);
    g_assert_cmpint(config->lanes, ==, 4);
    g_assert_cmpint(config->bandwidth, ==, 125000000);
    g_assert_true(config->kernel_tls);
    g_assert_false(config->numa);
    g_assert_true(config->huge_pages);
    g_assert_cmpint(config->drop_timeout_s, ==, 5);
    g_assert_cmpuint(g_strv_length(config->fence_command), ==, 3);
    g_assert_cmpstr(config->fence_command[0], ==, "/bin/sh");
    g_assert_cmpstr(config->fence_command[2], ==, "exit 0");

    /* Options win, wherever they stand. */
    g_autofree char *both =
        g_strconcat("--name host2 --log-level error --state /other --config ", path, NULL);
    g_autoptr(DrvConfig) mixed = from_line(both, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(mixed->name, ==, "host2");
    g_assert_cmpint(mixed->log_level, ==, DRV_LOG_ERROR);
    g_assert_cmpstr(mixed->state_dir, ==, "/other");
    g_assert_cmpstr(mixed->api, ==, "/run/drover.sock");
    g_remove(path);
}

/* Who may is told apart from nobody may, and from nothing being said about it. */
static void
test_access(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvConfig) config = drv_config_new();
    g_assert_cmpint(config->api_group, ==, -1);
    g_assert_null(config->allow_from);
    g_assert_null(config->allow_to);
    g_assert_cmpint(config->sessions, ==, 16);
    g_assert_true(config->sandbox);
    g_assert_null(config->tunnels_to);
    g_assert_null(config->tunnels_from);
    g_autofree char *path = write_config("[daemon]\napi-group=root\n[incoming]\nallow=alpha, "
                                         "beta.example.org  10.0.0.1\nsessions=256\n"
                                         "tunnels=/:/tmp\n[outgoing]\nallow=\ntunnels=\n");
    g_assert_true(drv_config_load(config, path, &error));
    g_assert_no_error(error);
    g_assert_cmpint(config->api_group, ==, 0);
    const char *const from[] = {"alpha", "beta.example.org", "10.0.0.1", NULL};
    g_assert_true(g_strv_equal((const char *const *)config->allow_from, from));
    g_assert_nonnull(config->allow_to);
    g_assert_cmpint(config->sessions, ==, 256);
    g_assert_cmpuint(g_strv_length(config->tunnels_to), ==, 2);
    g_assert_cmpstr(config->tunnels_to[1], ==, "/tmp");
    g_assert_nonnull(config->tunnels_from);
    g_assert_cmpuint(g_strv_length(config->tunnels_from), ==, 0);
    g_assert_cmpuint(g_strv_length(config->allow_to), ==, 0);
    g_remove(path);
}

static void
test_bad_options(void)
{
    static const struct {
        const char *line, *says;
    } cases[] = {
        {"--listen h:1 --pki /p --api /a",
         "--state is missing: give it, or 'state=' under [daemon] in the configuration file"},
        {"--state /s --pki /p --api /a", "--listen is missing"},
        {"--state /s --listen h:1 --api /a", "--pki is missing"},
        {"--state /s --listen h:1 --pki /p", "--api is missing"},
        {LEAST " --lane 3", "Unknown option --lane: 'droverd --help' lists the options"},
        {LEAST " extra", "'extra' is not an option"},
        {LEAST " --name", "Missing argument for --name"},
        {LEAST " --name a/b", "--name is 'a/b': it must be a host name or IP address"},
        {LEAST " --name a\nb", "--name is 'a\\nb'"},
        {LEAST " --log-level loud",
         "--log-level is 'loud': it must be error, warning, info or debug"},
        {"--state= --listen h:1 --pki /p --api /a", "--state is '': it must be a path"},
        {"--state /s --listen h --pki /p --api /a",
         "--listen: 'h' is not an ADDR:PORT: the port is missing"},
        {"--state /s --listen h:1 --pki /p --api=", "--api is '': it must be a path of at most"},
        {LEAST " --config /nonexistent/droverd.conf",
         "cannot use the configuration file '/nonexistent/droverd.conf': "},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(DrvConfig) config = from_line(cases[i].line, &error);
        g_assert_null(config);
        g_assert_error(error, DRV_ERROR, DRV_ERROR_USAGE);
        if (strstr(error->message, cases[i].says) == NULL)
            g_error("'%s' gave: %s", cases[i].line, error->message);
    }
}

static void
test_bad_files(void)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"[demon]\nname=a\n",
         ", line 1: the group [demon] is not known: there are [daemon], [transfer], [migration], "
         "[incoming] and [outgoing]"},
        {"[daemon]\n\n[x y]\n", ", line 3: the group [x y] is not known"},
        {"# x\n[daemon]\nname=a\n nmae = b\n",
         ", line 4: 'nmae' is not known in [daemon]: there are state, listen, pki, api, name, "
         "log-level, images, api-group"},
        {"[transfer]\ndrop-timeout=3\n",
         ", line 2: 'drop-timeout' is not known in [transfer]: there are threads, lanes, "
         "bandwidth, kernel-tls, numa, huge-pages"},
        {"[daemon]\nlanes=3\n[transfer]\nlanes=3\n", ", line 2: 'lanes' is not known in [daemon]"},
        {"[transfer]\nlanes=17\n", ", line 2: lanes is '17': it must be a whole number from 1 to "
                                   "16, or 0 (automatic)"},
        {"[transfer]\nlanes=3\nlanes=x\n", ", line 3: lanes is 'x'"},
        {"[transfer]\nlanes=4 # four\n", "lanes is '4 # four'"},
        {"[transfer]\nlanes=\n", "lanes is ''"},
        {"[transfer]\nlanes=-1\n", "lanes is '-1'"},
        {"[transfer]\nthreads=65\n", "from 1 to 64, or 0 (automatic)"},
        {"[transfer]\nbandwidth=1000\n", "from 65536 to 1099511627776, or 0 (unlimited)"},
        {"[transfer]\nbandwidth=99999999999999999999\n", "bandwidth is '99999999999999999999'"},
        {"[transfer]\nbandwidth=100M\n", "bandwidth is '100M'"},
        {"[transfer]\nkernel-tls=on\n", ", line 2: kernel-tls is 'on': it must be off or auto"},
        {"[migration]\ndrop-timeout=0\n", "drop-timeout is '0': it must be a whole number from 1"},
        {"[migration]\ndrop-timeout=86401\n", "from 1 to 86400"},
        {"[daemon]\nimages=tmp\n", "absolute paths of folders that are there"},
        {"[daemon]\nimages=/tmp:\n", "absolute paths of folders that are there"},
        {"[daemon]\nimages=/tmp:/nonexistent\n", "absolute paths of folders that are there"},
        {"[daemon]\nimages=\n", "absolute paths of folders that are there"},
        {"[migration]\nfence-command=fence\n", "an absolute path and arguments, quoted"},
        {"[migration]\nfence-command=/bin/sh 'x\n", "an absolute path and arguments, quoted"},
        {"[migration]\nfence-command=\n", "an absolute path and arguments, quoted"},
        {"[migration]\nfence-command=''\n", "an absolute path and arguments, quoted"},
        {"[migration]\nfence-command=/nonexistent/fence\n",
         "a program that is there and may be run"},
        {"[migration]\nfence-command=/tmp\n", "a program that is there and may be run"},
        {"[daemon]\napi-group=no-such-group\n",
         ", line 2: api-group is 'no-such-group': it must be the name of a group of this host"},
        {"[daemon]\napi-group=\n", "the name of a group of this host"},
        {"[incoming]\nallow=a b/c d\n", ", line 2: allow is 'b/c': it must be names of hosts as in "
                                        "their certificates, with blanks in between"},
        {"[incoming]\ntunnels=run\n", ", line 2: tunnels is 'run': it must be absolute paths of "
                                      "folders that are there"},
        {"[incoming]\nsessions=0\n",
         ", line 2: sessions is '0': it must be a whole number from 1 to 256"},
        {"[outgoing]\nallow=*\n", ", line 2: allow is '*': it must be names of hosts"},
        {"[incoming]\ndeny=a\n", ", line 2: 'deny' is not known in [incoming]: there are allow"},
        {"[daemon]\nlog-level=INFO\n", "line 2: log-level is 'INFO'"},
        {"[daemon]\nlisten=fd00::1:7001\n", ", line 2: listen: 'fd00::1:7001' is not an ADDR:PORT"},
        {"[daemon]\nname=a\\qb\n", ", line 2: name is 'a\\\\qb': it must be a host name"},
        {"[daemon]\nname=\xff\xfe\n", ", line 2: it must be UTF-8 text"},
        {"[daemon]\n\xa4name=a\n", ", line 2: it must be UTF-8 text"},
        {"[daemon]\n\n# \xa4\n", ", line 3: it must be UTF-8 text"},
        {"[d\xc3\xa9]\na=b\n", "the group [d\\303\\251] is not known"},
        {"name=a\n", "cannot use the configuration file"},
        {"[daemon]\nhello\n", "hello"},
        {"[daemon\n", "cannot use the configuration file"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(DrvConfig) config = drv_config_new();
        g_autofree char *path = write_config(cases[i].text);
        g_assert_false(drv_config_load(config, path, &error));
        g_assert_error(error, DRV_ERROR, DRV_ERROR_USAGE);
        if (strstr(error->message, cases[i].says) == NULL)
            g_error("%s\ngave: %s", cases[i].text, error->message);
        g_assert_nonnull(strstr(error->message, path));
        g_assert_true(g_utf8_validate(error->message, -1, NULL));
        g_remove(path);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/config/command-line", test_command_line);
    g_test_add_func("/config/file", test_file);
    g_test_add_func("/config/access", test_access);
    g_test_add_func("/config/bad-options", test_bad_options);
    g_test_add_func("/config/bad-files", test_bad_files);
    return g_test_run();
}
