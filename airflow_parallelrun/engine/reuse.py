# SPDX-License-Identifier: Apache-2.0
"""Reuse: an earlier success of the step that must have come to the same stands for a run; nothing is run.

Where the output was asked for in another folder, it is copied there, and belongs to the run that asked.

*What it does not do:* notice what a script reads beside its input, its models and its own folder, and what
is installed in its interpreter.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.engine import ownership
from airflow_parallelrun.engine.copying import copy_into
from airflow_parallelrun.engine.fingerprint import differences
from airflow_parallelrun.engine.object_store import store_at
from airflow_parallelrun.engine.outputs import output_at
from airflow_parallelrun.engine.report import JobResult
from airflow_parallelrun.engine.split import draft
from airflow_parallelrun.engine.successes import LATEST, Success, contents_of, named, read
from airflow_parallelrun.exceptions import ConfigurationError, DatasetError, ModelNotFoundError, StorageError
from airflow_parallelrun.models import ModelRegistry

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_parallelrun.datasets import ListedFile
    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.split import Draft, RunRequest

_SHOWN = 5


@dataclass(frozen=True)
class Reused:
    """An earlier success that stands for the run that was asked for.

    :param run: what its run is called
    :param result: as in ``job_result.json``
    :param result_file: where that is: in the earlier run's output folder, or in the one that was asked for
    """

    run: str
    result: dict[str, Any]
    result_file: str


class _NotReusableError(Exception):
    """Why an earlier success cannot be taken, as a sentence."""


def split_or_reuse(request: RunRequest, tell: Callable[[str], None]) -> Plan | Reused:
    """Make a run directory with a plan; or, if that is allowed, find that there is nothing to do.

    :param tell: called with the reason when nothing is reused though it is allowed
    :raises ParallelRunError: as of ``split``
    :raises StorageError: also when an earlier output cannot be copied
    """
    drafted = draft(request)
    if request.allow_reuse:
        try:
            return _reused(drafted, request.force)
        except _NotReusableError as why:
            tell(f"Nothing is reused: {why}.")
    return drafted.write()


def read_result(result_file: str) -> JobResult:
    """Read a result.

    :raises FileNotFoundError: when it is gone
    """
    folder, _, name = result_file.rpartition("/")
    return JobResult.from_dict(json.loads(store_at(folder).read(name)))


def _reused(drafted: Draft, force: bool) -> Reused:
    plan = drafted.plan
    if plan.fingerprint is None or plan.successes is None:
        raise _NotReusableError(drafted.why_unique)
    if force:
        raise _NotReusableError("force is set")
    success = read(plan.successes, named(plan.fingerprint))
    if success is None:
        raise _NotReusableError(_why_unlike(plan.fingerprint, read(plan.successes, LATEST)))
    if success.owner == plan.owner:
        raise _NotReusableError("this run itself has come to it before, and was cleared")
    _check_models(success, plan.models_root)
    files, result = _published(success)
    asked_for = plan.output if drafted.output_is_given else None
    if asked_for is not None and asked_for != success.output:
        result = _copy(success, files, result, plan)
        return Reused(success.run, result, f"{asked_for}/{ownership.RESULT}")
    return Reused(success.run, result, f"{success.output}/{ownership.RESULT}")


def _why_unlike(parts: dict[str, str], last: Success | None) -> str:
    if last is None:
        return "no earlier success of this step is known"
    different = differences(parts, last.fingerprint)
    if not different:
        return (
            f"run {last.run} was the same, but {last.failed_items} items failed in it, which may not happen "
            f"again. To run only these, redrive it"
        )
    more = f" and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
    return f"of the last success, run {last.run}, it differs in {', '.join(different[:_SHOWN])}{more}"


def _check_models(success: Success, models_root: str | None) -> None:
    """Refuse where the script would get another version of a model now."""
    for name, version in success.models.items():
        try:
            latest = ModelRegistry(models_root or "").version(name)
        except ModelNotFoundError:
            latest = None
        if latest != version:
            raise _NotReusableError(
                f"run {success.run} was the same, but with version {version} of model {name}"
            )


def _published(success: Success) -> tuple[list[ListedFile], dict[str, Any]]:
    """Return what an earlier run has published, and its result."""
    gone = f"run {success.run} was the same, but its output in {success.output!r}"
    try:
        files = success.files()
        result = json.loads(store_at(success.output).read(ownership.RESULT))
    except (DatasetError, FileNotFoundError):
        raise _NotReusableError(f"{gone} is gone") from None
    except ConfigurationError as error:
        raise _NotReusableError(f"{gone} is out of reach: {error}") from error
    if contents_of(success.output, files) != success.contents:
        raise _NotReusableError(f"{gone} is not as it was published")
    return files, result


def _copy(success: Success, files: list[ListedFile], result: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Publish an earlier output in the folder of this run, the result last."""
    assert plan.output is not None
    output = output_at(plan.output, plan.owner)
    output.take(ownership.result_names(success.output_file))
    output.retract(ownership.FAILED_ITEMS)
    # The same for every try of this, so that what is there already is known again.
    seal = f"reused-{success.contents[:32]}"
    for file in files:
        name = file.path.removeprefix(f"{success.output}/")
        if name == ownership.RESULT or output.is_published(name, seal):
            continue
        with output.publishing(name, seal, file.size) as copy:
            copy_into(copy, file.path, file.size)
    if contents_of(success.output, success.files()) != success.contents:
        raise StorageError(success.output, "has changed while it was copied")
    copied = {
        **result,
        "output": plan.output,
        "output_file": output.path(success.output_file) if success.output_file else None,
        "reused_from": success.run,
    }
    with output.publishing(ownership.RESULT, seal) as file_:
        file_.write(json.dumps(copied, indent=1).encode())
    return copied
