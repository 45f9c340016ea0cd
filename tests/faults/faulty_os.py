# SPDX-License-Identifier: Apache-2.0
"""The operating system as a process of a run sees it, with faults.

The product has no hooks for tests. Instead a process that is to suffer gets this in the place of the module
``os`` (see fault_driver.py for the engine's processes, fault_script.py for the workers): every call of it
that touches storage is a *point* where a fault can strike, before the real call, after it, or half-way.

Only the standard library is used: the entry script carries a copy of this file into the workers.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from typing import Any

GUARDIAN = b"guardian.py"
# By one argument: a path, or two of which the second is the new name.
_BY_PATH = ("open", "unlink", "makedirs", "scandir", "listdir", "stat", "lstat")
_BY_NEW_NAME = ("link", "replace", "rename")
_BY_DESCRIPTOR = ("write", "pwrite", "fsync", "fdatasync", "ftruncate", "posix_fallocate")


class Faults:
    """The faults of one process.

    Each is a dict: ``id``; ``call`` (the name of a function of ``os``, ``*`` for each of them, or a point of
    the script); ``path`` (a regular expression); ``at`` (the k-th such call); ``every`` (and each so many-th
    after it); ``when`` (before, half or after); ``do`` (a key of ``ACTIONS``, or the name of an errno);
    ``once`` (in the whole run, not in each process); ``limit`` (how often in one process).

    :param faults: as above
    :param fired: a folder; each fault that struck leaves a file of its name there
    """

    def __init__(self, faults: list[dict[str, Any]], fired: str) -> None:
        self._faults = faults
        self._fired = fired
        self._seen = {fault["id"]: 0 for fault in faults}
        self._struck = {fault["id"]: 0 for fault in faults}

    def due(self, call: str, path: str) -> list[dict[str, Any]]:
        """Return the faults that strike at this call, and remember that they did."""
        return [fault for fault in self._faults if self._matches(fault, call, path) and self._is_due(fault)]

    def point(self, call: str, path: str) -> None:
        """Let strike what is due at a point that is no call of ``os``."""
        for fault in self.due(call, path):
            strike(fault)

    def _matches(self, fault: dict[str, Any], call: str, path: str) -> bool:
        by_name = fault["call"] == call or (fault["call"] == "*" and call in CALLS)
        return by_name and re.search(fault.get("path", ""), path) is not None

    def _is_due(self, fault: dict[str, Any]) -> bool:
        name = fault["id"]
        self._seen[name] += 1
        behind = self._seen[name] - fault.get("at", 1)
        every = fault.get("every", 0)
        if (
            behind < 0
            or (behind if not every else behind % every)
            or self._struck[name] >= fault.get("limit", 1 << 30)
        ):
            return False
        self._struck[name] += 1
        try:
            os.close(os.open(os.path.join(self._fired, name), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return not fault.get("once", False)
        return True


# Of the engine's own classes, where it asks an object store; see fault_driver.py.
OBJECT_CALLS = {
    "AzureObjects": ("write", "stat"),
    "_AzureUpload": ("put", "copy", "complete"),
    "ObjectStore": ("read", "read_range", "entries"),
}
OBJECT_POINTS = {f"object {name}" for names in OBJECT_CALLS.values() for name in names}
CALLS = {*_BY_PATH, *_BY_NEW_NAME, *_BY_DESCRIPTOR, *OBJECT_POINTS}


class FaultyOs:
    """In the place of the module ``os``: the same, but for the faults."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return faulty(self._faults, name, real, lambda args: _path(name, args)) if name in CALLS else real

    def open_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        """In the place of the built-in ``open``."""
        for fault in self._faults.due("open", str(path)):
            strike(fault)
        return open(path, *args, **kwargs)


def faulty(faults: Faults, name: str, real: Any, path: Any) -> Any:
    """Return a call with faults.

    :param path: tells from its arguments what it touches
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        due = faults.due(name, path(args))
        for fault in due:
            if fault.get("when", "before") == "half":
                _half(real, args)
            if fault.get("when", "before") != "after":
                strike(fault)
        value = real(*args, **kwargs)
        for fault in due:
            if fault.get("when") == "after":
                strike(fault)
        return value

    return call


def _path(name: str, args: tuple[Any, ...]) -> str:
    if name in _BY_DESCRIPTOR:
        return os.readlink(f"/proc/self/fd/{args[0]}")
    return str(args[1] if name in _BY_NEW_NAME else args[0])


def _half(real: Any, args: tuple[Any, ...]) -> None:
    """Write the first half of the bytes; for other calls there is no half."""
    if real in (os.write, os.pwrite):
        real(args[0], args[1][: len(args[1]) // 2], *args[2:])


def strike(fault: dict[str, Any]) -> None:
    """Do what a fault does."""
    action = ACTIONS.get(fault["do"])
    if action is None:
        number = getattr(errno, fault["do"])
        raise OSError(number, os.strerror(number))
    action()


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _ask_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _kill_node() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)


def children(pid: int, seen: tuple[int, ...] = ()) -> list[int]:
    """Return the processes below one, and those below these."""
    found: list[int] = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            for child in map(int, file.read().split()):
                found += [child, *children(child)]
    return found


def _kill_guardian() -> None:
    for pid in children(os.getpid()):
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if GUARDIAN in file.read():
                os.kill(pid, signal.SIGKILL)


def _kill_fork_server() -> None:
    """Kill the first process with that command line: those that it has forked have the same."""
    for pid in sorted(children(os.getpid())):
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if b"fork_server" in file.read():
                os.kill(pid, signal.SIGKILL)
                return


def _kill_all() -> None:
    """Kill the node with all that is below it, as if the machine had gone: nobody has time to react."""
    below = children(os.getpid())
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in below:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
    _kill()


def _segfault() -> None:
    ctypes.string_at(0)


def _hang_with_the_lock() -> None:
    ctypes.PyDLL(None).sleep(600)  # unlike CDLL it does not give the interpreter's lock back


def _eat() -> None:
    eaten = []
    while True:
        eaten.append(b"x" * (8 << 20))


def _eat_to_the_limit() -> None:
    limit = 400 << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    _eat()


def _eat_to_the_kernels_limit() -> None:
    """Eat as one of a control group with little memory; its folder is what the script was given."""
    with open(os.path.join(os.environ["MEMORY_GROUP"], "cgroup.procs"), "w") as file:
        file.write(str(os.getpid()))
    _eat()


def _close_stdout() -> None:
    for number in (1, 2):
        os.close(number)


def _fill_stdout() -> None:
    """Have what is printed end on a full device."""
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 1)
    os.close(full)


def _flood() -> None:
    for number in range(50_000):
        print("line", number, "x" * 60)
    os.write(1, b"no newline " * 50_000)


def _leave_children() -> None:
    """Start children that outlive this process: plain, in a session of its own, and far down."""
    forever = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    subprocess.Popen(forever)
    subprocess.Popen(forever, start_new_session=True)
    subprocess.Popen(["sh", "-c", 'setsid sh -c "sleep 600 & sleep 600 &" &'])
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)


def _fail() -> None:
    raise ValueError("broken on purpose")


class LeaveOutError(Exception):
    """Asks the script to return no element for an item."""


def _leave_out() -> None:
    raise LeaveOutError


ACTIONS = {
    "kill": _kill,
    "kill all": _kill_all,
    "kill fork server": _kill_fork_server,
    "kill guardian": _kill_guardian,
    "kill node": _kill_node,
    "stop": _stop,
    "ask to stop": _ask_to_stop,
    "sleep": lambda: time.sleep(0.01),
    "raise": _fail,
    "leave out": _leave_out,
    "exit": lambda: os._exit(0),
    "segfault": _segfault,
    "hang": _hang_with_the_lock,
    "eat to the limit": _eat_to_the_limit,
    "eat to the kernel's limit": _eat_to_the_kernels_limit,
    "close stdout": _close_stdout,
    "fill stdout": _fill_stdout,
    "flood": _flood,
    "leave children": _leave_children,
}


def load(path: str, fired: str) -> Faults:
    """Read the faults of a process."""
    with open(path) as file:
        return Faults(json.load(file), fired)
