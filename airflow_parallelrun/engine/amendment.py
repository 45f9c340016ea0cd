# SPDX-License-Identifier: Apache-2.0
"""Amendments: how a run is run from a redrive on.

A plan is never changed. What a redrive changes stands in an object of its own, ``redrives/<round>-<n>``, made
by exclusive create. It holds for the nodes of that round and of all later ones, until another takes its
place; of several for one round, the one with the greatest n holds.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.config import ParallelRunConfig
from airflow_parallelrun.engine import names
from airflow_parallelrun.engine.journal import read_journal
from airflow_parallelrun.exceptions import StorageError

if TYPE_CHECKING:
    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.rounds import Seal
    from airflow_parallelrun.engine.store import Store

FORMAT_VERSION = 1

# Never what the ledger or the output depends on: mini-batches, thresholds, the rows' form. Those remain the
# plan's, so that a redrive cannot make a failed run of one that succeeded, and rows of both look alike.
HOW_IT_RUNS = (
    "bisect_failures",
    "compute_target",
    "entry_script",
    "environment",
    "environment_variables",
    "init_timeout",
    "logging_level",
    "node_count",
    "process_count_per_node",
    "profiling_module",
    "progress_update_timeout",
    "resource_monitor_interval",
    "retry_short_returns",
    "run_invocation_timeout",
    "run_max_try",
    "shutdown_timeout",
    "source_directory",
    "spool_bytes",
    "start_method",
    "task_overhead_timeout",
)


@dataclass(frozen=True)
class Amendment:
    """How the mini-batches of a run are run from a round on.

    :param round: the first round that it holds for
    :param by: who asked for it
    :param asked_at: UTC, ISO 8601
    :param config: the fields of ``HOW_IT_RUNS``, by name
    :param arguments: as in the plan, like all that follow
    """

    round: int
    by: str
    asked_at: str
    config: dict[str, Any]
    arguments: list[Any]
    node_count: int
    models_root: str | None
    entry_script: str
    code: str
    code_sha256: str

    def to_json(self) -> bytes:
        """Return the content of the object."""
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=1).encode()


def how_it_runs(config: ParallelRunConfig) -> dict[str, Any]:
    """Return the part of a configuration that an amendment has."""
    values = config.to_dict()
    return {name: values[name] for name in HOW_IT_RUNS}


def write(store: Store, amendment: Amendment) -> None:
    """Write an amendment behind those that its round has."""
    number = 1 + max((n for round_, n in _listed(store) if round_ == amendment.round), default=0)
    while not store.create_exclusive(f"{names.REDRIVES}/{amendment.round}-{number}", amendment.to_json()):
        number += 1


def in_force(store: Store, round_: int) -> Amendment | None:
    """Return what holds in a round; None as long as there has been no redrive.

    :raises StorageError: when it was written by another version
    """
    upto = [each for each in _listed(store) if each[0] <= round_]
    if not upto:
        return None
    first, number = max(upto)
    name = f"{names.REDRIVES}/{first}-{number}"
    values = json.loads(store.read(name))
    version = values.pop("format_version")
    if version != FORMAT_VERSION:
        raise StorageError(
            store.path(name), f"has format_version {version}, this version reads {FORMAT_VERSION}"
        )
    return Amendment(**values)


def amended(plan: Plan, round_: int) -> Plan:
    """Return a plan as the nodes of a round run it."""
    amendment = in_force(plan.store, round_)
    if amendment is None:
        return plan
    return replace(
        plan,
        config=ParallelRunConfig.from_dict({**plan.config.to_dict(), **amendment.config}),
        arguments=amendment.arguments,
        node_count=amendment.node_count,
        models_root=amendment.models_root,
        entry_script=amendment.entry_script,
        code=amendment.code,
        code_sha256=amendment.code_sha256,
    )


def run_since(plan: Plan, seal: Seal, round_: int) -> bytearray:
    """Return one byte for each mini-batch; 1 means that a round from this one on has finished it."""
    found = bytearray(plan.mini_batches)
    for name, length in seal.journals:
        for record in read_journal(plan.store, name, length, plan.plan_id):
            if record.round < round_:
                break  # a journal is of one round
            for line in record.lines():
                found[line.ordinal] = 1
    return found


def _listed(store: Store) -> list[tuple[int, int]]:
    found = []
    for name in store.names(names.REDRIVES):
        round_, _, number = name.partition("-")
        found.append((int(round_), int(number)))
    return found
