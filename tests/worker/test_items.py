# SPDX-License-Identifier: Apache-2.0
"""Items come out of the plan as they went in, whatever is read at once."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_parallelrun.datasets import ListedFile
from airflow_parallelrun.engine.items import ItemWriter
from airflow_parallelrun.engine.names import MINI_BATCHES, MINI_BATCHES_INDEX
from airflow_parallelrun.engine.store import Store
from airflow_parallelrun.exceptions import InputUnreadableError
from airflow_parallelrun.worker import items as module
from airflow_parallelrun.worker.items import ItemReader

# A loaded machine is slow; no example may fail for that.
STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FILE = st.builds(
    ListedFile, TEXT, st.integers(0, 2**62), st.none() | st.integers(-(2**62), 2**62), st.none() | TEXT
)
PLAN = st.lists(st.lists(FILE, min_size=1, max_size=4), min_size=1, max_size=12)


def write(folder, mini_batches):
    writer = ItemWriter()
    for number, files in enumerate(mini_batches):
        writer.add(number % 2, files)
    writer.write(Store(str(folder)))
    return writer, ItemReader(str(folder / MINI_BATCHES), str(folder / MINI_BATCHES_INDEX))


def item(file):
    return [*file] if file.etag is not None else [*file[:3]]


@STEADY
@given(PLAN, st.data())
def test_what_was_written_is_read(tmp_path_factory, mini_batches, data):
    block = data.draw(st.sampled_from([1, 100, 1 << 20]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_BYTES", block)
        writer, reader = write(tmp_path_factory.mktemp("run"), mini_batches)
        assert (len(writer.weights), writer.count) == (len(mini_batches), sum(map(len, mini_batches)))
        for _ in range(10):
            ordinal = data.draw(st.integers(0, len(mini_batches) - 1))
            ahead = data.draw(st.integers(1, 20))
            assert reader.read(ordinal, ahead)[1:] == [item(file) for file in mini_batches[ordinal]]
        reader.close()


def test_neighbours_are_read_at_once_and_no_more_than_was_asked_for(tmp_path, monkeypatch):
    _, reader = write(tmp_path, [[ListedFile(f"/in/{n}", n, n, None)] for n in range(10)])
    reads = []
    read = reader._read
    monkeypatch.setattr(
        reader, "_read", lambda first, count: reads.append((first, count)) or read(first, count)
    )
    for ordinal in range(2, 7):
        assert reader.read(ordinal, 7 - ordinal)[1:] == [[f"/in/{ordinal}", ordinal, ordinal]]
    assert reads == [(2, 5)]
    reader.read(7)
    assert reads == [(2, 5), (7, 1)]
    reader.close()


def test_a_text_that_was_cut_off_is_told(tmp_path):
    _, reader = write(tmp_path, [[ListedFile("/in/a", 1, 1, None)], [ListedFile("/in/b", 1, 1, None)]])
    (tmp_path / MINI_BATCHES).write_bytes((tmp_path / MINI_BATCHES).read_bytes()[:-5])
    assert reader.read(0) == [0, ["/in/a", 1, 1]]
    with pytest.raises(ValueError):
        reader.read(1)
    reader.close()


def test_a_name_that_is_no_text_is_refused_by_name():
    writer = ItemWriter()
    with pytest.raises(InputUnreadableError, match=r"/in/\\\\udcff.*its name is not UTF-8"):
        writer.add(0, [ListedFile("/in/a", 1, 1, None), ListedFile("/in/\udcff", 1, 1, None)])
