/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/daemon/tunnel-allow.h"

#include "common/error.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

/* DIR/in/socket, and DIR/out/link to it; DIR/in/link to DIR/out/socket. */
typedef struct {
    char *dir, *in, *out;
} Place;

static char *
put(const char *folder, const char *name, const char *target)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    if (target != NULL)
        g_assert_cmpint(symlink(target, path), ==, 0);
    else
        g_assert_true(g_file_set_contents(path, "", 0, NULL));
    return g_steal_pointer(&path);
}

static void
begin(Place *place)
{
    g_autofree char *given = g_dir_make_tmp("tunnel-XXXXXX", NULL);
    place->dir = g_canonicalize_filename(given, NULL);
    place->in = g_build_filename(place->dir, "in", NULL);
    place->out = g_build_filename(place->dir, "out", NULL);
    g_assert_cmpint(g_mkdir(place->in, 0700) | g_mkdir(place->out, 0700), ==, 0);
}

static void
end(Place *place)
{
    static const char *const files[] = {"in/socket", "in/link", "out/socket",
                                        "out/link",  "in",      "out"};
    for (guint i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *path = g_build_filename(place->dir, files[i], NULL);
        g_remove(path);
    }
    g_assert_cmpint(g_rmdir(place->dir), ==, 0);
    g_free(place->dir);
    g_free(place->in);
    g_free(place->out);
}

/* What it opens is what 'real' is. */
static void
leads_to(char *const *folders, const char *path, const char *real)
{
    g_autoptr(GError) error = NULL;
    int fd = drv_tunnel_allow_to(folders, path, &error);
    g_assert_no_error(error);
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", fd);
    g_autofree char *found = g_file_read_link(link, NULL);
    g_assert_cmpstr(found, ==, real);
    close(fd);
}

static void
expect(GError *error, const char *path, DrvErrorCode code, const char *words)
{
    g_autoptr(GError) owned = error;
    g_assert_error(owned, DRV_ERROR, (gint)code);
    g_assert_nonnull(strstr(owned->message, path));
    g_assert_nonnull(strstr(owned->message, words));
}

static void
leads_nowhere(char *const *folders, const char *path, DrvErrorCode code, const char *words)
{
    GError *error = NULL;
    g_assert_cmpint(drv_tunnel_allow_to(folders, path, &error), ==, -1);
    expect(error, path, code, words);
}

static void
test_to(void)
{
    Place place;
    begin(&place);
    g_autofree char *socket = put(place.in, "socket", NULL);
    g_autofree char *other = put(place.out, "socket", NULL);
    g_autofree char *in = put(place.out, "link", socket);
    g_autofree char *out = put(place.in, "link", other);
    g_autofree char *dots = g_strconcat(place.in, "/../out/socket", NULL);
    char *folders[] = {(char *)"/nonexistent", place.in, NULL}, *none[] = {NULL};
    const char *words = "in none of the folders that tunnels of other hosts may lead to";
    leads_to(folders, socket, socket);
    leads_to(folders, in, socket);
    leads_nowhere(folders, other, DRV_ERROR_STATE, words);
    leads_nowhere(folders, out, DRV_ERROR_STATE, words);
    leads_nowhere(folders, dots, DRV_ERROR_STATE, "under [incoming]");
    leads_nowhere(none, socket, DRV_ERROR_STATE, words);
    leads_to(NULL, out, other);
    leads_nowhere(NULL, "/nonexistent/x", DRV_ERROR_UNREACHABLE, "No such file or directory");
    end(&place);
}

/* By any way there. */
static void
test_administration(void)
{
    Place place;
    begin(&place);
    g_autofree char *link = put(place.out, "link", "/proc/version");
    char *folders[] = {(char *)"/proc", NULL};
    leads_nowhere(NULL, "/proc/version", DRV_ERROR_STATE, "is administered");
    leads_nowhere(NULL, link, DRV_ERROR_STATE, "is administered");
    leads_to(folders, link, "/proc/version");
    end(&place);
}

static void
begins_nowhere(char *const *folders, const char *path, DrvErrorCode code, const char *words)
{
    GError *error = NULL;
    g_assert_false(drv_tunnel_allow_from(folders, path, &error));
    expect(error, path, code, words);
}

static void
test_from(void)
{
    Place place;
    begin(&place);
    g_autofree char *link = put(place.in, "link", place.out);
    g_autofree char *inside = g_build_filename(place.in, "new", NULL);
    g_autofree char *outside = g_build_filename(link, "new", NULL);
    char *folders[] = {place.in, NULL}, *none[] = {NULL};
    const char *words = "in none of the folders that tunnels may begin in";
    g_assert_true(drv_tunnel_allow_from(folders, inside, NULL));
    begins_nowhere(folders, outside, DRV_ERROR_STATE, words);
    begins_nowhere(none, inside, DRV_ERROR_STATE, "under [outgoing]");
    begins_nowhere(folders, "/nonexistent/x", DRV_ERROR_USAGE, "cannot listen on");
    g_assert_true(drv_tunnel_allow_from(NULL, outside, NULL));
    end(&place);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/tunnel-allow/to", test_to);
    g_test_add_func("/tunnel-allow/administration", test_administration);
    g_test_add_func("/tunnel-allow/from", test_from);
    return g_test_run();
}
