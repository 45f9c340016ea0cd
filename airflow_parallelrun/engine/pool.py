# SPDX-License-Identifier: Apache-2.0
"""Worker processes: how they are started, fed, watched and ended."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_parallelrun.engine import names
from airflow_parallelrun.engine.deaths import Exit
from airflow_parallelrun.engine.portions import InFlight
from airflow_parallelrun.engine.staging import loaded_sources
from airflow_parallelrun.exceptions import ConfigurationError, ParallelRunError, StorageError
from airflow_parallelrun.worker import bootstrap, guardian, page, protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from airflow_parallelrun.config import ParallelRunConfig
    from airflow_parallelrun.engine.forking import ForkServer
    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.portions import Portion
    from airflow_parallelrun.engine.rounds import Started
    from airflow_parallelrun.engine.workplace import Workplace

logger = logging.getLogger(__name__)

# What a worker gets of the node's environment. Everything else stays behind: Airflow keeps connections,
# keys and tokens there.
_ENVIRONMENT = frozenset(
    [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TMPDIR",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "CUDA_HOME",
        "CUDA_PATH",
        "CUDA_VISIBLE_DEVICES",
        "NVIDIA_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
    ]
)
_ENVIRONMENT_PREFIXES = ("LC_", "OMP_", "MKL_", "OPENBLAS_", "TF_", "KMP_")

# How many threads libraries start that have a pool of their own: for all CPUs, unless told otherwise, so that
# the processes of a node get in each other's way.
_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)

# A process that has closed its socket is expected to end within this time.
_CLOSED_AND_ALIVE_S = 5.0
_POLL_S = 0.005
# What was killed is gone in no time, unless it hangs in the kernel; a node that is stopped has 4 s for all.
_COLLECT_S = 1.0

_RECEIVE_BYTES = 1 << 18
_SEND_BUFFER_BYTES = 1 << 20


class Failure(NamedTuple):
    """Why a process is gone.

    :param text: in one line; the script's own exception where there is one
    :param traceback: of that exception; else empty
    :param log: the file that has everything
    """

    text: str
    traceback: str
    log: str


@dataclass(frozen=True)
class ProcessFiles:
    """The log files of one process, laid out as the original does."""

    stdout: str
    stderr: str
    entry_script: str
    error: str
    profile: str


class Process:
    """A worker process as the node sees it.

    :param number: counts up within the attempt; a replacement has a new one
    :param place: the node's folders
    :param forks: what forks it; default: it is started by exec
    """

    #: Whether it waits for an answer of the node's, and when it got the last one that it waited for.
    waits, answered_ns = False, 0

    def __init__(
        self, plan: Plan, started: Started, number: int, place: Workplace, forks: ForkServer | None = None
    ) -> None:
        self.number = number
        self.name = names.process_name(number)
        self.segment = f"{names.SEGMENTS}/{started.attempt}-{number}-0"
        self.files = _log_files(place.logs, str(started.attempt), self.name)
        #: The same as people find them.
        self.logs = _log_files(plan.logs, str(started.attempt), self.name)
        self.tag = f"{started.token}.{number}"
        self.code = place.code
        self.ready = False
        self.stopping = False
        self.bye = False
        self.init_failure: Failure | None = None
        self.exit: Exit | None = None
        self.seconds_mean: float | None = None
        self.in_flight = InFlight()
        self._messages = protocol.MessageReader()
        self._unsent: deque[bytes] = deque()
        self._popen: subprocess.Popen[bytes] | None = None
        self._start(plan, started, place, forks)

    def _start(self, plan: Plan, started: Started, place: Workplace, forks: ForkServer | None) -> None:
        store = place.files
        for path in (self.files.stdout, self.files.stderr):
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
            except OSError as error:
                raise StorageError(path, error.strerror or str(error)) from error
        segment_fd = store.create_growing(self.segment)
        # Written and not only made long: a mapped page that the disk has no room for would be a SIGBUS.
        page_fd = store.create_growing(f"{names.PAGES}/{started.attempt}-{self.number}", bytes(page.SIZE))
        self.page = page.Page(page_fd)
        self.page.write(page.INIT)
        self.channel, theirs = socket.socketpair()
        self.channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        fds = (theirs.fileno(), page_fd, segment_fd)
        python = plan.config.environment.python or sys.executable
        try:
            with open(self.files.stdout, "ab") as out, open(self.files.stderr, "ab") as err:
                self.pid = forks.fork([*fds, out.fileno(), err.fileno()], self.tag) if forks else 0
                if not self.pid:
                    self._popen = subprocess.Popen(
                        [python, bootstrap.__file__, "process", *map(str, fds), str(os.getpid())],
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=err,
                        pass_fds=fds,
                        cwd=place.code,
                        env={**plan_environment(plan, place.output), guardian.TAG_VARIABLE: self.tag},
                        start_new_session=True,
                    )
                    self.pid = self._popen.pid
        except OSError as error:
            self.channel.close()
            self.page.close()
            raise _cannot_start(python, error) from error
        finally:
            theirs.close()
            os.close(page_fd)
            os.close(segment_fd)
        self.channel.setblocking(False)
        self._send(["start", self._settings(plan, place)])

    def _settings(self, plan: Plan, place: Workplace) -> dict[str, Any]:
        return {
            "entry_script": os.path.join(place.code, plan.entry_script),
            "source_directory": place.code,
            "arguments": plan.arguments,
            "append_row": plan.append_row,
            "logging_level": plan.config.logging_level,
            "agent_name": self.name,
            "log_dir": os.path.dirname(self.files.entry_script),
            "output_dir": place.output,
            "error_log": self.files.error,
            "segment": self.segment,
            "item_files": place.item_files,
            "sources": loaded_sources(plan, place.folder),
            "partition_keys": plan.config.partition_keys or [],
            "strict_returns": plan.config.strict_returns,
            "provenance_columns": plan.config.provenance_columns,
            "dataframe_header": plan.config.append_row_dataframe_header,
            "profiling_module": plan.config.profiling_module,
            "profile": self.files.profile,
            "append_row_format": plan.config.append_row_format,
            "model": plan.config.model,
        }

    def feed(self, portions: Iterable[Portion]) -> None:
        """Send mini-batches; the process runs them in this order."""
        self._send(["run", [[self.in_flight.add(portion), *portion.message] for portion in portions]])

    def answer(self, ok: bool, value: Any) -> None:
        """Answer the process's question."""
        self._send(["answer", ok, value])

    def stop(self) -> None:
        """Ask the process to finish what it has, call shutdown() and leave."""
        self.stopping = True
        self._send(["stop"])

    def revoke(self) -> list[Portion]:
        """Take back what waits behind the mini-batch that is running, as far as that is certain."""
        state = self.page.read()
        if state is None or len(self.in_flight) < 2 or state.feed < 0:
            return []
        self.page.revoke(self.in_flight.next_feed)
        # Looked at after the revocation: what the process has begun by now it runs or skips, and says which.
        # A process that is idle has been through everything.
        state = self.page.read()
        if state is None or state.feed < 0:
            return []
        return self.in_flight.take_behind(state.feed)

    def is_slow(self, limit_s: float) -> bool:
        """Tell whether the mini-batch that is running has been running for longer than this."""
        state = self.page.read()
        if state is None or state.phase != page.RUN:
            return False
        return time.monotonic_ns() - state.start_ns > limit_s * 1e9

    def receive(self) -> list[list[Any]] | None:
        """Return the messages that have come; None at the end of the stream, when the process is gone."""
        try:
            data = self.channel.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except ConnectionResetError:
            return None
        return self._messages.feed(data) if data else None

    def has_spoken(self, seconds: float = 0.0) -> bool:
        """Tell whether there is something to receive, and wait so long for it."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.channel, selectors.EVENT_READ)
            return bool(selector.select(seconds))

    @property
    def wants_to_send(self) -> bool:
        """Whether the socket was full."""
        return bool(self._unsent)

    def send_rest(self) -> None:
        """Send what the socket did not take before."""
        while self._unsent:
            data = self._unsent.popleft()
            try:
                sent = self.channel.send(data)
            except BlockingIOError:
                sent = 0
            except (BrokenPipeError, ConnectionResetError):
                self._unsent.clear()  # it is dead; receive() tells
                return
            if sent < len(data):
                self._unsent.appendleft(data[sent:])
                return

    def _send(self, message: list[Any]) -> None:
        self._unsent.append(protocol.encode(message))
        self.send_rest()

    def dump_stack(self) -> None:
        """Have the process write its stack to its stderr; that works also while C code holds the GIL."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGQUIT)

    def has_ended(self) -> bool:
        """Tell whether the process has ended; it is not collected, so that its number stays its own."""
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # collected already
            return True

    def kill(self) -> None:
        """Kill the process with everything that it started."""
        self.kill_group()
        guardian.kill_members(self.tag, {self.pid})

    def kill_group(self) -> None:
        """Kill the process and what stayed in its group, which one that was just forked does not lead yet."""
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError):
                kill(self.pid, signal.SIGKILL)

    def wait(self) -> Exit:
        """Collect a process that is dead or about to be, and what it left running."""
        deadline = time.monotonic() + _CLOSED_AND_ALIVE_S
        while not self.has_ended():
            if time.monotonic() > deadline:  # it closed its socket and lives on
                self.kill()
            time.sleep(_POLL_S)
        # Before it is collected: from then on its session's number may be given to somebody else.
        guardian.kill_members(self.tag, {self.pid})
        # Not by Popen, which does not tell what it used.
        _, status, usage = os.wait4(self.pid, 0)
        seconds = usage.ru_utime + usage.ru_stime
        self.exit = Exit(self._collected(status), usage.ru_maxrss * 1024, seconds)
        return self.exit

    def collect(self, deadline: float) -> None:
        """Wait for the end of a process that was killed.

        :param deadline: on the monotonic clock; one that hangs in the kernel is left behind then
        """
        while not self.has_ended():
            if time.monotonic() > deadline:
                logger.warning("%s (pid %d) was killed and does not end", self.name, self.pid)
                return
            time.sleep(_POLL_S)
        self._collected(os.waitpid(self.pid, 0)[1])

    def _collected(self, status: int) -> int:
        code = os.waitstatus_to_exitcode(status)
        if self._popen is not None:
            self._popen.returncode = code
        return code

    def close(self) -> None:
        """Free the socket and the page, and leave the page saying that nothing runs here."""
        self.channel.close()
        self.page.write(page.IDLE)
        self.page.close()


def end_all(processes: Collection[Process], tag: str) -> None:
    """Kill processes with everything that they started, in one go: each look through /proc takes its time.

    :param tag: the node's
    """
    for process in processes:
        process.kill_group()
    guardian.kill_members(tag, {process.pid for process in processes})
    deadline = time.monotonic() + _COLLECT_S
    for process in processes:
        process.collect(deadline)
        process.close()


def _cannot_start(python: str, error: OSError) -> ParallelRunError:
    """Return what it means that a process could not be started: a wrong interpreter, or a tired machine."""
    if error.filename == python and error.errno in (errno.ENOENT, errno.EACCES, errno.ENOEXEC):
        return ConfigurationError(
            f"environment.python {python!r} cannot be started on this machine: {error.strerror}."
        )
    return StorageError(error.filename or python, error.strerror or str(error))


def plan_environment(plan: Plan, output: str) -> dict[str, str]:
    """Return the environment of a plan's entry script.

    :param output: the folder that it may write to
    """
    return worker_environment(plan.config, output, plan.models_root)


def worker_environment(config: ParallelRunConfig, output: str, models_root: str | None) -> dict[str, str]:
    """Return the environment of an entry script: little of this process's own, and what the user set.

    :param config: the settings
    :param output: the output folder, under the name that the original gives it
    :param models_root: the model registry's folder
    """
    threads = dict.fromkeys(_THREADS, str(config.threads_per_process))
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _ENVIRONMENT or name.startswith(_ENVIRONMENT_PREFIXES)
    }
    if models_root is not None:
        kept["PARALLELRUN_MODELS_ROOT"] = models_root
    return {**threads, **kept, "AZUREML_BI_OUTPUT_PATH": output, **config.environment_variables}


def is_ours(name: str) -> bool:
    """Tell whether an environment variable has a meaning of its own in an entry script's environment."""
    kept = name in _ENVIRONMENT or name.startswith(_ENVIRONMENT_PREFIXES)
    return kept or name in _THREADS or name.startswith(("AZUREML_", "PARALLELRUN_", "PYTHON"))


def _log_files(logs: str, attempt: str, process: str) -> ProcessFiles:
    user = os.path.join(logs, "user")
    return ProcessFiles(
        stdout=os.path.join(user, "stdout", attempt, f"{process}.stdout.txt"),
        stderr=os.path.join(user, "stderr", attempt, f"{process}.stderr.txt"),
        entry_script=os.path.join(user, "entry_script_log", attempt, f"{process}.log.txt"),
        error=os.path.join(user, "error", attempt, f"{process}.txt"),
        profile=os.path.join(logs, "sys", "node", attempt, f"{process}.profile"),
    )
