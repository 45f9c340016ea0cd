# SPDX-License-Identifier: Apache-2.0
"""Where a run stands: what is left to do, who is at work on it, and whether its result is there."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.engine import names, ownership
from airflow_parallelrun.engine.amendment import in_force
from airflow_parallelrun.engine.ledger import Counts, Ledger
from airflow_parallelrun.engine.outputs import output_of
from airflow_parallelrun.engine.rounds import Seal, attempts, journals, list_attempts, sealed_rounds

if TYPE_CHECKING:
    from airflow_parallelrun.engine.names import Attempt
    from airflow_parallelrun.engine.plan import Plan


# Of a start that has not ended: it may be at work on this machine, was killed, or is on another machine, of
# which nobody can tell from here.
AT_WORK, LOST, ELSEWHERE = "at work", "lost", "elsewhere"


@dataclass(frozen=True)
class Start:
    """A start of a node.

    :param attempt: whose, and which
    :param round: in which round
    :param host: the machine
    :param pid: the process there
    :param started_at: UTC, ISO 8601
    :param end: what it wrote when it left; None when it has not, or was killed
    """

    attempt: Attempt
    round: int
    host: str
    pid: int
    started_at: str
    end: dict[str, Any] | None

    @property
    def state(self) -> str:
        """How it ended (finished, aborted, interrupted, failed); else AT_WORK, LOST or ELSEWHERE.

        *Known limitation*: where the number of a process that was killed belongs to another one by now, that
        is taken for it.
        """
        if self.end is not None:
            return str(self.end["outcome"])
        if self.host != socket.gethostname():
            return ELSEWHERE
        return AT_WORK if os.path.exists(f"/proc/{self.pid}") else LOST


def starts(plan: Plan) -> list[Start]:
    """Return every start of every node, sorted."""
    store = plan.store
    ended = set(store.names(names.ENDS))
    found = []
    for attempt in list_attempts(store):
        record = json.loads(store.read(f"{names.ATTEMPTS}/{attempt}"))
        end = json.loads(store.read(f"{names.ENDS}/{attempt}")) if str(attempt) in ended else None
        found.append(
            Start(attempt, record["round"], record["host"], record["pid"], record["started_at"], end)
        )
    return found


def is_judged(plan: Plan) -> bool:
    """Tell whether there is a verdict, and no node has started since."""
    open_round = sealed_rounds(plan.store)
    return open_round > 0 and open_round not in attempts(plan.store).values()


def mini_batches_left(plan: Plan) -> int:
    """Return how many mini-batches the next node would find to do, as the journals are now."""
    now = Seal(sealed_rounds(plan.store), journals(plan.store))
    return left_to_do(plan, Ledger.read(plan, now).counts())


def left_to_do(plan: Plan, counts: Counts) -> int:
    """Return the same, from what the run has come to; short ones are done again from a redrive on."""
    redriven = in_force(plan.store, sealed_rounds(plan.store)) is not None
    return counts.failed + counts.unprocessed + (counts.short if redriven else 0)


def published_result(plan: Plan) -> dict[str, Any] | None:
    """Return the published result of the last round; None when it, or a file that it names, is not there."""
    output = output_of(plan)
    if output is None or not output.is_published(ownership.RESULT):
        return None
    try:
        result: dict[str, Any] = json.loads(output.read(ownership.RESULT))
    except FileNotFoundError:  # a reduce that judges a later round has just removed it
        return None
    if result["plan_id"] != plan.plan_id or result["round"] != sealed_rounds(plan.store) - 1:
        return None
    for path in (result["output_file"], result["failed_items_file"]):
        if path and not output.is_published(os.path.basename(path)):
            return None
    return result
