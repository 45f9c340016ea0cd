# SPDX-License-Identifier: Apache-2.0
"""The protocol between a node and a worker process: one JSON array per line, over a socketpair.

Node to worker::

    ["start", {settings}]                     once, first
    ["run", [[feed, ordinal, items], …]]      feed numbers count up per process; items as in the plan; then
                                              the try, if it is not the first, and the place of a part's
                                              first item in its mini-batch
    ["answer", ok, value]                     to the worker's one open question
    ["stop"]                                  finish what is queued, call shutdown(), leave

Worker to node::

    ["hello", protocol version]
    ["ready", seconds in import and init()]
    ["init_failed", error] / ["contract", message]
    ["done", [result, …]]                     see Result; grouped
    ["ask", subject, arguments]               the worker waits for the answer
    ["fault", message]                        the segment cannot be written; the worker leaves
    ["bye"]                                   after shutdown()
"""

from __future__ import annotations

import json
from typing import Any, Dict, NamedTuple, Optional

VERSION = 1

OK, SHORT, FAILED, SKIPPED = "ok", "short", "failed", "skipped"


class Result(NamedTuple):
    """What became of one mini-batch in one try; the wire carries it as a plain array."""

    feed: int
    ordinal: int
    status: str
    items_in: int
    items_ok: int
    rows_out: int
    offset: int
    length: int
    crc32: int
    seconds: float
    cpu_seconds: float
    error: Optional[Dict[str, Any]]


def encode(message: list[Any]) -> bytes:
    """Return a message as one line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


class LineReader:
    """Cuts a byte stream into messages."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []

    def feed(self, data: bytes) -> list[list[Any]]:
        """Take what was received, and return the messages that it completes."""
        *lines, rest = data.split(b"\n")
        if not lines:
            self._rest.append(rest)
            return []
        lines[0] = b"".join([*self._rest, lines[0]])
        self._rest = [rest] if rest else []
        return [json.loads(line) for line in lines]
