# SPDX-License-Identifier: Apache-2.0
"""Temporary folders of a process that may be killed: the next one on the machine removes what is left."""

from __future__ import annotations

import fcntl
import glob
import logging
import os
import shutil
import tempfile

logger = logging.getLogger(__name__)

_PREFIX = "parallelrun-scratch-"


class ScratchFolder:
    """A new temporary folder, which is locked for as long as this process lives.

    Making one removes those of processes that are gone.

    :raises OSError: when it cannot be made
    """

    def __init__(self) -> None:
        remove_abandoned()
        self.path, self._lock = _make()

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def remove_abandoned() -> None:
    """Remove the scratch folders that nobody has locked any more."""
    for folder in sorted(glob.glob(os.path.join(tempfile.gettempdir(), f"{_PREFIX}*"))):
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:  # gone meanwhile, or another user's
            logger.debug("%s stays: %s", folder, error)
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        except OSError as error:  # its process lives
            logger.debug("%s stays: %s", folder, error)
        else:
            logger.info("removed %s, whose process is gone", folder)
        finally:
            os.close(fd)


def _make() -> tuple[str, int]:
    while True:
        folder = tempfile.mkdtemp(prefix=_PREFIX)
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # it was taken for an abandoned one before it was locked
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.path.exists(folder):
            return folder, fd
        os.close(fd)
