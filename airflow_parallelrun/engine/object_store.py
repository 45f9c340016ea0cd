# SPDX-License-Identifier: Apache-2.0
"""A run directory in an object store: what it holds appears at once, whole, and is not changed any more."""

from __future__ import annotations

import contextlib
import datetime
import io
import logging
import posixpath
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO

from airflow_parallelrun.engine.objects import ABSENT, objects_at, patiently
from airflow_parallelrun.engine.store import Entry, Store
from airflow_parallelrun.exceptions import StorageError
from airflow_parallelrun.filesystems import is_remote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from typing import NoReturn, TypeVar

    T = TypeVar("T")

logger = logging.getLogger(__name__)

# Objects that are fetched at once.
_AT_ONCE = 16


def store_at(root: str) -> Store:
    """Return the door to a run directory.

    :param root: an absolute path, or a URL
    """
    return ObjectStore(root) if is_remote(root) else Store(root)


class ObjectStore(Store):
    """A run directory in an object store.

    There are no growing files here: what a node writes bit by bit it keeps on its own disk, and commits as
    objects; see ``committed_objects.py``.

    :param root: the URL
    :raises ConfigurationError: for a connection that nobody knows
    :raises NotSupportedError: for a store in which names cannot be taken safely
    """

    is_local = False

    def __init__(self, root: str) -> None:
        super().__init__(root.rstrip("/"))
        self.objects, place = objects_at(self.root)
        self._fs = place.fs
        self._base = place.path.rstrip("/")
        self._coming: deque[str] = deque()
        self._fetched: dict[str, Future[bytes]] = {}

    def path(self, name: str) -> str:
        """Return an object's URL, for messages."""
        self.key(name)
        return f"{self.root}/{name}"

    def key(self, name: str) -> str:
        """Return an object's path as fsspec's file system has it."""
        parts = name.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise ValueError(f"{name!r} is not the name of an object in a run directory")
        return f"{self._base}/{name}"

    def create_exclusive(self, name: str, data: bytes) -> bool:
        """Create an object unless it exists; of any number of writers exactly one wins.

        It is one conditional request. Its reply may be lost, and the driver, or this, asks again: an object
        that is there and has our content is ours.
        """
        try:
            self._ask(name, lambda: self.objects.write(self.key(name), data, ABSENT))
        except FileExistsError:
            return self.read(name) == data
        except FileNotFoundError:
            raise self._no_container(name) from None
        return True

    def put(self, name: str, *data: bytes | memoryview) -> None:
        """Write an object, replacing an older one of the same writer."""
        content = data[0] if len(data) == 1 and isinstance(data[0], bytes) else b"".join(data)
        try:
            self._ask(name, lambda: self.objects.write(self.key(name), content))
        except FileNotFoundError:
            raise self._no_container(name) from None

    def rename(self, old: str, new: str) -> None:
        """Give an object of one's own another name; for a moment it has both."""
        self.put(new, self.read(old))
        try:
            self._ask(old, lambda: self._fs.rm_file(self.key(old)))
        except FileNotFoundError:  # the reply to the first request was lost
            logger.debug("%s is gone already", old)

    def read(self, name: str) -> bytes:
        """Return a whole object.

        :raises FileNotFoundError: when there is none
        :raises StorageError: when it cannot be read
        """
        return self._ask(name, lambda: bytes(self._fs.cat_file(self.key(name))))

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Return the bytes of an object between two places, as far as they are there."""
        return self._ask(name, lambda: bytes(self._fs.cat_file(self.key(name), start=start, end=end)))

    def exists(self, name: str) -> bool:
        """Tell whether there is such an object."""
        return self._ask(name, lambda: self.objects.stat(self.key(name))) is not None

    def modified(self, name: str) -> float:
        """Return when an object was last written, in seconds since the epoch."""
        value = self._ask(name, lambda: self._fs.modified(self.key(name)))
        return float(value.timestamp()) if isinstance(value, datetime.datetime) else float(value)

    def entries(self, folder: str) -> list[Entry]:
        """Return the objects of a folder, sorted by name; nothing for a folder that does not exist."""
        try:
            found = self._ask(folder, lambda: self._fs.ls(self.key(folder), detail=True))
        except FileNotFoundError:
            return []
        return sorted(
            Entry(posixpath.basename(info["name"]), int(info["size"] or 0))
            for info in found
            if info["type"] == "file"
        )

    def names(self, folder: str) -> list[str]:
        """Return the names of a folder's objects, sorted."""
        return [entry.name for entry in self.entries(folder)]

    def folders(self, folder: str = "") -> list[str]:
        """Return the names of the folders in a folder, sorted; of the run directory itself unless told."""
        path = self.key(folder) if folder else self._base
        try:
            found = self._ask(folder, lambda: self._fs.ls(path, detail=True))
        except FileNotFoundError:
            return []
        return sorted(
            posixpath.basename(info["name"].rstrip("/")) for info in found if info["type"] == "directory"
        )

    def open(self, name: str, buffer_bytes: int = -1) -> BinaryIO:
        """Open an object for reading; all of it is in memory."""
        fetched = self._fetched.pop(name, None)
        self._fetch()
        return io.BytesIO(self.read(name) if fetched is None else fetched.result())

    @contextlib.contextmanager
    def opening(self, names: Iterable[str]) -> Iterator[None]:
        """Within it objects are opened in this order, and the next ones are fetched meanwhile."""
        self._coming.extend(names)
        with ThreadPoolExecutor(_AT_ONCE, "objects") as self._threads:
            try:
                self._fetch()
                yield
            finally:
                self._coming.clear()
                self._fetched.clear()

    def _fetch(self) -> None:
        while self._coming and len(self._fetched) < _AT_ONCE:
            name = self._coming.popleft()
            self._fetched[name] = self._threads.submit(self.read, name)

    def sync(self, name: str) -> None:
        """Do nothing: what is there is durable."""

    def sync_names(self, folder: str) -> None:
        """Do nothing: what is there is durable."""

    def create_growing(self, name: str, beginning: bytes = b"") -> NoReturn:
        """Refuse: an object does not grow."""
        raise StorageError(self.path(name), "an object does not grow")

    def _no_container(self, name: str) -> StorageError:
        return StorageError(self.path(name), "there is no such container or bucket; it is not made here")

    def _ask(self, name: str, question: Callable[[], T]) -> T:
        return patiently(f"{self.root}/{name}", question)
