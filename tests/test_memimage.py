# SPDX-License-Identifier: Apache-2.0
"""The realistic memory is what it says it is, and the same again for the same seed."""
import collections
import json
import subprocess

import pytest

from harness import build, memory, native, qemu
from harness.qemu import PAGE, Guest, Machine

MEMIMAGE = ("tests", "tools", "memimage")


def memimage(path, *options):
    done = subprocess.run([build.built(*MEMIMAGE), *map(str, options), path],
                          capture_output=True, text=True, timeout=120, check=False)
    return done


@pytest.fixture
def text_list(workdir):
    path = workdir / "programs"
    path.write_text("/no/such/file\n/usr\n/bin/bash\n/usr/bin/python3\n")
    return path


def pages_of(path):
    data = path.read_bytes()
    return [data[i:i + PAGE] for i in range(0, len(data), PAGE)]


def test_composition(workdir, text_list):
    image = workdir / "image"
    done = memimage(image, "--size", 8, "--zero", 40, "--repeat", 10, "--random", 20,
                    "--text", text_list)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text_pct"] == 30
    pages = pages_of(image)
    assert len(pages) == 2048
    times = collections.Counter(pages)
    # Repeats of zero pages, and zero pages in programs, come on top of those asked for.
    assert 0.40 <= times[bytes(PAGE)] / 2048 <= 0.50
    assert 0.50 <= len(times) / 2048 <= 0.60


def test_same_seed_same_image(workdir, text_list):
    options = ("--size", 2, "--zero", 30, "--random", 30, "--text", text_list, "--seed")
    images = [workdir / name for name in "abc"]
    for image, seed in zip(images, (7, 7, 8)):
        assert memimage(image, *options, seed).returncode == 0
    a, b, c = (image.read_bytes() for image in images)
    assert a == b and a != c


@pytest.mark.parametrize("options", (("--size", 0), ("--size", 4000), ("--zero", 101),
                                     ("--zero", 60, "--random", 60), ("--unknown",)))
def test_bad_options(workdir, text_list, options):
    done = memimage(workdir / "image", "--size", 1, "--text", text_list, *options)
    assert done.returncode == 2 and "usage:" in done.stderr


def test_no_text_to_be_had(workdir, text_list):
    text_list.write_text("/no/such/file\n")
    done = memimage(workdir / "image", "--size", 1, "--text", text_list)
    assert done.returncode == 1 and "names no file that can be read" in done.stderr


def test_a_guest_can_carry_it(workdir, text_list):
    image = workdir / "image"
    assert memimage(image, "--size", 64, "--zero", 30, "--text", text_list).returncode == 0
    at = 0x2000000
    guest = Guest(mode="idle", params="hz=100 beat=1", pages=1024, images=((image, at),))
    first = qemu.oldest()
    with Machine(first, guest) as source, Machine(first, guest, incoming=True) as dest:
        source.wait_ready()
        native.migrate(source, dest)
        dump = memory.dump(dest, workdir / "dump", at, image.stat().st_size)
        assert memory.differing_pages(dump, image) == []
