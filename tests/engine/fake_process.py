# SPDX-License-Identifier: Apache-2.0
"""A process of a node without one behind it."""

from __future__ import annotations

import os
import struct
import time
from collections import deque

from airflow_parallelrun.engine.deaths import Exit
from airflow_parallelrun.engine.pool import Process, ProcessFiles
from airflow_parallelrun.engine.portions import InFlight
from airflow_parallelrun.worker import page

GONE = object()


class FakeProcess(Process):
    """The node's side of a process, with a real page and without a process behind it."""

    def __init__(self, number, path):
        self.number = number
        self.name = f"process{number:03d}"
        self.segment = f"segments/0-1-{number}-0"
        self.files = self.logs = ProcessFiles("stdout.txt", "stderr.txt", "log.txt", "error.txt", "p.profile")
        self.ready, self.stopping, self.bye = True, False, False
        self.init_failure = None
        self.seconds_mean = None
        self.in_flight = InFlight()
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, page.SIZE)
        self.page = page.Page(fd)
        os.close(fd)
        self.page.write(page.IDLE)
        self.sent, self.incoming, self.status, self.killed = [], deque(), -9, False
        self.code, self.asked = "/code", 0

    def _send(self, message):
        self.sent.append(message)

    def receive(self):
        message = self.incoming.popleft()
        return None if message is GONE else [message]

    def dump_stack(self):
        self.asked += 1

    def kill(self):
        self.killed = True

    def wait(self):
        return Exit(self.status, 0)

    def close(self):
        self.page.close()

    def fed(self):
        """The ordinals that were sent, by feed number."""
        entries = [entry for kind, *rest in self.sent if kind == "run" for entry in rest[0]]
        return {feed + n: ordinal + n for feed, ordinal, count, *_ in entries for n in range(count)}

    def runs(self, feed, phase=page.RUN, seconds_ago=0.0):
        """Say on the page what runs now."""
        self.says(phase, self.fed().get(feed, -1), feed, seconds_ago)

    def says(self, phase, ordinal=-1, feed=-1, seconds_ago=0.0):
        """Say something on the page."""
        self.page.write(phase, ordinal, feed)
        start = time.monotonic_ns() - int(seconds_ago * 1e9)
        struct.pack_into("=q", self.page._map, 8 + 24, start)
