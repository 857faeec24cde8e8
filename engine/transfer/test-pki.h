/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/* Certificates for tests, of every kind that droverd must take or refuse, in a temporary directory
 * that goes with it. Whatever cannot be made aborts the test. */
typedef struct _TestPki TestPki;

TestPki *test_pki_new(void);
/* With a name for its CA that is not the others'. */
TestPki *test_pki_named(const char *ca);
void test_pki_free(TestPki *pki);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TestPki, test_pki_free)

/* An identity: a directory with ca.pem, cert.pem and key.pem. Valid from now + 'from' to
 * now + 'until' seconds; without a name where it is NULL. 'san' is OpenSSL's list, such as
 * "DNS:a,IP:127.0.0.1". Borrowed. */
const char *test_pki_host(TestPki *pki, const char *name, const char *san, glong from, glong until);
/* One that is good for both ends on loopback. */
const char *test_pki_good(TestPki *pki, const char *name);
