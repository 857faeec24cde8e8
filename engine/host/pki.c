/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/host/pki.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/host/address.h"
#include "engine/host/pki-x509.h"

/*
 * Nothing appears under its final name before it is whole: files are written and synced as
 * ".NAME.new" and renamed, a host's directory as one. The directory is locked meanwhile, so
 * leftovers of that name are of a run that died, and are removed.
 */

#define DAY (24 * 60 * 60)
#define CA_DAYS 3650
#define HOST_DAYS 730

/* OpenSSL's limit for a common name. */
#define NAME_MAX_BYTES 64

typedef struct {
    char *name;
    char *names; /* "DNS:...,IP:..." */
} Host;

typedef struct {
    X509 *cert;
    EVP_PKEY *key;
    char *text; /* ca.pem as it is, for the hosts' copies */
} Authority;

static void
host_free(Host *host)
{
    g_free(host->name);
    g_free(host->names);
    g_free(host);
}

static void
authority_clear(Authority *ca)
{
    X509_free(ca->cert);
    EVP_PKEY_free(ca->key);
    g_free(ca->text);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Authority, authority_clear)

static gboolean
is_address(const char *text)
{
    return drv_address_is_ip(text) || drv_address_is_host_name(text);
}

/* A name becomes a directory here and a common name there. */
static gboolean
check_name(const char *name, GError **error)
{
    if (is_address(name) && strlen(name) <= NAME_MAX_BYTES && !g_str_equal(name, "ca.pem") &&
        !g_str_equal(name, "ca-key.pem"))
        return TRUE;
    g_autofree char *shown = g_strescape(name, NULL);
    g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                "'%.80s' cannot be a host's name: use its host name or IP address, at most %d "
                "bytes, as in --host host1=10.0.0.1,host1.example",
                shown, NAME_MAX_BYTES);
    return FALSE;
}

static void
append_name(GString *names, const char *address)
{
    g_string_append_printf(names, "%s%s:%s", names->len > 0 ? "," : "",
                           drv_address_is_ip(address) ? "IP" : "DNS", address);
}

static Host *
parse_host(const char *text, GError **error)
{
    g_auto(GStrv) halves = g_strsplit(text, "=", 2);
    const char *name = halves[0] != NULL ? halves[0] : "";
    if (!check_name(name, error))
        return NULL;
    g_autoptr(GString) names = g_string_new(NULL);
    append_name(names, name);
    g_auto(GStrv) addresses = g_strsplit(halves[1] != NULL ? halves[1] : name, ",", -1);
    if (addresses[0] == NULL) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "the host %s has no address after the '=': name one, or leave the '=' out",
                    name);
        return NULL;
    }
    for (guint i = 0; halves[1] != NULL && addresses[i] != NULL; i++) {
        if (!is_address(addresses[i])) {
            g_autofree char *shown = g_strescape(addresses[i], NULL);
            g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                        "'%.80s' cannot be an address of the host %s: use host names and IP "
                        "addresses without ports or brackets, with commas between them",
                        shown, name);
            return NULL;
        }
        append_name(names, addresses[i]);
    }
    Host *host = g_new0(Host, 1);
    host->name = g_strdup(name);
    host->names = g_strdup(names->str);
    return host;
}

static GPtrArray *
parse_hosts(GPtrArray *texts, GError **error)
{
    g_autoptr(GPtrArray) hosts = g_ptr_array_new_with_free_func((GDestroyNotify)host_free);
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; i < texts->len; i++) {
        Host *host = parse_host(texts->pdata[i], error);
        if (host == NULL)
            return NULL;
        g_ptr_array_add(hosts, host);
        if (!g_hash_table_add(seen, host->name)) {
            g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                        "the host %s is given twice: put its addresses together, with commas",
                        host->name);
            return NULL;
        }
    }
    return g_steal_pointer(&hosts);
}

static gboolean
fail_io(const char *path, GError **error)
{
    int code = errno;
    g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "cannot write \"%s\": %s", path, g_strerror(code));
    return FALSE;
}

/* Writes and syncs a new file. */
static gboolean
write_new(const char *path, const char *text, int mode, GError **error)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0)
        return fail_io(path, error);
    gsize len = strlen(text), done = 0;
    while (done < len) {
        ssize_t n = write(fd, text + done, len - done);
        if (n < 0 && errno != EINTR)
            break;
        done += n > 0 ? (gsize)n : 0;
    }
    gboolean ok = (done == len && fsync(fd) == 0) || fail_io(path, error);
    close(fd);
    return ok;
}

static gboolean
write_file(const char *dir, const char *name, const char *text, int mode, GError **error)
{
    g_autofree char *hidden = g_strdup_printf("%s/.%s.new", dir, name);
    g_autofree char *path = g_build_filename(dir, name, NULL);
    g_unlink(hidden);
    if (write_new(hidden, text, mode, error) &&
        (g_rename(hidden, path) == 0 || fail_io(path, error)))
        return TRUE;
    g_unlink(hidden);
    return FALSE;
}

static void
remove_host_dir(const char *path)
{
    static const char *const files[] = {"ca.pem", "cert.pem", "key.pem"};
    for (guint i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *file = g_build_filename(path, files[i], NULL);
        g_unlink(file);
    }
    g_rmdir(path);
}

static gboolean
fill_host_dir(const char *path, const char *ca, const char *cert, const char *key, GError **error)
{
    g_autofree char *ca_path = g_build_filename(path, "ca.pem", NULL);
    g_autofree char *cert_path = g_build_filename(path, "cert.pem", NULL);
    g_autofree char *key_path = g_build_filename(path, "key.pem", NULL);
    return write_new(ca_path, ca, 0644, error) && write_new(cert_path, cert, 0644, error) &&
           write_new(key_path, key, 0600, error);
}

static gboolean
write_host(const char *dir, const char *name, const char *ca, const char *cert, const char *key,
           GError **error)
{
    g_autofree char *hidden = g_strdup_printf("%s/.%s.new", dir, name);
    g_autofree char *path = g_build_filename(dir, name, NULL);
    remove_host_dir(hidden);
    if (g_mkdir(hidden, 0700) != 0)
        return fail_io(hidden, error);
    /* A directory is never renamed over one with files in it, so no key is lost here. */
    if (fill_host_dir(hidden, ca, cert, key, error) &&
        (g_rename(hidden, path) == 0 || fail_io(path, error)))
        return TRUE;
    remove_host_dir(hidden);
    return FALSE;
}

static gint64
expiry(X509 *cert)
{
    struct tm tm;
    if (ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm) != 1)
        return 0;
    return (gint64)timegm(&tm);
}

static gboolean
make_host(const char *dir, const Host *host, const Authority *ca, GError **error)
{
    gint64 now = g_get_real_time() / G_USEC_PER_SEC;
    gint64 until = MIN(now + (gint64)HOST_DAYS * DAY, expiry(ca->cert));
    g_autoptr(EVP_PKEY) key = drv_x509_new_key(error);
    if (key == NULL)
        return FALSE;
    g_autoptr(X509) cert = drv_x509_new_host(host->name, host->names, key, ca->cert, ca->key,
                                             now - 3600, until, error);
    if (cert == NULL)
        return FALSE;
    g_autofree char *cert_text = drv_x509_cert_text(cert, error);
    char *key_text = cert_text != NULL ? drv_x509_key_text(key, error) : NULL;
    gboolean ok =
        key_text != NULL && write_host(dir, host->name, ca->text, cert_text, key_text, error);
    drv_x509_free_secret(key_text);
    return ok;
}

/* The key first: a certificate without its key would look like an authority kept elsewhere. */
static gboolean
make_authority(const char *dir, Authority *ca, GError **error)
{
    gint64 now = g_get_real_time() / G_USEC_PER_SEC;
    ca->key = drv_x509_new_key(error);
    if (ca->key == NULL)
        return FALSE;
    ca->cert = drv_x509_new_ca(ca->key, now - 3600, now + (gint64)CA_DAYS * DAY, error);
    if (ca->cert == NULL)
        return FALSE;
    ca->text = drv_x509_cert_text(ca->cert, error);
    char *key_text = ca->text != NULL ? drv_x509_key_text(ca->key, error) : NULL;
    gboolean ok = key_text != NULL && write_file(dir, "ca-key.pem", key_text, 0600, error) &&
                  write_file(dir, "ca.pem", ca->text, 0644, error);
    drv_x509_free_secret(key_text);
    return ok;
}

static gboolean
load_authority(const char *cert_path, const char *key_path, Authority *ca, GError **error)
{
    ca->cert = drv_x509_load_cert(cert_path, error);
    ca->key = ca->cert != NULL ? drv_x509_load_key(key_path, error) : NULL;
    if (ca->key == NULL || !drv_x509_check_pair(ca->cert, cert_path, ca->key, key_path, error) ||
        !drv_x509_check_dates(ca->cert, cert_path, error))
        return FALSE;
    if (X509_check_ca(ca->cert) == 0) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_TLS,
                    "\"%s\" is not the certificate of an authority: name another directory",
                    cert_path);
        return FALSE;
    }
    g_autoptr(GError) why = NULL;
    if (g_file_get_contents(cert_path, &ca->text, NULL, &why))
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "%s", why->message);
    return FALSE;
}

static gboolean
get_authority(const char *dir, Authority *ca, GError **error)
{
    g_autofree char *cert_path = g_build_filename(dir, "ca.pem", NULL);
    g_autofree char *key_path = g_build_filename(dir, "ca-key.pem", NULL);
    gboolean has_cert = g_file_test(cert_path, G_FILE_TEST_EXISTS);
    gboolean has_key = g_file_test(key_path, G_FILE_TEST_EXISTS);
    if (has_cert && has_key)
        return load_authority(cert_path, key_path, ca, error);
    if (!has_cert && !has_key)
        return make_authority(dir, ca, error);
    g_set_error(error, DRV_ERROR, DRV_ERROR_IO,
                "\"%s\" is there without \"%s\": bring the missing file back, or name another "
                "directory for a new authority",
                has_cert ? cert_path : key_path, has_cert ? key_path : cert_path);
    return FALSE;
}

static gboolean
refuse_existing(const char *dir, GPtrArray *hosts, GError **error)
{
    for (guint i = 0; i < hosts->len; i++) {
        const Host *host = hosts->pdata[i];
        g_autofree char *path = g_build_filename(dir, host->name, NULL);
        if (!g_file_test(path, G_FILE_TEST_EXISTS) && !g_file_test(path, G_FILE_TEST_IS_SYMLINK))
            continue;
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "the host %s has a key in \"%s\" already, nothing was changed: leave the host "
                    "out, or move that directory away to have a new key made",
                    host->name, path);
        return FALSE;
    }
    return TRUE;
}

/* Opens and locks the directory, making it if need be; -1 on error. */
static int
lock_dir(const char *dir, GError **error)
{
    int fd = -1;
    if (g_mkdir_with_parents(dir, 0700) == 0)
        fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0 && flock(fd, LOCK_EX) == 0)
        return fd;
    fail_io(dir, error);
    if (fd >= 0)
        close(fd);
    return -1;
}

static gboolean
make_all(const char *dir, GPtrArray *hosts, GError **error)
{
    g_auto(Authority) ca = {NULL};
    if (!refuse_existing(dir, hosts, error) || !get_authority(dir, &ca, error))
        return FALSE;
    for (guint i = 0; i < hosts->len; i++) {
        if (!make_host(dir, hosts->pdata[i], &ca, error))
            return FALSE;
    }
    return TRUE;
}

gboolean
drv_pki_init(const char *dir, GPtrArray *hosts, GError **error)
{
    g_autoptr(GPtrArray) parsed = parse_hosts(hosts, error);
    if (parsed == NULL)
        return FALSE;
    int fd = lock_dir(dir, error);
    if (fd < 0)
        return FALSE;
    gboolean ok = make_all(dir, parsed, error);
    if (ok && fsync(fd) != 0)
        ok = fail_io(dir, error);
    close(fd);
    return ok;
}
