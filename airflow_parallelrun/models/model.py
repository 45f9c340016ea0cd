# SPDX-License-Identifier: Apache-2.0
"""The registry under the original's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .registry import ModelRegistry
from .settings import models_root

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from .description import RegisteredModel


class Model:
    """Models by name, in the registry that this machine is configured for."""

    @staticmethod
    def get_model_path(model_name: str, version: int | None = None) -> str:
        """Where a model is on this machine: a file or a folder, as it was registered.

        From a registry in an object store it is fetched once for the machine.

        :param version: None = the latest
        :raises ModelNotFoundError: when there is no such model or version
        :raises ConfigurationError: when no registry is configured
        :raises StorageError: when it cannot be read
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
