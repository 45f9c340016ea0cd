# SPDX-License-Identifier: Apache-2.0
"""The guardian: one small process per node that outlives it, and leaves nothing of it behind.

It holds a pipe from the node. At end of file the node is gone, however it ended: every process that
carries the node's tag in its environment is killed, whatever group or session it moved to, and the
node's temporary folder is removed.

Known limitation: a process that was started with an environment of its own making *and* in a session of
its own carries no tag.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time

TAG_VARIABLE = "PARALLELRUN_TAG"

_ROUNDS = 200


def tagged(tag: str) -> list[int]:
    """Return the processes whose environment carries the tag, or one that starts with it and a dot."""
    exact = f"{TAG_VARIABLE}={tag}".encode()
    below = exact + b"."
    own = os.getpid()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == own:
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                variables = file.read().split(b"\0")
        except OSError:  # gone meanwhile, or another user's
            continue
        if any(variable == exact or variable.startswith(below) for variable in variables):
            found.append(int(name))
    return found


def kill_tagged(tag: str) -> int:
    """Kill every process that carries the tag, and return how many there were.

    A process can fork while the list is read, so it is read until it is empty.
    """
    killed: set[int] = set()
    for _ in range(_ROUNDS):
        pids = tagged(tag)
        if not pids:
            break
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed.add(pid)
        time.sleep(0.005)
    return len(killed)


def main(tag: str, folder: str) -> None:
    """Wait until the node is gone, then clean up after it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 4096):
        continue
    kill_tagged(tag)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
