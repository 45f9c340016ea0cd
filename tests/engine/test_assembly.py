# SPDX-License-Identifier: Apache-2.0
"""The output file: every row once, in the order of the plan, there at once or not at all."""

from __future__ import annotations

import errno
import os
import random
from dataclasses import replace

import pytest
from workbench import extent, make_line, make_plan, write_growing, write_journal

from airflow_parallelrun.engine import assembly, ownership
from airflow_parallelrun.engine.ledger import Ledger
from airflow_parallelrun.engine.names import Attempt
from airflow_parallelrun.engine.outputs import output_of
from airflow_parallelrun.engine.rounds import Seal
from airflow_parallelrun.exceptions import OutputExistsError, StorageError


@pytest.fixture
def plan(tmp_path):
    output = str(tmp_path / "output")
    ownership.take(output, "me", ["rows.txt"])
    return make_plan(tmp_path / "run", mini_batches=40, output=output)


def assemble(plan, ledger):
    return assembly.assemble(plan, output_of(plan), ledger, "rows.txt", "seal")


def rows_of(ordinal):
    return f"row of {ordinal}\n".encode() * (ordinal % 5)


def write_run(plan, rows=rows_of, without=()):
    """Write all mini-batches in a random order into three segments, with holes, and read the ledger."""
    ordinals = [n for n in range(plan.mini_batches) if n not in without]
    random.Random(7).shuffle(ordinals)
    segments = dict.fromkeys(range(3), b"")
    lines = []
    for ordinal in ordinals:
        number = ordinal % 3
        segments[number] += b"hole" if ordinal % 7 == 0 else b""
        data, name = rows(ordinal), f"segments/0-1-{number}-0"
        lines.append(make_line(ordinal, extents=[extent(name, len(segments[number]), data)] if data else []))
        segments[number] += data
    for number, data in segments.items():
        write_growing(plan, f"segments/0-1-{number}-0", data)
    return Ledger.read(plan, Seal(0, ((write_journal(plan, Attempt(0, 1), lines), 1 << 30),)))


def visible(plan):
    return sorted(name for name in os.listdir(plan.output) if name != ".parallelrun")


def test_rows_as_they_lie_are_the_same_ones(plan):
    ledger = write_run(plan, without={3, 9})
    config = replace(plan.config, append_row_order="any")
    path = assemble(replace(plan, config=config), ledger)
    with open(path, "rb") as file:
        found = file.read()
    rows = [rows_of(n) for n in range(40) if n not in (3, 9)]
    assert sorted(found.splitlines()) == sorted(b"".join(rows).splitlines())
    assert all(part in found for part in rows)  # those of a mini-batch stay together
    spans = list(ledger.spans(in_order=False))
    assert spans == sorted(spans)
    assert len(spans) < len(list(ledger.spans()))


@pytest.mark.parametrize("copy", [1, 40, 1 << 20])
@pytest.mark.parametrize("gather", [1, 30, 1 << 20])
def test_rows_in_the_order_of_the_plan(plan, monkeypatch, gather, copy):
    monkeypatch.setattr(assembly, "_GATHER_BYTES", gather)
    monkeypatch.setattr(assembly, "_COPY_BYTES", copy)
    path = assemble(plan, write_run(plan))
    with open(path, "rb") as file:
        assert file.read() == b"".join(rows_of(n) for n in range(40))
    assert visible(plan) == ["rows.txt"]


@pytest.mark.parametrize("number", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EIO])
def test_where_the_kernel_cannot_copy_it_is_read_and_written(plan, monkeypatch, number):
    copy, calls = os.copy_file_range, []

    def first_part_only(source, fd, count, offset):
        calls.append(count)
        if len(calls) > 1:
            raise OSError(number, os.strerror(number))
        return copy(source, fd, 7, offset)

    monkeypatch.setattr(assembly, "_COPY_BYTES", 1)
    monkeypatch.setattr(os, "copy_file_range", first_part_only)
    with open(assemble(plan, write_run(plan)), "rb") as file:
        assert file.read() == b"".join(rows_of(n) for n in range(40))
    assert len(calls) == 2  # and is not asked again


def test_a_python_without_the_call_reads_and_writes(plan, monkeypatch):
    monkeypatch.setattr(assembly, "_COPY_BYTES", 1)
    monkeypatch.delattr(os, "copy_file_range")
    with open(assemble(plan, write_run(plan)), "rb") as file:
        assert file.read() == b"".join(rows_of(n) for n in range(40))


def test_a_segment_that_is_too_short_is_told_when_the_kernel_copies(plan, monkeypatch):
    monkeypatch.setattr(assembly, "_COPY_BYTES", 1)
    ledger = write_run(plan)
    os.truncate(plan.store.path("segments/0-1-1-0"), 30)
    with pytest.raises(StorageError, match="has lost rows"):
        assemble(plan, ledger)
    assert visible(plan) == []


def test_what_is_not_processed_is_not_there_and_again_gives_the_same_bytes(plan):
    ledger = write_run(plan, without={3, 4, 39})
    for _ in range(2):
        with open(assemble(plan, ledger), "rb") as file:
            assert file.read() == b"".join(rows_of(n) for n in range(40) if n not in {3, 4, 39})
    assert visible(plan) == ["rows.txt"]


def test_short_writes_are_completed(plan, monkeypatch):
    ledger, write = write_run(plan), os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:100]))
    path = assemble(plan, ledger)
    assert os.path.getsize(path) == sum(len(rows_of(n)) for n in range(40))


def test_a_full_disk_leaves_nothing(plan, monkeypatch):
    ledger = write_run(plan)

    def full(fd, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match=r"rows\.txt: No space left on device"):
        assemble(plan, ledger)
    assert visible(plan) == []


def test_a_foreign_file_stays_and_no_temporary_is_left(plan):
    ledger = write_run(plan)
    with open(f"{plan.output}/rows.txt", "w") as file:
        file.write("theirs")
    with pytest.raises(OutputExistsError):
        assemble(plan, ledger)
    assert visible(plan) == ["rows.txt"]
    with open(f"{plan.output}/rows.txt") as file:
        assert file.read() == "theirs"


def test_the_file_is_durable_before_it_has_its_name(plan, monkeypatch):
    ledger = write_run(plan)
    order = []
    fsync, link = os.fsync, os.link
    monkeypatch.setattr(
        os, "fsync", lambda fd: (order.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))[1]
    )
    monkeypatch.setattr(os, "link", lambda *paths: (order.append(paths[1]), link(*paths))[1])
    assemble(plan, ledger)
    assert os.path.basename(order[0]).startswith(".tmp-")
    assert order.index(f"{plan.output}/rows.txt") > 0
    assert order[-1] == plan.output  # the name is durable too
