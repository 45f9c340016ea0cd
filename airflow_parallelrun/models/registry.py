# SPDX-License-Identifier: Apache-2.0
"""The model registry: a folder, or its like in an object store, with a folder for each model and version.

::

    <root>/<name>/<version>/model.json     name, version, tags, description, created_at, size_bytes, files
    <root>/<name>/<version>/data/<file or folder, under the name it had>

A version is complete when it can be seen, and of two registrations at once each gets a version of its own.

*What it does not do:* it deletes nothing, and does not flush to disk: a power cut right after a
registration in a folder can lose it.
"""

from __future__ import annotations

import datetime
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.exceptions import InvalidValueError, ModelNotFoundError
from airflow_parallelrun.filesystems import is_remote

from .folder import ModelFolder

if TYPE_CHECKING:
    import builtins
    import threading
    from collections.abc import Mapping

    from .description import RegisteredModel
    from .store import ModelStore

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")


class ModelRegistry:
    """The models in a folder, or in an object store.

    :param root: a path, or a URL such as ``abfs://connection@container/models``; a folder is made by the
        first registration
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)
        self._models: ModelFolder | ModelStore = ModelFolder(self.root)
        if is_remote(self.root):
            from .store import ModelStore

            self._models = ModelStore(self.root)

    def register(
        self,
        path: str | os.PathLike[str],
        name: str,
        tags: Mapping[str, str] | None = None,
        description: str | None = None,
    ) -> RegisteredModel:
        """Copy a file or a folder into the registry, as the next version; links become what they lead to.

        :param path: a file stays a file, a folder a folder
        :param name: letters, digits, ``_``, ``.`` and ``-``; the first a letter or a digit
        :raises InvalidValueError: for a name, path, tag or description that cannot be used
        :raises StorageError: when it cannot be read or written
        """
        check_name(name)
        labels = {**_check_labels(tags, description), "created_at": _now()}
        return self._models.add(self._check_source(path), name, labels)

    def list(self) -> list[RegisteredModel]:
        """Every version of every model, sorted by name and version.

        :raises StorageError: when the registry cannot be read
        """
        return [
            self._models.read(name, version)
            for name in self._names()
            for version in self._models.versions(name)
        ]

    def path(self, name: str, version: int | None = None) -> str:
        """Where a model is on this machine: a file or a folder, as it was registered.

        :param version: None = the latest
        :raises ModelNotFoundError: when there is no such model or version
        :raises StorageError: when it cannot be read
        """
        return self.find(name, version)[0]

    def find(
        self, name: str, version: int | None = None, stop: threading.Event | None = None
    ) -> tuple[str, int]:
        """Where a model is, and which version that is; see :meth:`path`.

        :param stop: ends a transfer when it is set
        """
        found = self.version(name, version)
        return self._models.path(name, found, stop), found

    def version(self, name: str, version: int | None = None) -> int:
        """Return the version that there is; see :meth:`path`."""
        check_name(name)
        if version is not None and (isinstance(version, bool) or not isinstance(version, int)):
            raise InvalidValueError("version", version, "a whole number, or None for the latest")
        found = self._models.find(name, version)
        if found is None:
            raise ModelNotFoundError(name, version, self.root, self._names())
        return found

    def folder(self, name: str, version: int) -> str:
        """Return the folder of this machine that has, or will have when it is fetched, a version's data."""
        return self._models.folder(name, version)

    @property
    def fetches(self) -> bool:
        """Whether models must be fetched before they can be used."""
        return is_remote(self.root)

    def _names(self) -> builtins.list[str]:
        names = [name for name in self._models.names() if _NAME.fullmatch(name)]
        return sorted(name for name in names if self._models.find(name, None) is not None)

    def _check_source(self, path: str | os.PathLike[str]) -> Path:
        # Not resolved: what is registered keeps the name under which it was given.
        source = Path(os.path.abspath(Path(path).expanduser()))
        if not source.name or not (source.is_file() or source.is_dir()):
            raise InvalidValueError("the path of a model", os.fspath(path), "an existing file or folder")
        if not self.fetches and Path(self.root).resolve().is_relative_to(source.resolve()):
            rule = f"outside of the registry {self.root!r}, and not a folder around it"
            raise InvalidValueError("the path of a model", os.fspath(path), rule)
        return source


def check_name(name: object) -> None:
    """Refuse what cannot be the name of a model.

    :raises InvalidValueError: when that is so
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        rule = "1 to 255 letters, digits, '_', '.' or '-', the first a letter or a digit"
        raise InvalidValueError("the name of a model", name, rule)


def _check_labels(tags: Mapping[str, str] | None, description: str | None) -> dict[str, Any]:
    labels = dict(tags or {})
    if not all(isinstance(text, str) for pair in labels.items() for text in pair):
        raise InvalidValueError("tags", labels, "a dict of text to text")
    if description is not None and not isinstance(description, str):
        raise InvalidValueError("description", description, "text")
    return {"tags": labels, "description": description}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
