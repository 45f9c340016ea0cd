# SPDX-License-Identifier: Apache-2.0
"""The account of a run as it stands, from before its start to long after its verdict. Nothing is changed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.engine import names, report
from airflow_parallelrun.engine.control import abort_reasons
from airflow_parallelrun.engine.ledger import Counts, Ledger
from airflow_parallelrun.engine.names import Attempt, ControlEntry
from airflow_parallelrun.engine.rounds import Seal, iso_time, journals, read_seal, sealed_rounds
from airflow_parallelrun.engine.standing import (
    AT_WORK,
    ELSEWHERE,
    is_judged,
    left_to_do,
    published_result,
    starts,
)
from airflow_parallelrun.engine.verdict import count, judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.standing import Start

NOT_STARTED, RUNNING, STOPPED = "not started", "running", "stopped"

STARTS = 100
FAILED_ITEMS = 5
_ITEMS_OF_SHORT = 3


@dataclass(frozen=True)
class Account:
    """A run as it stands; bounded whatever its size.

    :param state: the verdict, if there is one; else RUNNING, STOPPED, NOT_STARTED, or ELSEWHERE where nodes
        have not ended that are on other machines
    :param published: whether the verdict is in the output folder
    :param result: in the form of ``job_result.json``; without a verdict it is what the journals come to now
    :param failed_items: the first lines of ``failed_items.jsonl``, or what they would be now; of a short
        return the first items, and how many more there are
    :param nodes: starts of nodes, those that have not finished first
    :param nodes_left_out: how many more there are
    :param left: mini-batches that another round would do
    """

    state: str
    published: bool
    result: dict[str, Any]
    failed_items: list[dict[str, Any]]
    nodes: list[dict[str, Any]]
    nodes_left_out: int
    left: int


def account_of(plan: Plan) -> Account:
    """Return where a run stands."""
    found = starts(plan)
    nodes = sorted(_nodes(plan, found), key=lambda node: bool(node["state"] == "finished"))
    published = None
    if not is_judged(plan):
        state = _state(plan, found)
        result, failed_items = _now(plan)
    elif published := published_result(plan):
        state, result, failed_items = published["verdict"], published, _published_items(published)
    else:
        result, failed_items = _sealed(plan)
        state = result["verdict"]
    return Account(
        state=state,
        published=bool(published),
        result=result,
        failed_items=failed_items,
        nodes=nodes[:STARTS],
        nodes_left_out=max(0, len(nodes) - STARTS),
        left=left_to_do(plan, Counts(**result["counts"])),
    )


def _state(plan: Plan, found: Iterable[Start]) -> str:
    open_round = sealed_rounds(plan.store)
    states = {start.state for start in found if start.round == open_round}
    if AT_WORK in states:
        return RUNNING
    if ELSEWHERE in states:
        return ELSEWHERE
    return STOPPED if states else NOT_STARTED


def _now(plan: Plan) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what the journals come to as they are now."""
    now = Seal(sealed_rounds(plan.store), journals(plan.store))
    ledger = Ledger.read(plan, now)
    result = count(plan, now, ledger).to_dict()
    result |= {"verdict": None, "reason": "; ".join(abort_reasons(plan.store, now.round))}
    return result, _first(report.failed_item_lines(plan, ledger.problems()))


def _sealed(plan: Plan) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the verdict that is sealed, where it cannot be read in the output folder."""
    sealed = read_seal(plan.store, sealed_rounds(plan.store) - 1)
    ledger = Ledger.read(plan, sealed)
    result, _ = judge(plan, sealed, ledger)
    return result.to_dict(), _first(report.failed_item_lines(plan, ledger.problems()))


def _published_items(result: dict[str, Any]) -> list[dict[str, Any]]:
    if not result["failed_items_file"]:
        return []
    try:
        with open(result["failed_items_file"], "rb") as lines:
            return _first(lines)
    except FileNotFoundError:  # a reduce that judges a later round has just removed it
        return []


def _first(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    documents = [json.loads(line) for line in islice(lines, FAILED_ITEMS)]
    for document in documents:
        if items := document.get("items"):
            document["items"] = items[:_ITEMS_OF_SHORT]
            document["items_left_out"] = len(items) - len(document["items"])
    return documents


def _nodes(plan: Plan, found: Iterable[Start]) -> Iterator[dict[str, Any]]:
    done: dict[Attempt, int] = {}
    for round_ in {start.round for start in found}:
        for name in plan.store.names(names.control(round_)):
            if name != names.ABORT:
                entry = ControlEntry.parse(name)
                done[entry.attempt] = max(entry.done, done.get(entry.attempt, 0))
    for start in found:
        end = start.end or {}
        journal = f"{names.JOURNAL}/{start.attempt}-0.jsonl"
        here = end["mini_batches_done"] - end["mini_batches_before"] if end else done.get(start.attempt, 0)
        yield {
            "node": str(start.attempt),
            "round": start.round,
            "state": start.state,
            "message": end.get("message", ""),
            "mini_batches_done": here,
            "last_commit": iso_time(plan.store.modified(journal)) if here else None,
            "host": start.host,
            "pid": start.pid,
            "started_at": start.started_at,
            "log": plan.node_log(str(start.attempt)),
        }
