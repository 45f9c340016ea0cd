# SPDX-License-Identifier: Apache-2.0
"""A disk in memory under the real :class:`Store`: it takes the place of ``os`` in the modules of the engine.

Before each operation that others could notice it hands control to whoever decides who goes on, and who may
have the operation fail, or its reply lost. It knows what has been flushed: a power cut takes the rest.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import io
import os
import posixpath
import stat
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TEMPORARY = ".tmp-"

# What may happen to an operation. The last is for links alone: the reply to one that was sent twice.
DONE, REFUSED, REPLY_LOST, SAID_TO_EXIST = "done", "refused", "reply lost", "said to exist"


class File:
    """Bytes, and those of them that have been flushed."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.links = 1
        self.locked_by = -1
        self.content = bytearray()
        self.flushed = b""

    def flush(self) -> None:
        self.flushed = bytes(self.content)


@dataclass
class Folder:
    """Names, and those of them that have been flushed."""

    names: dict[str, File | Folder] = field(default_factory=dict)
    flushed: dict[str, File | Folder] = field(default_factory=dict)

    def flush(self) -> None:
        self.flushed = dict(self.names)


@dataclass
class _Open:
    owner: object
    path: str
    file: File | Folder
    at: int = 0


class _Reader(io.BytesIO):
    """A file that was opened for reading; a real descriptor is made for those that map it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._fd = -1

    def fileno(self) -> int:
        if self._fd < 0:
            self._fd = os.memfd_create("model")
            os.write(self._fd, self.getvalue())
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        super().close()


class _Writer(io.RawIOBase):
    """A file that was opened for writing."""

    def __init__(self, disk: Disk, fd: int, path: str) -> None:
        super().__init__()
        self._disk = disk
        self._fd = fd
        self.name = path

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._disk.write(self._fd, data)

    def close(self) -> None:
        if not self.closed:
            self._disk.close(self._fd)
        super().close()


class _Path:
    """``os.path`` of the disk."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        for name in ("join", "dirname", "basename", "split"):
            setattr(self, name, getattr(posixpath, name))

    def lexists(self, path: str) -> bool:
        try:
            self._disk.lstat(path)
        except FileNotFoundError:
            return False
        return True


class Disk:
    """What the engine needs of ``os``, and nothing else: another name is an AttributeError.

    :param pause: called before each operation with what and where; returns what shall become of it
    :param named: called when a file got a name, with its path
    :param owner: returns the process that acts now
    """

    for _name in ("O_RDONLY", "O_WRONLY", "O_RDWR", "O_CREAT", "O_EXCL", "O_CLOEXEC", "O_DIRECTORY"):
        locals()[_name] = getattr(os, _name)

    LOCK_EX, LOCK_NB = fcntl.LOCK_EX, fcntl.LOCK_NB

    def __init__(
        self, pause: Callable[..., str], named: Callable[[str], None], owner: Callable[[], object]
    ) -> None:
        self.root = Folder()
        self.path = _Path(self)
        self._pause = pause
        self._named = named
        self._owner = owner
        self._open: dict[int, _Open] = {}
        self._number = 1000

    # What tests look at, without a pause.

    def find(self, path: str) -> File | Folder | None:
        """Return what has this path."""
        at: File | Folder | None = self.root
        for part in _parts(path):
            if not isinstance(at, Folder):
                return None
            at = at.names.get(part)
        return at

    def content(self, path: str) -> bytes:
        """Return a file's bytes."""
        found = self.find(path)
        assert isinstance(found, File), path
        return bytes(found.content)

    def files(self, path: str) -> dict[str, File]:
        """Return the files of a folder by name, sorted, without temporary ones."""
        found = self.find(path)
        names = sorted(found.names.items()) if isinstance(found, Folder) else []
        return {
            name: each for name, each in names if isinstance(each, File) and not name.startswith(TEMPORARY)
        }

    def flush_all(self) -> None:
        """Make everything durable."""
        for each in self._walk(self.root):
            each.flush()

    def close_all(self, owner: object) -> None:
        """Close what a process has open, which frees its locks."""
        for fd in [fd for fd, opened in self._open.items() if opened.owner is owner]:
            self.close(fd)

    def power_cut(self, choose: Callable[[int], int]) -> None:
        """Lose what has not been flushed, or some of it.

        :param choose: returns one of so many possibilities, from 0: all of it is lost
        """
        for fd in list(self._open):
            self.close(fd)
        self._cut(self.root, choose)

    def _cut(self, folder: Folder, choose: Callable[[int], int]) -> None:
        for name in sorted({*folder.names, *folder.flushed}):
            before, now = folder.flushed.get(name), folder.names.get(name)
            kept = now if before is now or choose(2) else before
            if kept is None:
                folder.names.pop(name, None)
                continue
            folder.names[name] = kept
            if isinstance(kept, Folder):
                self._cut(kept, choose)
            elif bytes(kept.content) != kept.flushed:
                kept.content = bytearray(self._torn(kept, choose(4)))
        for each in (folder, *(file for file in folder.names.values() if isinstance(file, File))):
            each.flush()

    @staticmethod
    def _torn(file: File, how: int) -> bytes:
        """Return the flushed bytes with nothing, a part, the end (after a hole) or all of the others."""
        start, end = len(file.flushed), len(file.content)
        middle = (start + end) // 2
        hole = bytes(file.content[:start]) + bytes(middle - start) + bytes(file.content[middle:])
        return [file.flushed, bytes(file.content[:middle]), hole, bytes(file.content)][how]

    def _walk(self, folder: Folder) -> Iterator[File | Folder]:
        yield folder
        for each in folder.names.values():
            if isinstance(each, Folder):
                yield from self._walk(each)
            else:
                yield each

    # What takes the place of os.

    def link(self, source: str, target: str) -> None:
        folder, name = self._place(target)
        fate = self._enter("link", target)
        if fate == SAID_TO_EXIST or name in folder.names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        file = folder.names[name] = self._file(source)
        file.links += 1
        self._named(target)
        if fate == REPLY_LOST:  # the request is sent again, and the second one finds the first one's link
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)

    def replace(self, source: str, target: str) -> None:
        fate = self._enter("replace", target)
        self._move(source, target)
        self._named(target)
        self._reply(fate, target)

    def rename(self, source: str, target: str) -> None:
        fate = self._enter("rename", target)
        self._move(source, target)
        self._reply(fate, target)

    def unlink(self, path: str) -> None:
        fate = self._enter("unlink", path)
        self._file(path).links -= 1
        folder, name = self._place(path)
        del folder.names[name]
        self._reply(fate, path)

    def stat(self, path: str) -> os.stat_result:
        self._enter("stat", path)
        return self._status(self._file(path))

    lstat = stat

    def scandir(self, path: str) -> _Listing:
        self._enter("list", path)
        return _Listing(
            SimpleNamespace(name=name, stat=lambda file=file: self._status(file))
            for name, file in self._folder(path).names.items()
        )

    def listdir(self, path: str) -> list[str]:
        self._enter("list", path)
        return list(self._folder(path).names)

    def makedirs(self, path: str, exist_ok: bool) -> None:
        assert exist_ok
        self._enter("make", TEMPORARY)
        at = self.root
        for part in path.strip("/").split("/"):
            below = at.names.setdefault(part, Folder())
            assert isinstance(below, Folder), path
            at = below

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        found: File | Folder
        if flags & os.O_EXCL:
            fate = self._enter("create", path)
            folder, name = self._place(path)
            if name in folder.names:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
            self._number += 1
            found = folder.names[name] = File(self._number)
            self._reply(fate, path)
        else:
            self._enter("open", TEMPORARY)
            found = self._folder(path) if flags & os.O_DIRECTORY else self._file(path)
        fd = 1 + max(self._open, default=1 << 20)
        self._open[fd] = _Open(self._owner(), path, found)
        return fd

    def close(self, fd: int) -> None:
        opened = self._open.pop(fd, None)
        if opened and isinstance(opened.file, File) and opened.file.locked_by == fd:
            opened.file.locked_by = -1

    def flock(self, fd: int, how: int) -> None:
        """Take the place of ``fcntl.flock``."""
        file = self._open[fd].file
        assert isinstance(file, File)
        if how & fcntl.LOCK_NB and file.locked_by >= 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self._pause("lock", self._open[fd].path, lambda: file.locked_by < 0)
        file.locked_by = fd

    def walk(self, path: str) -> Iterator[tuple[str, list[str], list[str]]]:
        """Take the place of ``os.walk``."""
        folder = self.find(path)
        if isinstance(folder, Folder):
            below = [name for name, each in folder.names.items() if isinstance(each, Folder)]
            yield path, below, [name for name in folder.names if name not in below]
            for name in below:
                yield from self.walk(posixpath.join(path, name))

    def write(self, fd: int, data: Any) -> int:
        written = self.pwrite(fd, data, self._open[fd].at)
        self._open[fd].at += written
        return written

    def pwrite(self, fd: int, data: Any, at: int) -> int:
        opened = self._open[fd]
        fate = self._enter("write", opened.path)
        assert isinstance(opened.file, File)
        opened.file.content[at : at + len(data)] = bytes(data)
        self._reply(fate, opened.path)
        return len(data)

    def fsync(self, fd: int) -> None:
        opened = self._open[fd]
        fate = self._enter("flush", opened.path)
        opened.file.flush()
        if isinstance(opened.file, Folder):
            self._flush_way(opened.path)
        self._reply(fate, opened.path)

    fdatasync = fsync

    def _flush_way(self, path: str) -> None:
        """Make a folder's own name durable: file systems do when they flush what is new in it."""
        while path != "/":
            folder, name = self._place(path)
            folder.flushed[name] = folder.names[name]
            path = posixpath.dirname(path)

    def fstat(self, fd: int) -> os.stat_result:
        return self._status(self._open[fd].file)

    def open_file(self, path: str, mode: str, buffering: int = -1) -> Any:
        """Take the place of the function ``open``."""
        if mode == "xb":
            return _Writer(self, self.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), path)
        assert mode == "rb"
        self._enter("read", path)
        return _Reader(bytes(self._file(path).content))

    def _enter(self, what: str, path: str) -> str:
        """Let others go on; what only its writer can see needs no pause, but a dead writer does nothing."""
        hidden = posixpath.basename(path).startswith(TEMPORARY)
        fate = self._pause("" if hidden else what, path)
        if fate == REFUSED:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return fate

    @staticmethod
    def _reply(fate: str, path: str) -> None:
        if fate == REPLY_LOST:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    def _place(self, path: str) -> tuple[Folder, str]:
        folder, name = posixpath.split(path)
        return self._folder(folder), name

    def _file(self, path: str) -> File:
        found = self.find(path)
        if not isinstance(found, File):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return found

    def _folder(self, path: str) -> Folder:
        found = self.find(path)
        if not isinstance(found, Folder):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return found

    def _move(self, source: str, target: str) -> None:
        file = self._file(source)
        folder, name = self._place(source)
        del folder.names[name]
        folder, name = self._place(target)
        replaced = folder.names.get(name)
        if isinstance(replaced, File):
            replaced.links -= 1
        folder.names[name] = file

    def _status(self, file: File | Folder) -> Any:
        if isinstance(file, Folder):
            return SimpleNamespace(st_mode=stat.S_IFDIR)
        return SimpleNamespace(
            st_mode=stat.S_IFREG,
            st_size=len(file.content),
            st_ino=file.number,
            st_mtime_ns=file.number,
            st_nlink=file.links,
        )


@functools.lru_cache(maxsize=1 << 12)
def _parts(path: str) -> list[str]:
    return path.split("/")[1:] if path != "/" else []


class _Listing(list[Any]):
    """What ``scandir`` returns."""

    def __enter__(self) -> _Listing:
        return self

    def __exit__(self, *error: object) -> None:
        return
