# SPDX-License-Identifier: Apache-2.0
"""What a worker process died of, in words for a person: signal, memory, and where it was in the script."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

# A stack of a hundred frames is some 8 kB; user threads have one each.
_READ_BYTES = 1 << 16
_STACK_LIMIT = 4000
_GIB = 1 << 30

# Where the frames of this package are in a worker's stack.
OWN_FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "worker") + os.sep
_BLOCK = re.compile(r"^(Current thread|Thread) 0x\w+.*\(most recent call first\):\n((?:  .*\n)+)", re.M)
_FRAME = re.compile(r'  File "(.*)", line (\d+) in (.*)')


class Stack(NamedTuple):
    """Where a process was.

    :param text: the frames, most recent call first; empty when it is not known
    :param frame: the innermost one of the user's own code, as in ``error["frame"]``
    """

    text: str
    frame: str | None


NO_STACK = Stack("", None)


class Exit(NamedTuple):
    """How a process ended.

    :param status: as ``subprocess`` has it: negative for a signal
    :param peak_bytes: the most memory that it had at a time, and no less than the node's when it was started,
        as Linux counts; 0 when it is not known
    :param cpu_seconds: that it used, and what it has started and waited for
    """

    status: int
    peak_bytes: int
    cpu_seconds: float = 0.0


def describe_exit(ended: Exit) -> str:
    """Return an exit status in words; of a kill that nobody asked for, with the memory figures."""
    if ended.status >= 0:
        return f"the process exited with status {ended.status}"
    try:
        name = signal.Signals(-ended.status).name
    except ValueError:
        name = f"signal {-ended.status}"
    if -ended.status != signal.SIGKILL:
        return f"the process was ended by {name}"
    had = f"; it had used up to {ended.peak_bytes / _GIB:.2f} GiB" if ended.peak_bytes else ""
    limit = memory_limit()
    of = f" of {limit / _GIB:.2f} GiB" if had and limit else ""
    return f"the process was ended by SIGKILL, as the kernel does when memory runs out{had}{of}"


def memory_limit() -> int:
    """Return how many bytes of memory this process and its like may use; 0 when it is not known."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path) as file:
                limits.append(int(file.read()))
        except (OSError, ValueError):  # another version of cgroups, or "max"
            continue
    return max(0, min(limits))


def last_stack(path: str, source_directory: str) -> Stack:
    """Return the last stack that Python's faulthandler wrote into a file.

    :param path: the stderr of a process that crashed, or was asked for its stack
    :param source_directory: the folder of the user's code; its name is left out of paths
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _READ_BYTES))
            text = file.read().decode("utf-8", "replace") + "\n"
    except FileNotFoundError:
        return NO_STACK
    # Threads stand youngest first, so the main one is last; a crash names the one that did it.
    blocks = list(_BLOCK.finditer(text))
    if not blocks:
        return NO_STACK
    chosen = next((block for block in reversed(blocks) if block[1] == "Current thread"), blocks[-1])
    frames = list(_frames(chosen[2], source_directory))
    if not frames:
        return NO_STACK
    lines = "".join(f'  File "{name}", line {line} in {function}\n' for name, line, function, _ in frames)
    own = (f"{name}, line {line}, in {function}" for name, line, function, is_own in frames if is_own)
    return Stack(f"Where it was (most recent call first):\n{lines[:_STACK_LIMIT]}", next(own, None))


def _frames(block: str, source_directory: str) -> Iterator[tuple[str, str, str, bool]]:
    prefix = source_directory + os.sep
    for name, line, function in _FRAME.findall(block):
        if not name.startswith((OWN_FOLDER, "<frozen importlib")):
            yield name.removeprefix(prefix), line, function, name.startswith(prefix)
