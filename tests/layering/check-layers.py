#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""check-layers.py [ROOT]      holds the repository against its own rules; exit 1 when one is broken
   check-layers.py --self-test  shows that each rule is really checked

The rules: who may include whom, an include names its file from the repository's root, a private
header stays in its folder, within a folder no two modules need each other, no file above 800 lines,
an SPDX line at the top of every source file.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

# Each folder may include itself and those named here.
LAYERS = {
    "common": (),
    "qmp": ("common",),
    "numa": ("common",),
    "dirty-tracking": ("common",),
    "precopy": ("dirty-tracking", "numa", "common"),
    "engine": ("precopy", "dirty-tracking", "numa", "qmp", "common"),
}
# Within the engine a folder may include itself and those before it. Files directly in engine/ tie
# all of them together into programs.
ENGINE = ("transfer", "channel", "image", "host", "job", "live", "copy", "daemon", "fleet", "api", "cli")
# Modules of one folder that are one thing in several files, and may need each other.
KNOTS = ({"engine/transfer/channel", "engine/transfer/lane", "engine/transfer/session",
          "engine/transfer/transfer"},)
# These use the product and are used by nobody.
USERS = ("tests", "bench")

MAX_LINES = 800
SPDX = "SPDX-License-Identifier: Apache-2.0"
SPDX_WITHIN = 3  # lines: a '#!' line and an opening '/*' may stand before it
C_SUFFIXES = (".c", ".h", ".S")
SOURCE_SUFFIXES = C_SUFFIXES + (".py", ".sh", ".ld")
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)
PRIVATE = re.compile(r"-(private|internal)\.h$")


def files_of(root):
    """What git knows or would take; without git, everything but builds."""
    if (root / ".git").exists() and shutil.which("git"):
        listed = subprocess.run(["git", "-C", root, "ls-files", "-z", "--cached", "--others",
                                 "--exclude-standard"], capture_output=True, timeout=60, check=False)
        if listed.returncode == 0:
            names = listed.stdout.decode().split("\0")
            return sorted(name for name in names if name and (root / name).is_file())
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [f for f in folders if not f.startswith((".git", "build", "__pycache__"))]
        found += [os.path.relpath(os.path.join(folder, name), root) for name in names]
    return sorted(found)


def is_source(root, name):
    path = root / name
    if path.name == "meson.build" or path.suffix in SOURCE_SUFFIXES:
        return True
    with open(path, "rb") as f:
        return f.read(2) == b"#!"


def engine_part(name):
    """The engine's subfolder of a file, or None for one that is directly in engine/."""
    parts = pathlib.PurePosixPath(name).parts
    return parts[1] if len(parts) > 2 else None


def forbidden(name, included):
    """Why 'name' may not include 'included', or None when it may."""
    upper = pathlib.PurePosixPath(name).parts[0]
    lower = pathlib.PurePosixPath(included).parts[0]
    if upper in USERS:
        return None
    if upper not in LAYERS:
        return f"the folder {upper} has no place in the order yet: add it to check-layers.py"
    if lower != upper:
        return None if lower in LAYERS[upper] else f"{upper} may not use {lower}"
    if upper != "engine" or engine_part(name) is None:
        return None
    part, used = engine_part(name), engine_part(included)
    if part not in ENGINE:
        return f"engine/{part} has no place in the order yet: add it to check-layers.py"
    if used is None:
        return f"engine/{part} may not use what ties the engine together"
    if used not in ENGINE or ENGINE.index(used) > ENGINE.index(part):
        return f"engine/{part} may not use engine/{used}"
    return None


def module_of(name, text, names):
    """What x.c, x.h and x-private.h are together, with the files x-more.c that share the last and
    have no header of their own."""
    path = pathlib.PurePosixPath(name)
    if str(path.with_suffix(".h")) in names and not PRIVATE.search(path.name):
        return str(path.parent / path.stem)
    headers = [path.name] + [pathlib.PurePosixPath(included).name for included in INCLUDE.findall(text)
                             if os.path.dirname(included) == str(path.parent)]
    for header in headers:
        owner = PRIVATE.sub("", header)
        if owner != header and f"{path.stem}-".startswith(f"{owner}-"):
            return str(path.parent / owner)
    return str(path.parent / path.stem)


def check_cycles(root, names):
    """Two modules of a folder of which each includes the other, if only by way of a third."""
    texts = {name: (root / name).read_text(errors="replace") for name in names
             if name.endswith(C_SUFFIXES) and not os.path.basename(name).startswith("test-")}
    modules = {name: module_of(name, text, texts) for name, text in texts.items()}
    used = {name: {modules[included] for included in INCLUDE.findall(text)
                   if included in modules
                   and os.path.dirname(included) == os.path.dirname(name)} - {modules[name]}
            for name, text in texts.items()}
    needs = {}
    for name in texts:
        needs.setdefault(modules[name], set()).update(used[name])

    def reached(start):
        found, ahead = set(), [start]
        while ahead:
            new = needs[ahead.pop()] - found
            found |= new
            ahead += new
        return found

    reach = {module: reached(module) for module in needs}
    for name in sorted(texts):
        for other in sorted(used[name]):
            knotted = any({modules[name], other} <= knot for knot in KNOTS)
            if modules[name] < other and modules[name] in reach[other] and not knotted:
                yield f"{name}: needs {other}, which needs it: one of them belongs above the other"


def check_includes(root, name, text):
    for included in INCLUDE.findall(text):
        if not (root / included).is_file():
            yield f'"{included}" is not a file seen from the root of the repository'
            continue
        reason = forbidden(name, included)
        if reason:
            yield f'includes "{included}": {reason}'
        elif PRIVATE.search(included) and os.path.dirname(included) != os.path.dirname(name):
            yield f'includes "{included}", which is private to its folder'


def check_file(root, name):
    text = (root / name).read_text(errors="replace")
    lines = text.splitlines()
    if len(lines) > MAX_LINES:
        yield f"has {len(lines)} lines, {MAX_LINES} are the limit"
    if not any(SPDX in line for line in lines[:SPDX_WITHIN]):
        yield f"has no line '{SPDX}' at its top"
    if name.endswith(C_SUFFIXES):
        yield from check_includes(root, name, text)


def check(root):
    """Every violation as 'file: what', and the number of files looked at."""
    names = [name for name in files_of(root) if is_source(root, name)]
    found = [f"{name}: {what}" for name in names for what in check_file(root, name)]
    return found + list(check_cycles(root, names)), len(names)


# ---- self-test: a small repository with one violation of each kind ----

HEAD = f"/* {SPDX} */\n"
SOUND = {
    "common/a.h": HEAD,
    "qmp/q.c": HEAD + '#include "common/a.h"\n#include <stdio.h>\n',
    "qmp/q.h": HEAD,
    "precopy/p.c": HEAD + '#include "dirty-tracking/d.h"\n',
    "dirty-tracking/d.h": HEAD,
    "engine/droverd.c": HEAD + '#include "engine/cli/c.h"\n#include "engine/transfer/t.h"\n',
    "engine/transfer/t.h": HEAD,
    "engine/transfer/t-private.h": HEAD,
    "engine/transfer/t.c": HEAD + '#include "engine/transfer/t-private.h"\n#include "qmp/q.h"\n',
    "engine/cli/c.h": HEAD + '#include "engine/transfer/t.h"\n',
    "engine/job/x.h": HEAD,
    "engine/job/test-x.c": HEAD + '#include "engine/job/z.h"\n',
    "engine/job/y.h": HEAD + '#include "engine/job/x.h"\n',
    "engine/job/z-private.h": HEAD + '#include "engine/job/y.h"\n',
    "engine/job/z.h": HEAD,
    "engine/job/z.c": HEAD + '#include "engine/job/z.h"\n#include "engine/job/z-private.h"\n',
    "engine/job/z-more.c": HEAD + '#include "engine/job/z-private.h"\n',
    "tests/x.c": HEAD + '#include "engine/cli/c.h"\n',
    "scripts/run": f"#!/bin/sh\n# {SPDX}\n",
    "README.md": "no source, no SPDX line\n",
}
VIOLATIONS = {
    "common/up.c": (HEAD + '#include "qmp/q.h"\n', "common may not use qmp"),
    "qmp/engine.c": (HEAD + '#  include "engine/cli/c.h"\n', "qmp may not use engine"),
    "dirty-tracking/up.c": (HEAD + '#include "precopy/p.c"\n', "dirty-tracking may not use precopy"),
    "engine/transfer/up.c": (HEAD + '#include "engine/cli/c.h"\n',
                             "engine/transfer may not use engine/cli"),
    "engine/cli/all.c": (HEAD + '#include "engine/droverd.c"\n', "what ties the engine together"),
    "engine/cli/private.c": (HEAD + '#include "engine/transfer/t-private.h"\n',
                             "private to its folder"),
    "engine/new/n.c": (HEAD + '#include "engine/cli/c.h"\n', "engine/new has no place"),
    "newfolder/n.c": (HEAD + '#include "common/a.h"\n', "newfolder has no place"),
    "qmp/near.c": (HEAD + '#include "q.h"\n', '"q.h" is not a file seen from the root'),
    "engine/job/x.c": (HEAD + '#include "engine/job/z.h"\n', "needs engine/job/z, which needs it"),
    "qmp/long.c": (HEAD + "\n" * 800, "has 801 lines"),
    "qmp/bare.c": ("int x;\n", "has no line"),
    "scripts/bare": ("#!/bin/sh\n", "has no line"),
    "qmp/meson.build": ("x = 1\n", "has no line"),
}


def plant(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def self_test():
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in SOUND.items():
            plant(root, name, text)
        found, _ = check(root)
        assert found == [], f"a sound repository is complained about: {found}"
        for name, (text, expected) in VIOLATIONS.items():
            plant(root, name, text)
            found, _ = check(root)
            assert len(found) == 1 and found[0].startswith(f"{name}: ") and expected in found[0], \
                f"{name} should be found with '{expected}', but: {found}"
            (root / name).unlink()
    print(f"{len(VIOLATIONS)} kinds of violation are found")


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else __file__).resolve()
    root = root if len(sys.argv) > 1 else root.parent.parent.parent
    found, looked_at = check(root)
    print("\n".join(found) or f"{looked_at} files keep the rules")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
