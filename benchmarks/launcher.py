# SPDX-License-Identifier: Apache-2.0
"""Runs a command and tells what it took: ``launcher.py RESULT LIMIT_S COMMAND …``.

It is the reaper of everything that the command leaves behind, so that the CPU seconds are those of the whole
tree: each process counts when it has ended, and its parent has waited for it or this one has.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# Ray's servers end some time after the program that has started them.
_GRACE_S = 10.0


def main(result: str, limit_s: str, *command: str) -> None:
    """Run a command, and write what it took; its status is null when the time was up."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.signal(signal.SIGTERM, _out_of_time)
    cpu_s = 0.0
    began = time.monotonic_ns()
    child = subprocess.Popen(command)
    try:
        signal.alarm(int(limit_s))
        while True:
            pid, status, used = os.wait4(-1, 0)
            cpu_s += used.ru_utime + used.ru_stime
            if pid == child.pid:
                break
        signal.alarm(0)
        ended = time.monotonic_ns()
        child.returncode = os.waitstatus_to_exitcode(status)
        cpu_s += _reap(time.monotonic() + _GRACE_S)
    except TimeoutError:
        ended, child.returncode = time.monotonic_ns(), None
    finally:
        _kill_all()
    with open(result, "w") as file:
        json.dump({"began": began, "ended": ended, "status": child.returncode, "cpu_s": cpu_s}, file)


def _reap(deadline: float) -> float:
    """Wait for what the command has left behind, and return its CPU seconds."""
    cpu_s = 0.0
    while time.monotonic() < deadline:
        try:
            pid, _, used = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            break
        cpu_s += used.ru_utime + used.ru_stime
        if not pid:
            time.sleep(0.01)
    return cpu_s


def _kill_all() -> None:
    """Kill what is left; the children of what is killed come here."""
    while True:
        for pid in _children():
            os.kill(pid, signal.SIGKILL)
        try:
            os.wait4(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(pid) for pid in file.read().split()]


def _out_of_time(_number: int, _frame: object) -> NoReturn:
    raise TimeoutError


if __name__ == "__main__":
    main(*sys.argv[1:])
