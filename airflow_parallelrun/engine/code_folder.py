# SPDX-License-Identifier: Apache-2.0
"""The source directory as a folder of this machine: it may be one, or a file, an archive, a URL of these."""

from __future__ import annotations

import contextlib
import os
import posixpath
import shutil
import tarfile
import tempfile
import zipfile
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from airflow_parallelrun.driver_errors import insist, told
from airflow_parallelrun.engine.ignore_file import IGNORE_FILES, IgnoreFile
from airflow_parallelrun.exceptions import (
    ConfigurationError,
    InvalidValueError,
    ParallelRunError,
    StorageError,
)
from airflow_parallelrun.filesystems import LOCAL_SCHEMES, is_remote, locate
from airflow_parallelrun.store_files import list_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from airflow_parallelrun.filesystems import Location

T = TypeVar("T")

# The original's own limit for a snapshot.
SIZE_LIMIT_BYTES = 300 * 1024 * 1024

_KINDS = "an existing folder, Python file, .zip or .tar.gz archive"
_ARCHIVES = (".zip", ".tar.gz", ".tgz")
# Of each kind, in the message of what is too large.
_SHOWN = 3
# What is fetched has no mode of its own, and must not depend on this process's.
_FETCHED_MODE = 0o644


class CodeFolder(NamedTuple):
    """A source directory.

    :param path: of the folder on this machine
    :param shown: what people call it
    """

    path: str
    shown: str


@contextlib.contextmanager
def local_code(given: str, base_directory: str) -> Iterator[CodeFolder]:
    """Have a source directory on this machine for a while.

    :param given: a folder, a Python file, an archive, or a URL of one of these
    :param base_directory: what a relative path is relative to
    :raises InvalidValueError: when there is no such thing
    :raises ConfigurationError: when it is too large, or an archive that cannot be read
    :raises StorageError: when a store does not hand it out
    """
    with contextlib.ExitStack() as opened:

        def scratch() -> str:
            return opened.enter_context(tempfile.TemporaryDirectory(prefix="parallelrun-code-"))

        if is_remote(given):
            path = _fetch(given, scratch())
        else:
            for scheme in LOCAL_SCHEMES:
                given = given.removeprefix(scheme)
            path = os.path.abspath(os.path.join(base_directory, os.path.expanduser(given)))
        if os.path.isdir(path):
            yield CodeFolder(path, given if is_remote(given) else path)
        elif os.path.isfile(path) and path.endswith((".py", *_ARCHIVES)):
            folder = scratch()
            _lay_out(path, folder, given)
            yield CodeFolder(folder, given)
        else:
            raise InvalidValueError("source_directory", given, f"{_KINDS} (looked at {path!r})")


def ignore_file_of(folder: str) -> IgnoreFile:
    """Return what a source directory leaves out.

    :raises ConfigurationError: when its ignore file cannot be used
    """
    for name in IGNORE_FILES:
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            with open(path, "rb") as file:
                return IgnoreFile.of(name, file.read())
    return IgnoreFile()


def code_files(folder: str, ignored: IgnoreFile, left_out: Iterable[str | None]) -> dict[str, str]:
    """Return the files of a source directory that are code, each path by its name in the folder.

    :param left_out: what runs write: folders, and URLs; no code where it lies inside
    :raises ConfigurationError: for a name that is not UTF-8
    """
    found: dict[str, str] = {}
    outputs = {os.path.realpath(path) for path in left_out if path and not is_remote(path)}
    above = {folder: outputs - {os.path.realpath(folder)}}
    for parent, folders, files in os.walk(folder, followlinks=True):
        here = os.path.realpath(parent)
        if here in above[parent]:  # an output, or a link back to a folder that we are in
            folders.clear()
            continue
        prefix = "" if parent == folder else os.path.relpath(parent, folder) + "/"
        folders[:] = [name for name in folders if not ignored.leaves_out(_utf8(prefix + name), True)]
        above |= {os.path.join(parent, name): above[parent] | {here} for name in folders}
        names = [name for name in files if not ignored.leaves_out(_utf8(prefix + name), False)]
        paths = {prefix + name: os.path.join(parent, name) for name in names}
        found |= {name: path for name, path in paths.items() if os.path.isfile(path)}
    return found


def check_size(shown: str, sizes: Mapping[str, int]) -> None:
    """Refuse more than is ever code, and name what is large.

    :param shown: what people call the source directory
    :param sizes: bytes of each file
    """
    if sum(sizes.values()) <= SIZE_LIMIT_BYTES:
        return
    folders: dict[str, int] = {}
    for name, size in sizes.items():
        folder = posixpath.dirname(name)
        if folder:
            folders[f"{folder}/"] = folders.get(f"{folder}/", 0) + size
    largest = [*_largest(folders), *_largest(sizes)]
    raise ConfigurationError(
        f"source_directory {shown!r} has {_mib(sum(sizes.values()))}, more than the {SIZE_LIMIT_BYTES >> 20} "
        f"MiB that are copied to every node. The largest in it: {', '.join(largest)}. Name what is no code "
        "in a file .amlignore there (its syntax is that of .gitignore), or keep the scripts in a folder of "
        "their own."
    )


def _largest(sizes: Mapping[str, int]) -> list[str]:
    names = sorted(sizes, key=lambda name: (-sizes[name], name))[:_SHOWN]
    return [f"{name} ({_mib(sizes[name])})" for name in names]


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def _utf8(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"source_directory has a file {name!a}: not UTF-8.") from error
    return name


def _lay_out(path: str, folder: str, shown: str) -> None:
    """Have a file alone in a folder, or what an archive holds."""
    if path.endswith(".py"):
        check_size(shown, {os.path.basename(path): os.path.getsize(path)})
        shutil.copy(path, folder)
        return
    try:
        if path.endswith(".zip"):
            with zipfile.ZipFile(path) as zipped:
                check_size(shown, {info.filename: info.file_size for info in zipped.infolist()})
                zipped.extractall(folder)
                _restore_modes(zipped, folder)
        else:
            with tarfile.open(path, "r:gz") as tarred:
                check_size(shown, {info.name: info.size for info in tarred})
                tarred.extractall(folder, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, NotImplementedError, EOFError, OSError) as error:
        raise ConfigurationError(f"the archive {shown!r} cannot be unpacked: {error}.") from error


def _restore_modes(zipped: zipfile.ZipFile, folder: str) -> None:
    """Make executable again what was: extractall() forgets it."""
    for info in zipped.infolist():
        path = os.path.join(folder, info.filename)
        if info.external_attr >> 16 & 0o111 and os.path.isfile(path):
            os.chmod(path, 0o755)


def _fetch(url: str, scratch: str) -> str:
    """Fetch what a URL leads to, without what is left out, and return its path."""
    place = _ask(url, lambda: locate(url))
    path = place.path.rstrip("/")
    try:
        info = _ask(url, lambda: place.fs.info(path))
    except FileNotFoundError as error:
        raise InvalidValueError("source_directory", url, _KINDS) from error
    target = os.path.join(scratch, "code")
    if info["type"] == "directory":
        os.mkdir(target)
        sizes = _ask(url, lambda: dict(_remote_files(place.fs, path, url)))
        check_size(url, sizes)
        _copy(url, place, {f"{path}/{name}": os.path.join(target, name) for name in sizes})
        return target
    target = os.path.join(scratch, posixpath.basename(path))
    check_size(url, {posixpath.basename(path): int(info.get("size") or 0)})
    _copy(url, place, {path: target})
    return target


def _remote_files(fs: Any, path: str, url: str) -> Iterator[tuple[str, int]]:
    """Yield the files of a folder with their sizes; what is left out is not listed."""
    ignored: IgnoreFile | None = None
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        listed = list_folder(fs, f"{path}/{prefix}".rstrip("/"))
        if ignored is None:
            name = next((name for name in IGNORE_FILES if name in listed), None)
            ignored = IgnoreFile.of(name, fs.cat_file(f"{path}/{name}")) if name else IgnoreFile()
        for name, each in listed.items():
            is_folder = each["type"] == "directory"
            if _is_left_out(ignored, prefix, name, is_folder):
                continue
            if not {"", ".", ".."}.isdisjoint(name.split("/")):
                raise ConfigurationError(f"{url!r} has a file {prefix + name!r}, which no folder can have.")
            if is_folder:
                waiting.append(f"{prefix}{name}/")
            else:
                yield prefix + name, int(each.get("size") or 0)


def _is_left_out(ignored: IgnoreFile, prefix: str, name: str, is_folder: bool) -> bool:
    *above, _ = name.split("/")
    parents = (prefix + "/".join(above[: depth + 1]) for depth in range(len(above)))
    return any(ignored.leaves_out(parent, True) for parent in parents) or ignored.leaves_out(
        prefix + name, is_folder
    )


def _copy(url: str, place: Location, targets: Mapping[str, str]) -> None:
    for target in targets.values():
        os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        _ask(url, lambda: place.fs.get(list(targets), list(targets.values())))
    except FileNotFoundError as error:
        raise StorageError(url, f"changed while it was read: {error}") from error
    for target in targets.values():
        os.chmod(target, _FETCHED_MODE)


def _ask(url: str, question: Callable[[], T]) -> T:
    try:
        return insist(question, url)
    except (ParallelRunError, FileNotFoundError):
        raise
    except Exception as error:  # every store's driver raises errors of its own
        raise StorageError(url, told(error)) from error
