# SPDX-License-Identifier: Apache-2.0
"""The model registry: a folder with one sub-folder for each model and version.

::

    <root>/<name>/<version>/model.json     name, version, tags, description, created_at, size_bytes
    <root>/<name>/<version>/data/<file or folder, under the name it had>

A version is written under a temporary name and renamed: it is complete when it can be seen, and of two
registrations at once each gets a version of its own.

*What it does not do:* it deletes nothing, and does not flush to disk: a power cut right after a
registration can lose it.
"""

from __future__ import annotations

import configparser
import datetime
import errno
import json
import os
import re
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.exceptions import (
    ConfigurationError,
    InvalidValueError,
    ModelNotFoundError,
    StorageError,
)

if TYPE_CHECKING:
    import builtins
    from collections.abc import Mapping

FORMAT_VERSION = 1

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_VERSION = re.compile(r"[1-9][0-9]*")
_ROOT_VARIABLES = ("PARALLELRUN_MODELS_ROOT", "AIRFLOW__PARALLELRUN__MODELS_ROOT")


@dataclass(frozen=True)
class RegisteredModel:
    """One version of a model.

    :param path: the file or folder that was registered, in the registry
    :param created_at: UTC, ISO 8601
    :param size_bytes: of all its files
    """

    name: str
    version: int
    path: str
    tags: dict[str, str] = field(default_factory=dict)
    description: str | None = None
    created_at: str = ""
    size_bytes: int = 0


class ModelRegistry:
    """The models in a folder.

    :param root: the folder; made by the first registration
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)

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
        folder = self._folder(name)
        labels = _check_labels(tags, description)
        source = self._check_source(path)
        staging = folder / f".new-{secrets.token_hex(8)}"
        try:
            target = staging / "data" / source.name
            target.parent.mkdir(parents=True)
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copy2(source, target)
            details = {**labels, "created_at": _now(), "size_bytes": _size(target)}
            version = self._publish(staging, name, details)
        except OSError as error:
            raise StorageError(str(folder), f"{source} could not be registered: {_cause(error)}") from error
        finally:
            # Gone when it was renamed.
            shutil.rmtree(staging, ignore_errors=True)
        return RegisteredModel(name, version, str(folder / str(version) / "data" / source.name), **details)

    def list(self) -> list[RegisteredModel]:
        """Every version of every model, sorted by name and version.

        :raises StorageError: when the registry cannot be read
        """
        return [self._read(name, version) for name in self._names() for version in self._versions(name)]

    def path(self, name: str, version: int | None = None) -> str:
        """Where a model is: a file or a folder, as it was registered.

        :param version: None = the latest
        :raises ModelNotFoundError: when there is no such model or version
        """
        return self.find(name, version)[0]

    def find(self, name: str, version: int | None = None) -> tuple[str, int]:
        """Where a model is, and which version that is; see :meth:`path`."""
        self._folder(name)
        if version is not None and (isinstance(version, bool) or not isinstance(version, int)):
            raise InvalidValueError("version", version, "a whole number, or None for the latest")
        versions = self._versions(name)
        if not versions or version not in (None, *versions):
            raise ModelNotFoundError(name, version, self.root, self._names())
        found = versions[-1] if version is None else version
        return self._data(name, found), found

    def _folder(self, name: str) -> Path:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            rule = "1 to 255 letters, digits, '_', '.' or '-', the first a letter or a digit"
            raise InvalidValueError("the name of a model", name, rule)
        return Path(self.root, name)

    def _check_source(self, path: str | os.PathLike[str]) -> Path:
        # Not resolved: what is registered keeps the name under which it was given.
        source = Path(os.path.abspath(Path(path).expanduser()))
        if not source.name or not (source.is_file() or source.is_dir()):
            raise InvalidValueError("the path of a model", os.fspath(path), "an existing file or folder")
        if Path(self.root).resolve().is_relative_to(source.resolve()):
            rule = f"outside of the registry {self.root!r}, and not a folder around it"
            raise InvalidValueError("the path of a model", os.fspath(path), rule)
        return source

    def _publish(self, staging: Path, name: str, details: dict[str, Any]) -> int:
        """Rename to the next free version: a rename never replaces a folder that has something in it."""
        version = (self._versions(name) or [0])[-1]
        while True:
            version += 1
            about = {"format_version": FORMAT_VERSION, "name": name, "version": version, **details}
            (staging / "model.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
            try:
                staging.rename(staging.parent / str(version))
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
            else:
                return version

    def _names(self) -> builtins.list[str]:
        names = [name for name in _entries(self.root) if _NAME.fullmatch(name)]
        return sorted(name for name in names if self._versions(name))

    def _versions(self, name: str) -> builtins.list[int]:
        found = _entries(os.path.join(self.root, name))
        return sorted(int(entry) for entry in found if _VERSION.fullmatch(entry))

    def _data(self, name: str, version: int) -> str:
        folder = Path(self.root, name, str(version), "data")
        content = _entries(str(folder))
        if len(content) != 1:
            raise StorageError(str(folder), f"holds {len(content)} entries where a model has one")
        return str(folder / content[0])

    def _read(self, name: str, version: int) -> RegisteredModel:
        about = Path(self.root, name, str(version), "model.json")
        try:
            known = json.loads(about.read_text(encoding="utf-8"))
            details = {key: known[key] for key in ("tags", "description", "created_at", "size_bytes")}
            return RegisteredModel(name, version, self._data(name, version), **details)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StorageError(str(about), f"is not a model's description: {error!r}") from error


class Model:
    """Models by name, in the registry that this machine is configured for."""

    @staticmethod
    def get_model_path(model_name: str, version: int | None = None) -> str:
        """Where a model is: a file or a folder, as it was registered.

        :param version: None = the latest
        :raises ModelNotFoundError: when there is no such model or version
        :raises ConfigurationError: when no registry is configured
        """
        return ModelRegistry(models_root()).path(model_name, version)

    @staticmethod
    def register(
        model_path: str | os.PathLike[str],
        model_name: str,
        tags: Mapping[str, str] | None = None,
        description: str | None = None,
    ) -> RegisteredModel:
        """Copy a file or a folder into the registry, as the next version; see ``ModelRegistry.register``.

        :raises ConfigurationError: when no registry is configured
        """
        return ModelRegistry(models_root()).register(model_path, model_name, tags, description)


def models_root() -> str:
    """The folder of the model registry, from the environment or from Airflow's configuration file.

    :raises ConfigurationError: when none is configured; names every place that was looked at
    """
    for variable in _ROOT_VARIABLES:
        if os.environ.get(variable, "").strip():
            return absolute_folder(os.environ[variable])
    home = os.environ.get("AIRFLOW_HOME") or "~/airflow"
    file = absolute_folder(os.environ.get("AIRFLOW_CONFIG") or os.path.join(home, "airflow.cfg"))
    configured = _from_airflow(file)
    if configured:
        return absolute_folder(configured)
    raise ConfigurationError(
        f"no model registry is configured. Looked at: {', '.join(_ROOT_VARIABLES)} in the environment, and "
        f"[parallelrun] models_root in {file!r}. Set one of them to a folder."
    )


def _from_airflow(file: str) -> str:
    # Airflow's own reader is not imported: it takes seconds.
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read(file, encoding="utf-8")
    except (OSError, configparser.Error, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file!r} cannot be read as Airflow's configuration: {error}") from error
    return parser.get("parallelrun", "models_root", fallback="").strip()


def absolute_folder(path: str) -> str:
    """Return a configured folder with ``~`` and variables resolved."""
    return os.path.abspath(os.path.expandvars(os.path.expanduser(path.strip())))


def _entries(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StorageError(folder, error.strerror or str(error)) from error


def _check_labels(tags: Mapping[str, str] | None, description: str | None) -> dict[str, Any]:
    labels = dict(tags or {})
    if not all(isinstance(text, str) for pair in labels.items() for text in pair):
        raise InvalidValueError("tags", labels, "a dict of text to text")
    if description is not None and not isinstance(description, str):
        raise InvalidValueError("description", description, "text")
    return {"tags": labels, "description": description}


def _cause(error: OSError) -> str:
    # copytree's error lists every file that failed, each as (source, target, why).
    several = error.args[0] if isinstance(error, shutil.Error) else None
    return (
        f"{several[0][-1]} ({len(several)} of its files failed)" if isinstance(several, list) else str(error)
    )


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
