# SPDX-License-Identifier: Apache-2.0
"""The guardian: one small process per node that outlives it, and leaves nothing of it behind.

It holds a pipe from the node, over which it hears of every worker. At end of file the node is gone,
however it ended: whatever carries the node's tag in its environment or lives in the session of a worker is
killed, and the node's temporary folder is removed.

Known limitation: a process that was started with an environment of its own making *and* in a session of
its own is known by neither.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from typing import Collection, List, Optional, Set

TAG_VARIABLE = "PARALLELRUN_TAG"

# What is killed and does not end hangs in the kernel, and nobody can help it.
_LIMIT_S = 2.0
_PIPE_BYTES = 4096


def members(tag: str, sessions: Collection[int] = ()) -> List[int]:
    """Return the processes that carry the tag, or one that starts with it and a dot, or live in a session.

    :param tag: the value of the variable in the environment
    :param sessions: by the process that has made it, as the kernel names them
    """
    exact = f"{TAG_VARIABLE}={tag}".encode()
    below = exact + b"."
    own = os.getpid()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == own:
            continue
        try:
            if sessions and _session(name) in sessions:
                found.append(int(name))
                continue
            with open(f"/proc/{name}/environ", "rb") as file:
                variables = file.read().split(b"\0")
        except OSError:  # gone meanwhile, or another user's
            continue
        if any(variable == exact or variable.startswith(below) for variable in variables):
            found.append(int(name))
    return found


def _session(name: str) -> Optional[int]:
    """Return the session of a process that is not dead."""
    with open(f"/proc/{name}/stat", "rb") as file:
        # Behind the process's name, which may have any character in it.
        state, _parent, _group, session = file.read().rpartition(b")")[2].split()[:4]
    return None if state in b"ZX" else int(session)


def kill_members(tag: str, sessions: Collection[int] = ()) -> int:
    """Kill all :func:`members`, and return how many there were.

    A process can fork while the list is read, so it is read until it is empty.
    """
    killed: Set[int] = set()
    untouchable: Set[int] = set()
    deadline = time.monotonic() + _LIMIT_S
    while time.monotonic() < deadline:
        pids = set(members(tag, sessions)) - untouchable
        if not pids:
            break
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            except PermissionError:  # it has changed its user
                untouchable.add(pid)
                continue
            killed.add(pid)
        time.sleep(0.005)
    return len(killed)


def main(tag: str, folder: str, sessions: Set[int]) -> None:
    """Wait until the node is gone, then clean up after it.

    The node writes a line for every worker: its session when it starts, and that with a minus when it has
    ended and nothing of it is left.

    :param sessions: of the workers that there are already
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    rest = b""
    while True:
        data = os.read(0, _PIPE_BYTES)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            session = int(line)
            if session > 0:
                sessions.add(session)
            else:
                sessions.discard(-session)
    kill_members(tag, sessions)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], set(map(int, sys.argv[3:])))
