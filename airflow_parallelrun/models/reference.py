# SPDX-License-Identifier: Apache-2.0
"""The model that a configuration names: which version that is, and how a machine comes to it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from airflow_parallelrun.exceptions import ConfigurationError

from .registry import ModelRegistry

if TYPE_CHECKING:
    import threading

MLFLOW = "models:/"


def frozen(model: str, root: str | None) -> str:
    """Return the model with its version, which may be the latest of now: ``mnist:3``, ``models:/mnist/3``.

    :param model: as ``ParallelRunConfig.model``, which has checked its form
    :param root: of the registry, if one is configured
    :raises ModelNotFoundError: when there is no such model or version
    :raises ConfigurationError: when there is no registry, or MLflow is not installed
    """
    if model.startswith(MLFLOW):
        from . import mlflow_registry

        return mlflow_registry.frozen(model)
    name, version = split_version(model)
    return f"{name}:{_registry(model, root).version(name, version)}"


def split_version(model: str) -> tuple[str, int | None]:
    """Return name and version of a model of the registry; None without a version."""
    name, _, version = model.partition(":")
    return name, int(version) if version else None


def folder(model: str, root: str | None, spare: str) -> str:
    """Return the folder of this machine that has a model, or will have it when it is fetched.

    It holds one file or folder, under the name that was registered.

    :param model: with its version
    :param spare: a folder that belongs to the run on this machine
    """
    if model.startswith(MLFLOW):
        return spare
    name, version = split_version(model)
    assert version is not None
    return _registry(model, root).folder(name, version)


def fetch(model: str, root: str | None, spare: str, stop: threading.Event | None = None) -> None:
    """Have a model in its :func:`folder`.

    :param stop: ends a transfer when it is set
    :raises TransferStoppedError: when that was so
    :raises ModelNotFoundError: when it is not there any more
    :raises StorageError: when it cannot be read
    """
    if model.startswith(MLFLOW):
        from . import mlflow_registry

        mlflow_registry.fetch(model, os.path.join(spare, mlflow_registry.name_of(model)))
    else:
        _registry(model, root).find(*split_version(model), stop)


def _registry(model: str, root: str | None) -> ModelRegistry:
    if root is None:
        raise ConfigurationError(
            f"model is {model!r}, and no model registry is configured: set PARALLELRUN_MODELS_ROOT or "
            "[parallelrun] models_root to its folder or URL."
        )
    return ModelRegistry(root)
