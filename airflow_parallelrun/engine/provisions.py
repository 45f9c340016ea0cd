# SPDX-License-Identifier: Apache-2.0
"""What the processes of a node have beside their mini-batches: a model, and side inputs.

Where these will be is known at once, so that what the processes are started with is; they are fetched
meanwhile, by a thread of its own, and the first process waits for it.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.engine import side_inputs
from airflow_parallelrun.engine.side_inputs import ARGUMENT, SideInput
from airflow_parallelrun.exceptions import StorageError
from airflow_parallelrun.models import reference
from airflow_parallelrun.store_files import TransferStoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from airflow_parallelrun.config import ParallelRunConfig
    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.side_inputs import Listed

logger = logging.getLogger(__name__)

MODEL_VARIABLE = "AZUREML_MODEL_DIR"


@dataclass(frozen=True)
class Wanted:
    """What processes are to have.

    :param folder: of the node; what is fetched for this run alone lies in it
    :param model: with its version; None for none
    :param models_root: of the registry, if one is configured
    :param side_inputs: the side inputs
    """

    folder: str
    model: str | None
    models_root: str | None
    side_inputs: Sequence[SideInput] = ()

    def config(self, config: ParallelRunConfig) -> ParallelRunConfig:
        """Return the configuration with the variables that tell a script where things are on this machine.

        Those that the user has set come first.
        """
        variables = {}
        if self.model is not None:
            variables[MODEL_VARIABLE] = reference.folder(self.model, self.models_root, self._model_folder)
        for each in self.side_inputs:
            variables |= each.variables(self._side_folder)
        return replace(config, environment_variables={**variables, **config.environment_variables})

    def arguments(self, arguments: Iterable[Any]) -> list[str]:
        """Return the script's arguments with the paths of side inputs on this machine."""
        paths = {each.name: each.path(self._side_folder) for each in self.side_inputs}
        return [paths[each[ARGUMENT]] if isinstance(each, dict) else each for each in arguments]

    def get(self, listed: Iterable[Listed], stop: threading.Event | None = None) -> None:
        """Have everything where it was said to be.

        :param listed: the side inputs, with their files
        :param stop: ends a transfer when it is set
        :raises TransferStoppedError: when that was so
        :raises ModelNotFoundError: when the model is not there any more
        :raises SideInputChangedError: when a side input is not what was listed
        :raises StorageError: when something cannot be read
        """
        if self.model is not None:
            reference.fetch(self.model, self.models_root, self._model_folder, stop)
        try:
            for each in listed:
                side_inputs.provide(each, self._side_folder, stop)
        except OSError as error:
            raise StorageError(error.filename or self._side_folder, error.strerror or str(error)) from error

    @property
    def _model_folder(self) -> str:
        return os.path.join(self.folder, "model")

    @property
    def _side_folder(self) -> str:
        return os.path.join(self.folder, "side_inputs")


class Provisions:
    """What the processes of a node have, and whether it is there yet.

    :param plan: the plan
    :param folder: the node's temporary folder
    :param wake: called by the thread that fetches, when it is done
    """

    def __init__(self, plan: Plan, folder: str, wake: Callable[[], None]) -> None:
        sides = [SideInput.from_dict(each) for each in plan.side_inputs]
        self._wanted = Wanted(folder, plan.config.model, plan.models_root, sides)
        self._source = plan
        #: The plan as this node's processes are started by it.
        self.plan = replace(
            plan,
            config=self._wanted.config(plan.config),
            arguments=self._wanted.arguments(plan.arguments),
        )
        self._wake = wake
        self._stop = threading.Event()
        self._error: BaseException | None = None
        # A daemon: what hangs must not keep a node that is asked to stop.
        self._thread = threading.Thread(target=self._get, name="provisions", daemon=True)

    def ready(self) -> bool:
        """Tell whether everything is there; begin to fetch it when that is asked first.

        :raises ParallelRunError: when something cannot be had
        """
        if self._thread.ident is None:
            self._thread.start()
        if self._thread.is_alive():
            return False
        if self._error is not None:
            raise self._error
        return True

    def close(self) -> None:
        """Stop fetching."""
        self._stop.set()

    def _get(self) -> None:
        try:
            listed = side_inputs.read(self._source.store, self._source.side_inputs)
            self._wanted.get(listed, self._stop)
        except TransferStoppedError:
            logger.info("stopped before everything was there")
        except BaseException as error:  # noqa: BLE001 - the dispatch thread's to raise
            self._error = error
        finally:
            self._wake()
