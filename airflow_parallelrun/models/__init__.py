# SPDX-License-Identifier: Apache-2.0
"""The model registry: models by name and version, in a folder or in an object store."""

from __future__ import annotations

from .description import ModelFile, RegisteredModel
from .model import Model
from .registry import ModelRegistry
from .settings import absolute_folder, models_root

__all__ = ["Model", "ModelFile", "ModelRegistry", "RegisteredModel", "absolute_folder", "models_root"]
