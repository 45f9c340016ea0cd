# SPDX-License-Identifier: Apache-2.0
"""The one door to a run directory; no other code touches it.

Two kinds of object live there. *Complete* objects appear at once, whole, under their name. *Growing* files
(segments, journals, pages) are made by exclusive create and written by one process ever, through a
descriptor.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from airflow_parallelrun.exceptions import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Complete objects are written under such a name first; listings never show one.
TEMPORARY = ".tmp-"


class Entry(NamedTuple):
    """One object of a listing.

    :param name: its name within the listed folder
    :param size: bytes
    """

    name: str
    size: int


class Store:
    """A run directory on a file system with hard links that all nodes of the run share.

    :param root: absolute path; made when the first object is written
    """

    #: Whether it is a folder, in which files can grow.
    is_local = True

    def __init__(self, root: str) -> None:
        self.root = root

    def path(self, name: str) -> str:
        """Return the local path of an object, for libraries that open files themselves."""
        parts = name.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise ValueError(f"{name!r} is not the name of an object in a run directory")
        return os.path.join(self.root, *parts)

    def create_exclusive(self, name: str, data: bytes) -> bool:
        """Create a complete object unless it exists. Of any number of writers exactly one wins.

        fsspec's local "create" mode asks first and writes then, so that two can win; a hard link is one
        atomic step, also on NFS, where a lost reply makes a link that succeeded look refused. That is why
        the content is read back: it must differ from writer to writer.

        :param data: what to write; carries something unique to the writer
        :return: True when the object is ours
        :raises StorageError: when the store can do neither
        """
        target = self.path(name)
        with self._written(target, data) as temporary:
            try:
                os.link(temporary, target)
            except OSError as error:
                try:
                    if self._read(target) != data:
                        return False
                except FileNotFoundError:
                    raise StorageError(
                        target,
                        f"cannot be created by a hard link ({error.strerror}); "
                        "run directories need a file system with hard links",
                    ) from error
        sync_folder(os.path.dirname(target))
        return True

    def put(self, name: str, *data: bytes | memoryview) -> None:
        """Write a complete object, durably, replacing an older one of the same writer.

        :param data: its content, in any number of pieces
        """
        target = self.path(name)
        with self._written(target, *data) as temporary:
            try:
                os.replace(temporary, target)
                sync_folder(os.path.dirname(target))
            except OSError as error:
                raise StorageError(target, error.strerror or str(error)) from error

    def rename(self, old: str, new: str) -> None:
        """Give an object of one's own another name in the same folder."""
        try:
            os.rename(self.path(old), self.path(new))
        except OSError as error:
            raise StorageError(self.path(old), error.strerror or str(error)) from error

    def read(self, name: str) -> bytes:
        """Return a whole object.

        :raises FileNotFoundError: when there is none
        :raises StorageError: when it cannot be read
        """
        return self._read(self.path(name))

    def exists(self, name: str) -> bool:
        """Tell whether there is such an object.

        :raises StorageError: when the store does not say
        """
        try:
            os.stat(self.path(name))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise StorageError(self.path(name), error.strerror or str(error)) from error
        return True

    def modified(self, name: str) -> float:
        """Return when an object was last written, in seconds since the epoch."""
        return os.stat(self.path(name)).st_mtime

    def entries(self, folder: str) -> list[Entry]:
        """Return the objects of a folder, sorted by name; nothing for a folder that does not exist."""
        path = self.path(folder)
        try:
            with os.scandir(path) as entries:
                found = [
                    Entry(entry.name, entry.stat().st_size)
                    for entry in entries
                    if not entry.name.startswith(TEMPORARY)
                ]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(path, error.strerror or str(error)) from error
        return sorted(found)

    def names(self, folder: str) -> list[str]:
        """Return the names of a folder's objects, sorted."""
        path = self.path(folder)
        try:
            return sorted(name for name in os.listdir(path) if not name.startswith(TEMPORARY))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(path, error.strerror or str(error)) from error

    @contextlib.contextmanager
    def opening(self, names: Iterable[str]) -> Iterator[None]:
        """Within it objects are opened in this order; a store that is slow to answer fetches them ahead."""
        yield

    def folders(self, folder: str = "") -> list[str]:
        """Return the names of the folders in a folder, sorted; of the run directory itself unless told."""
        path = self.path(folder) if folder else self.root
        try:
            with os.scandir(path) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StorageError(path, error.strerror or str(error)) from error

    def create_growing(self, name: str, beginning: bytes = b"") -> int:
        """Create a growing file and return a descriptor for reading and writing; the name must be new.

        :param beginning: what it begins with
        :raises StorageError: when it exists or cannot be made
        """
        path = self.path(name)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(path, error.strerror or str(error)) from error
        try:
            _write_all(fd, path, beginning)
        except StorageError:
            os.close(fd)
            raise
        sync_folder(os.path.dirname(path))
        return fd

    def sync(self, name: str) -> None:
        """Make the content of a growing file durable, whoever wrote it.

        :raises OSError: when the disk refuses
        """
        fd = os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def sync_names(self, folder: str) -> None:
        """Make the names in a folder durable, whoever made them.

        :raises StorageError: when the store refuses
        """
        sync_folder(self.path(folder))

    def open(self, name: str, buffer_bytes: int = -1) -> BinaryIO:
        """Open an object for reading.

        :param buffer_bytes: how much is read ahead; default Python's
        """
        path = self.path(name)
        try:
            return open(path, "rb", buffer_bytes)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(path, error.strerror or str(error)) from error

    def _read(self, path: str) -> bytes:
        try:
            with open(path, "rb", buffering=0) as file:
                return file.read()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(path, error.strerror or str(error)) from error

    @contextlib.contextmanager
    def _written(self, target: str, *data: bytes | memoryview) -> Iterator[str]:
        """Write a complete object under a temporary name, which is gone at the end of the block."""
        folder, name = os.path.split(target)
        try:
            os.makedirs(folder, exist_ok=True)
            while True:
                temporary = os.path.join(folder, f"{TEMPORARY}{name}-{secrets.token_hex(8)}")
                fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
                if lock_temporary(fd):
                    break
                os.close(fd)
        except OSError as error:
            raise StorageError(target, error.strerror or str(error)) from error
        try:
            _write_all(fd, target, *data, durably=True)
            yield temporary
        finally:
            with contextlib.suppress(OSError):  # it has got its name; else listings do not show it
                os.unlink(temporary)
            os.close(fd)


def temporary(folder: str) -> str:
    """Return a new name for a file that is being written."""
    return os.path.join(folder, f"{TEMPORARY}{secrets.token_hex(8)}")


def open_temporary(folder: str) -> BinaryIO:
    """Make a file under such a name, and open it for writing, locked."""
    while True:
        file = open(temporary(folder), "xb")  # noqa: SIM115 - open for as long as it is locked
        if lock_temporary(file.fileno()):
            return file
        file.close()


def lock_temporary(fd: int) -> bool:
    """Show that the writer of a temporary file lives: the kernel frees the lock of one that was killed.

    Where the file system has no locks, nobody can tell, and such files stay; see ``leftovers.py``.

    :return: False when somebody has removed the file before it was locked
    """
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_EX)
    return os.fstat(fd).st_nlink > 0


def sync_folder(path: str) -> None:
    """Make the names in a folder durable.

    :raises StorageError: when the store refuses
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise StorageError(path, error.strerror or str(error)) from error


def _write_all(fd: int, path: str, *data: bytes | memoryview, durably: bool = False) -> None:
    try:
        for piece in data:
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
        if durably:
            os.fsync(fd)
    except OSError as error:
        raise StorageError(path, error.strerror or str(error)) from error
