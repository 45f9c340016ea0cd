# SPDX-License-Identifier: Apache-2.0
"""Reading what was listed, and nothing else, from stores that fail now and then."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from memory_shop import Shop, UnavailableError, opened

from airflow_parallelrun.datasets import list_files
from airflow_parallelrun.datasets.remote_file import ReadAhead, RemoteFile
from airflow_parallelrun.driver_errors import is_final, status_of
from airflow_parallelrun.worker.errors import InputChangedError, LoadError

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = bytes(range(256)) * 4096


@pytest.fixture
def shop() -> Iterator[Shop]:
    with opened() as made:
        yield made


def listed(url: str) -> RemoteFile:
    (file,) = list_files([url])
    return RemoteFile(file)


def caused_by(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


class BotoError(Exception):
    def __init__(self) -> None:
        self.response = {"ResponseMetadata": {"HTTPStatusCode": 403}, "Error": {"Code": "AccessDenied"}}


class NoCredentialsError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "status", "final"),
    [
        (UnavailableError(503), 503, False),
        (UnavailableError(429), 429, False),
        (UnavailableError(409), 409, False),
        (UnavailableError(404), 404, True),
        (caused_by(OSError(5, "denied"), BotoError()), 403, True),
        (ConnectionResetError(104, "reset"), None, False),
        (TimeoutError(), None, False),
        (PermissionError(), None, True),
        (NoCredentialsError(), None, True),
    ],
)
def test_which_refusals_are_final(error: Exception, status: int | None, final: bool) -> None:
    assert (status_of(error), is_final(error)) == (status, final)


def test_ranges_of_what_was_listed(object_store: Any) -> None:
    file = listed(object_store.write("x", DATA))
    assert file.read(5, 300) == DATA[5:300]
    assert file.read(len(DATA) - 3, len(DATA) + 100) == DATA[-3:]
    assert file.read(len(DATA), len(DATA) + 1) == b""
    file.verify()
    object_store.write("x", DATA[::-1])
    with pytest.raises(InputChangedError, match=r"/x has changed since it was listed$"):
        file.read(0, 10)
    object_store.fs.rm(f"{object_store.container}/x")
    with pytest.raises(InputChangedError, match=r"/x was listed and is not there any more$"):
        file.read(0, 10)
    empty = listed(object_store.write("y"))
    assert empty.read(0, 10) == b""
    empty.verify(was_read=False)
    object_store.write("y", b"full")
    with pytest.raises(InputChangedError):
        empty.verify(was_read=False)


def test_nothing_secret_is_in_an_error(object_store: Any) -> None:
    file = listed(object_store.write("x", b"x"))

    def refuse(*_arguments: Any) -> bytes:
        raise UnavailableError(403, f"the key {object_store.secret} is not known")

    vars(file)["_conditional"] = refuse
    with pytest.raises(LoadError, match=r"/x cannot be read: UnavailableError: the key \*\*\* is not known$"):
        file.read(0, 1)


def test_a_file_of_python_over_a_store(shop: Shop) -> None:
    file = ReadAhead(listed(shop.add("x", DATA))).open()
    chance = [(0, 10), (100, 70_000), (50, 10), (len(DATA) - 5, 100), (70_100, 300_000)]
    for at, length in chance:
        file.seek(at)
        assert file.read(length) == DATA[at : at + length]
    assert file.seek(-2, io.SEEK_END) == len(DATA) - 2
    assert file.read() == DATA[-2:]


def test_one_who_reads_on_asks_for_more_each_time(shop: Shop) -> None:
    source = ReadAhead(listed(shop.add("x", DATA * 20)))
    size, at = len(DATA) * 20, 0
    while data := source.read(at, 50_000):
        at += len(data)
    assert at == size == shop.bytes_read
    assert len(shop.requests) <= 11
    assert max(end - start for _, start, end in shop.requests) <= (1 << 23) + 50_000
