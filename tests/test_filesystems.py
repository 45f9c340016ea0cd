# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from airflow_parallelrun.exceptions import ConfigurationError, InvalidValueError
from airflow_parallelrun.filesystems import connection_of, hide, locate, make_filesystem, provided


@pytest.mark.parametrize(
    ("url", "connection"),
    [
        ("abfs://datastore@container/a/b", ("abfs", "datastore")),
        ("s3://my-conn@bucket/a@b", ("s3", "my-conn")),
        ("memory://store@/a", ("memory", "store")),
        ("abfs://container@account.dfs.core.windows.net/a", None),
        ("s3://bucket/a@b/c", None),
        ("memory:///a@b", None),
        ("/a/b@c", None),
        ("file://a@b/c", None),
        ("sftp://somebody@host/a", ("sftp", "somebody")),
        ("sftp://somebody:word@host/a", None),
    ],
)
def test_what_is_a_connection(url: str, connection: tuple[str, str] | None) -> None:
    assert connection_of(url) == connection


def test_a_provided_connection_has_its_own_file_system_as_long_as_it_is_provided() -> None:
    mine = MemoryFileSystem()
    with provided({("memory", "mine"): mine}):
        place = locate("memory://mine@/folder/a%20b.txt")
        assert place.fs is mine
        assert place.path == "/folder/a%20b.txt"
        assert place.url("/folder/other") == "memory://mine@/folder/other"
    with pytest.raises(ConfigurationError, match=r"no connection 'mine'.*PARALLELRUN_CONNECTION_MINE"):
        locate("memory://mine@/folder")


def test_a_connection_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"key": "an id", "client_kwargs": {"aws_secret_access_key": "do not tell"}}
    monkeypatch.setenv("PARALLELRUN_CONNECTION_MY_STORE", json.dumps(options))
    place = locate("s3://my-store@bucket/folder")
    assert (place.path, place.prefix) == ("bucket/folder", "s3://my-store@")
    assert place.fs.key == "an id"
    assert locate("s3://my-store@bucket/other").fs is place.fs
    assert hide("403 for do not tell?sig=abc%2F&se=1") == "403 for ***?sig=***&se=1"


@pytest.mark.parametrize("text", ["not json, hunter2", '["hunter2"]'])
def test_what_is_wrong_in_the_environment_is_not_shown(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARALLELRUN_CONNECTION_WRONG", text)
    with pytest.raises(InvalidValueError, match="PARALLELRUN_CONNECTION_WRONG") as caught:
        locate("s3://wrong@bucket/folder")
    assert "hunter2" not in str(caught.value)


def test_options_that_a_driver_refuses_are_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="abfs cannot be made of these options") as caught:
        make_filesystem("abfs", {"connection_string": "hunter2-but-longer"})
    assert "hunter2" not in str(caught.value)


def test_nothing_is_listed_from_a_cache() -> None:
    place = locate("abfs://container@account.dfs.core.windows.net/a/b")
    assert place.path == "container/a/b"
    place.fs.dircache["container"] = []
    assert "container" not in place.fs.dircache


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("s3://bucket/a/b", "bucket/a/b"),
        ("memory:///a/b", "/a/b"),
        ("abfs://container@account.dfs.core.windows.net/a/b", "container/a/b"),
        ("https://host/a/b", "https://host/a/b"),
    ],
)
def test_the_url_of_a_path_leads_back_to_it(url: str, path: str) -> None:
    place = locate(url)
    assert place.path == path
    assert place.url(path) == url


def test_a_url_without_a_connection_is_located_once() -> None:
    assert locate("s3://bucket/a").fs is locate("s3://other/b").fs
