# SPDX-License-Identifier: Apache-2.0
"""What an entry script, and the process that runs it, may ask whoever runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_parallelrun.engine import names
from airflow_parallelrun.exceptions import ConfigurationError, ParallelRunError, UnknownNameError
from airflow_parallelrun.models import ModelRegistry

if TYPE_CHECKING:
    from airflow_parallelrun.engine.store import Store


def answer(
    models_root: str | None, store: Store | None, subject: str, arguments: dict[str, Any]
) -> tuple[bool, Any]:
    """Answer a question; whatever is wrong with it is the script's to know, and stops nobody else.

    :param models_root: the model registry's folder
    :param store: the run directory; None where there is none
    :param subject: what is asked for: ``model_path``, with the version; or the ``header`` that holds for the
        run's rows, with Parquet a version of their schema
    :param arguments: of the subject: ``name`` and ``version`` of a model; the ``header`` of the asker's own,
        and which ``version`` it is to be
    :return: whether there is an answer; and the answer, or why there is none
    :raises StorageError: when the run directory cannot be read or written
    """
    if subject == "header":
        return True, _header(store, names.header(arguments["version"]), arguments["header"])
    try:
        if subject != "model_path":
            raise UnknownNameError("question", subject, ["header", "model_path"])
        if models_root is None:
            raise ConfigurationError(
                "no model registry is configured: set PARALLELRUN_MODELS_ROOT or [parallelrun] models_root."
            )
        return True, ModelRegistry(models_root).find(arguments["name"], arguments["version"])
    except ParallelRunError as error:
        return False, str(error)


def _header(store: Store | None, name: str, proposed: str) -> str:
    """Return the header that holds for the run: the first one of all nodes and rounds.

    It is durable before any row that stands below it is written.
    """
    if store is None:
        return proposed
    data = proposed.encode("utf-8", "surrogateescape")
    if not store.exists(name) and store.create_exclusive(name, data):
        return proposed
    return store.read(name).decode("utf-8", "surrogateescape")
