# SPDX-License-Identifier: Apache-2.0
"""The plan: every mini-batch of a run, fixed before anything starts.

``plan.json`` is for people and carries the settings and the chunk table; ``mini_batches.jsonl`` has one line
for each mini-batch with its items, and ``mini_batches.index`` where each line begins.
"""

from __future__ import annotations

import contextlib
import json
import os
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from airflow_parallelrun.config import ParallelRunConfig
from airflow_parallelrun.engine import names
from airflow_parallelrun.engine.object_store import store_at
from airflow_parallelrun.engine.scratch import ScratchFolder
from airflow_parallelrun.exceptions import StorageError
from airflow_parallelrun.rules import LOGS_FOLDER
from airflow_parallelrun.worker.items import END, FIRST, ItemReader
from airflow_parallelrun.worker.loading import copies_of, find

if TYPE_CHECKING:
    from airflow_parallelrun.engine.store import Store

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Plan:
    """What split decided; everything that a node or reduce needs to know.

    :param run_dir: the run directory, an absolute path
    :param plan_id: unique to this plan
    :param owner: the run that this plan belongs to, the same for every try of split
    :param config: the settings, with every parameter resolved
    :param arguments: the entry script's arguments; an object in place of the path of a side input
    :param inputs: the inputs, as they were asked for
    :param sources: of each input what processes need to load its mini-batches
    :param output: the output folder, an absolute path; None for summary_only without one
    :param node_count: nodes to start: never more than there are mini-batches
    :param chunk_starts: the first ordinal of each chunk
    :param mini_batches: how many
    :param items: how many; None where that is known only when they are loaded
    :param code_sha256: of the code snapshot
    :param entry_script: the entry script's path within the snapshot
    :param models_root: the model registry's folder, if one is configured
    :param created_at: UTC, ISO 8601
    :param split_seconds: how long split took
    :param code: the name of the code snapshot
    :param side_inputs: what every process has whole; where the files are listed is in ``side_inputs.py``
    :param run: what the run is called among those of its step
    :param successes: the folder of the records of the step's successes; None when this is to leave none
    :param fingerprint: what its rows depend on; None likewise
    :param processed: the folder of the records of what the step has processed; None where nobody asks for it
    """

    run_dir: str
    plan_id: str
    owner: str
    config: ParallelRunConfig
    arguments: list[Any]
    inputs: list[dict[str, Any]]
    sources: list[dict[str, Any]]
    output: str | None
    node_count: int
    chunk_starts: list[int]
    mini_batches: int
    items: int | None
    code_sha256: str
    entry_script: str
    models_root: str | None
    created_at: str
    split_seconds: float
    code: str = names.CODE
    side_inputs: list[dict[str, Any]] = field(default_factory=list)
    run: str = ""
    successes: str | None = None
    fingerprint: dict[str, str] | None = None
    processed: str | None = None
    format_version: int = field(default=FORMAT_VERSION)

    @property
    def store(self) -> Store:
        """The door to the run directory."""
        return store_at(self.run_dir)

    @property
    def item_files(self) -> tuple[str, str]:
        """The paths of the items and of their index."""
        return self.store.path(names.MINI_BATCHES), self.store.path(names.MINI_BATCHES_INDEX)

    @property
    def logs(self) -> str:
        """The folder of the run's logs."""
        return f"{self.output or self.run_dir}/{LOGS_FOLDER}"

    def node_log(self, attempt: str) -> str:
        """Return the path of the log of a node's start.

        :param attempt: the start, such as ``0-1``
        """
        return node_log(self.logs, attempt)

    @property
    def append_row(self) -> bool:
        """Whether returned rows are written."""
        return self.config.output_action == "append_row"

    def chunk_size(self, chunk: int) -> int:
        """Return how many mini-batches a chunk has."""
        end = self.chunk_starts[chunk + 1] if chunk + 1 < len(self.chunk_starts) else self.mini_batches
        return end - self.chunk_starts[chunk]

    def chunk_of(self, ordinal: int) -> int:
        """Return the chunk that a mini-batch is in."""
        return bisect_right(self.chunk_starts, ordinal) - 1

    def to_json(self) -> bytes:
        """Return the content of ``plan.json``."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["config"] = self.config.to_dict()
        return json.dumps(values, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes, run_dir: str) -> Self:
        """Read ``plan.json``.

        :raises StorageError: when it was written by a newer version
        """
        values = json.loads(data)
        if values["format_version"] != FORMAT_VERSION:
            raise StorageError(
                f"{run_dir}/{names.PLAN}",
                f"has format_version {values['format_version']}, this version reads {FORMAT_VERSION}",
            )
        values["config"] = ParallelRunConfig.from_dict(values["config"])
        values.setdefault("sources", [{"type": "file"}] * len(values["inputs"]))  # before there were tables
        values["run_dir"] = run_dir
        return cls(**values)


def node_log(logs: str, attempt: str) -> str:
    """Return the path of the log of a node's start in a folder of logs."""
    return f"{logs}/sys/node/{attempt}.log.txt"


def read_plan(run_dir: str) -> Plan:
    """Read a run's plan.

    :param run_dir: the run directory
    :raises StorageError: when there is none, which means that split did not finish, or it cannot be read
    """
    store = store_at(run_dir)
    try:
        return Plan.from_json(store.read(names.PLAN), run_dir)
    except FileNotFoundError as error:
        raise StorageError(store.path(names.PLAN), "there is no plan; split did not finish") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StorageError(store.path(names.PLAN), f"is damaged: {error}") from error


class PlanItems:
    """The items of a run's mini-batches. The files are opened when an item is asked for: most need none.

    :param plan: the plan
    :param ahead: how many mini-batches are read at once, for one who asks for neighbours
    :param files: the paths of the items and of their index; default where the run directory has them, or a
        copy if that is in an object store
    :param spool: the node's folder of copies
    """

    def __init__(
        self,
        plan: Plan,
        ahead: int = 1,
        files: tuple[str, str] | None = None,
        spool: str | None = None,
    ) -> None:
        self._plan = plan
        self._spool = spool
        self._ahead = ahead
        self._files = files
        self._fetched: ScratchFolder | None = None
        self._reader: ItemReader | None = None

    def names(self, ordinal: int, part: slice) -> list[str]:
        """Return what to call some items of a mini-batch: paths of files; of a table, where the rows are.

        :param part: which items; of a table it makes no difference
        :raises StorageError: when they cannot be read
        """
        source, *items = self.line(ordinal)
        if self._plan.sources[source]["type"] == "file":
            return [item[0] for item in items[part]]
        document = self._plan.sources[source]
        unit = {"parquet": "rows", "sql": document.get("key")}.get(document["format"], "bytes")
        return [f"{item[0]}, {unit} {item[FIRST]} to {item[END]}" for item in items]

    def count(self, ordinal: int) -> int:
        """Return how many items a mini-batch has; rows of a text file are counted there.

        :return: 0 when that cannot be told any more
        :raises StorageError: when the plan cannot be read
        """
        source, *items = self.line(ordinal)
        document = self._plan.sources[source]
        if document["type"] == "file":
            return len(items)
        # Here, not at the top: who has files only need not wait for it.
        from airflow_parallelrun.worker.table import file_parts

        copies = copies_of(self._spool, ordinal)
        if copies is not None and not os.path.exists(copies.folder):
            # It was given up before it was staged. That hardly ever happens: the dispatch thread may wait.
            from airflow_parallelrun.datasets.copies import Copier

            Copier(document).make_all(items, copies)
        found = find(items, copies)
        with contextlib.closing(file_parts(document)) as parts:
            count: int = parts.count(items, None if found.wrong else found.places)
        return count

    def is_table(self, ordinal: int) -> bool:
        """Tell whether the items of a mini-batch are rows.

        :raises StorageError: when the plan cannot be read
        """
        return bool(self._plan.sources[self.line(ordinal)[0]]["type"] == "tabular")

    def line(self, ordinal: int) -> list[Any]:
        """Return what the plan says of a mini-batch: the number of its input, and its items.

        :raises StorageError: when it cannot be read
        """
        try:
            if self._reader is None:
                self._reader = ItemReader(*self._item_files())
            return self._reader.read(ordinal, self._ahead)
        except (OSError, ValueError) as error:
            raise StorageError(self._plan.item_files[0], str(error)) from error

    def _item_files(self) -> tuple[str, str]:
        if self._files is not None:
            return self._files
        if self._plan.store.is_local:
            return self._plan.item_files
        self._fetched = ScratchFolder()
        return fetch_items(self._plan, self._fetched.path)

    def close(self) -> None:
        """Close what was opened."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if self._fetched is not None:
            self._fetched.close()
            self._fetched = None


def fetch_items(plan: Plan, folder: str) -> tuple[str, str]:
    """Copy the items of a plan in an object store, and their index, into a folder; return the paths.

    :raises StorageError: when they cannot be read or written
    """
    paths = []
    for name in (names.MINI_BATCHES, names.MINI_BATCHES_INDEX):
        path = os.path.join(folder, name)
        data = plan.store.read(name)
        try:
            os.makedirs(folder, exist_ok=True)
            with open(path, "wb") as file:
                file.write(data)
        except OSError as error:
            raise StorageError(path, error.strerror or str(error)) from error
        paths.append(path)
    return paths[0], paths[1]
