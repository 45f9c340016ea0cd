# SPDX-License-Identifier: Apache-2.0
"""The models that this machine has fetched, for all processes and runs of one user.

::

    <folder>/<key>/data/<file or folder>   a version, complete and verified
    <folder>/<key>/state.json              its files with their hashes, and when each was last changed
    <folder>/<key>.new/                    one that is being fetched
    <folder>/<key>.lock                    held by who fetches it (alone), and by all who use it; its time of
                                           change says when it was last asked for
    <folder>/lock                          held while room is made

A process holds what it uses as long as it lives; the kernel gives up the locks of a dead one. What nobody
holds goes when room is needed, the longest unused first.

*Known limitation:* locks must be shared by all who use the folder: a folder of the machine, no network share.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import logging
import os
import shutil
import stat
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_parallelrun.exceptions import ConfigurationError, StorageError
from airflow_parallelrun.store_files import Transfer, TransferStoppedError, download, in_threads

from .description import sha256_of
from .settings import CacheSettings, cache_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .description import RegisteredModel

logger = logging.getLogger(__name__)

_POLL_S = 0.1
_DATA, _STATE, _NEW, _LOCK = "data", "state.json", ".new", ".lock"
# Of a name that is part of the name of a folder, which may have 255 bytes.
_NAME_CHARACTERS = 100


class _Wanted(NamedTuple):
    """What :meth:`ModelCache.fetch` was asked for, and the name of its folder."""

    key: str
    model: RegisteredModel
    fs: Any
    sources: Mapping[str, str]
    stop: threading.Event | None


class ModelCache:
    """The models that this machine has fetched.

    :param settings: where, and how much
    """

    def __init__(self, settings: CacheSettings) -> None:
        self._root = Path(settings.folder)
        self._limit_bytes = settings.limit_bytes
        self._mutex = threading.Lock()
        self._held: dict[str, int] = {}

    def folder(self, root: str, name: str, version: int) -> str:
        """Return the folder that gets the data of a version; it may not be there yet.

        :param root: of the registry
        """
        return str(self._root / _key(root, name, version) / _DATA)

    def fetch(
        self,
        root: str,
        model: RegisteredModel,
        fs: Any,
        sources: Mapping[str, str],
        stop: threading.Event | None = None,
    ) -> str:
        """Return the path of a version here; it is fetched unless it is here already.

        :param root: of the registry
        :param fs: the file system that has it
        :param sources: the path there of each of its files
        :param stop: ends a transfer, or the wait for another process's, when it is set
        :raises TransferStoppedError: when that was so
        :raises StorageError: when there is no room, or what was fetched is not what was registered
        :raises ConfigurationError: when it can never have room, or the folder is somebody else's
        """
        key = _key(root, model.name, model.version)
        with self._mutex:
            self._make_root()
            if key not in self._held or not self._is_good(key, model):
                self._get(_Wanted(key, model, fs, sources, stop))
            os.utime(self._root / (key + _LOCK))
        return str(self._root / key / _DATA / model.files[0].path.partition("/")[0])

    def close(self) -> None:
        """Let go of what this process uses."""
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()

    def _get(self, wanted: _Wanted) -> None:
        """Have a version here, and hold it."""
        key, model, _, _, stop = wanted
        if (mine := self._held.pop(key, None)) is not None:
            os.close(mine)
        fd = self._open(key + _LOCK)
        try:
            while True:
                _lock(fd, fcntl.LOCK_SH, stop, f"{model.name}:{model.version} is being fetched")
                if self._is_good(key, model):
                    break
                # Not one step: another may come between.
                fcntl.flock(fd, fcntl.LOCK_UN)
                _lock(fd, fcntl.LOCK_EX, stop, f"{model.name}:{model.version} is in use")
                if not self._is_good(key, model):
                    self._download(wanted)
        except BaseException:
            os.close(fd)
            raise
        self._held[key] = fd

    def _download(self, wanted: _Wanted) -> None:
        key, model, fs, sources, stop = wanted
        new = self._root / (key + _NEW)
        _remove(self._root / key)
        _remove(new)
        self._reserve(new, model)
        started = time.monotonic()
        try:
            targets = {file: new / _DATA / file.path for file in model.files}
            download(
                [Transfer(fs, sources[file.path], str(path), file.size) for file, path in targets.items()],
                stop,
            )
            found: dict[str, str] = {}
            in_threads(
                (functools.partial(_hash, str(path), file.path, found) for file, path in targets.items()),
                stop,
            )
            for file in model.files:
                if found[file.path] != file.sha256:
                    raise StorageError(
                        f"{model.path}: {file.path}",
                        "is not what was registered: its hash differs. Register the model again",
                    )
            self._write_state(new, model)
            _make_read_only(new / _DATA)
            new.rename(self._root / key)
        except BaseException:
            _remove(new)
            raise
        logger.info(
            "fetched the model %s:%d (%d bytes) in %.1f s, into %s",
            model.name,
            model.version,
            model.size_bytes,
            time.monotonic() - started,
            self._root / key,
        )

    def _reserve(self, new: Path, model: RegisteredModel) -> None:
        """Make room for a version, and say in its folder how much it takes."""
        if model.size_bytes > self._limit_bytes:
            raise ConfigurationError(
                f"the model {model.name}:{model.version} has {model.size_bytes} bytes, and this machine may "
                f"keep {self._limit_bytes} of models. Set [parallelrun] models_cache_bytes, or "
                "PARALLELRUN_MODELS_CACHE_BYTES, higher."
            )
        with self._making_room():
            taken = {path: _size(path) for path in self._entries()}
            total = sum(taken.values())
            for path in sorted(taken, key=self._last_used):
                if total + model.size_bytes <= self._limit_bytes:
                    break
                total -= taken[path] if self._evict(path) else 0
            if total + model.size_bytes > self._limit_bytes:
                raise StorageError(
                    str(self._root),
                    f"has no room for the model {model.name}:{model.version}: running nodes use {total} of "
                    f"the {self._limit_bytes} bytes that models may take. Set [parallelrun] "
                    "models_cache_bytes higher",
                )
            free = shutil.disk_usage(self._root).free
            if model.size_bytes > free:
                raise StorageError(
                    str(self._root),
                    f"its disk has {free} bytes left; {model.name}:{model.version} takes {model.size_bytes}",
                )
            new.mkdir()
            (new / _STATE).write_text(json.dumps({"size_bytes": model.size_bytes}))

    def _evict(self, path: Path) -> bool:
        """Remove a version that nobody uses, or what is left of one that nobody fetches any more."""
        fd = self._open(path.name.removesuffix(_NEW) + _LOCK)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            _remove(path)
            logger.info("removed %s, which nobody uses, to make room", path)
            return True
        finally:
            os.close(fd)

    def _is_good(self, key: str, model: RegisteredModel) -> bool:
        """Tell whether a version is here as it was registered, and nobody has changed it since."""
        folder = self._root / key
        try:
            state = json.loads((folder / _STATE).read_bytes())
            found = {file.path: _stamp(folder / _DATA / file.path) for file in model.files}
        except (OSError, ValueError):
            return False
        if state["files"] == [asdict(file) for file in model.files] and state["stamps"] == found:
            return True
        logger.warning("%s is not what the registry has, or was changed; it is fetched again", folder)
        return False

    def _write_state(self, new: Path, model: RegisteredModel) -> None:
        state = {
            "size_bytes": model.size_bytes,
            "files": [asdict(file) for file in model.files],
            "stamps": {file.path: _stamp(new / _DATA / file.path) for file in model.files},
        }
        (new / _STATE).write_text(json.dumps(state))

    def _entries(self) -> list[Path]:
        return [path for path in self._root.iterdir() if path.is_dir()]

    def _last_used(self, path: Path) -> float:
        try:
            return (self._root / (path.name.removesuffix(_NEW) + _LOCK)).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    @contextmanager
    def _making_room(self) -> Iterator[None]:
        fd = self._open("lock")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _open(self, name: str) -> int:
        return os.open(self._root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _make_root(self) -> None:
        """Make the folder; refuse one into which others could have put a model of theirs."""
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self._root.stat()
        except OSError as error:
            raise StorageError(str(self._root), error.strerror or str(error)) from error
        if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigurationError(
                f"the folder for models {str(self._root)!r} is writable for others, or belongs to somebody "
                "else. Set [parallelrun] models_cache, or PARALLELRUN_MODELS_CACHE, to a folder of this user."
            )


def model_cache() -> ModelCache:
    """Return the cache of this process.

    :raises InvalidValueError: when its limit is no size
    """
    return _cache_with(cache_settings())


@functools.cache
def _cache_with(settings: CacheSettings) -> ModelCache:
    return ModelCache(settings)


def _key(root: str, name: str, version: int) -> str:
    digest = hashlib.sha256(f"{root}\n{name}\n{version}".encode()).hexdigest()[:16]
    return f"{name[:_NAME_CHARACTERS]}-{version}-{digest}"


def _lock(fd: int, kind: int, stop: threading.Event | None, why: str) -> None:
    """Lock a file; others may take their time."""
    told = False
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not told:
                logger.info("the model %s by another process; waiting for it", why)
                told = True
        if stop is None:
            time.sleep(_POLL_S)
        elif stop.wait(_POLL_S):
            raise TransferStoppedError


def _hash(path: str, name: str, found: dict[str, str]) -> None:
    found[name] = sha256_of(path)


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _size(path: Path) -> int:
    try:
        return int(json.loads((path / _STATE).read_bytes())["size_bytes"])
    except (OSError, ValueError, KeyError):
        return 0


def _make_read_only(folder: Path) -> None:
    """Keep scripts from changing by mistake what others use, too."""
    for parent, _, files in os.walk(folder):
        for name in files:
            os.chmod(os.path.join(parent, name), 0o444)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
