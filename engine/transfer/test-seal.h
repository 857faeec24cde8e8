/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/transfer/ktls.h"
#include "engine/transfer/tls.h"

/* What a record adds to its plain bytes. */
#define TEST_SEAL_OVERHEAD ((gsize)5 + 1 + 16)

/* Makes a TLS 1.3 record of application data, as the kernel would: from nothing but what it is told
 * and the record's number. Returns the record's length. */
gsize test_seal(const DrvKtlsKey *key, guint64 number, const guint8 *plain, gsize len,
                guint8 *record);

/* Whether this kernel has TLS. */
gboolean test_kernel_has_tls(void);

/* A connected pair of TCP sockets on loopback. */
void test_tcp_pair(int fd[2]);
