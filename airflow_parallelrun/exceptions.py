# SPDX-License-Identifier: Apache-2.0
"""Every error that the package raises on purpose.

::

    ParallelRunError
    ├── ConfigurationError          a value that can never work; also a ValueError
    │   ├── InvalidValueError       a parameter outside its range
    │   ├── UnknownNameError        a name that does not exist, with "did you mean"
    │   └── NotSupportedError       something that is not built
    ├── DatasetError
    │   ├── EmptyInputError         the input has no item
    │   ├── InputNotFoundError      the input path does not exist
    │   ├── InputUnreadableError    the input exists and cannot be listed or read
    │   ├── NothingNewError         only new files are wanted, and there is none: no failure
    │   ├── PartitionError          the path of a file does not fit the partition_format
    │   ├── SideInputChangedError   a side input is not what split has listed
    │   └── ListingTimeoutError     listing the input took longer than it may
    ├── ModelNotFoundError
    ├── EntryScriptError
    │   ├── EntryScriptNotFoundError
    │   ├── EntryScriptContractError    no run(), or a return value that cannot be used
    │   └── EntryScriptInitError        init() failed on a node until its budget was spent
    ├── OutputError
    │   ├── OutputOwnedError        the output folder belongs to another run
    │   └── OutputExistsError       a file that this run did not write is in the way
    ├── VerdictError                the job is over and failed; raised by reduce alone
    │   ├── ThresholdExceededError
    │   ├── UnprocessedError        mini-batches that no node finished
    │   ├── NothingToAppendError    append_row without a single row
    │   └── NotRedrivenError        a redrive was cut short; the success of before still holds
    ├── NotRedrivableError          a run that has not succeeded, or that is being redriven
    ├── StorageError                reading or writing the run directory failed (retryable)
    └── InterruptedRunError         a node was asked to stop (retryable)

A *retryable* error can go away by running the same thing again; all others need a person.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from collections.abc import Iterable


def _rebuild(cls: type[ParallelRunError], args: tuple[Any, ...], kwargs: dict[str, Any]) -> ParallelRunError:
    return cls(*args, **kwargs)


class ParallelRunError(Exception):
    """Base of all errors of this package."""

    retryable: ClassVar[bool] = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the arguments: errors cross process boundaries, where Exception would lose them."""
        self = super().__new__(cls, *args, **kwargs)
        self._arguments = (args, kwargs)
        return self

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the constructor's arguments."""
        return _rebuild, (type(self), *self._arguments)


class ConfigurationError(ParallelRunError, ValueError):
    """A value that can never work."""


class InvalidValueError(ConfigurationError):
    """Raised when a parameter is outside its range.

    :param name: the parameter
    :param value: what was given
    :param rule: what it must be, as the end of the sentence "NAME must be …"
    """

    def __init__(self, name: str, value: object, rule: str) -> None:
        self.name, self.value, self.rule = name, value, rule
        super().__init__(f"{name} must be {rule}, got {value!r}.")


class UnknownNameError(ConfigurationError):
    """Raised when a name does not exist; suggests the nearest one that does.

    :param kind: what the name stands for, such as "parameter"
    :param name: what was given
    :param known: the names that exist
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        near = difflib.get_close_matches(name, self.known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(self.known) or 'none'}."
        super().__init__(f"unknown {kind} {name!r}; {hint}")


class NotSupportedError(ConfigurationError):
    """Raised for what the original offers and this version does not; never ignored silently.

    :param feature: what was asked for
    :param instead: what to do now
    """

    def __init__(self, feature: str, instead: str) -> None:
        self.feature, self.instead = feature, instead
        super().__init__(f"{feature} is not supported yet. {instead}")


class DatasetError(ParallelRunError):
    """An input that cannot be used."""


class EmptyInputError(DatasetError):
    """Raised when an input lists without error and has no item.

    :param item: what it should have
    """

    def __init__(self, paths: list[str], item: str = "file") -> None:
        self.paths, self.item = paths, item
        super().__init__(
            f"the input has no {item}: {_some(paths)}. "
            "Check the path or the glob; a folder counts every file below it."
        )


class NothingNewError(DatasetError):
    """Raised when only new files are wanted, and an earlier run of the step has processed them all.

    :param paths: of the inputs
    :param known: files that are there
    """

    def __init__(self, paths: list[str], known: int) -> None:
        self.paths, self.known = paths, known
        files = f"all {known} files" if known else "what was there"
        super().__init__(
            f"there is nothing new in {_some(paths)}: earlier runs of this step have processed {files}."
        )


class InputNotFoundError(DatasetError):
    """Raised when an input path does not exist."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(
            f"the input {path!r} does not exist. Check the path, and that this machine can see it."
        )


class InputUnreadableError(DatasetError):
    """Raised when an input exists and cannot be listed or read.

    :param cause: the operating system's or the store's own words
    """

    def __init__(self, path: str, cause: str) -> None:
        self.path, self.cause = path, cause
        super().__init__(f"the input {path!r} cannot be read: {cause}. Check the permissions of this user.")


class QueryError(DatasetError):
    """Raised when a query cannot be read.

    :param connection: the database
    :param cause: the database's own words
    """

    def __init__(self, connection: str, cause: str) -> None:
        self.connection, self.cause = connection, cause
        super().__init__(f"the query over the connection {connection!r} cannot be read: {cause.strip()}")


class PartitionError(DatasetError):
    """Raised when the path of a file does not fit the ``partition_format`` of its dataset."""

    def __init__(self, path: str, partition_format: str) -> None:
        self.path, self.partition_format = path, partition_format
        super().__init__(
            f"the file {path!r} does not fit partition_format={partition_format!r}, which must match the end "
            "of each path. Leave other files out by a glob, or change the format."
        )


class ListingTimeoutError(DatasetError):
    """Raised when listing the input took longer than ``first_task_creation_timeout``.

    :param paths: of the input that was being listed
    :param listed: files that were listed by then, those of inputs before it included
    :param limit_s: the limit in seconds
    """

    def __init__(self, paths: list[str], listed: int, limit_s: int) -> None:
        self.paths, self.listed, self.limit_s = paths, listed, limit_s
        super().__init__(
            f"listing the input {_some(paths)} took longer than {limit_s} s (first_task_creation_timeout); "
            f"{listed} files were listed by then. Set first_task_creation_timeout higher or leave it out, or "
            "give the files in several runs."
        )


class SideInputChangedError(DatasetError):
    """Raised when a side input is not what split has listed.

    :param name: the side input
    :param what: what has become of which file, as a sentence without its full stop
    """

    def __init__(self, name: str, what: str) -> None:
        self.name, self.what = name, what
        super().__init__(
            f"the side input {name!r} is not what was listed when the run was split: {what}. Start a new run."
        )


class ModelNotFoundError(ParallelRunError):
    """Raised when the registry has no such model or version."""

    def __init__(self, name: str, version: int | None, root: str, known: list[str]) -> None:
        self.name, self.version, self.root, self.known = name, version, root, known
        wanted = name if version is None else f"{name}:{version}"
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(
            f"the model {wanted!r} is not registered in {root!r}.{hint} "
            f"Register it: parallelrun models register {name} PATH"
        )


class EntryScriptError(ParallelRunError):
    """The user's script cannot be used."""


class EntryScriptNotFoundError(EntryScriptError):
    """Raised when the entry script is not in the source directory."""

    def __init__(self, entry_script: str, source_directory: str) -> None:
        self.entry_script, self.source_directory = entry_script, source_directory
        super().__init__(
            f"there is no entry script {entry_script!r} in the source directory {source_directory!r}. "
            "entry_script is relative to source_directory."
        )


class EntryScriptContractError(EntryScriptError):
    """Raised when the entry script does not keep the contract: a run() that takes a mini-batch."""

    def __init__(self, entry_script: str, problem: str) -> None:
        self.entry_script, self.problem = entry_script, problem
        super().__init__(f"{entry_script}: {problem}")


class EntryScriptInitError(EntryScriptError):
    """Raised when process after process of a node died in init(), or before it got anything done.

    :param node: the node's index
    :param failures: how many processes in a row
    :param last: the last failure in one line, in the user's own words
    :param traceback: of the user's exception; empty without one
    :param log: the file that has everything
    """

    def __init__(self, node: int, failures: int, last: str, traceback: str, log: str) -> None:
        self.node, self.failures, self.last, self.traceback, self.log = node, failures, last, traceback, log
        super().__init__(
            f"{failures} processes of node {node} in a row died in init() or before they got anything done; "
            f"the last one: {last}\n{traceback}Full log: {log}"
        )


class OutputError(ParallelRunError):
    """The output cannot be written where it was asked for."""


class OutputOwnedError(OutputError):
    """Raised when the output folder belongs to another run."""

    def __init__(self, output: str, owner: str) -> None:
        self.output, self.owner = output, owner
        super().__init__(
            f"the output folder {output!r} belongs to another run ({owner}). "
            "Choose a folder of its own for each run, for example one with {{ run_id }} in its path, "
            "or remove the old one."
        )


class OutputExistsError(OutputError):
    """Raised when a file that this run did not write has the output file's name."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(
            f"{path!r} exists and was not written by this run, which does not replace it. "
            "Move it away, or choose another output folder."
        )


class VerdictError(ParallelRunError):
    """The job is over and failed.

    :param left: mini-batches that another round would do again: those that failed, and those that nobody
        finished
    """

    left: int = 0


class ThresholdExceededError(VerdictError):
    """Raised when more failed than was tolerated.

    :param breaches: one sentence for each threshold that was exceeded
    :param detail: the user's own exception, where it happened, and where the log is
    """

    def __init__(self, breaches: list[str], detail: str, left: int = 0) -> None:
        self.breaches, self.detail, self.left = breaches, detail, left
        super().__init__(f"{'; '.join(breaches)}. {detail}")


class UnprocessedError(VerdictError):
    """Raised when mini-batches were left that no node finished.

    :param count: how many
    :param ordinals: the first of them
    :param detail: why
    """

    def __init__(self, count: int, ordinals: list[int], detail: str, left: int = 0) -> None:
        self.count, self.ordinals, self.detail, self.left = count, ordinals, detail, left
        self.what = f"{count} mini-batches were not processed ({_some(ordinals, count)})"
        super().__init__(f"{self.what}. {detail}")


class NothingToAppendError(VerdictError):
    """Raised when output_action is append_row and no mini-batch returned a row."""

    def __init__(self, detail: str, left: int = 0) -> None:
        self.detail, self.left = detail, left
        super().__init__(f"output_action is append_row and there is no row to append: {detail}")


class NotRedrivenError(VerdictError):
    """Raised when a redrive has left mini-batches alone; the job's success and its output are kept.

    :param count: how many
    :param ordinals: the first of them
    :param detail: why
    """

    def __init__(self, count: int, ordinals: list[int], detail: str, left: int = 0) -> None:
        self.count, self.ordinals, self.detail, self.left = count, ordinals, detail, left
        self.what = (
            f"{count} mini-batches were to be run again and were not ({_some(ordinals, count)}): "
            "what they came to before still counts"
        )
        super().__init__(f"{self.what}. {detail}")


class NotRedrivableError(ParallelRunError):
    """Raised when a run cannot be redriven: what failed in it is not all that is left to do.

    :param run_dir: the run directory
    :param problem: why, as a sentence without its full stop
    """

    def __init__(self, run_dir: str, problem: str) -> None:
        self.run_dir, self.problem = run_dir, problem
        super().__init__(f"{run_dir!r} cannot be redriven: {problem}.")


class StorageError(ParallelRunError):
    """Raised when the run directory cannot be read or written.

    :param path: the object
    :param cause: the operating system's or the store's own words
    """

    retryable: ClassVar[bool] = True

    def __init__(self, path: str, cause: str) -> None:
        self.path, self.cause = path, cause
        super().__init__(f"{path}: {cause}")


class InterruptedRunError(ParallelRunError):
    """Raised when a node has stopped early; what it finished is committed and is not done again.

    :param node: the node's index
    :param why: the end of the sentence "node N …"
    :param done: mini-batches that the node has committed
    :param total: mini-batches of the job
    :param superseded: a newer attempt of the node goes on with its work
    """

    retryable: ClassVar[bool] = True

    def __init__(self, node: int, why: str, done: int, total: int, superseded: bool = False) -> None:
        self.node, self.why, self.done, self.total = node, why, done, total
        self.superseded = superseded
        super().__init__(
            f"node {node} {why}; it has committed {done} of the job's {total} mini-batches, "
            "which will not be done again."
        )


def _some(values: list[Any], count: int | None = None, limit: int = 5) -> str:
    """The first few of many: a message stays readable whatever the size of the data."""
    more = (len(values) if count is None else count) - limit
    shown = ", ".join(str(value) for value in values[:limit])
    return shown if more <= 0 else f"{shown}, … and {more} more"
