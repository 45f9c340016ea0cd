# SPDX-License-Identifier: Apache-2.0
"""What the figures depend on: the machine, the versions, the load, the disk."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
import timeit
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.measure import THREADS, surroundings

_PACKAGES = ("apache-airflow", "joblib", "numpy", "ray", "tensorflow-cpu", "tensorflow")
_FLUSHES = 20
_CALLS = 20_000
_DISK_BYTES = 256 << 20
_FIND_ENGINE = "import airflow_parallelrun as p, json; print(json.dumps([p.__path__[0], p.__version__]))"


def describe(mode: str, folder: Path) -> dict[str, str]:
    """Return everything as names and texts.

    :param mode: of the benchmark
    :param folder: where it writes
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    load = ", ".join(f"{each:.2f}" for each in os.getloadavg())
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "mode": mode,
        "engine": _engine(),
        "machine": f"{len(os.sched_getaffinity(0))} cores ({_processor()}), {memory:.0f} GiB of memory",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "speed": _speed(),
        "packages": ", ".join(_versions()),
        "load before the start": f"{load} (1, 5, 15 minutes)",
        "disk": _disk(folder),
        "threads of a process": ", ".join(f"{name}={value}" for name, value in THREADS.items()),
    }


def _engine() -> str:
    """Return version and revision of the engine that is measured, whichever PYTHONPATH has."""
    found = subprocess.run(
        [sys.executable, "-P", "-c", _FIND_ENGINE],
        env=surroundings(),
        capture_output=True,
        text=True,
        check=True,
    )
    folder, number = json.loads(found.stdout)
    command = ["git", "-C", folder, "describe", "--always", "--dirty", "--exclude", "*"]
    with contextlib.suppress(OSError):
        described = subprocess.run(command, capture_output=True, text=True)
        if described.returncode == 0:
            return f"{number}, revision {described.stdout.strip()}"
    return f"{number}, of no known revision"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, text = line.partition(":")
        if name.strip() == "model name":
            return text.strip()
    return platform.machine()


def _speed() -> str:
    """Return how fast the machine is at what the engine does most: machines of one name differ threefold."""
    line = json.dumps({f"field {number}": number for number in range(12)})
    path = str(Path(__file__))
    parse_us, stat_us = (
        min(timeit.repeat(call, number=_CALLS, repeat=5)) / _CALLS * 1e6
        for call in (lambda: json.loads(line), lambda: os.stat(path))
    )
    return f"json.loads of an object of 12 numbers {parse_us:.1f} µs, os.stat {stat_us:.1f} µs"


def _versions() -> list[str]:
    found = []
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return found


def _disk(folder: Path) -> str:
    """Return the file system, and how fast it is: a small flush, and a large file written and flushed."""
    path = folder / "disk"
    with path.open("wb", buffering=0) as file:
        began = time.monotonic()
        for _ in range(_FLUSHES):
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
        flush_s = (time.monotonic() - began) / _FLUSHES
        block = os.urandom(1 << 20)
        began = time.monotonic()
        for _ in range(_DISK_BYTES >> 20):
            file.write(block)
        os.fdatasync(file.fileno())
        rate = _DISK_BYTES / (time.monotonic() - began) / 1e9
    path.unlink()
    return (
        f"{_file_system(folder)}, fdatasync of 4 KB {flush_s * 1000:.2f} ms, write and flush {rate:.2f} GB/s"
    )


def _file_system(folder: Path) -> str:
    """Return the type of the file system that has the folder."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    above = [mount for mount in mounts if folder.resolve().is_relative_to(mount[1].replace("\\040", " "))]
    return max(above, key=lambda mount: len(mount[1]))[2]
