# SPDX-License-Identifier: Apache-2.0
"""Lists the files of a dataset, always in the same order."""

from __future__ import annotations

import errno
import fnmatch
import heapq
import os
import re
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_parallelrun.exceptions import (
    EmptyInputError,
    InputNotFoundError,
    InputUnreadableError,
    InvalidValueError,
)
from airflow_parallelrun.filesystems import LOCAL_SCHEMES, is_remote
from airflow_parallelrun.rules import OWN_FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# Our own run directories: never somebody's data.
RUN_DIRECTORIES = OWN_FOLDER

_WILDCARD = re.compile(r"[*?[]")
_FILE_TYPE, _REGULAR = 0o170000, 0o100000


class ListedFile(NamedTuple):
    """One file.

    :param path: absolute path, or URL
    :param size: bytes; 0 where the store does not tell
    :param mtime_ns: time of the last change in ns since 1970, where the store tells
    :param etag: the store's tag of the content, where it has one
    """

    path: str
    size: int
    mtime_ns: int | None
    etag: str | None


class FilePart(NamedTuple):
    """Neighbouring rows of a file.

    :param file: the file
    :param first: where they begin: a byte of a text file, a row of a Parquet file, a key of a query
    :param end: where they end
    :param weight: about how many bytes they are
    :param rows: how many they are; None where that is known only when they are loaded
    :param only: which of them, the first and the one behind the last; None for all
    """

    file: ListedFile
    first: Any
    end: Any
    weight: int
    rows: int | None
    only: tuple[int, int] | None = None

    @property
    def item(self) -> list[object]:
        """What a process needs of it: the file, where the rows begin and end, and if known which of them."""
        only = self.only or ((0, self.rows) if self.rows is not None else ())
        return [*self.file, self.first, self.end, *only]


def local_path(path: str, base_directory: str = ".") -> str:
    """Make a local path absolute.

    :param path: a path with or without ``~``, or a ``file://`` URL, in which nothing is percent-decoded
    :param base_directory: what a relative path is relative to
    """
    for scheme in LOCAL_SCHEMES:
        path = path.removeprefix(scheme)
    # Text, not pathlib: these paths are compared, sorted and handed on as text.
    return os.path.abspath(os.path.join(base_directory, os.path.expanduser(path)))


def list_files(paths: Sequence[str]) -> Iterator[ListedFile]:
    """List a dataset, sorted by path (code points, which for UTF-8 names is the order of their bytes).

    - A folder counts every file below it. Links are followed; a folder inside itself is not entered again.
    - A glob has ``*``, ``?``, ``[…]`` and, between slashes, ``**`` for any number of folders. It matches
      files only, hidden ones too. A path that exists under its very text is not read as a glob.
    - Only regular files count. Folders named ``.parallelrun`` are left out, as is what vanishes meanwhile.
    - A path that several of *paths* lead to counts once.

    :param paths: files, folders, globs, and URLs of these
    :raises InputNotFoundError: for a path, or the folder of a glob, that does not exist
    :raises InputUnreadableError: for what cannot be listed, and for a path that is a file and cannot be read;
        an unreadable file inside a folder is noticed when it is processed
    :raises EmptyInputError: when there is no file at all
    """
    streams = [_remote(path) if is_remote(path) else _local(local_path(path)) for path in paths]
    alone = len(streams) == 1 and not is_remote(paths[0])  # a walk gives no path twice
    files = streams[0] if alone else _merged(streams)
    first = next(files, None)
    if first is None:
        raise EmptyInputError(list(paths))
    yield first
    yield from files


def _merged(streams: list[Iterator[ListedFile]]) -> Iterator[ListedFile]:
    last = None
    for file in heapq.merge(*streams, key=itemgetter(0)):
        if file[0] != last:
            last = file[0]
            yield file


def _remote(url: str) -> Iterator[ListedFile]:
    # Imported here: it builds on this module.
    from .remote import list_remote

    return list_remote(url)


def _local(path: str) -> Iterator[ListedFile]:
    try:
        stat = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        stat = None
    except OSError as error:
        raise InputUnreadableError(path, error.strerror or str(error)) from error
    if stat is None:
        return _local_glob(path)
    if stat.st_mode & _FILE_TYPE == _REGULAR:
        if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
            raise InputUnreadableError(path, "Permission denied")
        return iter([ListedFile(path, stat.st_size, stat.st_mtime_ns, None)])
    if not os.path.isdir(path):
        raise InputUnreadableError(path, "it is neither a file nor a folder")
    return _walk(path, Pattern(("**",)))


def _local_glob(path: str) -> Iterator[ListedFile]:
    folder, pattern = split_glob(path)
    if pattern is None:
        raise InputNotFoundError(path)
    if not os.path.isdir(folder):
        raise InputNotFoundError(folder)
    return _walk(folder, pattern)


def split_glob(path: str) -> tuple[str, Pattern | None]:
    """Cut a path into the folder without wildcards and the pattern below it.

    :raises InvalidValueError: for ``**`` as a part of a name
    """
    parts = path.split("/")
    first = next((place for place, part in enumerate(parts) if _WILDCARD.search(part)), None)
    if first is None:
        return path, None
    if any("**" in part and part != "**" for part in parts):
        raise InvalidValueError("path", path, "a glob in which ** stands alone between slashes")
    return "/".join(parts[:first]) or "/", Pattern(tuple(parts[first:]))


class Pattern:
    """What a glob asks of the names below its folder.

    The *state* is how far the folders down to here have matched: the parts that may match the next name.
    One pass over the tree then gives every match once and in order, whatever the number of ``**``.
    """

    def __init__(self, parts: tuple[str, ...]) -> None:
        self._parts = parts
        self._match = [re.compile(fnmatch.translate(part)).match for part in parts]
        self.start = self._reach({0})

    def into(self, state: frozenset[int], name: str) -> frozenset[int]:
        """The state inside the folder *name*; empty when nothing below it can match."""
        deep = {part for part in state if self._parts[part] == "**"}
        return self._reach(deep | {part + 1 for part in state - deep if self._match[part](name)})

    def file_filter(self, state: frozenset[int]) -> Callable[[str], object] | None:
        """Tell which files of a folder match; None for all of them."""
        last = len(self._parts) - 1
        if last not in state:
            return lambda name: False
        return None if self._parts[last] == "**" else self._match[last]

    def _reach(self, state: set[int]) -> frozenset[int]:
        # ** matches no folder as well: the part after it may match at once.
        for part in range(len(self._parts) - 1):
            if part in state and self._parts[part] == "**":
                state.add(part + 1)
        return frozenset(part for part in state if part < len(self._parts))


_Identities = frozenset[tuple[int, int]]


class _Level(NamedTuple):
    """A folder on the way down: names still to do, and which folders it is inside of, itself included.

    A slash stands behind the names of folders.
    """

    prefix: str
    names: Iterator[str]
    state: frozenset[int]
    above: _Identities


def _walk(root: str, pattern: Pattern) -> Iterator[ListedFile]:
    top = _open(root, pattern.start, frozenset())
    if top is None:
        raise InputNotFoundError(root)
    return _descend(top, pattern)


def _descend(top: _Level, pattern: Pattern) -> Iterator[ListedFile]:
    levels = [top]
    while levels:
        prefix, names, state, above = levels[-1]
        wanted = pattern.file_filter(state)
        for name in names:
            path = prefix + name
            if name[-1] == "/":
                inside = pattern.into(state, name[:-1])
                skipped = not inside or name[:-1] == RUN_DIRECTORIES
                level = None if skipped else _open(path[:-1], inside, above)
                if level is not None:
                    levels.append(level)
                    break
            elif wanted is None or wanted(name):
                try:
                    stat = os.stat(path)
                except OSError as error:
                    if _vanished(error):
                        continue
                    raise InputUnreadableError(path, error.strerror or str(error)) from error
                if stat.st_mode & _FILE_TYPE == _REGULAR:
                    yield ListedFile(path, stat.st_size, stat.st_mtime_ns, None)
        else:
            levels.pop()


def _open(path: str, state: frozenset[int], above: _Identities) -> _Level | None:
    """Read a folder; None when it has vanished, or is one of the folders that it is inside of."""
    try:
        stat = os.stat(path)
        identity = (stat.st_dev, stat.st_ino)
        if identity in above:
            return None
        with os.scandir(path) as scan:
            names = [_sort_key(entry) for entry in scan]
    except OSError as error:
        if _vanished(error):
            return None
        raise InputUnreadableError(path, error.strerror or str(error)) from error
    names.sort()
    return _Level(path.rstrip("/") + "/", _each("\0".join([*names, ""])), state, above | {identity})


def _each(names: str) -> Iterator[str]:
    """Yield names that end with a NUL; as one text a million of them take a quarter of the memory."""
    start = 0
    while (end := names.find("\0", start)) >= 0:
        yield names[start:end]
        start = end + 1


def _sort_key(entry: os.DirEntry[str]) -> str:
    # A folder sorts as the paths below it do, with the slash: so the whole comes out in the order of paths.
    try:
        return entry.name + "/" if entry.is_dir() else entry.name
    except OSError:
        # Its stat tells why.
        return entry.name


def _vanished(error: OSError) -> bool:
    # ELOOP: a link to itself leads nowhere, like a link to what is not there.
    return isinstance(error, (FileNotFoundError, NotADirectoryError)) or error.errno == errno.ELOOP
