# SPDX-License-Identifier: Apache-2.0
"""Where a node keeps files: a temporary folder of its own, and what it shares if that is a file system.

Of a run in an object store everything that grows lies in the temporary folder: segments and pages, the logs,
what the script writes into the output folder. It is committed or uploaded from there.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

from airflow_parallelrun.engine import names
from airflow_parallelrun.engine.leftovers import make_folder
from airflow_parallelrun.engine.mirror import Mirror
from airflow_parallelrun.engine.periodic import Periodic
from airflow_parallelrun.engine.plan import fetch_items
from airflow_parallelrun.engine.store import Store
from airflow_parallelrun.filesystems import is_remote

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_parallelrun.engine.plan import Plan

# What of a log is in the store while the node works; the rest comes when it ends.
_UPLOAD_INTERVAL_S = 30.0
_LAST_UPLOAD_S = 30.0
# A node that was asked to stop must be gone within 4 s.
_HURRIED_UPLOAD_S = 1.0


@dataclass(frozen=True)
class Workplace:
    """The folders of a node on its machine.

    :param folder: the temporary one, gone when the node is
    :param code: the code
    :param files: where files grow: the run directory, or a store in the temporary folder
    :param logs: the folder that logs are written to
    :param item_files: the paths of the plan's items and of their index
    :param output: the folder that the script may write to
    :param is_output_local: whether that is not the output itself, so that its files have to be uploaded
    """

    folder: str
    code: str
    files: Store
    logs: str
    item_files: tuple[str, str]
    output: str
    is_output_local: bool

    @classmethod
    def of(cls, plan: Plan, folder: str, logs: str) -> Self:
        """Return the workplace of a node; nothing is made.

        :param folder: its temporary folder
        :param logs: where its logs are written
        """
        store = plan.store
        output = plan.output or plan.run_dir
        items = plan.item_files
        if not store.is_local:
            fetched = os.path.join(folder, "plan")
            items = (
                os.path.join(fetched, names.MINI_BATCHES),
                os.path.join(fetched, names.MINI_BATCHES_INDEX),
            )
        return cls(
            folder=folder,
            code=os.path.join(folder, "code"),
            files=store if store.is_local else Store(os.path.join(folder, "files")),
            logs=logs,
            item_files=items,
            output=os.path.join(folder, "output") if is_remote(output) else output,
            is_output_local=is_remote(output),
        )

    def fetch_items(self, plan: Plan) -> None:
        """Fetch the plan's items, unless the run directory has them as files.

        :raises StorageError: when they cannot be read or written
        """
        if not plan.store.is_local:
            fetch_items(plan, os.path.dirname(self.item_files[0]))


class LogFolder:
    """The folder that a node's logs are written to: the plan's own, or one whose files are uploaded.

    :param plan: the plan
    :param is_hurried: asked at the end, whether there is no time to upload everything
    """

    def __init__(self, plan: Plan, is_hurried: Callable[[], bool]) -> None:
        self._url = plan.logs
        self._is_hurried = is_hurried
        self._uploads: Periodic | None = None
        self._is_last = False
        self.root = plan.logs

    def open(self, token: str) -> None:
        """Make the folder, unless it is the plan's own.

        :param token: the attempt's
        :raises StorageError: when it cannot be made
        """
        if is_remote(self._url):
            self.root = make_folder(token)
            mirror = Mirror(self.root, self._url)
            self._uploads = Periodic("logs", partial(self._upload, mirror), _UPLOAD_INTERVAL_S)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Upload what is left."""
        if self._uploads is not None:
            self._is_last = True
            self._uploads.close(_HURRIED_UPLOAD_S if self._is_hurried() else _LAST_UPLOAD_S)
            shutil.rmtree(self.root, ignore_errors=True)

    def _upload(self, mirror: Mirror) -> None:
        if self._is_last:
            mirror.upload()
        else:
            mirror.upload_grown()
