# SPDX-License-Identifier: Apache-2.0
"""The node's side of its guardian."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import sys

from airflow_parallelrun.engine.deaths import Exit, describe_exit
from airflow_parallelrun.worker import guardian

logger = logging.getLogger(__name__)

# A node that is stopped has 4 s for everything.
_CLEAN_UP_S = 1.0


class Guardian:
    """The process that cleans up after the node if the node cannot.

    :param tag: what the node's processes carry in their environment
    :param folder: removed when the node is gone
    """

    def __init__(self, tag: str, folder: str) -> None:
        self._tag = tag
        self._folder = folder
        self._sessions: set[int] = set()
        self._start()

    def watch(self, pid: int) -> None:
        """Take on a worker, which leads a session of its own."""
        self._sessions.add(pid)
        self._tell(f"{pid}\n")

    def release(self, pid: int) -> None:
        """Forget a worker of which nothing is left."""
        self._sessions.discard(pid)
        self._tell(f"-{pid}\n")

    def look(self) -> None:
        """Put another one in its place if it is gone: the workers must not be without one."""
        if self._popen.poll() is None:
            return
        logger.warning(
            "the guardian is gone: %s; starting another", describe_exit(Exit(self._popen.returncode, 0))
        )
        pipe = self._pipe
        try:
            self._start()
        except OSError as error:
            logger.warning("the guardian cannot be started, that is tried again: %s", error.strerror)
        else:
            pipe.close()

    def close(self) -> None:
        """Have it clean up now, and wait until it is done; or do it here if it is gone."""
        self._pipe.close()
        try:
            cleaned_up = self._popen.wait(timeout=_CLEAN_UP_S) == 0
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
            cleaned_up = False
        if not cleaned_up:
            guardian.kill_members(self._tag, self._sessions)
            shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        sessions = map(str, self._sessions)
        self._popen = subprocess.Popen(
            [sys.executable, "-I", "-S", guardian.__file__, self._tag, self._folder, *sessions],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={},
            cwd="/",
            start_new_session=True,
        )
        assert self._popen.stdin is not None
        self._pipe = self._popen.stdin
        # One that was frozen must not hold up the node.
        os.set_blocking(self._pipe.fileno(), False)

    def _tell(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # look() finds out
            self._pipe.write(line.encode())
