# SPDX-License-Identifier: Apache-2.0
"""'drover convert': every format, byte for byte, and nothing half-written whatever goes wrong."""
import os
import re
import select
import shutil
import signal
import stat
import sys

import pytest

from harness import build, images
from harness.daemon import Running, drover
from harness.images import FORMATS, MIB, run
from harness.scene import wait_until


def convert(*args, env=None, prefix=(), status=0):
    result = drover("convert", *args, env=env, prefix=prefix)
    assert result.status == status, result
    return result


def refused(pattern, *args, env=None, prefix=(), status=1):
    """Fails with one sentence like the pattern."""
    result = convert(*args, env=env, prefix=prefix, status=status)
    said = [line for line in result.stderr.splitlines() if line.startswith("drover: ")]
    assert len(said) == 1 and re.search(pattern, said[0]), result.stderr
    assert not said[0].endswith(".")
    return said[0]


@pytest.fixture
def raw(workdir):
    return images.make_raw(workdir / "a.raw")


@pytest.mark.parametrize("form", FORMATS)
def test_there_and_back(workdir, raw, any_qemu, form):
    env = images.tools_env(any_qemu)
    there, back = workdir / f"b.{form}", workdir / "c.raw"
    first = convert(raw, there, "--format", "raw", "--dest-format", form, "--json", env=env).json
    assert images.identical(raw, "raw", there, form, env)
    second = convert(there, back, "--format", form, "--dest-format", "raw", "--json", env=env).json
    assert raw.read_bytes() == back.read_bytes()
    assert first["digest"] == second["digest"] == images.digest(raw)
    assert first["disk"]["bytes"] == raw.stat().st_size
    assert first["disk"]["data_bytes"] + first["disk"]["zero_bytes"] == first["disk"]["bytes"]
    assert not images.leftovers(workdir)


def test_format_is_seen_and_kept(workdir, raw):
    source = images.convert(raw, workdir / "b.qcow2", "qcow2")
    convert(source, workdir / "c")
    assert images.identical(raw, "raw", workdir / "c", "qcow2")


def test_options_and_compression(workdir, raw):
    out = workdir / "b.qcow2"
    convert(raw, out, "--format", "raw", "--dest-format", "qcow2", "-o", "cluster_size=1M",
            "-o", "lazy_refcounts=on")
    told = run("qemu-img", "info", "--output=json", out).stdout
    assert '"cluster-size": 1048576' in told and '"lazy-refcounts": true' in told
    text = workdir / "text.raw"
    text.write_bytes(b"well compressible " * (8 * MIB // 18) + bytes(MIB) + b"end of it" * 100)
    plain = convert(text, out, "--format", "raw", "--dest-format", "qcow2", "--json").json
    size = out.stat().st_size
    packed = convert(text, out, "--format", "raw", "--dest-format", "qcow2", "--compress", "--json")
    assert packed.json["digest"] == plain["digest"]
    assert images.identical(text, "raw", out, "qcow2")
    assert out.stat().st_size < size / 4
    assert text.stat().st_size % 65536 != 0  # the last cluster is not whole
    assert run("qemu-img", "check", out).returncode == 0


def tool_instead(workdir, name, script):
    """The environment in which that QEMU program is a script; 'real' in it is the program itself."""
    tool = workdir / "bin" / name
    tool.parent.mkdir(exist_ok=True)
    tool.write_text(f"#!/bin/sh\nreal={shutil.which(name)}\n{script}\n")
    tool.chmod(0o755)
    return {"PATH": f"{tool.parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize("form", ["qcow2", "vmdk", "vdi"])  # of a vhdx QEMU does not tell
def test_what_lies_in_the_file_needs_no_server(workdir, raw, form):
    source = images.convert(raw, workdir / "b", form)
    env = tool_instead(workdir, "qemu-nbd", "echo 'qemu-nbd: not today' >&2; exit 1")
    convert(source, workdir / "c", "--format", form, "--dest-format", "raw", env=env)
    assert (workdir / "c").read_bytes() == raw.read_bytes()


@pytest.mark.parametrize("options,alone", [
    ("cluster_size=64k", True), ("cluster_size=256k", True), ("lazy_refcounts=on,cluster_size=2M", True),
    ("cluster_size=4k", False), ("extended_l2=on", False), ("preallocation=metadata", False),
    ("compat=0.10", False), ("refcount_bits=1", False)])
def test_a_new_qcow2(workdir, raw, options, alone):
    """A simple one is written without a server; what is not so simple is left to QEMU."""
    env = tool_instead(workdir, "qemu-nbd", f'touch {workdir / "used"}; exec $real "$@"')
    told = convert(raw, workdir / "b", "--format", "raw", "--dest-format", "qcow2", "-o", options,
                   "--json", env=env).json
    assert told["digest"] == images.digest(raw)
    assert images.identical(raw, "raw", workdir / "b", "qcow2")
    assert run("qemu-img", "check", workdir / "b").returncode == 0
    assert (workdir / "used").exists() != alone
    made = (workdir / "b").stat()
    assert made.st_blocks * 512 <= made.st_size + 16 * MIB  # what it got ahead is given back
    at = 5 * MIB  # and QEMU goes on with it
    run("qemu-io", "-c", f"write -P 3 {at} 70k", workdir / "b")
    run("qemu-io", "-c", f"read -P 3 {at} 70k", workdir / "b")
    assert run("qemu-img", "check", workdir / "b").returncode == 0


@pytest.mark.parametrize("tool,when", [("qemu-img", "create"), ("qemu-nbd", "*"), ("qemu-img", "resize")])
def test_another_file_in_its_place(workdir, raw, tool, when):
    """Under the temporary name, and just before a program of QEMU's opens it: it is not touched."""
    there, victim = workdir / "there", workdir / "victim"
    there.mkdir()
    victim.write_bytes(b"mine")
    os.truncate(raw, 40 * MIB + 512)  # it has to be cut in the end
    env = tool_instead(workdir, tool, f"""case $1 in {when})
        for temp in {there}/.c.drover-*; do ln -sf {victim} "$temp"; done;;
    esac
    exec $real "$@" """)
    refused("c cannot be given its name: somebody has put another file in its place meanwhile", raw,
            there / "c", "--format", "raw", "--dest-format", "qcow2", "--compress", env=env)
    assert victim.read_bytes() == b"mine" and not (there / "c").exists()


@pytest.mark.parametrize("form,at_once", [("vdi", False), ("vmdk", True)])
def test_writes_in_turn(workdir, form, at_once):
    """Of two at once into a vdi, QEMU may leave the older state of its tables."""
    raw, told = workdir / "a", workdir / "told"
    raw.write_bytes(os.urandom(MIB) * 8)
    server = build.ROOT / "tests/tools/counting_nbd.py"
    env = tool_instead(workdir, "qemu-nbd", f'exec /usr/bin/python3 {server} {8 * MIB} {told} "$@"')
    convert(raw, workdir / "b", "--format", "raw", "--dest-format", form, env=env)
    writes, most = map(int, told.read_text().split())
    assert writes >= 8 and (most > 1) == at_once


def test_compressed_clusters_among_others(workdir, raw):
    source = images.convert(raw, workdir / "b", "qcow2")
    for at in (20, 30):
        run("qemu-io", "-c", f"write -c -P 7 {at}M 64k", source)
    images.run("qemu-img", "convert", "-O", "raw", source, raw)
    convert(source, workdir / "c", "--format", "qcow2", "--dest-format", "raw")
    assert (workdir / "c").read_bytes() == raw.read_bytes()
    env = tool_instead(workdir, "qemu-nbd", "echo 'qemu-nbd: not today' >&2; exit 1")
    refused("b cannot be opened: not today", source, workdir / "d", "--dest-format", "raw", env=env)


@pytest.mark.parametrize("form", ["raw", "qcow2"])
@pytest.mark.parametrize("dest", ["raw", "qcow2"])
def test_what_is_plain_needs_no_program(workdir, raw, form, dest):
    source = images.convert(raw, workdir / "b", form)
    for tool in ("qemu-nbd", "qemu-img"):
        env = tool_instead(workdir, tool, f"echo '{tool}: not today' >&2; exit 1")
    told = convert(source, workdir / "c", "--format", form, "--dest-format", dest, "--json",
                   env=env).json
    assert told["digest"] == images.digest(raw)
    assert images.identical(raw, "raw", workdir / "c", dest)
    if form == "qcow2":  # is seen, where nobody says so
        convert(source, workdir / "d", env=env)
        assert images.identical(raw, "raw", workdir / "d", "qcow2")
    else:
        refused("a.raw cannot be used: not today", raw, workdir / "d", env=env)
    for each in ("-o", "cluster_size=64k"), ("--compress",):
        refused("d cannot be made: not today", source, workdir / "d", "--format", form,
                "--dest-format", "qcow2", *each, env=env)
    assert not images.leftovers(workdir)


@pytest.mark.parametrize("told", [
    "echo nonsense", "exit 1", "true", "head -c 100 /dev/zero", "$real \"$@\" | tail -n +2",
    "$real \"$@\" | head -n 2", "$real \"$@\" | sed 's/\"length\": 6/\"length\": 7/'",
    "$real \"$@\" | sed 's/\"offset\": /&9999999999/'"])
def test_a_map_that_makes_no_sense(workdir, raw, told):
    """Then everything comes through qemu-nbd."""
    source = images.convert(raw, workdir / "b", "qcow2", "-o", "compat=0.10")
    env = tool_instead(workdir, "qemu-img", f'if [ "$1" = map ]; then {told}; exit; fi\nexec $real "$@"')
    convert(source, workdir / "c", "--format", "qcow2", "--dest-format", "raw", env=env)
    assert (workdir / "c").read_bytes() == raw.read_bytes()


# What qemu-img tells of 20,000 extents of a byte, the last where it is said.
MANY = r"""awk 'BEGIN { for (i = 0; i < 20000; i++) printf "%%s{ \"start\": %%d, \"length\": 1, \"offset\": %%d}%%s\n",
    i ? "" : "[", i, i < 19999 ? i %% 1000 : %d, i < 19999 ? "," : "]" }'"""


def test_data_behind_the_end(workdir, raw):
    """Is found in a map of whatever length, which is read as it comes."""
    source = images.convert(raw, workdir / "b", "vdi")
    size = source.stat().st_size
    for last, found in ((size - 1, False), (size, True)):
        env = tool_instead(workdir, "qemu-img", f'if [ "$1" = map ]; then {MANY % last}; exit; fi\nexec $real "$@"')
        if found:
            refused(rf"it is damaged \(the file has {size} bytes, and data up to byte {size + 1}\)", source,
                    workdir / "c", "--dest-format", "raw", env=env)
        else:
            convert(source, workdir / "c", "--dest-format", "raw", env=env)
    for told, words in (("echo 'qemu-img: no, not this' >&2; exit 1", "b cannot be used: no, not this"),
                        ("echo '[{ \"start\": 0'; kill -9 $$", "b cannot be used: QEMU's program was killed")):
        env = tool_instead(workdir, "qemu-img", f'if [ "$1" = map ]; then {told}; fi\nexec $real "$@"')
        refused(words, source, workdir / "c", "--dest-format", "raw", env=env)


def test_without_io_uring(workdir, raw):
    """As on a host that forbids it: slower, and the same."""
    alone = (sys.executable, build.ROOT / "tests/tools/without_io_uring.py")
    if os.geteuid() != 0:
        pytest.skip("io_uring cannot be taken away without root")
    told = convert(raw, workdir / "b", "--format", "raw", "--json", prefix=alone).json
    assert (workdir / "b").read_bytes() == raw.read_bytes()
    assert told["digest"] == images.digest(raw)


def test_to_and_from_memory(workdir, raw):
    """A file system without pages to go past."""
    with images.small_disk(workdir, 64 * MIB) as folder:
        convert(raw, folder / "b", "--format", "raw")
        convert(folder / "b", workdir / "c", "--format", "raw")
    assert (workdir / "c").read_bytes() == raw.read_bytes()


def test_holes_stay_holes(workdir):
    source, out = workdir / "a", workdir / "b"
    with open(source, "wb") as f:
        f.truncate(200 << 30)
        f.seek(150 << 30)
        f.write(b"here" * 4096)
    result = convert(source, out, "--format", "raw", "--json").json
    assert result["disk"]["data_bytes"] <= 2 * images.block_size(200 << 30)
    assert out.stat().st_size == 200 << 30 and out.stat().st_blocks * 512 <= 4 * MIB
    with open(out, "rb") as f:
        f.seek(150 << 30)
        assert f.read(16388) == b"here" * 4096 + bytes(4)


@pytest.mark.parametrize("dest", ["raw", "qcow2"])
def test_half_a_sector(workdir, dest):
    """QEMU rounds a raw image's size up, and so does drover."""
    source = workdir / "a"
    source.write_bytes(b"x" * 70000)
    convert(source, workdir / "b", "--format", "raw", "--dest-format", dest)
    assert images.identical(source, "raw", workdir / "b", dest)
    if dest == "raw":
        assert (workdir / "b").read_bytes() == b"x" * 70000 + bytes(70144 - 70000)


def test_backing_files_are_flattened(workdir, raw):
    images.convert(raw, workdir / "base.qcow2", "qcow2")
    top = workdir / "top.qcow2"
    run("qemu-img", "create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", top)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", top)
    convert(top, workdir / "b.raw", "--dest-format", "raw")
    assert images.identical(top, "qcow2", workdir / "b.raw", "raw")
    (workdir / "base.qcow2").unlink()
    refused(r"top\.qcow2 cannot be used: Could not open .*base\.qcow2.*No such file",
            top, workdir / "c.raw")


def test_replaces_only_when_complete(workdir, raw):
    out = workdir / "b.raw"
    out.write_bytes(b"older")
    out.chmod(0o640)
    convert(raw, out, "--format", "raw")
    assert out.read_bytes() == raw.read_bytes()
    assert stat.S_IMODE(out.stat().st_mode) == 0o640
    images.run("truncate", "-s", "1M", workdir / "cut.qcow2")
    refused("not in qcow2 format", workdir / "cut.qcow2", out, "--format", "qcow2")
    assert out.read_bytes() == raw.read_bytes()


# ---- what is wrong with the source ----

@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_source_in_use(workdir, raw, any_qemu, form):
    env = images.tools_env(any_qemu)
    source = images.convert(raw, workdir / "b", form)
    with images.Holder(source, form, workdir / "s"):
        refused("lock|in use", source, workdir / "c", "--format", form, env=env)
    convert(source, workdir / "c", "--format", form, env=env)


def test_damaged_source(workdir, raw, any_qemu):
    env = images.tools_env(any_qemu)
    source = images.convert(raw, workdir / "b.qcow2", "qcow2")
    os.truncate(source, source.stat().st_size // 2)
    refused("b.qcow2 cannot be used: it is damaged", source, workdir / "c", env=env)
    os.truncate(source, 100)
    refused("b.qcow2 cannot be used: ", source, workdir / "c", "--format", "qcow2", env=env)
    images.convert(raw, source, "qcow2")
    with open(source, "r+b") as f:  # incompatible feature bit 1: corrupt
        f.seek(79)
        f.write(b"\x02")
    refused("b.qcow2 cannot be used: it is marked corrupt", source, workdir / "c", env=env)
    with open(source, "r+b") as f:
        f.seek(72)
        f.write(b"\x80")
    refused("b.qcow2 cannot be used: .*[Uu]nsupported.*feature", source, workdir / "c", env=env)
    assert not (workdir / "c").exists() and not images.leftovers(workdir)


@pytest.mark.parametrize("form", ["vmdk", "vdi", "vhdx"])
def test_truncated_source(workdir, raw, any_qemu, form):
    env = images.tools_env(any_qemu)
    source = images.convert(raw, workdir / "b", form)
    for size in (source.stat().st_size - 2 * MIB, source.stat().st_size // 2):
        if form != "vhdx" or size < 8 * MIB:  # its end is allocated ahead
            os.truncate(source, size)
            refused("b cannot be used: (it is damaged|Could not open)", source, workdir / "c",
                    "--format", form, "--dest-format", "raw", env=env)
    assert not (workdir / "c").exists() and not images.leftovers(workdir)


def test_source_becomes_shorter(workdir):
    source = workdir / "a"
    source.write_bytes(os.urandom(4 * MIB) * 64)
    with Running("convert", source, workdir / "b", "--format", "raw", "--dest-format", "qcow2",
                 "--compress") as command:
        images.wait_for_leftovers(workdir)
        os.truncate(source, MIB)
        result = command.wait()
    assert result.status == 1 and re.search(
        r"a (cannot be read at byte \d+|does not tell where its data is): it has become shorter since",
        result.stderr)
    assert [p.name for p in workdir.iterdir()] == ["a"]


def test_not_an_image(workdir, raw):
    os.mkfifo(workdir / "pipe")
    why = "cannot be used: it is neither a file nor a block device"
    for source in (workdir / "pipe", workdir, "/dev/zero"):
        refused(why, source, workdir / "c")
        refused(why, source, workdir / "c", "--format", "raw")
    refused("neither a file nor a block device", raw, workdir / "pipe", "--format", "raw")
    refused(r"a\.raw is in use", raw, raw, "--format", "raw")
    loop = workdir / "loop.qcow2"
    run("qemu-img", "create", "-f", "qcow2", loop, "1M")
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", loop, "-F", "qcow2", loop)
    refused("infinite loop", loop, workdir / "c")
    run("qemu-img", "create", "-f", "qcow2", "-o", f"data_file={workdir / 'd'}", workdir / "e", "1M")
    (workdir / "d").unlink()
    said = refused("e cannot be .*Could not open .*d': No such file", workdir / "e", workdir / "c")
    assert "blk_new_open" not in said
    assert not (workdir / "c").exists() and not images.leftovers(workdir)


def test_source_of_another_kind(workdir, raw):
    out = workdir / "c"
    refused("a.raw cannot be used: .*not in qcow2 format", raw, out, "--format", "qcow2")
    refused("cannot be used: No such file", workdir / "none", out)
    refused("cannot be used: ", workdir, out)
    refused("'a b' is no image format", raw, out, "--format", "a b", status=2)
    assert not out.exists()


def test_encrypted_source(workdir):
    source = workdir / "b.qcow2"
    images.run_until("qemu-img", "create", "-f", "qcow2", "--object", "secret,id=s,data=geheim", "-o",
                     "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=100", source, "4M")
    refused("it is encrypted, and drover has no key", source, workdir / "c")
    convert(source, workdir / "c", "--format", "raw")
    assert (workdir / "c").read_bytes() == source.read_bytes()


def test_source_without_permission(workdir, raw):
    raw.chmod(0o600)
    workdir.chmod(0o755)
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody who may not")
    as_nobody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    refused("a.raw.*Permission denied", raw, "/tmp/never", "--format", "raw", prefix=as_nobody)
    raw.chmod(0o644)
    refused("b.raw cannot be made: Permission denied", raw, workdir / "b.raw", "--format", "raw",
            prefix=as_nobody)


# ---- what is wrong with the destination ----

def test_bad_destination(workdir, raw):
    link = workdir / "link"
    link.symlink_to(workdir / "elsewhere")
    refused("none cannot be used: No such file", raw, workdir / "none" / "b", "--format", "raw")
    refused("neither a file nor a block device", raw, workdir, "--format", "raw")
    refused("is a symbolic link", raw, link, "--format", "raw")
    refused("of format 'qed' cannot be made", raw, workdir / "b", "--dest-format", "qed", status=2)
    refused("only qcow2 can be compressed", raw, workdir / "b", "--format", "raw", "--compress",
            "--dest-format", "vdi", status=2)
    refused("clusters of 64 KiB", raw, workdir / "b", "--dest-format", "qcow2", "--compress", "-o",
            "cluster_size=1M", status=2)
    refused("option 'backing_file=/etc/passwd' cannot", raw, workdir / "b", "-o",
            "backing_file=/etc/passwd", "--dest-format", "qcow2", status=2)
    refused("option 'subformat=twoGbMaxExtentFlat' cannot", raw, workdir / "b", "-o",
            "subformat=twoGbMaxExtentFlat", "--dest-format", "vmdk", status=2)
    refused("b cannot be made: .*nonsense", raw, workdir / "b", "-o", "nonsense=1", "--format",
            "raw", "--dest-format", "qcow2")
    assert sorted(p.name for p in workdir.iterdir()) == ["a.raw", "link"]


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_destination_fills_up(workdir, form):
    source = workdir / "a"
    source.write_bytes(os.urandom(10 * MIB))
    with images.small_disk(workdir, 9 * MIB) as folder:
        refused("b cannot be (written|brought|closed).*No space left", source, folder / "b",
                "--format", "raw", "--dest-format", form)
        assert not list(folder.iterdir())


def test_all_the_room_there_is(workdir):
    """A new qcow2 gets blocks ahead, but not those without which it does not come to its end."""
    source = workdir / "a"
    with open(source, "wb") as f:
        for at in range(0, 800, 2):
            f.seek(at * MIB)
            f.write(os.urandom(64 << 10))
        f.truncate(800 * MIB)
    with images.small_ext4(workdir, 64 * MIB) as folder:
        convert(source, folder / "b", "--format", "raw", "--dest-format", "qcow2")
        assert images.identical(source, "raw", folder / "b", "qcow2")


def test_devices(workdir, raw):
    disk = workdir / "disk"
    disk.write_bytes(b"\xff" * (64 * MIB))
    size = raw.stat().st_size
    with images.loop_device(disk) as device:
        told = convert(raw, device, "--format", "raw", "--json").json
        assert told["digest"] == images.digest(raw)
        refused("takes raw images without options only", raw, device, "--format", "raw",
                "--dest-format", "qcow2", status=2)
        convert(device, workdir / "c", "--format", "raw")
    assert disk.read_bytes() == raw.read_bytes() + b"\xff" * (64 * MIB - size)
    assert (workdir / "c").read_bytes() == disk.read_bytes()
    os.truncate(disk, 8 * MIB)
    with images.loop_device(disk) as device:
        refused("is too small: it has 8388608 bytes", raw, device, "--format", "raw")


def test_destination_in_use(workdir, raw):
    out = images.convert(raw, workdir / "b", "qcow2")
    with images.Holder(out, "qcow2", workdir / "s"):
        refused("b is in use: stop the VM", raw, out, "--format", "raw", "--dest-format", "qcow2")
    assert images.identical(raw, "raw", out, "qcow2")


# ---- ends before the end ----

@pytest.fixture
def slow(workdir):
    """A conversion that takes seconds."""
    source = workdir / "big"
    source.write_bytes(os.urandom(4 * MIB) * 64)
    with Running("convert", source, workdir / "b", "--format", "raw", "--dest-format", "qcow2",
                 "--compress") as command:
        images.wait_for_leftovers(workdir)
        yield command


def test_interrupt_leaves_nothing(workdir, slow):
    slow.process.send_signal(signal.SIGINT)
    result = slow.wait()
    assert result.status == 4 and "interrupted: nothing is left" in result.stderr
    assert sorted(p.name for p in workdir.iterdir()) == ["big"]


def test_kill_leaves_what_the_next_removes(workdir, slow):
    slow.process.kill()
    slow.wait()
    assert not (workdir / "b").exists()
    images.wait_for_end_of_writer(workdir / images.leftovers(workdir)[0])
    convert(workdir / "big", workdir / "b", "--format", "raw")
    assert (workdir / "b").read_bytes() == (workdir / "big").read_bytes()
    assert not images.leftovers(workdir)


# QEMU's own has a moment in which it takes a signal and does not heed it.
DEAF = "trap 'trap - TERM' TERM"


@pytest.mark.parametrize("begin", ("", DEAF), ids=("slow", "deaf"))
def test_killed_before_it_has_connected(workdir, raw, begin):
    """A qemu-nbd that nobody has talked to does not end by itself, and would hold its image."""
    told, own = workdir / "pid", workdir / "bin"
    own.mkdir()
    slow = own / "qemu-nbd"
    slow.write_text(f"#!/bin/sh\n{begin}\necho $$ > {told}.new && mv {told}.new {told}\n"
                    "while :; do sleep 0.05; done\n")
    slow.chmod(0o755)
    with Running("convert", raw, workdir / "b", "--format", "raw", "--dest-format", "vdi",
                 prefix=("env", f"PATH={own}:{os.environ['PATH']}")) as command:
        wait_until(told.exists, "qemu-nbd")
        process = os.pidfd_open(int(told.read_text()))
        command.process.kill()
        command.wait()
    ended = select.select([process], [], [], 60)[0]
    if not ended:
        signal.pidfd_send_signal(process, signal.SIGKILL)
    os.close(process)
    assert ended, "qemu-nbd is still there"
