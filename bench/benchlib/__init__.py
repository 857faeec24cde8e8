# SPDX-License-Identifier: Apache-2.0
"""What bench/run and bench/compare are made of; the guests, links and daemons are tests/harness's.

    guests     the guests that are moved, and the memory they are given
    systems    who moves them: QEMU alone in its ways, QEMU behind stunnel, drover
    cells      link x guest x system: which there are, in what size, and how they are chosen
    probes     what is read from outside: CPU, memory, the wire, QEMU's progress
    measure    one run of one cell
    stats      median, spread, ratio
    results    results.jsonl: the schema, the host, reading and writing
    promises   the figures drover promises, judged from results
    report     report.md
    page       report.html
    compare    old against new

    disk                                   a guest's disk that goes along: bench/run --only 1g/disk
    diskimages, storage, storage_report    the same for disk images: bench/storage
"""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "tests"))
