# SPDX-License-Identifier: Apache-2.0
"""What ``model.json`` says of a version of a model."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from airflow_parallelrun.exceptions import StorageError

FORMAT_VERSION = 1
NAME = "model.json"


@dataclass(frozen=True, order=True)
class ModelFile:
    """A file of a model.

    :param path: relative to ``data``, so it begins with the name under which the model was registered
    :param size: bytes
    :param sha256: of its content, in hex
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class RegisteredModel:
    """One version of a model.

    :param path: the file or folder that was registered, in the registry: a path, or a URL
    :param created_at: UTC, ISO 8601
    :param size_bytes: of all its files
    :param files: sorted by path
    """

    name: str
    version: int
    path: str
    tags: dict[str, str] = field(default_factory=dict)
    description: str | None = None
    created_at: str = ""
    size_bytes: int = 0
    files: tuple[ModelFile, ...] = ()

    def to_json(self) -> bytes:
        """Return the content of ``model.json``."""
        values = asdict(self)
        del values["path"]
        return (json.dumps({"format_version": FORMAT_VERSION, **values}, indent=2) + "\n").encode()


def parse(data: bytes, where: str) -> dict[str, Any]:
    """Read ``model.json``; return the fields of a ``RegisteredModel`` but for its path.

    :param where: its path or URL, for messages
    :raises StorageError: when it is none
    """
    try:
        known = json.loads(data)
        keys = ("name", "version", "tags", "description", "created_at", "size_bytes")
        # Those that were registered before there were hashes have none.
        files = tuple(ModelFile(**each) for each in known.get("files", ()))
        return {**{key: known[key] for key in keys}, "files": files}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StorageError(where, f"is not a model's description: {error!r}") from error


def files_in(folder: Path) -> tuple[ModelFile, ...]:
    """Return the files of a folder, with their hashes."""
    return tuple(sorted(_file(path, folder) for path in folder.rglob("*") if path.is_file()))


def files_of(source: Path) -> tuple[ModelFile, ...]:
    """Return what the files of a model are that is to be registered, under the names that they get."""
    if source.is_file():
        return (_file(source, source.parent),)
    found = []
    for parent, _, names in os.walk(source, followlinks=True):
        found += [_file(Path(parent, name), source.parent) for name in names]
    return tuple(sorted(found))


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the hash of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file(path: Path, folder: Path) -> ModelFile:
    return ModelFile(str(path.relative_to(folder)), path.stat().st_size, sha256_of(path))
