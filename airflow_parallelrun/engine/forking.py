# SPDX-License-Identifier: Apache-2.0
"""The node's side of its fork server."""

from __future__ import annotations

import ast
import ctypes
import json
import logging
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_parallelrun.config import AUTO, EXEC, FORK
from airflow_parallelrun.worker import bootstrap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_parallelrun.engine.plan import Plan

logger = logging.getLogger(__name__)

# Packages that were tried: imported and then forked they work as if they had been imported after it.
FORK_SAFE = frozenset(["PIL", "numpy", "pandas", "pyarrow", "scipy", "sklearn", "tensorflow"])

_PR_SET_CHILD_SUBREAPER = 36
_MESSAGE_BYTES = 1 << 18
# A fork takes some milliseconds, also of a process that has TensorFlow; who does not answer is no good.
FORK_LIMIT_S = 2.0
_NVIDIA = "/dev/nvidia0"


class ForkServer:
    """A process that imports the script's libraries once and forks workers that have them.

    It is ready when it says so; until then nobody waits for it. When it fails, that is logged, and workers
    are started by exec as if there had never been one.

    :param plan: the plan
    :param wanted: what to import
    :param code: the folder of the code on this node
    :param environment: of the workers, but for their tag
    :param log: the path of the file for what it prints
    """

    def __init__(
        self, plan: Plan, wanted: list[Import], code: str, environment: dict[str, str], log: str
    ) -> None:
        self.ready = self.failed = False
        command = [plan.config.environment.python or sys.executable, bootstrap.__file__, "fork_server"]
        os.makedirs(os.path.dirname(log), exist_ok=True)
        with ExitStack() as opened:
            self._channel, theirs = map(opened.enter_context, socket.socketpair(type=socket.SOCK_SEQPACKET))
            prints = opened.enter_context(open(log, "ab"))
            self._popen = subprocess.Popen(
                [*command, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=prints,
                stderr=prints,
                pass_fds=(theirs.fileno(),),
                cwd=code,
                env=environment,
                start_new_session=True,
            )
            opened.callback(self._popen.wait)
            opened.callback(self._popen.kill)
            self._channel.settimeout(FORK_LIMIT_S)
            self._channel.send(json.dumps(["import", wanted]).encode())
            opened.pop_all()
        theirs.close()
        prints.close()

    def fileno(self) -> int:
        """Return what becomes readable when it is ready, or gone."""
        return self._channel.fileno()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._popen.pid

    def hear(self) -> bool:
        """Take the answer to the imports; False when it is gone."""
        answer = self._receive()
        if answer:
            self.ready = True
            logger.info("the fork server is ready; it has imported %s", ", ".join(answer[1]) or "nothing")
        return bool(answer)

    def fork(self, descriptors: list[int], tag: str) -> int:
        """Fork a worker, and return its number; it is a child of this process.

        :param descriptors: channel, page, segment, stdout, stderr
        :param tag: what marks it
        :return: 0 when the fork server is gone, or does not answer
        """
        message = json.dumps(["fork", tag, os.getpid()]).encode()
        answer = []
        # Who becomes an orphan now becomes ours: the worker, whose parent leaves at once.
        with _Subreaper():
            try:
                socket.send_fds(self._channel, [message], descriptors)
                answer = self._receive()
            except OSError as error:
                logger.warning("the fork server cannot fork: %s", error)
        self.failed = not answer
        return 0 if self.failed else int(answer[1])

    def close(self) -> None:
        """End it."""
        self._channel.close()
        self._popen.kill()
        self._popen.wait()

    def _receive(self) -> list[Any]:
        try:
            data = self._channel.recv(_MESSAGE_BYTES)
        except ConnectionResetError:
            return []
        answer: list[Any] = json.loads(data) if data else []
        return answer


class _Subreaper:
    """Within it this process takes in orphans of processes below it."""

    def __enter__(self) -> None:
        self._set(1)

    def __exit__(self, *error: object) -> None:
        self._set(0)

    @staticmethod
    def _set(value: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_CHILD_SUBREAPER, value, 0, 0, 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def worth_importing(plan: Plan, code: str) -> list[Import]:
    """Return what a fork server should import; nothing when workers are to be started by exec.

    By default these are packages that were tried, and none where there is a GPU: what a library has begun
    with one does not outlive a fork.

    :param code: the folder of the code on this node
    """
    method = plan.config.start_method
    if method == EXEC or (method == AUTO and os.path.exists(_NVIDIA)):
        return []
    script = os.path.join(code, plan.entry_script)
    found = chain(_for_tables(plan), imports(script, list(dict.fromkeys([os.path.dirname(script), code]))))
    return [each for each in found if method == FORK or each.module.partition(".")[0] in FORK_SAFE]


class Import(NamedTuple):
    """An import of the script's.

    :param module: the module
    :param names: what is taken from it; these may be modules, too
    """

    module: str
    names: tuple[str, ...]


def _for_tables(plan: Plan) -> Iterator[Import]:
    """Yield what a worker imports itself to read the inputs."""
    formats = {source.get("format") for source in plan.sources}
    if formats - {None}:
        yield Import("pandas", ())
    if "parquet" in formats:
        yield Import("pyarrow.parquet", ())


def imports(script: str, folders: list[str]) -> Iterator[Import]:
    """Yield what a script imports that is not of its own project.

    What files of the project import that it imports counts, too; imports inside of functions do not.

    :param script: the script's path
    :param folders: where the project's files are
    """
    seen: set[str] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for each in _imported(path):
            own = list(_files(each.module, folders))
            waiting += own
            if not own:
                yield each


def _imported(path: str) -> Iterator[Import]:
    try:
        with open(path, "rb") as file:
            body = ast.parse(file.read()).body
    except (OSError, SyntaxError, ValueError):  # the worker that imports it says what is wrong
        return
    for statement in body:
        if isinstance(statement, ast.Import):
            yield from (Import(alias.name, ()) for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
            yield Import(statement.module, tuple(alias.name for alias in statement.names))


def _files(module: str, folders: list[str]) -> Iterator[str]:
    """Yield the files of the project that a module's name leads to."""
    parts = module.split(".")
    for folder in folders:
        for path in (os.path.join(folder, *parts) + ".py", os.path.join(folder, *parts, "__init__.py")):
            if os.path.isfile(path):
                yield path
        if os.path.isdir(os.path.join(folder, parts[0])):
            yield os.path.join(folder, parts[0], "__init__.py")
