# SPDX-License-Identifier: Apache-2.0
"""How far a node is, for people to look at; nothing depends on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Progress:
    """A node's progress in this round.

    :param node: the node's index
    :param attempt: which start of the node this is, from 1
    :param state: starting, running, stopping or the outcome
    :param mini_batches_total: of the whole job, in this round
    :param mini_batches_done: finished by this node
    :param mini_batches_failed: of these, failed or short
    :param items_done: items of finished mini-batches
    :param items_failed: of these, failed
    :param seconds: since this attempt started
    :param processes: alive now
    :param first_init_s: seconds until the first process was ready; None before that
    :param mini_batches_before: of those done, how many earlier attempts of this node did
    """

    node: int
    attempt: int
    state: str
    mini_batches_total: int
    mini_batches_done: int
    mini_batches_failed: int
    items_done: int
    items_failed: int
    seconds: float
    processes: int
    first_init_s: float | None
    mini_batches_before: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values; a few hundred bytes."""
        return asdict(self)
