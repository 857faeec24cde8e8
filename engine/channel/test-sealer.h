/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/transfer/ktls.h"

/*
 * Kernel TLS without a kernel that has it: a TCP relay on loopback, on the way out of a daemon. It
 * passes TLS records on, and makes records of the frames that a daemon sends in the clear since it
 * was made to believe that its kernel seals them.
 */
typedef struct _TestSealer TestSealer;

TestSealer *test_sealer_new(guint16 upstream);
void test_sealer_free(TestSealer *sealer);
guint16 test_sealer_port(TestSealer *sealer);
/* Records made so far. */
guint test_sealer_records(TestSealer *sealer);

/* For DrvTransferConfig's ktls_send: takes every key, for the process's sealers to use; or takes
 * every key and spoils it. */
gboolean test_sealer_take(int fd, const DrvKtlsKey *key);
gboolean test_sealer_take_wrong(int fd, const DrvKtlsKey *key);
