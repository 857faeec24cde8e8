# SPDX-License-Identifier: Apache-2.0
"""QEMU's own migration, without drover: what the guests and the harness are proven with, and the
rival in benchmarks."""
import time

ENDED = ("completed", "failed", "cancelled")


def set_capabilities(machine, **wanted):
    """Names with underscores for dashes: set_capabilities(m, multifd=True, return_path=True)."""
    machine.qmp.command("migrate-set-capabilities", {"capabilities": [
        {"capability": name.replace("_", "-"), "state": state} for name, state in wanted.items()]})


def set_parameters(machine, **wanted):
    machine.qmp.command("migrate-set-parameters",
                        {name.replace("_", "-"): value for name, value in wanted.items()})


def wait_migration(machine, timeout=120):
    """Waits for the end of an outgoing migration and returns query-migrate's last answer."""
    deadline = time.monotonic() + timeout
    while True:
        info = machine.qmp.command("query-migrate")
        if info.get("status") in ENDED:
            return info
        if time.monotonic() > deadline:
            raise TimeoutError(f"the migration did not end in {timeout} s: {info}")
        time.sleep(0.02)


def migrate(source, dest, uri=None, timeout=120, capabilities=None, parameters=None):
    """Migrates, and leaves the source stopped (postmigrate) and the destination paused (-S).

    Capabilities and parameters are set on both sides. The return path is always on.
    """
    uri = uri or f"unix:{dest.dir}/migrate.sock"
    capabilities = {"return_path": True, "events": True, **(capabilities or {})}
    parameters = {"max_bandwidth": 0, **(parameters or {})}
    for machine in (dest, source):
        set_capabilities(machine, **capabilities)
        set_parameters(machine, **parameters)
    dest.qmp.command("migrate-incoming", {"uri": uri})
    source.qmp.command("migrate", {"uri": uri})
    info = wait_migration(source, timeout)
    if info["status"] == "completed":
        # The return path tells the source; the destination's own state follows a moment later.
        dest.qmp.wait_event("MIGRATION", timeout, lambda data: data["status"] == "completed")
    return info
