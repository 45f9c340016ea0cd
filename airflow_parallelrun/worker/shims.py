# SPDX-License-Identifier: Apache-2.0
"""The original's import names, for scripts that must run unchanged.

``azureml.core``, ``azureml.core.model`` and ``azureml_user.parallel_run`` are found here when, and only
when, the interpreter has no package of that name: the finder is asked last.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Sequence

if TYPE_CHECKING:
    import types

Ask = Callable[[str, Dict[str, Any]], Any]


class EntryScriptSettings:
    """What ``EntryScript`` shows of the process: folders, name and logger."""

    def __init__(self, agent_name: str, log_dir: str, output_dir: str) -> None:
        self.agent_name = agent_name
        self.log_dir = log_dir
        self.output_dir = output_dir
        self.logger = logging.getLogger("entry_script")


def install(ask: Ask, settings: EntryScriptSettings) -> None:
    """Make the original's names importable in this process.

    :param ask: asks the node; called with a subject and its arguments, returns the answer
    :param settings: what ``EntryScript()`` shows
    """
    core = {"Model": _model_class(ask)}
    sys.meta_path.append(
        _Finder(
            {
                "azureml": {},
                "azureml.core": core,
                "azureml.core.model": core,
                "azureml_user": {},
                "azureml_user.parallel_run": {"EntryScript": _entry_script_class(settings)},
            }
        )
    )


def _model_class(ask: Ask) -> type:
    class Model:
        """The part of ``azureml.core.Model`` that a scoring script uses."""

        @staticmethod
        def get_model_path(
            model_name: str,
            version: Optional[int] = None,
            _workspace: Any = None,
        ) -> str:
            """Return the local path of a registered model: a file, or a folder, as it was registered.

            :param model_name: the name in the registry
            :param version: default the latest
            """
            return str(ask("model_path", {"name": model_name, "version": version}))

    return Model


def _entry_script_class(settings: EntryScriptSettings) -> type:
    class EntryScript:
        """The original's helper: one per process, however often it is constructed."""

        _instance: Optional[EntryScript] = None

        def __new__(cls) -> EntryScript:
            """Return the one instance."""
            if cls._instance is None:
                cls._instance = super().__new__(cls)
            return cls._instance

        @property
        def logger(self) -> logging.Logger:
            """A logger that writes to this process's file in ``log_dir``."""
            return settings.logger

        @property
        def log_dir(self) -> str:
            """The folder of this node's entry script logs."""
            return settings.log_dir

        @property
        def agent_name(self) -> str:
            """The process's name, such as ``process003``."""
            return settings.agent_name

        @property
        def output_dir(self) -> str:
            """The output folder, which exists."""
            os.makedirs(settings.output_dir, exist_ok=True)
            return settings.output_dir

    return EntryScript


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, modules: dict[str, dict[str, Any]]) -> None:
        self._modules = modules

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        parent = sys.modules.get(fullname.rpartition(".")[0])
        if fullname not in self._modules:
            if getattr(parent, "__loader__", None) is self:
                raise ImportError(self._not_here(fullname))
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__dict__.update(self._modules[module.__name__])

    @staticmethod
    def _not_here(name: str) -> str:
        return (
            f"{name} is not part of what airflow_parallelrun offers under the original's names. "
            "Install the real package into the environment of the entry script if it is needed."
        )
