# SPDX-License-Identifier: Apache-2.0
"""Side inputs: files that every process has whole, under a name.

``split`` lists them. Local files are used where they are: a file or a folder as it is, what a glob or several
paths name as a folder of links. Files of a store are fetched into the node's folder, once for all of its
processes. Either way they must still be what was listed.
"""

from __future__ import annotations

import json
import os
import posixpath
import shutil
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Self

from airflow_parallelrun.datasets import DatasetInput, FileDataset, ListedFile, TabularDataset, list_files
from airflow_parallelrun.datasets.listing import split_glob
from airflow_parallelrun.datasets.remote import list_remote
from airflow_parallelrun.driver_errors import told
from airflow_parallelrun.engine import names
from airflow_parallelrun.engine.fingerprint import digest
from airflow_parallelrun.exceptions import (
    ConfigurationError,
    InputNotFoundError,
    InputUnreadableError,
    InvalidValueError,
    NotSupportedError,
    ParallelRunError,
    SideInputChangedError,
    StorageError,
)
from airflow_parallelrun.filesystems import is_remote, locate
from airflow_parallelrun.parameters import PipelineParameter
from airflow_parallelrun.store_files import Transfer, TransferStoppedError, download

if TYPE_CHECKING:
    import threading
    from collections.abc import Collection, Iterable, Sequence

    from airflow_parallelrun.engine.store import Store

FORMAT_VERSION = 1
# What stands for a side input among the script's arguments, until a node knows its path.
ARGUMENT = "side_input"
_REFERENCE_PREFIX = "AZUREML_DATAREFERENCE_"

IN_PLACE, LINKS, FETCHED = "in place", "links", "fetched"


@dataclass(frozen=True)
class SideInput:
    """A side input, as the plan has it.

    :param name: how the script finds it
    :param paths: as they were asked for, absolute
    :param kind: ``in place``, ``links`` or ``fetched``
    :param base: the folder, or the URL of one, that its files are in
    :param file: the name of the file in it, where the dataset is this file alone
    :param files: how many
    :param size_bytes: of all of them
    :param listing: a digest of what they were when they were listed; empty where a store tells neither when a
        file was changed nor a tag of its content
    """

    name: str
    paths: list[str]
    kind: str
    base: str
    file: str | None
    files: int
    size_bytes: int
    listing: str

    def path(self, folder: str) -> str:
        """Return where it is on a node.

        :param folder: of the node's side inputs
        """
        base = self.base if self.kind == IN_PLACE else os.path.join(folder, self.name)
        return base if self.file is None else os.path.join(base, self.file)

    def variables(self, folder: str) -> dict[str, str]:
        """Return the environment variables that have its path."""
        path = self.path(folder)
        return {self.name: path, f"{_REFERENCE_PREFIX}{self.name}": path}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Make it from what :func:`documents` gave."""
        return cls(**values)


@dataclass(frozen=True)
class Listed:
    """A side input, and the files that it has.

    :param side_input: the side input
    :param files: its files
    """

    side_input: SideInput
    files: tuple[ListedFile, ...]


def check(side_inputs: Sequence[object], taken: Collection[str]) -> None:
    """Check what can be checked before anything is listed.

    :param side_inputs: the side inputs
    :param taken: names that stand for something else
    :raises InvalidValueError: for one without a name, and for a name that is taken
    :raises NotSupportedError: for a table
    """
    from airflow_parallelrun.engine.pool import is_ours

    seen: set[str] = set()
    for place, each in enumerate(side_inputs):
        where = f"side_inputs[{place}]"
        if not isinstance(each, DatasetInput) or each.name is None:
            if isinstance(each, DatasetInput | FileDataset | TabularDataset | PipelineParameter):
                rule = "a dataset with a name, by which the script finds it: add .as_named_input(name)"
            else:
                rule = "a dataset, such as Dataset.File.from_files(path).as_named_input(name)"
            raise InvalidValueError(where, each, rule)
        if each.is_tabular:
            raise NotSupportedError(f"A table as side input ({where})", "Give its files: Dataset.File.")
        if each.name in seen or each.name in taken:
            raise InvalidValueError(f"the name of {where}", each.name, "one that nothing else has")
        if is_ours(each.name):
            rule = "another one: this environment variable has a meaning of its own"
            raise InvalidValueError(f"the name of {where}", each.name, rule)
        seen.add(each.name)


def argument(name: str) -> dict[str, str]:
    """Return what stands for a side input among the script's arguments."""
    return {ARGUMENT: name}


def check_arguments(arguments: Iterable[Any], known: Collection[str]) -> None:
    """Check that what stands for a side input among the arguments is one.

    :raises ConfigurationError: when it is not
    """
    for each in arguments:
        if isinstance(each, dict) and each.get(ARGUMENT) not in known:
            raise ConfigurationError(
                f"the arguments of the script name the side input {each.get(ARGUMENT)!r}, and the run has "
                f"{', '.join(sorted(known)) or 'none'}."
            )


def list_side_inputs(side_inputs: Sequence[DatasetInput], base_directory: str) -> list[Listed]:
    """List side inputs.

    :param base_directory: what relative paths are relative to
    :raises DatasetError: when one is missing, empty or unreadable
    :raises InvalidValueError: when its files have no folder in common
    """
    return [_list(replace(each, mode="direct").resolve(base_directory)) for each in side_inputs]


def write(store: Store, listed: Sequence[Listed]) -> None:
    """Write the files of side inputs into a run directory."""
    lines = [json.dumps({"format_version": FORMAT_VERSION})]
    lines += [json.dumps([place, *file]) for place, each in enumerate(listed) for file in each.files]
    store.put(names.SIDE_INPUTS, "".join(f"{line}\n" for line in lines).encode())


def read(store: Store, documents: Sequence[dict[str, Any]]) -> list[Listed]:
    """Read the side inputs of a run.

    :param documents: as the plan has them
    :raises StorageError: when they cannot be read
    """
    if not documents:
        return []
    files: list[list[ListedFile]] = [[] for _ in documents]
    lines = store.read(names.SIDE_INPUTS).decode().splitlines()
    version = json.loads(lines[0])["format_version"]
    if version != FORMAT_VERSION:
        raise StorageError(
            store.path(names.SIDE_INPUTS),
            f"has format_version {version}, this version reads {FORMAT_VERSION}",
        )
    for line in lines[1:]:
        place, *file = json.loads(line)
        files[place].append(ListedFile(*file))
    sides = [SideInput.from_dict(document) for document in documents]
    return [Listed(side, tuple(found)) for side, found in zip(sides, files, strict=True)]


def documents(listed: Iterable[Listed]) -> list[dict[str, Any]]:
    """Return side inputs as the plan has them."""
    return [asdict(each.side_input) for each in listed]


def provide(listed: Listed, folder: str, stop: threading.Event | None = None) -> None:
    """Have a side input on this machine, where its :meth:`SideInput.path` says.

    :param folder: of the node's side inputs
    :param stop: ends a transfer when it is set
    :raises TransferStoppedError: when that was so
    :raises SideInputChangedError: when it is not what was listed any more
    :raises StorageError: when it cannot be fetched
    """
    side = listed.side_input
    target = os.path.join(folder, side.name)
    if side.kind == FETCHED:
        os.makedirs(target)
        if side.size_bytes > (free := shutil.disk_usage(target).free):
            why = f"its disk has {free} bytes left, and the side input {side.name!r} takes {side.size_bytes}"
            raise StorageError(folder, why)
        _fetch(listed, target, stop)
        return
    _check_unchanged(side.name, listed.files, {file.path: file for file in map(_stat, listed.files) if file})
    if side.kind == LINKS:
        for file in listed.files:
            link = os.path.join(target, file.path[len(side.base) :].lstrip("/"))
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(file.path, link)


def _list(each: DatasetInput) -> Listed:
    assert each.name is not None
    paths, files = list(each.paths), tuple(list_files(each.paths))
    remote = is_remote(files[0].path)
    alone = len(paths) == 1 and len(files) == 1 and files[0].path == paths[0].rstrip("/")
    bases = [_base(path, files) for path in paths]
    base = posixpath.dirname(files[0].path) if alone else _common(each.name, bases)
    for file in files:
        below = file.path[len(base.rstrip("/")) :].strip("/").split("/")
        if not {"", ".", ".."}.isdisjoint(below):
            raise InvalidValueError(f"side input {each.name!r}", file.path, "files that a folder can have")
    kind = FETCHED if remote else IN_PLACE if alone or paths == [base] else LINKS
    name = posixpath.basename(files[0].path) if alone else None
    size = sum(file.size for file in files)
    listing = digest(files) if all(map(_is_identifiable, files)) else ""
    return Listed(SideInput(each.name, paths, kind, base, name, len(files), size, listing), files)


def _is_identifiable(file: ListedFile) -> bool:
    return file.mtime_ns is not None or file.etag is not None


def _base(path: str, files: Sequence[ListedFile]) -> str:
    """Return the folder that a path of a dataset names, or that has what it names in it."""
    path = path.rstrip("/")
    if any(file.path == path for file in files):
        return posixpath.dirname(path)
    if any(file.path.startswith(f"{path}/") for file in files):
        return path
    return split_glob(path)[0]


def _common(name: str, bases: Sequence[str]) -> str:
    levels = zip(*(base.split("/") for base in bases), strict=False)
    common = [level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels)]
    if (is_remote(bases[0]) and len(common) < 3) or any(map(is_remote, bases)) != all(map(is_remote, bases)):
        rule = "paths of one store; make a side input of each"
        raise InvalidValueError(f"side input {name!r}", list(bases), rule)
    return "/".join(common) or "/"


def _stat(file: ListedFile) -> ListedFile | None:
    try:
        found = os.stat(file.path)
    except OSError:
        return None
    return ListedFile(file.path, found.st_size, found.st_mtime_ns, None)


def _fetch(listed: Listed, target: str, stop: threading.Event | None) -> None:
    side = listed.side_input
    start = len(side.base)
    try:
        places = [locate(file.path) for file in listed.files]
        targets = [os.path.join(target, file.path[start:].lstrip("/")) for file in listed.files]
        download(
            [
                Transfer(place.fs, place.path, path, file.size)
                for place, path, file in zip(places, targets, listed.files, strict=True)
            ],
            stop,
        )
    except (ParallelRunError, TransferStoppedError):
        raise
    except Exception as error:  # every store's driver raises errors of its own
        # One that has changed is shorter, longer or gone; then that is what there is to say.
        _check_listing(listed)
        raise StorageError(f"the side input {side.name!r} ({side.base})", told(error)) from error
    # As of now, so that all that was fetched before is of what was listed.
    _check_listing(listed)


def _check_listing(listed: Listed) -> None:
    side = listed.side_input
    try:
        now = {file.path: file for path in side.paths for file in list_remote(path)}
    except InputNotFoundError as error:
        raise SideInputChangedError(side.name, f"{error.path!r} is gone") from error
    except InputUnreadableError as error:
        raise StorageError(f"the side input {side.name!r} ({error.path})", error.cause) from error
    _check_unchanged(side.name, listed.files, now)


def _check_unchanged(name: str, files: Iterable[ListedFile], now: dict[str, ListedFile]) -> None:
    for file in files:
        if file.path not in now:
            raise SideInputChangedError(name, f"{file.path!r} is gone")
        if now[file.path] != file:
            raise SideInputChangedError(name, f"{file.path!r} has changed")
