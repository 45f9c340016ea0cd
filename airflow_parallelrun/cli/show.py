# SPDX-License-Identifier: Apache-2.0
"""``parallelrun show``: everything that is known of a run, for people or as JSON. It changes nothing."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

from .parser import CommandParser
from .progress import duration
from .run import how_to_redrive, print_table, resume_command, summary, tolerated_failures
from .run_directory import add_run_directory, airflows_names, is_airflows, plan_of, redrive_call

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_parallelrun.engine.account import Account
    from airflow_parallelrun.engine.plan import Plan

DESCRIPTION = """\
Shows where a run stands: verdict and reason, counts, nodes, the most frequent errors, the first failed items,
where everything is, and what to do next. It reads only, and works on every run: one that has ended, one that
is going on, one that was killed, and those of Airflow.

Exit status: 0 the run is shown, also one that failed; 2 there is no such run.
"""

FORMAT_VERSION = 1

_NODES_SHOWN = 10
_GROUPS_SHOWN = 5
_LINE_CHARS = 300
_TRACEBACK_LINES = 15

# What it means that there is no verdict yet.
_STATES = {
    "not started": "not started: no node has begun",
    "running": "running: no verdict yet",
    "stopped": "stopped: no node is at work, and there is no verdict",
    "elsewhere": "no verdict yet: nodes have not ended that are on other machines",
}


def main(given: Sequence[str]) -> int:
    """Run ``parallelrun show`` and return its exit status."""
    parser = CommandParser("show", DESCRIPTION)
    add_run_directory(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document, for programs")
    parsed = parser.parse(given)
    from airflow_parallelrun.engine.account import account_of

    plan = plan_of(parsed)
    account = account_of(plan)
    if parsed.json:
        print(json.dumps(_document(plan, account), indent=1))
        return 0
    _show(plan, account)
    return 0


def _document(plan: Plan, account: Account) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "owner": plan.owner,
        "created_at": plan.created_at,
        **dataclasses.asdict(account),
        "next": _advice(plan, account),
    }


def _show(plan: Plan, account: Account) -> None:
    result = account.result
    print_table(
        {
            **summary(result, _job(plan, account)),
            "reason": _clipped(result["reason"]),
            "tolerated": _tolerated(result["thresholds"]),
            "took": _took(result),
            "owner": plan.owner,
        }
    )
    for title, lines in {
        "nodes": _node_lines(account),
        "most frequent errors": _error_lines(result["error_groups"][:_GROUPS_SHOWN]),
        "first failed items": map(_item_line, account.failed_items),
        "what to do": iter(_advice(plan, account).splitlines()),
    }.items():
        text = "\n".join(f"  {line}" for line in lines)
        if text:
            print(f"\n{title}:\n{text}")
    sys.stdout.flush()


def _job(plan: Plan, account: Account) -> str:
    text = _STATES.get(account.state, account.state)
    if account.state not in _STATES and _lacks_results(plan, account):
        text += "; its results are not in the output folder"
    return text + (f" (round {account.result['round']})" if account.result["round"] else "")


def _tolerated(thresholds: dict[str, float | None]) -> str:
    given = {name: limit for name, limit in thresholds.items() if limit is not None}
    return ", ".join(f"{name} {'-1 (all)' if limit == -1 else limit}" for name, limit in given.items())


def _took(result: dict[str, Any]) -> str:
    durations = result["durations"]
    if result["verdict"] is None:
        return f"{duration(durations['total_s'])} until now"
    words = {
        "split_s": "split",
        "first_init_s": "until the first process was ready",
        "run_s": "run() in all",
        "reduce_s": "reduce",
    }
    parts = [f"{text} {duration(durations[name])}" for name, text in words.items() if name in durations]
    return f"{duration(durations['total_s'])} ({', '.join(parts)})"


def _node_lines(account: Account) -> Iterator[str]:
    for node in account.nodes[:_NODES_SHOWN]:
        commit = f", last commit {node['last_commit']}" if node["last_commit"] else ""
        yield (
            f"{node['node']:<6} {node['state']:<12} {_many(node['mini_batches_done'], 'mini-batch')} done"
            f"{commit}; {node['host']}, process {node['pid']}, since {node['started_at']}"
        )
        if node["state"] != "finished":
            yield from _indented(node["message"])
    more = len(account.nodes[_NODES_SHOWN:]) + account.nodes_left_out
    if more:
        yield f"… and {more} more"


def _error_lines(groups: Sequence[dict[str, Any]]) -> Iterator[str]:
    for group in groups:
        much = f"{_many(group['mini_batches'], 'mini-batch')}, {_many(group['items'], 'item')}"
        yield f"{much}: {_clipped(group['error'])}"
        items = ", ".join(group["sample_items"])
        yield f"    first in mini-batch {group['sample_mini_batch']}: {_clipped(items)}"
        yield from _indented(group["traceback"])
        yield f"    log: {group['log']}"


def _item_line(line: dict[str, Any]) -> str:
    what = line.get("item")
    if what is None:
        more = ", …" if line["items_left_out"] else ""
        what = f"{line['missing']} of {', '.join(line['items'])}{more}"
    error = line["error"]
    tries = "1 try" if line["tries"] == 1 else f"{line['tries']} tries"
    where = f"mini-batch {line['mini_batch']}, {tries}, node {line['node']} {line['process']}".rstrip()
    return f"{what}: {_clipped(error['type'] + ': ' + error['message'])} ({where})"


def _advice(plan: Plan, account: Account) -> str:
    """Return what a person can do now; empty where nothing is to be done."""
    if account.state in ("running", "elsewhere"):
        return ""
    if account.state == "succeeded with errors" and not _lacks_results(plan, account):
        if not is_airflows(plan):
            return how_to_redrive(plan, account.result)
        return f"{tolerated_failures(account.result)} To run them again: {redrive_call(plan)}"
    return _airflow_advice(plan, account) if is_airflows(plan) else _own_advice(plan, account)


def _own_advice(plan: Plan, account: Account) -> str:
    go_on = resume_command(plan)
    if account.state == "failed" and not account.left:
        return (
            "Every mini-batch has been processed: only a new run can change this, with another script, other "
            "options or another input."
        )
    if account.state == "failed":
        return (
            f"If the cause lies outside of the script and its options, which a run keeps as they are: {go_on}"
        )
    if account.left:
        return f"{_many(account.left, 'mini-batch')} failed or left to do. To go on: {go_on}"
    return f"To have the results in the output folder: {go_on}" if _lacks_results(plan, account) else ""


def _airflow_advice(plan: Plan, account: Account) -> str:
    dag, run, step = airflows_names(plan)
    where = f"In Airflow, in run {run} of DAG {dag}"
    if account.state == "failed" and not account.left:
        return (
            "Every mini-batch has been processed: only a new plan can change this. When script, parameters "
            f"or input have changed: {where}, clear {step}.split with downstream."
        )
    if account.left:
        return (
            f"{_many(account.left, 'mini-batch')} failed or left to do. Airflow retries a lost node; "
            f"else, when the cause is gone: {where}, clear {step}.run with downstream, also where green."
        )
    if _lacks_results(plan, account):
        return f"To have the results in the output folder: {where}, clear {step}.reduce with downstream."
    return ""


def _lacks_results(plan: Plan, account: Account) -> bool:
    return plan.output is not None and not account.published


def _indented(text: str) -> Iterator[str]:
    lines = text.rstrip().splitlines()
    for line in lines[-_TRACEBACK_LINES:]:
        yield f"    {_clipped(line)}"


def _many(number: int, noun: str) -> str:
    plural = "es" if noun.endswith("ch") else "s"
    return f"{number} {noun}{'' if number == 1 else plural}"


def _clipped(text: str) -> str:
    """Return the first line of a text, and of a very long one its beginning."""
    line = text.split("\n", 1)[0]
    return line if len(line) <= _LINE_CHARS else f"{line[:_LINE_CHARS]}…"
