# SPDX-License-Identifier: Apache-2.0
"""Models in a folder: a version is written under a temporary name and renamed."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.exceptions import StorageError

from . import description
from .description import RegisteredModel

if TYPE_CHECKING:
    import threading

VERSION = re.compile(r"[1-9][0-9]*")


class ModelFolder:
    """The models in a folder.

    :param root: its path
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Return what may be the names of models."""
        return _entries(self.root)

    def versions(self, name: str) -> list[int]:
        """Return the versions of a model, sorted."""
        found = _entries(os.path.join(self.root, name))
        return sorted(int(entry) for entry in found if VERSION.fullmatch(entry))

    def find(self, name: str, version: int | None) -> int | None:
        """Return a version if there is one of that number, or the latest of all."""
        versions = self.versions(name)
        if version is None:
            return versions[-1] if versions else None
        return version if version in versions else None

    def folder(self, name: str, version: int) -> str:
        """Return the folder that has a version's data."""
        return str(Path(self.root, name, str(version), "data"))

    def path(self, name: str, version: int, stop: threading.Event | None = None) -> str:
        """Return where a version is.

        :param stop: nothing here takes any time
        """
        folder = self.folder(name, version)
        content = _entries(folder)
        if len(content) != 1:
            raise StorageError(folder, f"holds {len(content)} entries where a model has one")
        return os.path.join(folder, content[0])

    def read(self, name: str, version: int) -> RegisteredModel:
        """Return what is known of a version."""
        about = Path(self.root, name, str(version), description.NAME)
        try:
            values = description.parse(about.read_bytes(), str(about))
        except OSError as error:
            raise StorageError(str(about), f"is not a model's description: {error!r}") from error
        return RegisteredModel(path=self.path(name, version), **values)

    def add(self, source: Path, name: str, labels: dict[str, Any]) -> RegisteredModel:
        """Copy a file or a folder as the next version."""
        folder = Path(self.root, name)
        staging = folder / f".new-{secrets.token_hex(8)}"
        try:
            target = staging / "data" / source.name
            target.parent.mkdir(parents=True)
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copy2(source, target)
            files = description.files_in(staging / "data")
            labels |= {"files": files, "size_bytes": sum(file.size for file in files)}
            version = self._publish(staging, name, labels)
        except OSError as error:
            raise StorageError(str(folder), f"{source} could not be registered: {_cause(error)}") from error
        finally:
            # Gone when it was renamed.
            shutil.rmtree(staging, ignore_errors=True)
        return RegisteredModel(name, version, str(folder / str(version) / "data" / source.name), **labels)

    def _publish(self, staging: Path, name: str, labels: dict[str, Any]) -> int:
        """Rename to the next free version: a rename never replaces a folder that has something in it."""
        version = (self.versions(name) or [0])[-1]
        while True:
            version += 1
            (staging / description.NAME).write_bytes(RegisteredModel(name, version, "", **labels).to_json())
            try:
                staging.rename(staging.parent / str(version))
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
            else:
                return version


def _entries(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StorageError(folder, error.strerror or str(error)) from error


def _cause(error: OSError) -> str:
    # copytree's error lists every file that failed, each as (source, target, why).
    several = error.args[0] if isinstance(error, shutil.Error) else None
    return (
        f"{several[0][-1]} ({len(several)} of its files failed)" if isinstance(several, list) else str(error)
    )
