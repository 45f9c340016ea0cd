# SPDX-License-Identifier: Apache-2.0
"""The protocol between a node and a worker process: one JSON array per line, over a socketpair.

Node to worker::

    ["start", {settings}]                     once, first
    ["run", [[feed, ordinal, count], …]]      neighbouring mini-batches in their first try; the process reads
                                              their items itself. Feed numbers count up per process, one for
                                              each mini-batch
    ["run", [[feed, ordinal, 1, try], …]]     one that is tried again; and a part of one that is bisected has
                                              the place of its first item and their number as well
    ["answer", ok, value]                     to the worker's one open question
    ["stop"]                                  finish what is queued, call shutdown(), leave

Worker to node::

    ["hello", protocol version]
    ["ready", seconds in import and init()]
    ["init_failed", error] / ["contract", message]
    ["streak", feed, count, items, run seconds, seconds, bytes of rows, bytes]
                                              neighbours that succeeded in full at their first try: how many
                                              there are, and how long they took. Their line for the journal
                                              follows
    ["result", …]                             any other; see Result
    ["ask", subject, arguments]               the worker waits for the answer
    ["fault", object, message]                this object of the run directory cannot be written or read; the
                                              worker leaves
    ["bye"]                                   after shutdown()
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, NamedTuple, Optional

VERSION = 2

OK, SHORT, FAILED, SKIPPED = "ok", "short", "failed", "skipped"


class Result(NamedTuple):
    """What became of one mini-batch in one try, or of a part of one; the wire carries it as a plain array."""

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


def encode(message: List[Any]) -> bytes:
    """Return a message as one line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


class MessageReader:
    """Cuts a byte stream into messages; bytes that follow one become its last element."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._searched = 0
        self._open: Optional[List[Any]] = None

    def feed(self, data: bytes) -> List[List[Any]]:
        """Take what was received, and return the messages that it completes."""
        rest = self._rest
        rest += data
        messages, at = [], 0
        while True:
            if self._open is not None:
                end = at + self._open[-1]
                if end > len(rest):
                    break
                self._open[-1] = bytes(rest[at:end])
                messages.append(self._open)
                self._open = None
            else:
                end = rest.find(b"\n", max(at, self._searched)) + 1
                if not end:
                    break
                message = json.loads(rest[at:end])
                if message[0] == "streak":
                    self._open = message
                else:
                    messages.append(message)
            at = end
        del rest[:at]
        self._searched = len(rest) if self._open is None else 0
        return messages
