# SPDX-License-Identifier: Apache-2.0
"""Assembly: the rows of all mini-batches as one file, in the order of the plan unless any will do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from airflow_parallelrun.config import CSV, INPUT_ORDER, PARQUET
from airflow_parallelrun.engine import names, ownership, parquet
from airflow_parallelrun.engine.ledger import Segments, Span
from airflow_parallelrun.exceptions import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airflow_parallelrun.engine.ledger import Ledger
    from airflow_parallelrun.engine.plan import Plan

# Gathering so many bytes of rows in memory beats a system call for each span.
_GATHER_BYTES = 1 << 20
# From so many bytes on the kernel copies: measured, 3 GB/s against 2 by way of this process.
_COPY_BYTES = 1 << 17


def assemble(plan: Plan, ledger: Ledger, name: str, check: Callable[[], None] = lambda: None) -> str:
    """Write the output file and publish it.

    :param name: the file's name in the output folder
    :param check: called when it is written and not yet published; what it raises prevents that
    :return: its path
    :raises OutputExistsError: when a file of another origin has that name
    :raises StorageError: when it cannot be written
    """
    assert plan.output is not None
    with ownership.publishing(plan.output, name) as file:
        in_order = plan.config.append_row_order == INPUT_ORDER
        spans = ledger.spans(in_order)
        if plan.config.append_row_format == PARQUET:
            parquet.write(file, plan.store, _pieces(plan, spans))
        else:
            _write_all(file.fileno(), memoryview(_header(plan)))
            _write(file.fileno(), plan, spans)
        check()
    return os.path.join(plan.output, name)


def _header(plan: Plan) -> bytes:
    """Return what stands above the rows: the names of the columns, if that is asked for."""
    config = plan.config
    if not config.append_row_dataframe_header and config.append_row_format != CSV:
        return b""
    try:
        return plan.store.read(names.HEADER)
    except FileNotFoundError:  # no row has names
        return b""


def _write(fd: int, plan: Plan, spans: Iterable[Span]) -> None:
    gathered = bytearray()
    can_copy = True
    with Segments(plan.store) as segments:
        for span in spans:
            if can_copy and span.length >= _COPY_BYTES:
                _write_all(fd, gathered)
                gathered = bytearray()
                copied = _copy(segments.descriptor(span), span, fd)
                can_copy = copied == span.length
                span = Span(span.segment, span.offset + copied, span.length - copied)
            length = 0
            for piece in segments.read(span):
                length += len(piece)
                gathered += piece
                if len(gathered) >= _GATHER_BYTES:
                    _write_all(fd, gathered)
                    gathered = bytearray()
            _check_length(plan, span, length)
    _write_all(fd, gathered)


def _pieces(plan: Plan, spans: Iterable[Span]) -> Iterator[bytes]:
    with Segments(plan.store) as segments:
        for span in spans:
            length = 0
            for piece in segments.read(span):
                length += len(piece)
                yield piece
            _check_length(plan, span, length)


def _check_length(plan: Plan, span: Span, length: int) -> None:
    if length != span.length:
        raise StorageError(plan.store.path(span.segment), "has lost rows since they were checked")


def _copy(source: int | None, span: Span, fd: int) -> int:
    """Have the kernel copy a span, and return how many of its bytes it has copied.

    Where it cannot, for whatever reason, the rest is read and written, and that tells what is wrong.
    """
    copied = 0
    try:
        while source is not None and copied < span.length:
            done = os.copy_file_range(source, fd, span.length - copied, span.offset + copied)
            if not done:
                break
            copied += done
    except (OSError, AttributeError):  # a Python that was built for an old C library has no such function
        return copied
    return copied


def _write_all(fd: int, data: bytearray | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
