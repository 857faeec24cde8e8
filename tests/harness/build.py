# SPDX-License-Identifier: Apache-2.0
"""Where the built programs are: DRV_BUILD, or build/ in the repository's root."""
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def build_dir():
    return pathlib.Path(os.environ.get("DRV_BUILD") or ROOT / "build").resolve()


def built(*parts):
    """The path of something the build makes; an error that says what to do when it is not there."""
    path = build_dir().joinpath(*parts)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not built: run 'meson setup build && ninja -C build', or set DRV_BUILD")
    return path
