# SPDX-License-Identifier: Apache-2.0
"""Split: check everything that can be checked, list the input, and write the plan.

The plan is written last. A split that fails before has changed nothing that anybody else can see, and a
split that is repeated makes a run directory of its own.
"""

from __future__ import annotations

import os
import posixpath
import secrets
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_parallelrun import driver_arguments
from airflow_parallelrun.engine import mini_batches, names, ownership, processed
from airflow_parallelrun.engine.fingerprint import fingerprint, why_none
from airflow_parallelrun.engine.items import ItemWriter
from airflow_parallelrun.engine.listing_limit import ListingLimit
from airflow_parallelrun.engine.objects import objects_at
from airflow_parallelrun.engine.outputs import output_at
from airflow_parallelrun.engine.plan import Plan
from airflow_parallelrun.engine.processed import Processed
from airflow_parallelrun.engine.rounds import utc_now
from airflow_parallelrun.engine.side_inputs import Listed, check_arguments, documents, list_side_inputs
from airflow_parallelrun.engine.side_inputs import check as check_side_inputs
from airflow_parallelrun.engine.side_inputs import write as write_side_inputs
from airflow_parallelrun.engine.snapshot import Snapshot, take
from airflow_parallelrun.exceptions import (
    ConfigurationError,
    EmptyInputError,
    InvalidValueError,
    NothingNewError,
    StorageError,
)
from airflow_parallelrun.filesystems import is_remote
from airflow_parallelrun.models import reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from airflow_parallelrun.config import ParallelRunConfig
    from airflow_parallelrun.datasets import DatasetInput
    from airflow_parallelrun.engine.steps import StepRun

# Chunks are what a node claims: small enough that the last ones even out (there are at least 64 for each
# process), few enough that claiming them and listing the claims stays cheap.
CHUNKS_PER_PROCESS = 64
# One node alone shares with nobody; but a redrive may have more. A claim takes two flushes.
CHUNKS_PER_PROCESS_ALONE = 8
MINI_BATCHES_PER_CHUNK = 1_000
CHUNKS = 20_000


@dataclass(frozen=True)
class RunRequest:
    """What somebody asks for.

    :param config: every parameter resolved; what the arguments set of it is added here
    :param inputs: each is split on its own, in this order
    :param output: the output folder; None for one of its own in the storage root, or, with summary_only, none
    :param arguments: the entry script's arguments: texts, and what ``side_inputs.argument`` returns
    :param side_inputs: files that every process gets whole
    :param owner: who the run is, the same when split is tried again
    :param base_directory: what relative paths are relative to
    :param models_root: the model registry's folder
    :param storage_root: where run directories go; default ``.parallelrun`` in the output folder
    :param step_run: which run of which step it is; None for one that neither finds nor leaves anything there
    :param allow_reuse: whether an identical earlier success may stand for it, and this for a later run
    :param force: do it again, whatever has been done before
    """

    config: ParallelRunConfig
    inputs: tuple[DatasetInput, ...]
    output: str | None
    owner: str
    arguments: tuple[Any, ...] = ()
    side_inputs: tuple[DatasetInput, ...] = ()
    base_directory: str = "."
    models_root: str | None = None
    storage_root: str | None = None
    step_run: StepRun | None = None
    allow_reuse: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        """Take over what the arguments say to the original's driver."""
        object.__setattr__(self, "config", driver_arguments.apply(self.config, self.arguments))


@dataclass(frozen=True)
class Draft:
    """A plan that is good, and that nobody else has seen anything of.

    :param plan: the plan
    :param output_is_given: whether its output folder was asked for
    :param why_unique: why it has no fingerprint; empty when it has one
    """

    plan: Plan
    output_is_given: bool
    why_unique: str
    _items: ItemWriter
    _snapshot: Snapshot
    _side_inputs: Sequence[Listed]

    def write(self) -> Plan:
        """Take the output folder, and make the run directory.

        :raises OutputError: when the output folder or file belongs to somebody else
        """
        plan = self.plan
        if plan.processed is not None:
            processed.take_back(plan.processed, plan.owner)
        if plan.output is not None:
            results = ownership.result_names(plan.config.append_row_file_name)
            output_at(plan.output, plan.owner).take(results)
        _write(plan, self._items, self._snapshot, self._side_inputs)
        return plan


def split(request: RunRequest) -> Plan:
    """Make a run directory with a plan; see :func:`draft`.

    :raises OutputError: when the output folder or file belongs to somebody else
    """
    return draft(request).write()


def draft(request: RunRequest) -> Draft:
    """Check everything, list the input and freeze the code.

    :raises ConfigurationError: for values that can never work
    :raises DatasetError: when an input is missing, empty or unreadable, or takes too long to list
    :raises NothingNewError: when only new files are wanted, and there are none
    :raises EntryScriptError: when there is no such script, or it is not Python
    """
    started = time.monotonic()
    config = request.config
    driver_arguments.tell_without_effect(request.arguments)
    _check(request)
    storage_root = _folder(request.storage_root, request.base_directory)
    output = _output(request, storage_root)
    processed_folder = _processed_folder(request, storage_root)
    if config.model is not None:
        # Once for the run: every node, and every retry, has the same version.
        config = replace(config, model=reference.frozen(config.model, request.models_root))
    snapshot, entry_script = take(config, request.base_directory, (output, storage_root))
    inputs = [each.resolve(request.base_directory) for each in request.inputs]
    side_inputs = list_side_inputs(request.side_inputs, request.base_directory)
    known = None
    if processed_folder is not None:
        known = Processed() if request.force else processed.read(processed_folder, request.owner)
    sources, items = _cut(inputs, config, known)
    if output is not None:
        _check_apart(output, inputs)
    plan_id = secrets.token_hex(16)
    stamp = time.strftime("%Y%m%dT%H%M%SZ-", time.gmtime())
    run_dir = posixpath.join(storage_root or _own_folder(output), stamp + plan_id[:8])
    each = CHUNKS_PER_PROCESS if config.node_count > 1 else CHUNKS_PER_PROCESS_ALONE
    chunks = each * config.node_count * config.processes_per_node
    plan = Plan(
        run_dir=run_dir,
        plan_id=plan_id,
        owner=request.owner,
        config=config,
        arguments=list(request.arguments),
        inputs=[each.to_dict() for each in inputs],
        sources=sources,
        output=output,
        node_count=min(config.node_count, len(items.weights)),
        chunk_starts=chunk_starts(items.weights, chunks),
        mini_batches=len(items.weights),
        items=items.count,
        code_sha256=snapshot.sha256,
        entry_script=entry_script,
        models_root=request.models_root,
        created_at=utc_now(),
        split_seconds=round(time.monotonic() - started, 3),
        side_inputs=documents(side_inputs),
        run=request.step_run.run if request.step_run else "",
        processed=processed_folder,
    )
    why_unique = why_none(request, plan, items)
    if not why_unique and request.step_run and storage_root:
        successes = request.step_run.successes(storage_root)
        plan = replace(plan, successes=successes, fingerprint=fingerprint(plan, items.sha256()))
    return Draft(plan, request.output is not None, why_unique, items, snapshot, side_inputs)


def chunk_starts(weights: Sequence[int], chunks: int) -> list[int]:
    """Cut mini-batches into chunks of about even weight.

    :param weights: of each mini-batch
    :param chunks: how many there should be at least
    :return: the first ordinal of each chunk
    """
    heaviest = sum(weights) / chunks
    longest = max(MINI_BATCHES_PER_CHUNK, -(-len(weights) // CHUNKS))
    floor = -(-len(weights) // CHUNKS)
    starts, weight, length = [0], 0, 0
    for ordinal, each in enumerate(weights):
        full = length >= longest or (length >= floor and weight + each > heaviest)
        if length and full:
            starts.append(ordinal)
            weight = length = 0
        weight += each
        length += 1
    return starts


def _check(request: RunRequest) -> None:
    parameters = request.config.pipeline_parameters()
    if parameters:
        raise ConfigurationError(f"these parameters have no value yet: {', '.join(sorted(parameters))}.")
    if not request.inputs:
        raise InvalidValueError("inputs", request.inputs, "at least one dataset")
    if request.output is not None and not request.output.strip():
        raise InvalidValueError("output", request.output, "the path of a folder")
    if request.output is None and request.config.output_action == "append_row" and not _has_own(request):
        rule = (
            "a folder when output_action is append_row and there is no storage root. Set [parallelrun] "
            "storage_root (by the command: --run-directory-root), in which each run gets a folder of its own"
        )
        raise InvalidValueError("output", None, rule)
    for each in request.inputs:
        each.check_mode()
    mini_batches.check(request.config, request.inputs)
    check_side_inputs(request.side_inputs, request.config.environment_variables)
    check_arguments(request.arguments, [str(each.name) for each in request.side_inputs])


def _folder(value: str | None, base_directory: str) -> str | None:
    """Return the absolute path of a folder; or a URL, which is one that can be written to."""
    if value is None:
        return None
    if is_remote(value):
        objects_at(value)
        return value.rstrip("/")
    return os.path.abspath(os.path.join(base_directory, os.path.expanduser(value.removeprefix("file://"))))


def _check_apart(output: str, inputs: Iterable[DatasetInput]) -> None:
    """Refuse an output folder within an input folder, whose next listing would have the results in it."""
    for each in inputs:
        for path in () if each.connection else each.paths:
            folder = path.rstrip("/") if is_remote(path) else os.path.realpath(path)
            inner = output if is_remote(output) else os.path.realpath(output)
            is_folder = is_remote(path) or os.path.isdir(folder)
            if is_folder and f"{inner}/".startswith(f"{folder}/"):
                raise InvalidValueError("output", output, f"outside the input folder {path!r}")


def _has_own(request: RunRequest) -> bool:
    """Tell whether there can be an output folder that nobody asked for."""
    return request.storage_root is not None and request.step_run is not None


def _output(request: RunRequest, storage_root: str | None) -> str | None:
    own = request.output is None and request.config.output_action == "append_row"
    if own and storage_root is not None and request.step_run is not None:
        return request.step_run.output(storage_root)
    return _folder(request.output, request.base_directory)


def _processed_folder(request: RunRequest, storage_root: str | None) -> str | None:
    """Return where it stands what the step has processed; None where nobody asks for it."""
    if not any(each.only_new for each in request.inputs):
        return None
    if storage_root is None or request.step_run is None:
        raise ConfigurationError(
            "only_new needs a storage root, in which runs leave word of what they have processed. Set "
            "[parallelrun] storage_root, by the command --run-directory-root."
        )
    return request.step_run.processed(storage_root)


def _own_folder(output: str | None) -> str:
    if output is None:
        raise ConfigurationError(
            "there is neither an output folder nor a storage_root to keep the run directory in. "
            "Give an output, or set [parallelrun] storage_root."
        )
    return ownership.folder(output)


def _cut(
    inputs: Sequence[DatasetInput], config: ParallelRunConfig, known: Processed | None
) -> tuple[list[dict[str, Any]], ItemWriter]:
    """Return what processes need to know of each input, and all mini-batches."""
    limit = ListingLimit(config.first_task_creation_timeout)
    items, sources = ItemWriter(), []
    for number, each in enumerate(inputs):
        found = mini_batches.cut(each, config, limit, known)
        sources.append(found.source)
        add: Any = items.add_parts if each.is_tabular else items.add
        before = len(items.weights)
        for mini_batch in found.mini_batches:
            add(number, mini_batch)
        if len(items.weights) == before and not each.only_new:
            raise EmptyInputError(list(each.paths), each.item)
    if not items.weights and known is not None:
        raise NothingNewError([path for each in inputs for path in each.paths], known.left_out)
    return sources, items


def _write(plan: Plan, items: ItemWriter, snapshot: Snapshot, side_inputs: Sequence[Listed]) -> None:
    store = plan.store
    probe = names.PROBE
    if not store.create_exclusive(probe, plan.plan_id.encode()) or store.create_exclusive(probe, b"second"):
        raise StorageError(
            plan.run_dir,
            "two writers could create the same object; claims would not be safe in this store",
        )
    items.write(store)
    store.put(names.CODE, snapshot.archive)
    if side_inputs:
        write_side_inputs(store, side_inputs)
    store.put(names.PLAN, plan.to_json())
