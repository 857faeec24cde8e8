# SPDX-License-Identifier: Apache-2.0
"""What every test gets: the QEMUs, a directory, and skips that say why."""
import pathlib
import shutil
import tempfile

import pytest

pytest.register_assert_rewrite("harness.handover")

from harness import qemu  # pylint: disable=C0413
from harness.handover import make_hosts_pki  # pylint: disable=C0413
# Hooks: pytest finds them here.
from harness.limit import (Running, pytest_runtest_call,  # pylint: disable=C0413,W0611
                           pytest_runtest_setup, pytest_runtest_teardown)

QEMU_VERSIONS = ("7.2", "10.0")
# For what takes long and is much the same with both: the older one is for scripts/test --all.
SLOW_WITH_OLD = [pytest.param(QEMU_VERSIONS[0], marks=pytest.mark.slow), QEMU_VERSIONS[1]]
SLOW_WITH_OLD_FILES = ("test_faults_cancel", "test_faults_doubt", "test_faults_qemu",
                       "test_migrate_direct", "test_migrate_link", "test_migrate_options",
                       "test_migrate_verify", "test_precopy_streams")
# The workers are given whole files (loadscope, for what the tests of a file share). A long one that
# came last would keep one of them busy and leave the others idle.
LONG_FILES = ("test_migrate_direct", "test_disks", "test_copy", "test_faults_matrix", "test_converge",
              "test_migrate_matrix", "test_migrate_options", "test_migrate_link",
              "test_migrate_verify", "test_precopy_fuzz")
slow_with_old = pytest.mark.parametrize("any_qemu", SLOW_WITH_OLD, indirect=True)


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: for scripts/test --all; others tell most of it")
    config.addinivalue_line("markers", "limit(seconds): may take longer than harness/limit.py says")
    config.pluginmanager.register(Running())


def pytest_collection_modifyitems(items):
    """The order of the files; and in some the older QEMU's variant of what there is with the newer one
    is slow, too."""
    items.sort(key=lambda item: LONG_FILES.index(item.path.stem)
               if item.path.stem in LONG_FILES else len(LONG_FILES))
    there = {item.nodeid for item in items}
    for item in items:
        newer = item.nodeid.replace(*QEMU_VERSIONS)
        if item.path.stem in SLOW_WITH_OLD_FILES and newer != item.nodeid and newer in there:
            item.add_marker(pytest.mark.slow)


def binary(version):
    """The QEMU of that version; skips the test where there is none."""
    found = qemu.qemus()
    if version not in found:
        pytest.skip(f"no QEMU {version} on this machine: scripts/install-deps --test gets it")
    return found[version]


def need_accel(accel):
    if accel == "kvm" and qemu.kvm_problem():
        pytest.skip(f"no KVM: {qemu.kvm_problem()}")


@pytest.fixture
def workdir():
    """A directory with a short name: unix socket paths are limited to 107 bytes."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="drv-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    """Certificates for two hosts: pki / "a" and pki / "b"."""
    return make_hosts_pki(tmp_path_factory.mktemp("pki") / "pki")


@pytest.fixture(params=QEMU_VERSIONS, ids=lambda version: f"qemu{version}")
def any_qemu(request):
    return binary(request.param)
