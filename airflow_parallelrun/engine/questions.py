# SPDX-License-Identifier: Apache-2.0
"""What an entry script may ask whoever runs it."""

from __future__ import annotations

from typing import Any

from airflow_parallelrun.exceptions import ConfigurationError, ParallelRunError, UnknownNameError
from airflow_parallelrun.models import ModelRegistry


def answer(models_root: str | None, subject: str, arguments: dict[str, Any]) -> tuple[bool, Any]:
    """Answer a question; whatever is wrong with it is the script's to know, and stops nobody else.

    :param models_root: the model registry's folder
    :param subject: what is asked for; ``model_path`` is known
    :param arguments: of the subject: ``name`` and ``version`` of a model
    :return: whether there is an answer; and the answer, or why there is none
    """
    try:
        if subject != "model_path":
            raise UnknownNameError("question", subject, ["model_path"])
        if models_root is None:
            raise ConfigurationError(
                "no model registry is configured: set PARALLELRUN_MODELS_ROOT or [parallelrun] models_root."
            )
        return True, ModelRegistry(models_root).path(arguments["name"], arguments["version"])
    except ParallelRunError as error:
        return False, str(error)
