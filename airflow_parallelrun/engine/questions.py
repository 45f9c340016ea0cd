# SPDX-License-Identifier: Apache-2.0
"""What an entry script, and the process that runs it, may ask whoever runs them."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.engine import names
from airflow_parallelrun.exceptions import ConfigurationError, ParallelRunError, UnknownNameError
from airflow_parallelrun.filesystems import is_remote
from airflow_parallelrun.models import ModelRegistry, reference
from airflow_parallelrun.store_files import TransferStoppedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.store import Store

    Reply = Callable[[bool, Any], None]

logger = logging.getLogger(__name__)


class Models:
    """The models that scripts ask for by name.

    :param root: of the registry, if one is configured
    :param model: the one that the configuration names, with its version: whoever asks for it without one gets
        that
    """

    def __init__(self, root: str | None, model: str | None = None) -> None:
        self._root = root
        self._versions: dict[str, int | None] = {}
        if model is not None and not model.startswith(reference.MLFLOW):
            name, version = reference.split_version(model)
            self._versions[name] = version
        self._found: dict[tuple[str, int | None], tuple[str, int]] = {}

    def known(self, name: str, version: int | None) -> tuple[str, int] | None:
        """Return the path and the version of a model that has been found before."""
        return self._found.get((name, version))

    @property
    def take_time(self) -> bool:
        """Whether models have to be fetched."""
        return self._root is not None and is_remote(self._root)

    def is_latest(self, name: str, version: int | None) -> bool:
        """Tell whether it is the registry that says which version this is."""
        return version is None and name not in self._versions

    def find(self, name: str, version: int | None, stop: threading.Event | None = None) -> tuple[str, int]:
        """Return the path and the version of a model.

        :param stop: ends a transfer when it is set
        """
        if self._root is None:
            raise ConfigurationError(
                "no model registry is configured: set PARALLELRUN_MODELS_ROOT or [parallelrun] models_root."
            )
        wanted = self._versions.get(name) if version is None else version
        found = ModelRegistry(self._root).find(name, wanted, stop)
        if self.take_time:
            self._found[name, version] = found
        return found


def answer(
    models: Models,
    store: Store | None,
    subject: str,
    arguments: dict[str, Any],
    stop: threading.Event | None = None,
) -> tuple[bool, Any]:
    """Answer a question; whatever is wrong with it is the script's to know, and stops nobody else.

    :param models: the models
    :param store: the run directory; None where there is none
    :param subject: what is asked for: ``model_path``, with the version; or the ``header`` that holds for the
        run's rows, with Parquet a version of their schema
    :param arguments: of the subject: ``name`` and ``version`` of a model; the ``header`` of the asker's own,
        and which ``version`` it is to be
    :param stop: ends a transfer when it is set
    :return: whether there is an answer; and the answer, or why there is none
    :raises StorageError: when the run directory cannot be read or written
    """
    if subject == "header":
        return True, _header(store, names.header(arguments["version"]), arguments["header"])
    try:
        if subject != "model_path":
            raise UnknownNameError("question", subject, ["header", "model_path"])
        name, wanted = arguments["name"], arguments["version"]
        path, version = models.find(name, wanted, stop)
    except ParallelRunError as error:
        return False, str(error)
    if store is not None and models.is_latest(name, wanted):
        _note_latest(store, names.latest_model(name, version))
    return True, (path, version)


class Questions:
    """Answers the questions of a node's processes, those that take time beside the dispatch thread.

    :param plan: the plan
    :param wake: called when there is something to :meth:`deliver`
    """

    def __init__(self, plan: Plan, wake: Callable[[], None]) -> None:
        self._models = Models(plan.models_root, plan.config.model)
        self._store = plan.store
        self._wake = wake
        self._stop = threading.Event()
        self._answers: deque[tuple[Reply, tuple[bool, Any]]] = deque()

    def ask(self, subject: str, arguments: dict[str, Any], reply: Reply) -> bool:
        """Take a question.

        :param reply: called in the dispatch thread with the answer: at once, or by :meth:`deliver`
        :return: whether it was answered at once
        """
        if subject == "model_path" and self._models.take_time:
            known = self._models.known(arguments["name"], arguments["version"])
            if known is None:
                work = (subject, arguments, reply)
                threading.Thread(target=self._answer, args=work, name="model", daemon=True).start()
                return False
            reply(True, known)
        else:
            reply(*answer(self._models, self._store, subject, arguments))
        return True

    def deliver(self) -> None:
        """Hand out the answers that are there by now."""
        while self._answers:
            reply, found = self._answers.popleft()
            reply(*found)

    def close(self) -> None:
        """Stop fetching."""
        self._stop.set()

    def _answer(self, subject: str, arguments: dict[str, Any], reply: Reply) -> None:
        try:
            found = answer(self._models, self._store, subject, arguments, self._stop)
        except TransferStoppedError:
            logger.info("stopped before the model %s was there", arguments["name"])
            return
        self._answers.append((reply, found))
        self._wake()


def _note_latest(store: Store, name: str) -> None:
    """Leave a note that the rows depend on this having been the latest version."""
    if not store.exists(name):
        store.create_exclusive(name, secrets.token_bytes(8))


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
