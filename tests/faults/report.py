# SPDX-License-Identifier: Apache-2.0
"""The matrix as text: on the terminal and in docs/faults.md."""
import collections

from .cells import HELD_UP, MODES
from .faults import FAULTS

# What a cell says, by where the guest is and the command's status.
WORDS = {("dest", 0): "moved", ("source", 1): "stayed", ("source", 4): "stayed",
         ("nowhere", 0): "gone", ("nowhere", 1): "gone", ("nowhere", 4): "gone"}

HEAD = """\
# What was broken, and what became of the guest

A job is stopped in each of its states, at either end, just when it has entered it; something breaks; everything goes on.
`tests/faults/run --all` does that for every state and every fault and writes this page with `--write`; the fast slice of it
runs with the tests. After each it is checked that

- exactly one guest runs (or none, where its only QEMU was killed), it goes on counting, and every page of its working set is
  right;
- where its disk goes with it, it writes to it during all of this, and each sector holds just the write that its memory says;
  the image that it left holds a moment of the same history, and what it never wrote is as it was;
- the command has ended, with the documented status, its report says the same, and a failure has a sentence;
- both daemons call the job over; where it was in doubt, it ended by itself when the fault was over, or by one `drover resolve`;
- no QEMU has crashed, and no QEMU, socket or file is left over, and QEMU's QMP socket is free again.

| word | the guest |
|---|---|
| moved | runs at the destination; exit status 0 |
| stayed | runs at the source; exit status 1, or 4 where it was cancelled |
| doubt | the command ended with 3; afterwards it runs at the one end that is named |
| gone | was in the QEMU that was killed |

A fault that passes lasts {pause:g} s. "For long" and those of the disk under a journal last until the command has ended, or
its daemon has. In the columns `rolling-back` the migration had been cancelled.

Relayed (`relay`), placed into the guest's memory (`direct`), relayed with a disk (`disks`), and with a disk that the guest
writes to faster than the link carries, so that its writes are made to wait for the destination (`waits`; held in
`{held_up}` just after that has begun).
"""


def word(outcome):
    if outcome is None:
        return "FAILED"
    if outcome.doubt:
        return f"doubt, {outcome.where}"
    return WORDS.get((outcome.where, outcome.status), f"{outcome.where}/{outcome.status}")


def seconds(outcome):
    return f" ({outcome.seconds:.1f} s)" if outcome else ""


def _rows(done, mode):
    """[(fault, [word of each state])] of those that were run."""
    for name in FAULTS:
        row = [word(done[(state, name, mode)]) if (state, name, mode) in done else "·"
               for state in MODES[mode].states]
        if any(cell != "·" for cell in row):
            yield name, row


def matrix(done):
    lines = []
    for mode in MODES:
        rows = list(_rows(done, mode))
        if rows:
            short = (state.replace("source", "src").replace("rolling-back", "back")
                     for state in MODES[mode].states)
            lines.append(f"{mode:34} " + " ".join(f"{state:14.14}" for state in short))
            lines += [f"  {name:32} " + " ".join(f"{cell:14}" for cell in row) for name, row in rows]
    return "\n".join(lines)


def write(path, done, pause):
    counts = collections.Counter(word(outcome).split(",")[0] for outcome in done.values())
    text = HEAD.format(pause=pause, held_up=HELD_UP)
    text += f"\n{len(done)} cells: " + ", ".join(f"{n} {what}" for what, n in
                                                sorted(counts.items())) + ".\n"
    for mode in MODES:
        rows = list(_rows(done, mode))
        if not rows:
            continue
        states = MODES[mode].states
        text += f"\n## {mode}\n\n| fault | " + " | ".join(states) + " |\n"
        text += "|---" * (len(states) + 1) + "|\n"
        for name, row in rows:
            text += f"| {name} | " + " | ".join(row) + " |\n"
    path.write_text(text)
