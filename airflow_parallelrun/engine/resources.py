# SPDX-License-Identifier: Apache-2.0
"""What a node uses of its machine: samples at an interval, as CSV files of the attempt's own.

``logs/sys/perf/<attempt>/`` has the machine, the folders that can be full, and the processes; docs/logs.md
describes the columns. A field that the machine does not tell is empty.
"""

from __future__ import annotations

import csv
import os
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.engine.periodic import Periodic
from airflow_parallelrun.engine.rounds import utc_now
from airflow_parallelrun.filesystems import is_remote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airflow_parallelrun.engine.names import Attempt
    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.pool import Process

NODE_COLUMNS = (
    "Utc Time",
    "Cpu Percent",
    "Memory Total (MB)",
    "Memory Available (MB)",
    "Memory Used (MB)",
    "Memory Used Percent",
    "Disk Io Read Count",
    "Disk Io Write Count",
    "Disk Io Read (MB)",
    "Disk Io Write (MB)",
    "Network Sent (MB)",
    "Network Recv (MB)",
    "# of TCP/UDP Connections",
)
DISK_COLUMNS = ("Utc Time", "Folder", "Path", "Total (MB)", "Used (MB)", "Free (MB)", "Used Percent")
PROCESS_COLUMNS = (
    "Utc Time",
    "Name",
    "Pid",
    "State",
    "Cpu Percent",
    "Cpu Seconds",
    "Memory Rss (MB)",
    "Memory Peak (MB)",
    "Threads",
    "Open Files",
)

_MB = 1 << 20
_SOCKETS = ("/proc/net/sockstat", "/proc/net/sockstat6")


@dataclass
class _Watched:
    """A process, and what was last seen of its processor time."""

    name: str
    pid: int
    seen_at: float
    cpu_seconds: float

    def percent(self, cpu_seconds: float) -> float:
        """Return the average since it was last seen, and take this as seen."""
        now = time.monotonic()
        # The kernel counts in ticks, and what is below one may seem to run backwards.
        used, passed = max(0.0, cpu_seconds - self.cpu_seconds), max(1e-6, now - self.seen_at)
        self.seen_at, self.cpu_seconds = now, cpu_seconds
        return round(100 * used / passed, 1)


class ResourceMonitor:
    """Samples at the start of a node, at each interval and at its end, from a thread of its own.

    :param plan: the plan; its ``resource_monitor_interval`` of 0 means no samples
    :param attempt: the attempt
    :param temporary: the attempt's temporary folder
    :param logs: the folder of the logs
    """

    def __init__(self, plan: Plan, attempt: Attempt, temporary: str, logs: str) -> None:
        folders = {"output": plan.output, "run directory": plan.run_dir, "temporary": temporary}
        self._folders = {
            name: path for name, path in folders.items() if path is not None and not is_remote(path)
        }
        self._target = os.path.join(logs, "sys", "perf", str(attempt))
        self._watched = {os.getpid(): _Watched("node", os.getpid(), time.monotonic(), time.process_time())}
        self._ended: deque[tuple[Any, ...]] = deque()
        self._begun: set[str] = set()
        self._thread: Periodic | None = None
        if interval_s := plan.config.resource_monitor_interval:
            self._thread = Periodic("resource usage", self._sample, interval_s, at_once=True)

    def follow(self, process: Process) -> None:
        """Sample a process, too."""
        self._watched[process.pid] = _Watched(process.name, process.pid, time.monotonic(), 0.0)

    def leave(self, process: Process) -> None:
        """Follow a process no more that has ended; what it used in all is written with the next sample."""
        watched = self._watched.pop(process.pid)
        if self._thread is not None and process.exit is not None:
            seconds, peak = process.exit.cpu_seconds, process.exit.peak_bytes
            cpu = watched.percent(seconds), round(seconds, 2)
            self._ended.append((utc_now(), watched.name, watched.pid, "ended", *cpu, "", _mb(peak), "", ""))

    def close(self) -> None:
        """Take a last sample, and end the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.close()

    def _sample(self) -> None:
        self._write("node_resource_usage.csv", NODE_COLUMNS, [(utc_now(), *_machine(not self._begun))])
        self._write("processes_resource_usage.csv", PROCESS_COLUMNS, self._processes())
        # The last one: a file system that hangs keeps whoever asks.
        self._write("node_disk_usage.csv", DISK_COLUMNS, map(_disk, self._folders.items()))

    def _processes(self) -> Iterator[tuple[Any, ...]]:
        while self._ended:
            yield self._ended.popleft()
        for watched in list(self._watched.values()):
            if (row := _process(watched)) is not None:
                yield row

    def _write(self, name: str, columns: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
        os.makedirs(self._target, exist_ok=True)
        with open(os.path.join(self._target, name), "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if name not in self._begun:
                writer.writerow(columns)
                self._begun.add(name)
            writer.writerows(rows)


def _machine(is_first: bool) -> tuple[Any, ...]:
    """Return the fields of the machine behind the time."""
    import psutil

    cpu = (
        psutil.cpu_percent()
    )  # since the last call in this thread; the first one has nothing to compare with
    memory = psutil.virtual_memory()
    disks = _counters(psutil.disk_io_counters, "read_count", "write_count", "read_bytes", "write_bytes")
    network = _counters(psutil.net_io_counters, "bytes_sent", "bytes_recv")
    return (
        "" if is_first else cpu,
        *map(_mb, (memory.total, memory.available, memory.used)),
        memory.percent,
        *disks[:2],
        *map(_mb, (*disks[2:], *network)),
        _connections(),
    )


def _counters(read: Callable[[], Any], *names: str) -> list[Any]:
    try:
        counters = read()
    except (OSError, NotImplementedError):  # a container need not show its machine's
        counters = None
    return [getattr(counters, name, "") for name in names]


def _connections() -> int | str:
    """Return how many TCP and UDP sockets there are.

    The kernel keeps the count. Listing them, as psutil does, looks at every descriptor of every process.
    """
    total = 0
    try:
        for path in _SOCKETS:
            with open(path) as file:
                for line in file:
                    kind, _, rest = line.partition(": inuse ")
                    if kind in ("TCP", "TCP6", "UDP", "UDP6"):
                        total += int(rest.split()[0])
    except OSError:
        return ""
    return total


def _process(watched: _Watched) -> tuple[Any, ...] | None:
    """Return the row of a process; None when it is just ending."""
    import psutil

    try:
        process = psutil.Process(watched.pid)
        with process.oneshot():
            times = process.cpu_times()
            seconds = times.user + times.system
            rss, threads, files = process.memory_info().rss, process.num_threads(), process.num_fds()
        peak = _peak(watched.pid)
    except (psutil.Error, OSError):
        return None
    cpu = watched.percent(seconds), round(seconds, 2)
    return (utc_now(), watched.name, watched.pid, "running", *cpu, _mb(rss), peak, threads, files)


def _peak(pid: int) -> float | str:
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return _mb(int(line.split()[1]) * 1024)
    return ""


def _disk(folder: tuple[str, str]) -> tuple[Any, ...]:
    import psutil

    name, path = folder
    usage = psutil.disk_usage(path)
    return (utc_now(), name, path, *map(_mb, (usage.total, usage.used, usage.free)), usage.percent)


def _mb(count: float | str) -> float | str:
    return count if isinstance(count, str) else round(count / _MB, 1)
