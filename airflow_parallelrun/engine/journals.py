# SPDX-License-Identifier: Apache-2.0
"""Where a node commits to: a file that grows, or objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_parallelrun.engine import names
from airflow_parallelrun.engine.committed_objects import ObjectJournal
from airflow_parallelrun.engine.committer import FileJournal
from airflow_parallelrun.engine.journal import header
from airflow_parallelrun.engine.mirror import Mirror
from airflow_parallelrun.engine.object_store import ObjectStore

if TYPE_CHECKING:
    from airflow_parallelrun.engine.committer import Journal
    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.rounds import Started
    from airflow_parallelrun.engine.workplace import Workplace


def open_journal(plan: Plan, started: Started, place: Workplace) -> Journal:
    """Open the journal of a node.

    :param started: its attempt
    :param place: its folders
    :raises StorageError: when it cannot be made
    """
    attempt, store = started.attempt, plan.store
    beginning = header(plan.plan_id, attempt, started.round)
    if isinstance(store, ObjectStore):
        outputs = Mirror(place.output, plan.output or plan.run_dir) if place.is_output_local else None
        return ObjectJournal(store, place.files, attempt, beginning, outputs)
    name = f"{names.JOURNAL}/{attempt}-0.jsonl"
    return FileJournal(store.create_growing(name, beginning), store.path(name), store.sync)
