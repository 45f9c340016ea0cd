# SPDX-License-Identifier: Apache-2.0
"""The entry script of every run of the suite: rows with checksums, a record of its calls, and faults."""

from __future__ import annotations

import os
import sys
import time
import types
import zlib

import faulty_os

FOLDER = os.environ["FAULT_FOLDER"]
FAULTS = faulty_os.load(os.path.join(FOLDER, "worker_faults.json"), os.path.join(FOLDER, "fired"))
PAUSE_S = float(os.environ["FAULT_PAUSE_S"])
# …/stdout/<attempt>/<process>.stdout.txt
ATTEMPT, PROCESS = os.readlink("/proc/self/fd/1").split("/")[-2:]
CALLS = os.path.join(FOLDER, "calls", f"{ATTEMPT}-{PROCESS.split('.')[0]}-{os.getpid()}")


def install() -> None:
    """Make points of what the worker does between the script's calls."""
    output = sys.modules["_parallelrun_worker.output"]
    output.os = faulty_os.FaultyOs(FAULTS)
    # It waits for a store that refuses for some 30 s.
    output.time = types.SimpleNamespace(sleep=lambda seconds: time.sleep(seconds / 50))
    page = sys.modules["_parallelrun_worker.page"].Page

    def with_faults(write):
        def write_with_faults(self, phase, *given):
            FAULTS.point("before page", str(phase))
            now = write(self, phase, *given)
            FAULTS.point("page", str(phase))
            return now

        return write_with_faults

    page.write, page.enter = with_faults(page.write), with_faults(page.enter)
    protocol = sys.modules["_parallelrun_worker.protocol"]
    encode = protocol.encode

    def encode_with_faults(message):
        FAULTS.point("report", message[0])
        return encode(message)

    protocol.encode = encode_with_faults


def init() -> None:
    install()
    FAULTS.point("init", "")


def run(mini_batch):
    with open(CALLS, "a") as file:
        file.write("".join(os.path.basename(path) + "\n" for path in mini_batch))
    time.sleep(PAUSE_S)
    elements = []
    for path in mini_batch:
        name = os.path.basename(path)
        try:
            FAULTS.point("run", name)
        except faulty_os.LeaveOutError:
            continue
        with open(path) as file:
            lines = file.read().splitlines()
        elements.append(
            "\n".join(_row(name, number, len(lines), line) for number, line in enumerate(lines, 1))
        )
    return elements


def shutdown() -> None:
    FAULTS.point("shutdown", "")


def _row(name, number, count, line):
    text = f"{name} {number}/{count} {line}"
    return f"{text} {zlib.crc32(text.encode()):08x}"
