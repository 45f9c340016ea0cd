# SPDX-License-Identifier: Apache-2.0
"""Models in an object store, laid out as in a folder.

A registration first takes a version's number, by one conditional request; ``model.json`` is written last, and
what has none is no version. A registration that is killed leaves a number that nobody gets again.
"""

from __future__ import annotations

import logging
import posixpath
import secrets
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_parallelrun.driver_errors import insist, told
from airflow_parallelrun.exceptions import (
    InvalidValueError,
    NotSupportedError,
    ParallelRunError,
    StorageError,
)
from airflow_parallelrun.filesystems import locate
from airflow_parallelrun.store_files import TransferStoppedError, list_folder, upload

from . import description
from .cache import model_cache
from .description import RegisteredModel
from .folder import VERSION

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Of several who create the same object at once, exactly one succeeds.
_ATOMIC = frozenset({"abfs", "abfss", "az", "s3", "s3a", "gs", "gcs"})
_TAKEN = "taken"


class ModelStore:
    """The models below a URL.

    :param root: the URL
    :raises ConfigurationError: for a connection that nobody knows
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self._scheme = root.partition("://")[0]
        place = locate(self.root)
        self._fs: Any = place.fs
        self._base = place.path.rstrip("/")

    def names(self) -> list[str]:
        """Return what may be the names of models."""
        return self._folders("")

    def versions(self, name: str) -> list[int]:
        """Return the versions of a model, sorted."""
        return [version for version in self._numbers(name) if self._about(name, version) is not None]

    def find(self, name: str, version: int | None) -> int | None:
        """Return a version if there is one of that number, or the latest of all."""
        wanted = reversed(self._numbers(name)) if version is None else [version]
        return next((number for number in wanted if self._about(name, number) is not None), None)

    def folder(self, name: str, version: int) -> str:
        """Return the folder of this machine that gets a version's data."""
        return model_cache().folder(self.root, name, version)

    def path(self, name: str, version: int, stop: threading.Event | None = None) -> str:
        """Fetch a version, unless this machine has it, and return where it is."""
        model = self.read(name, version)
        sources = {file.path: self._key(name, version, "data", file.path) for file in model.files}
        return self._ask(name, lambda: model_cache().fetch(self.root, model, self._fs, sources, stop))

    def read(self, name: str, version: int) -> RegisteredModel:
        """Return what is known of a version."""
        url = f"{self.root}/{name}/{version}"
        about = self._about(name, version)
        if about is None:
            raise StorageError(f"{url}/{description.NAME}", "is gone")
        values = description.parse(about, f"{url}/{description.NAME}")
        if not values["files"]:
            raise StorageError(f"{url}/{description.NAME}", "has no hashes. Register the model again")
        entry = values["files"][0].path.partition("/")[0]
        return RegisteredModel(path=f"{url}/data/{entry}", **values)

    def add(self, source: Path, name: str, labels: dict[str, Any]) -> RegisteredModel:
        """Copy a file or a folder as the next version."""
        if self._scheme not in _ATOMIC:
            raise NotSupportedError(
                f"Registering models at {self.root!r}, where two could get the same version,",
                "Use a folder, or a store of Azure, S3 or Google Cloud.",
            )
        try:
            files = description.files_of(source)
        except OSError as error:
            raise StorageError(self.root, f"{source} could not be registered: {error}") from error
        if not files:
            raise InvalidValueError(
                "the path of a model", str(source), "a file, or a folder with files in it"
            )
        version = self._ask(name, lambda: self._take(name))
        labels |= {"files": files, "size_bytes": sum(file.size for file in files)}
        url = f"{self.root}/{name}/{version}"
        model = RegisteredModel(name, version, f"{url}/data/{source.name}", **labels)
        targets = [
            (str(source.parent / file.path), self._key(name, version, "data", file.path)) for file in files
        ]
        try:
            self._ask(url, lambda: upload(self._fs, targets))
            self._ask(url, lambda: self._put(self._key(name, version, description.NAME), model.to_json()))
        except BaseException:
            self._give_up(url, self._key(name, version, "data"))
            raise
        return model

    def _take(self, name: str) -> int:
        """Take the next number."""
        version = (self._numbers(name) or [0])[-1]
        while True:
            version += 1
            key, token = self._key(name, version, _TAKEN), secrets.token_hex(16).encode()
            try:
                self._fs.pipe_file(key, token, mode="create")
            except Exception:  # whatever it says: whose token is there tells
                if self._read(key) != token:
                    if self._read(key) is None:
                        raise
                    continue
            return version

    def _put(self, key: str, data: bytes) -> None:
        insist(lambda: self._fs.pipe_file(key, data), key)

    def _give_up(self, url: str, folder: str) -> None:
        try:
            self._fs.rm(folder, recursive=True)
        except FileNotFoundError:
            logger.debug("nothing of %s had been uploaded", url)
        except Exception as error:  # noqa: BLE001 - every driver raises errors of its own
            logger.warning("what was uploaded to %s stays, and is no version: %s", url, told(error))

    def _numbers(self, name: str) -> list[int]:
        return sorted(int(entry) for entry in self._folders(name) if VERSION.fullmatch(entry))

    def _about(self, name: str, version: int) -> bytes | None:
        key = self._key(name, version, description.NAME)
        return self._ask(name, lambda: self._read(key))

    def _folders(self, name: str) -> list[str]:
        def listed() -> list[str]:
            try:
                folder = posixpath.join(self._base, name).rstrip("/")
                found = insist(lambda: list_folder(self._fs, folder), folder)
            except FileNotFoundError:
                return []
            return sorted({entry.partition("/")[0] for entry in found})

        return self._ask(name, listed)

    def _read(self, key: str) -> bytes | None:
        try:
            return bytes(insist(lambda: self._fs.cat_file(key), key))
        except FileNotFoundError:
            return None

    def _key(self, name: str, version: int, *below: str) -> str:
        return posixpath.join(self._base, name, str(version), *below)

    def _ask(self, place: str, question: Callable[[], T]) -> T:
        try:
            return question()
        except (ParallelRunError, TransferStoppedError):
            raise
        except Exception as error:  # every store's driver raises errors of its own
            where = place if "://" in place else f"{self.root}/{place}".rstrip("/")
            raise StorageError(where, told(error)) from error
