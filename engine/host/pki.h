/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * A private certificate authority, for hosts that have none:
 *
 *   DIR/ca.pem, DIR/ca-key.pem            the authority; the key stays where 'pki init' is run
 *   DIR/NAME/{ca,cert,key}.pem            what a host's droverd is given with --pki
 *
 * Keys are EC P-256, readable by their owner only. The authority lasts ten years, a host's
 * certificate two (but not longer than the authority), and both are valid from an hour ago, for
 * hosts whose clocks differ a little. A host's certificate is for server and client alike: who
 * listens and who connects is a matter of which way a guest moves.
 */

/*
 * Makes the authority where there is none, and a key and certificate for each host, given as
 * "NAME" or "NAME=ADDR,ADDR..." (ADDR: host name or IP address under which the others reach it, in
 * addition to NAME).
 *
 * An existing authority is used, and never replaced; a host that has a directory already is
 * refused, and then nothing is done for the others either. Fails with DRV_ERROR_USAGE (hosts),
 * DRV_ERROR_IO (files) or DRV_ERROR_TLS (an existing authority that cannot be used).
 */
gboolean drv_pki_init(const char *dir, GPtrArray *hosts, GError **error);

/*
 * What droverd checks before it listens: that the host's directory has all three files, that the
 * key is nobody else's to read and belongs to the certificate, that the certificate is valid now,
 * comes from the CA, and is meant for both a server and a client. Certificates of a CA in between
 * may follow the host's in cert.pem.
 *
 * 'name' may be NULL; else it receives the certificate's common name (owned by the caller), NULL
 * when it has none that can be used. Fails with DRV_ERROR_IO or DRV_ERROR_TLS.
 */
gboolean drv_pki_check(const char *dir, char **name, GError **error);
