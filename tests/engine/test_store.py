# SPDX-License-Identifier: Apache-2.0
"""R1: one door to the run directory, through which of any number of writers exactly one wins."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from airflow_parallelrun.engine.store import Entry, Store
from airflow_parallelrun.exceptions import StorageError


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "run"))


def everything_in(store):
    """Every file below the run directory, temporaries too."""
    return sorted(
        os.path.relpath(os.path.join(folder, name), store.root)
        for folder, _, files in os.walk(store.root)
        for name in files
    )


def test_first_wins_second_loses_and_changes_nothing(store):
    assert store.create_exclusive("claims/0/7", b"first")
    assert not store.create_exclusive("claims/0/7", b"second")
    assert store.read("claims/0/7") == b"first"
    assert everything_in(store) == ["claims/0/7"]


def test_a_link_that_succeeded_but_looked_refused_is_won(store, monkeypatch):
    link = os.link

    def lost_reply(source, target):
        link(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", lost_reply)
    assert store.create_exclusive("a", b"mine")
    assert everything_in(store) == ["a"]


def test_a_lost_reply_after_somebody_else_won_is_lost(store, monkeypatch):
    store.create_exclusive("a", b"theirs")

    def fails(source, target):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "link", fails)
    assert not store.create_exclusive("a", b"mine")
    assert everything_in(store) == ["a"]


def test_file_system_without_hard_links_is_named(store, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageError, match="need a file system with hard links") as caught:
        store.create_exclusive("a", b"x")
    assert "Operation not permitted" in str(caught.value)
    assert everything_in(store) == []


def test_a_write_that_fails_leaves_no_temporary(store, monkeypatch):
    def full(fd, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match="No space left"):
        store.create_exclusive("a", b"x")
    with pytest.raises(StorageError, match="No space left"):
        store.put("b", b"x")
    assert everything_in(store) == []


def test_content_is_durable_before_it_has_its_name(store, monkeypatch):
    order = []
    fsync, link, replace = os.fsync, os.link, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(os, "link", lambda *paths: (order.append("name"), link(*paths))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("name"), replace(*paths))[1])
    store.create_exclusive("a", b"x")
    assert order[:2] == ["fsync", "name"]
    order.clear()
    store.put("b", b"x")
    assert order == ["fsync", "name", "fsync"]  # the file, its name, the folder


def test_short_writes_are_completed(store, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    store.create_exclusive("a", b"0123456789")
    assert store.read("a") == b"0123456789"


def test_of_many_threads_one_wins_each_name(store):
    won = []
    barrier = threading.Barrier(8)

    def create(number):
        barrier.wait()
        won.extend(name for name in range(50) if store.create_exclusive(f"c/{name}", b"%d" % number))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(50))
    assert everything_in(store) == sorted(f"c/{name}" for name in range(50))


def _create_all(root, number, barrier, queue):
    store = Store(root)
    barrier.wait()
    queue.put([name for name in range(300) if store.create_exclusive(f"c/{name}", b"%d" % number)])


def test_of_two_processes_one_wins_each_name(store):
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(2), context.Queue()
    creators = [context.Process(target=_create_all, args=(store.root, n, barrier, queue)) for n in range(2)]
    for creator in creators:
        creator.start()
    won = queue.get(timeout=60) + queue.get(timeout=60)
    for creator in creators:
        creator.join()
    assert sorted(won) == list(range(300))


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../b", "a/./b", "a//b", "a/", "a\0b", "."])
def test_a_name_cannot_leave_the_run_directory(store, name):
    with pytest.raises(ValueError, match="not the name of an object"):
        store.path(name)


def test_put_replaces_and_listings_are_sorted_and_show_no_temporary(store):
    for name in ("10", "9", "x"):
        store.put(f"f/{name}", b"old")
    store.put("f/9", b"newer")
    with open(store.path("f/.tmp-z"), "w"):
        pass
    assert store.read("f/9") == b"newer"
    assert store.names("f") == ["10", "9", "x"]
    assert store.entries("f") == [Entry("10", 3), Entry("9", 5), Entry("x", 3)]


def test_folder_that_is_not_there_is_empty_and_object_that_is_not_there_is_not_found(store):
    assert store.names("f") == []
    assert store.entries("f") == []
    assert not store.exists("f")
    for look in (store.read, store.open):
        with pytest.raises(FileNotFoundError):
            look("f")


def test_what_is_no_folder_is_a_storage_error(store):
    store.put("f", b"")
    for look in (store.names, store.entries):
        with pytest.raises(StorageError, match="Not a directory"):
            look("f")
    with pytest.raises(StorageError):
        store.create_exclusive("f/x", b"")
    with pytest.raises(StorageError, match="Is a directory"):
        Store(os.path.dirname(store.root)).read("run")


def test_a_growing_file_has_one_maker(store):
    fd = store.create_growing("segments/0-1-0-0")
    try:
        os.write(fd, b"x")
        store.sync("segments/0-1-0-0")
        assert not os.get_inheritable(fd)
        with pytest.raises(StorageError, match="File exists"):
            store.create_growing("segments/0-1-0-0")
    finally:
        os.close(fd)
    assert store.read("segments/0-1-0-0") == b"x"


def test_rename_keeps_the_content(store):
    store.put("control/0/0-1-0-0-0", b"c")
    store.rename("control/0/0-1-0-0-0", "control/0/0-1-0-0-5")
    assert store.names("control/0") == ["0-1-0-0-5"]


def test_a_put_that_cannot_get_its_name_is_a_storage_error_and_leaves_no_temporary(store):
    os.makedirs(store.path("ends/0-1"))
    with pytest.raises(StorageError, match="directory"):
        store.put("ends/0-1", b"x")
    assert everything_in(store) == []


def test_a_rename_that_fails_is_a_storage_error(store):
    with pytest.raises(StorageError):
        store.rename("control/0/0-1-0-0-0", "control/0/0-1-0-0-5")


def test_what_cannot_be_looked_at_is_not_called_absent(store):
    os.makedirs(store.root)
    os.symlink("loop", store.path("loop"))
    with pytest.raises(StorageError):
        store.exists("loop")


def test_a_temporary_that_was_removed_before_it_was_locked_is_made_again(store, monkeypatch):
    flock, removed = fcntl.flock, []

    def overtaken(fd, how):
        if not removed:
            removed.extend(Path(store.root).rglob(".tmp-*"))
            removed[0].unlink()
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", overtaken)
    assert store.create_exclusive("folder/a", b"x")
    assert store.read("folder/a") == b"x"
    assert everything_in(store) == ["folder/a"]
