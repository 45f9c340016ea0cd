# SPDX-License-Identifier: Apache-2.0
"""What processes that were killed have left behind, and could not clean up any more."""

from __future__ import annotations

import fcntl
import glob
import json
import logging
import os
import shutil
import socket
import tempfile
from typing import TYPE_CHECKING

from airflow_parallelrun.engine import names
from airflow_parallelrun.engine.names import Attempt
from airflow_parallelrun.engine.store import TEMPORARY
from airflow_parallelrun.exceptions import StorageError
from airflow_parallelrun.worker import guardian

if TYPE_CHECKING:
    from airflow_parallelrun.engine.store import Store

logger = logging.getLogger(__name__)


def make_folder(token: str) -> str:
    """Make a temporary folder for an attempt.

    :param token: the attempt's
    :raises StorageError: when it cannot be made
    """
    try:
        return tempfile.mkdtemp(prefix=_prefix(token))
    except OSError as error:
        raise StorageError(error.filename or "the temporary folder", error.strerror or str(error)) from error


def remove_leftovers(store: Store, attempt: Attempt) -> None:
    """End the processes and remove the folders of this node's earlier attempts that are gone.

    One that is alive is left alone: it sees that it has a successor, and ends its processes itself.

    :param attempt: the one that starts now

    *What it does not do:* find a process that was started with an environment of its own making.
    """
    for k in range(1, attempt.k):
        earlier = Attempt(attempt.node, k)
        if store.exists(f"{names.ENDS}/{earlier}"):
            continue
        record = json.loads(store.read(f"{names.ATTEMPTS}/{earlier}"))
        # Where its number is another process's by now it seems to be alive, which errs to the safe side.
        if record["host"] != socket.gethostname() or os.path.exists(f"/proc/{record['pid']}"):
            continue
        if killed := guardian.kill_members(record["token"]):
            logger.warning("node %s and its guardian were killed; ended %d processes of it", earlier, killed)
        for folder in glob.glob(os.path.join(tempfile.gettempdir(), f"{_prefix(record['token'])}*")):
            shutil.rmtree(folder, ignore_errors=True)


def remove_temporaries(folder: str) -> None:
    """Remove the temporary files below a folder of ours whose writers are gone: nobody holds their lock."""
    for parent, _, files in os.walk(folder):
        for name in files:
            if name.startswith(TEMPORARY):
                _remove_if_abandoned(os.path.join(parent, name))


def _remove_if_abandoned(path: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:  # it has got its name meanwhile
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except OSError as error:  # somebody is writing it; or the store does not say, and then it stays
        logger.debug("%s stays: %s", path, error)
    else:
        logger.info("removed %s, whose writer is gone", path)
    finally:
        os.close(fd)


def _prefix(token: str) -> str:
    return f"parallelrun-{token}-"
