# SPDX-License-Identifier: Apache-2.0
"""Assembly: the rows of all mini-batches, in the order of the plan, as one file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from airflow_parallelrun.engine import ownership
from airflow_parallelrun.engine.ledger import Ledger, Segments
from airflow_parallelrun.exceptions import StorageError

if TYPE_CHECKING:
    from airflow_parallelrun.engine.plan import Plan

# Below this many bytes gathering rows in memory beats a system call for each span.
_GATHER_BYTES = 1 << 20


def assemble(plan: Plan, ledger: Ledger, name: str) -> str:
    """Write the output file and publish it.

    :param name: the file's name in the output folder
    :return: its path
    :raises OutputExistsError: when a file of another origin has that name
    :raises StorageError: when it cannot be written
    """
    assert plan.output is not None
    temporary = ownership.temporary(plan.output, name)
    try:
        with open(temporary, "xb", buffering=0) as file:
            _write(file.fileno(), Segments(plan.store), ledger)
            os.fsync(file.fileno())
        return ownership.publish(plan.output, name, temporary)
    except OSError as error:
        raise StorageError(os.path.join(plan.output, name), error.strerror or str(error)) from error
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _write(fd: int, segments: Segments, ledger: Ledger) -> None:
    gathered: list[memoryview] = []
    size = 0
    for span in ledger.spans():
        view = segments.read(span)
        if len(view) >= _GATHER_BYTES:
            _write_all(fd, b"".join(gathered))
            _write_all(fd, view)
            gathered, size = [], 0
            continue
        gathered.append(view)
        size += len(view)
        if size >= _GATHER_BYTES:
            _write_all(fd, b"".join(gathered))
            gathered, size = [], 0
    _write_all(fd, b"".join(gathered))


def _write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
