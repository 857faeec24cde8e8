# SPDX-License-Identifier: Apache-2.0
"""Kernel TLS against a kernel that has it: Debian's, in a virtual machine, as the machine that tests
run on need not have it. The tests are meson's, which skip what needs such a kernel elsewhere."""
import os
import re

import pytest

from harness import kernel
from harness.build import built

# The kernel's TLS and its ciphers; one that is built in is left out.
MODULES = ("tls", "ctr", "ghash_generic", "gcm", "aesni_intel", "chacha_generic",
           "poly1305_generic", "chacha20poly1305")

# What such a kernel has a part in. The rest is tested where the tests run, in a hundredth of the time
# that it takes on an emulated CPU.
WITH_KERNEL = ("/ktls/detect", "/ktls/carries/kernel", "/ktls/worn-out/kernel", "/ktls/guard/kernel")


@pytest.mark.parametrize("program, only", [
    pytest.param("engine/transfer/test-transfer-ktls", (), marks=pytest.mark.slow),
    pytest.param("engine/channel/test-channel-ktls", WITH_KERNEL, marks=pytest.mark.slow),
], ids=("transfer", "channel"))
def test_kernel_that_has_it(workdir, program, only):
    said = kernel.run(workdir, built(program), kernel=kernel.release("net/tls/tls.ko"), only=only,
                      names=MODULES)
    assert f"exit status 0 of /tests/{os.path.basename(program)}" in said, said
    assert "NOT TESTED" not in said
    for path in only:
        assert re.search(rf"^ok \d+ {path}", said, re.M), f"{path} was not run: {said}"
