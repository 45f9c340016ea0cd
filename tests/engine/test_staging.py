# SPDX-License-Identifier: Apache-2.0
"""Staging by itself: what is copied, when, how much of it at a time, and what becomes of errors."""

from __future__ import annotations

import io
import os
import random
import shutil
import threading
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
from engine.workbench import make_line, make_streak, wait_for
from memory_shop import URL, UnavailableError, opened

from airflow_parallelrun import driver_errors
from airflow_parallelrun.datasets import FileDataset, TabularDataset
from airflow_parallelrun.engine.finished import Finished
from airflow_parallelrun.engine.plan import PlanItems
from airflow_parallelrun.engine.portions import Portion
from airflow_parallelrun.engine.staging import Staging, loaded_sources, staged_inputs
from airflow_parallelrun.exceptions import ConfigurationError, StorageError
from airflow_parallelrun.worker.loading import Loader

ECHO = "def run(mini_batch): return mini_batch\n"
KILOBYTES_100 = 100_000


@pytest.fixture
def shop():
    with opened() as made:
        yield made


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_arguments):
        return


class Bench:
    """A staging and what it has handed out."""

    def __init__(self, job, **config):
        inputs = config.pop("inputs", (FileDataset.from_files(URL).as_mount(),))
        self.plan = job.split(ECHO, inputs=inputs, **config).plan
        self.folder = job.folder / "node"
        self.items = PlanItems(self.plan)
        self.woken = threading.Event()
        self.staging = Staging(self.plan, self.items, str(self.folder), self.woken.set)
        self.ready = []
        self.loader = Loader(loaded_sources(self.plan, str(self.folder)), [])

    def add(self, *portions):
        self.staging.add(portions or [Portion(0, self.plan.mini_batches)], [])
        return self

    def take(self, count):
        """Wait until so many mini-batches have become ready in all."""
        wait_for(lambda: self.ready.extend(self.staging.take().portions) or len(self.ready) >= count)
        return [portion.ordinal for portion in self.ready]

    def load(self, ordinal):
        return self.loader.load(self.items.line(ordinal), ordinal=ordinal)

    def finish(self, *ordinals):
        self.staging.release([Finished.of(make_line(ordinal)) for ordinal in ordinals])

    def on_disk(self):
        # Not rglob, which must not find a folder that vanishes.
        return sorted(f"{folder}/{name}" for folder, _, names in os.walk(self.folder) for name in names)

    def close(self):
        self.staging.close()
        self.items.close()


@pytest.fixture
def bench(job):
    made = []

    def make(**config):
        made.append(Bench(job, **config))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_copies_are_files_with_the_names_and_the_times_of_theirs(bench, shop):
    shop.add("a/x.png", b"eks")
    shop.add("b/x.png", b"")
    staged = bench(mini_batch_size=2).add()
    assert staged.staging.pending == 1
    assert staged.take(1) == [0]
    assert (staged.staging.pending, staged.woken.is_set()) == (0, True)
    loaded = staged.load(0)
    assert loaded.paths == [f"{URL}/a/x.png", f"{URL}/b/x.png"]
    assert [Path(path).read_bytes() for path in loaded.value] == [b"eks", b""]
    assert [path[-13:] for path in loaded.value] == ["/data/a/x.png", "/data/b/x.png"]
    assert loaded.wrong is None
    assert os.stat(loaded.value[0]).st_mode & 0o777 == 0o444
    staged.finish(0)
    wait_for(lambda: not staged.on_disk())


def test_no_more_than_the_spool_holds(bench, shop):
    for number in range(6):
        shop.add(f"{number}", bytes(KILOBYTES_100))
    staged = bench(mini_batch_size=1, spool_bytes=2 * KILOBYTES_100 + 50_000).add()
    for done in range(5):
        ready = staged.take(done + 1)
        # Two at a time: the next begins when the copy of one that is finished has been removed.
        assert len({name for name, _, _ in shop.requests}) <= done + 2
        staged.finish(ready[done])
    assert sorted(staged.take(6)) == list(range(6))
    assert shop.bytes_read == 6 * KILOBYTES_100


def test_a_mini_batch_that_is_larger_than_the_spool_has_it_alone(bench, shop):
    for number in range(4):
        shop.add(f"{number}", bytes(KILOBYTES_100))
    staged = bench(mini_batch_size=2, spool_bytes="64KB").add()
    assert staged.take(1) == [0]
    assert {name for name, _, _ in shop.requests} == {"0", "1"}
    staged.finish(0)
    assert staged.take(2) == [0, 1]


def test_a_streak_releases_all_of_it(bench, shop):
    for number in range(3):
        shop.add(f"{number}", b"x")
    staged = bench(mini_batch_size=1).add()
    staged.take(3)
    staged.staging.release([Finished.of(make_streak(0, [b"row\n"] * 3))])
    wait_for(lambda: not staged.on_disk())


@pytest.mark.usefixtures("at_once")
def test_what_passes_is_asked_for_again(bench, shop):
    shop.add("x", b"here")
    answers = [UnavailableError(503), ConnectionResetError(104, "reset"), TimeoutError()]

    def before(path):
        if answers:
            raise answers.pop()

    shop.before = before
    staged = bench().add()
    staged.take(1)
    assert Path(staged.load(0).value[0]).read_bytes() == b"here"
    assert not answers


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("answer", "asked"),
    [
        (UnavailableError(403, "no key abc"), 1),
        (PermissionError("no"), 1),
        (UnavailableError(503), driver_errors.TRIES),
    ],
)
def test_an_item_that_cannot_be_read_is_told_and_the_others_are_there(bench, shop, answer, asked):
    shop.add("bad", b"x")
    shop.add("good", b"y")
    seen = []

    def before(path):
        if path.endswith("bad"):
            seen.append(path)
            raise answer

    shop.before = before
    staged = bench(mini_batch_size=2).add()
    staged.take(1)
    loaded = staged.load(0)
    assert (loaded.paths, loaded.items) == ([f"{URL}/good"], 2)
    assert type(loaded.wrong).__name__ == "LoadError"
    assert str(loaded.wrong).startswith(f"{URL}/bad cannot be read: {type(answer).__name__}: ")
    assert len(seen) == asked


def test_what_has_changed_or_vanished_since_it_was_listed(bench, shop):
    for name in ("gone", "longer", "rest", "shorter"):
        shop.add(name, b"as listed")
    staged = bench(mini_batch_size=1)
    shop.rm("/data/gone")
    shop.add("longer", b"as listed and more")
    shop.add("shorter", b"as")
    staged.add().take(4)
    wrong = [staged.load(ordinal).wrong for ordinal in range(4)]
    assert {type(each).__name__ for each in wrong} == {"InputChangedError", "NoneType"}
    assert [str(each) for each in wrong] == [
        f"{URL}/gone was listed and is not there any more",
        f"{URL}/longer has changed since it was listed",
        "None",
        f"{URL}/shorter has changed since it was listed",
    ]


def test_the_dispatch_thread_waits_for_no_store_and_closing_for_no_transfer(bench, shop):
    shop.add("x", b"x")
    staged = bench()
    asked, answer = threading.Event(), threading.Event()
    shop.before = lambda path: asked.set() or answer.wait(60)
    try:
        staged.add()
        assert asked.wait(30)
        assert staged.staging.take().portions == []
        assert staged.staging.pending == 1
        staged.close()
    finally:
        answer.set()


def test_a_spool_that_cannot_be_written_is_not_charged_to_a_mini_batch(bench, shop):
    shop.add("x", b"x")
    staged = bench()
    shutil.rmtree(staged.folder)
    staged.add()
    staged.woken.wait(30)
    with pytest.raises(StorageError, match=r"spool/kept/1: No such file or directory"):
        staged.take(1)


def test_local_files_and_other_inputs_go_through_at_once(bench, shop, job):
    job.files(2)
    shop.add("x", b"x")
    inputs = (
        FileDataset.from_files("input").as_mount(),
        FileDataset.from_files([str(job.folder / "input" / "00000"), f"{URL}/x"]).as_mount(),
        FileDataset.from_files(f"{URL}/x").as_direct(),
    )
    answer = threading.Event()
    shop.before = lambda path: answer.wait(60)
    staged = bench(inputs=inputs, mini_batch_size=1)
    assert staged_inputs(staged.plan) == {1}
    try:
        assert staged.add().take(4) == [0, 1, 2, 4]
    finally:
        answer.set()
    assert staged.take(5) == [0, 1, 2, 4, 3]
    assert staged.load(4).value == [f"{URL}/x"]


def parquet(rows, groups):
    buffer = io.BytesIO()
    frame = pd.DataFrame({"n": range(rows), "noise": [random.Random(n).randbytes(200) for n in range(rows)]})
    frame.to_parquet(buffer, row_group_size=rows // groups)
    return buffer.getvalue()


def test_a_row_group_travels_once_for_all_its_mini_batches(bench, shop):
    data = parquet(3000, 3)
    url = shop.add("t.parquet", data)
    inputs = (TabularDataset.from_parquet_files(url).as_direct(),)
    staged = bench(inputs=inputs, mini_batch_size="100rows", spool_bytes=int(len(data) * 0.9))
    assert staged.plan.mini_batches == 30
    before = shop.bytes_read
    staged.add()
    # There is room for two of three row groups; the third comes when a whole one is not needed any more.
    assert sorted(staged.take(20)) == list(range(20))
    assert shop.bytes_read - before < len(data) * 0.8
    assert len({os.stat(path).st_ino for path in staged.on_disk() if "/kept/" not in path}) == 2
    for ordinal in range(20):
        assert staged.load(ordinal).value["n"].tolist() == list(range(100 * ordinal, 100 * ordinal + 100))
    staged.finish(*range(9))
    assert len(staged.take(20)) == 20
    staged.finish(9)
    assert sorted(staged.take(30)) == list(range(30))
    assert shop.bytes_read - before < len(data) + (1 << 17)


def test_what_nobody_holds_stays_until_its_room_is_needed(bench, shop):
    data = parquet(1000, 1)
    url = shop.add("t.parquet", data)
    inputs = (TabularDataset.from_parquet_files(url).as_direct(),)
    staged = bench(inputs=inputs, mini_batch_size="100rows")
    staged.add(Portion(0, 1)).take(1)
    staged.finish(0)
    requests = len(shop.requests)
    staged.add(Portion(1, 9)).take(10)
    assert len(shop.requests) == requests


def test_a_parquet_file_that_is_damaged_later(bench, shop):
    url = shop.add("t.parquet", parquet(100, 1))
    staged = bench(inputs=(TabularDataset.from_parquet_files(url).as_direct(),), mini_batch_size="10rows")
    shop.add("t.parquet", b"no table")
    staged.add().take(10)
    loaded = staged.load(9)
    assert str(loaded.wrong) == f"{url} has changed since it was listed"
    assert loaded.items == 10
    staged.finish(*range(10))
    wait_for(lambda: not staged.on_disk())


def test_a_connection_that_nobody_knows_is_told_before_anything_is_claimed(bench, shop):
    shop.add("x", b"x")
    staged = bench()
    staged.plan.inputs[0]["paths"] = ["memory://nobody@/data"]
    with pytest.raises(ConfigurationError, match="there is no connection 'nobody'"):
        Staging(staged.plan, staged.items, str(staged.folder / "other"), staged.woken.set)


def test_rows_that_were_given_up_before_they_were_copied_are_counted(bench, shop):
    url = shop.add("t.csv", b"n\n" + b"".join(b"%d\n" % n for n in range(100)))
    inputs = (TabularDataset.from_delimited_files(url).as_direct(),)
    staged = bench(inputs=inputs, mini_batch_size=100)
    items = PlanItems(staged.plan, spool=str(staged.folder / "spool"))
    with closing(items):
        assert sum(map(items.count, range(staged.plan.mini_batches))) == 100


def test_a_script_that_removes_its_input(bench, shop):
    shop.add("x", b"x")
    staged = bench().add()
    staged.take(1)
    os.unlink(staged.load(0).value[0])
    assert "is gone; a script must leave its input alone" in str(staged.load(0).wrong)


def test_a_web_server_that_knows_no_ranges(bench, tmp_path):
    (tmp_path / "x.bin").write_bytes(bytes(range(256)) * 5)
    handler = partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}/x.bin"
            staged = bench(inputs=(FileDataset.from_files(url).as_download(),)).add()
            staged.take(1)
            assert Path(staged.load(0).value[0]).read_bytes() == bytes(range(256)) * 5
        finally:
            server.shutdown()
