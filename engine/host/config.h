/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * droverd's configuration: defaults, then the file named by --config, then the command line.
 *
 *   [daemon]
 *   state=DIR           --state      where the journal is kept; required
 *   listen=ADDR:PORT    --listen     where other daemons reach this one (port 0: any); required
 *   pki=DIR             --pki        this host's directory as 'drover pki init' made it; required
 *   api=SOCKET          --api        the unix socket for the drover command and scripts; required
 *   name=NAME           --name       what this host is called; default: the name in its certificate
 *   log-level=LEVEL     --log-level  error, warning, info (default) or debug
 *   images=DIR:DIR      the folders that disk images may be copied from and to; default: any but
 *                       those where the system keeps its own files
 *   api-group=GROUP     its members may use the API, too; default: the daemon's user and root alone
 *   sandbox=off|auto    auto (default): capabilities and system calls that neither droverd nor what
 *                       it starts needs are given up
 *
 *   [transfer]
 *   threads=N           data threads, 1 to 64; 0 (default): drover chooses from the cores
 *   lanes=N             connections a session, for jobs that do not say, 1 to 16; 0 (default):
 *                       drover chooses
 *   bandwidth=BYTES     bytes a second that all jobs together may send, from 65536; 0 (default):
 *                       unlimited
 *   kernel-tls=off|auto auto: the kernel encrypts what is sent, where it can; default off
 *   numa=off|auto       auto (default): threads, buffers and guests' memory are placed on the nodes
 *                       of a host with several
 *   huge-pages=off|auto auto: buffers are of reserved huge pages, if there are any; default off, as
 *                       these are mostly reserved for guests
 *
 *   [migration]
 *   drop-timeout=S      how long a lost link is waited for, for jobs that do not say, 1 to 86400;
 *                       default 60
 *   dedup-memory=BYTES  memory for pages that are kept for guests on their way here, so that others
 *                       of them need not bring the same, from 1 MiB; 0: none is kept; default 1 GiB
 *   fence-command=CMD   run when a job is in doubt, with the peer's ADDR:PORT as one more argument;
 *                       it exits 0 only when the peer is certainly dead, and the guest then goes on
 *                       here. An absolute path and arguments, quoted as for a shell, but run
 *                       without one. Default: none, a person decides with 'drover resolve'
 *
 *   [incoming]
 *   allow=NAME...       the hosts, by the names in their certificates, that may begin something
 *                       here: bring a guest, open a tunnel, measure the link. Nothing after
 *                       the equals sign: none may. Default: every host with a certificate of the CA
 *   tunnels=DIR:DIR     the folders of the sockets that other hosts' tunnels may lead to. Nothing
 *                       after the equals sign: none. Default: any but those by which this host is
 *                       administered
 *   sessions=N          sessions that one host may have open here, 1 to 256; default 16
 *
 *   [outgoing]
 *   allow=NAME...       the hosts to which something may be sent from here; likewise
 *   tunnels=DIR:DIR     the folders in which tunnels from here may listen; likewise. Default: any
 */
typedef enum { DRV_LOG_ERROR, DRV_LOG_WARNING, DRV_LOG_INFO, DRV_LOG_DEBUG } DrvLogLevel;

typedef struct {
    /* NULL where not given; the first four are never NULL after drv_config_from_args(). */
    char *state_dir;
    char *listen;
    char *pki_dir;
    char *api;
    char *name;
    DrvLogLevel log_level;
    char **images;    /* NULL: not given */
    gint64 api_group; /* its id, or -1 */
    gboolean sandbox;

    gint64 threads;
    gint64 lanes;
    gint64 bandwidth;
    gboolean kernel_tls;
    gboolean numa;
    gboolean huge_pages;

    gint64 drop_timeout_s;
    gint64 dedup_memory;
    char **fence_command; /* argv, or NULL */

    /* Names of hosts; NULL: all, empty: none. */
    char **allow_from;
    char **allow_to;
    gint64 sessions; /* that one host may open here */
    /* Folders; NULL: nobody has said, empty: none. */
    char **tunnels_to;   /* of sockets here that other hosts' tunnels lead to */
    char **tunnels_from; /* of sockets here that our own begin at */

    gboolean show_version; /* --version: nothing else was checked */
} DrvConfig;

/* The defaults. Owned by the caller. */
DrvConfig *drv_config_new(void);
void drv_config_free(DrvConfig *config);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvConfig, drv_config_free)

/* All of it: what droverd is started with. '--help' prints and exits. Takes what it understands out
 * of argv, and refuses the rest. Fails with DRV_ERROR_USAGE. */
DrvConfig *drv_config_from_args(int *argc, char ***argv, GError **error);

/* Takes over a file's settings. A group or key that is not known, or a value that is not allowed,
 * is refused with file, line, name and what is allowed. Fails with DRV_ERROR_USAGE, and the
 * configuration is then good for nothing but drv_config_free(). */
gboolean drv_config_load(DrvConfig *config, const char *path, GError **error);
