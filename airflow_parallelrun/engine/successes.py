# SPDX-License-Identifier: Apache-2.0
"""The records that successes leave for later runs of their step: what they depended on, and where they are.

``<fingerprint>.json`` is of the latest run with that fingerprint in which nothing has failed, and
``latest.json`` of the latest one that succeeded at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from airflow_parallelrun.datasets import list_files
from airflow_parallelrun.engine import names, ownership
from airflow_parallelrun.engine.amendment import amended
from airflow_parallelrun.engine.fingerprint import INPUT, fingerprint, name_of
from airflow_parallelrun.engine.object_store import store_at
from airflow_parallelrun.engine.rounds import sealed_rounds, utc_now
from airflow_parallelrun.exceptions import ParallelRunError
from airflow_parallelrun.rules import LOGS_FOLDER

if TYPE_CHECKING:
    from airflow_parallelrun.datasets import ListedFile
    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.report import JobResult

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
LATEST = "latest.json"


@dataclass(frozen=True)
class Success:
    """A success, and what it depended on.

    :param run: what its run is called
    :param owner: who that is
    :param succeeded_at: UTC, ISO 8601
    :param output: its output folder
    :param output_file: the name of its file with rows; None for summary_only
    :param contents: the digest of what it has published
    :param failed_items: how many were tolerated
    :param models: versions of models, by name, that were the latest ones when the script asked for these
    :param fingerprint: a digest of everything else that its rows depend on, by name
    """

    run: str
    owner: str
    succeeded_at: str
    output: str
    output_file: str | None
    contents: str
    failed_items: int
    models: dict[str, int]
    fingerprint: dict[str, str]

    def to_json(self) -> bytes:
        """Return the content of the record."""
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self | None:
        """Read a record; None for one of another version."""
        values: dict[str, Any] = json.loads(data)
        return cls(**values) if values.pop("format_version") == FORMAT_VERSION else None

    def files(self) -> list[ListedFile]:
        """Return what is there of what it has published, sorted by path; ``job_result.json`` among it.

        :raises DatasetError: when something is gone, or cannot be listed
        """
        if self.output_file is not None:
            return list(
                list_files([f"{self.output}/{self.output_file}", f"{self.output}/{ownership.RESULT}"])
            )
        logs = f"{self.output}/{LOGS_FOLDER}/"
        return [file for file in list_files([self.output]) if not file.path.startswith(logs)]


def contents_of(output: str, files: list[ListedFile]) -> str:
    """Return the digest of files: of their places in the output folder, sizes, and times or tags."""
    found = hashlib.sha256()
    for path, size, mtime_ns, etag in files:
        line = json.dumps([path.removeprefix(f"{output}/"), size, mtime_ns, etag])
        found.update(line.encode())
    return found.hexdigest()


def read(folder: str, name: str) -> Success | None:
    """Read a record; None when there is none that can be used.

    :param folder: of the step's records
    """
    try:
        return Success.from_json(store_at(folder).read(name))
    except FileNotFoundError:
        return None


def named(parts: dict[str, str]) -> str:
    """Return the name of the record of a fingerprint."""
    return f"{name_of(parts)}.json"


def record(plan: Plan, result: JobResult) -> None:
    """Leave the record of a verdict that is a success and has been published.

    A run is not red because later ones cannot make use of it: what goes wrong here is a warning.
    """
    if plan.successes is None or plan.fingerprint is None or plan.output is None:
        return
    try:
        _record(plan, plan.output, plan.successes, plan.fingerprint, result)
    except ParallelRunError as error:
        logger.warning("later runs will not reuse this one: %s", error)


def _record(plan: Plan, output: str, folder: str, parts: dict[str, str], result: JobResult) -> None:
    models = _latest_models(plan)
    if models is None or _was_changed(plan, parts):
        return
    success = Success(
        run=plan.run,
        owner=plan.owner,
        succeeded_at=utc_now(),
        output=output,
        output_file=plan.config.append_row_file_name if plan.append_row else None,
        contents="",
        failed_items=result.counts.items_failed,
        models=models,
        fingerprint=parts,
    )
    data = replace(success, contents=contents_of(output, success.files())).to_json()
    store = store_at(folder)
    if result.verdict == "succeeded":
        store.put(named(parts), data)
    store.put(LATEST, data)


def _latest_models(plan: Plan) -> dict[str, int] | None:
    """Return the versions of models that the script got as the latest; None where one changed meanwhile."""
    found: dict[str, int] = {}
    for note in plan.store.names(names.LATEST_MODELS):
        version, _, name = note.partition("-")
        if found.setdefault(name, int(version)) != int(version):
            return None
    return found


def _was_changed(plan: Plan, parts: dict[str, str]) -> bool:
    """Tell whether a redrive has run a part of it with something else that counts."""
    rounds = range(1, sealed_rounds(plan.store))
    return any(fingerprint(amended(plan, round_), parts[INPUT]) != parts for round_ in rounds)
