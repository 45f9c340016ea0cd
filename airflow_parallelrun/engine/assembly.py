# SPDX-License-Identifier: Apache-2.0
"""Assembly: the rows of all mini-batches as one file, in the order of the plan unless any will do."""

from __future__ import annotations

import os
from itertools import groupby
from typing import TYPE_CHECKING

from airflow_parallelrun.config import CSV, INPUT_ORDER, PARQUET
from airflow_parallelrun.engine import names, parquet
from airflow_parallelrun.engine.copying import copy_range
from airflow_parallelrun.engine.ledger import Segments, Span, segments_of
from airflow_parallelrun.engine.object_segments import ObjectSegments
from airflow_parallelrun.engine.object_store import ObjectStore
from airflow_parallelrun.engine.object_writer import ObjectWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_parallelrun.engine.ledger import Ledger
    from airflow_parallelrun.engine.outputs import Output
    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.store import Store

# Gathering so many bytes of rows in memory beats a system call for each span.
_GATHER_BYTES = 1 << 20
# From so many bytes on the kernel copies: measured, 3 GB/s against 2 by way of this process.
_COPY_BYTES = 1 << 17


def assemble(
    plan: Plan,
    output: Output,
    ledger: Ledger,
    name: str,
    seal: str,
    check: Callable[[], None] = lambda: None,
) -> str:
    """Write the output file and publish it.

    :param output: the output folder
    :param name: the file's name in it
    :param seal: the verdict that it is of; a file of the same is left as it is
    :param check: called when it is written and not yet published; what it raises prevents that
    :return: its path
    :raises OutputExistsError: when a file of another origin has that name
    :raises StorageError: when it cannot be written
    """
    if output.is_published(name, seal):
        return output.path(name)
    in_order = plan.config.append_row_order == INPUT_ORDER
    with segments_of(plan.store) as segments, output.publishing(name, seal, ledger.row_bytes) as file:
        spans = ledger.spans(in_order)
        if plan.config.append_row_format == PARQUET:
            parquet.write(file, plan.store, segments.stream(spans))
        elif isinstance(file, ObjectWriter):
            file.write(_header(plan))
            _upload(file, plan.store, segments, spans)
        elif isinstance(segments, ObjectSegments):
            file.write(_header(plan))
            file.writelines(segments.stream(spans))
        else:
            _write_all(file.fileno(), memoryview(_header(plan)))
            _write(file.fileno(), plan, segments, spans)
        check()
    return output.path(name)


def _header(plan: Plan) -> bytes:
    """Return what stands above the rows: the names of the columns, if that is asked for."""
    config = plan.config
    if not config.append_row_dataframe_header and config.append_row_format != CSV:
        return b""
    try:
        return plan.store.read(names.HEADER)
    except FileNotFoundError:  # no row has names
        return b""


def _upload(
    file: ObjectWriter, store: Store, segments: Segments | ObjectSegments, spans: Iterable[Span]
) -> None:
    """Write rows to an object: long spans the store copies itself if it has both, others go through here."""
    source = store if isinstance(store, ObjectStore) and file.is_of(store.objects) else None
    for is_long, group in groupby(spans, lambda span: span.length >= file.part_bytes):
        if source is None or not is_long:
            file.write_all(segments.stream(group))
            continue
        for span in group:
            if source is not None and _copied_by_store(file, source, segments, span):
                continue
            source = None
            file.write_all(segments.stream([span]))


def _copied_by_store(
    file: ObjectWriter, store: ObjectStore, segments: Segments | ObjectSegments, span: Span
) -> bool:
    """Have the store copy a span; False when it cannot, and then nothing of it is written."""
    if not file.can_copy(store.key(span.segment)):
        return False
    # No part may be too small, except for the last one: what is left over before it gets longer.
    first = min(file.before_copy, span.length)
    file.write_all(segments.stream([Span(span.segment, span.offset, first)] if first else []))
    file.copy(store.key(span.segment), span.offset + first, span.length - first)
    return True


def _write(fd: int, plan: Plan, segments: Segments, spans: Iterable[Span]) -> None:
    gathered = bytearray()
    can_copy = True
    for span in spans:
        if can_copy and span.length >= _COPY_BYTES:
            _write_all(fd, gathered)
            gathered = bytearray()
            copied = copy_range(segments.descriptor(span), span.offset, span.length, fd)
            can_copy = copied == span.length
            span = Span(span.segment, span.offset + copied, span.length - copied)
        for piece in segments.stream([span]):
            gathered += piece
            if len(gathered) >= _GATHER_BYTES:
                _write_all(fd, gathered)
                gathered = bytearray()
    _write_all(fd, gathered)


def _write_all(fd: int, data: bytearray | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
