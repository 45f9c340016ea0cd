# SPDX-License-Identifier: Apache-2.0
"""Run directories in object stores. Azurite and the S3 server prove our calls, not what a store promises."""

from __future__ import annotations

import datetime
import json
import threading
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas
from faulty_proxy import BUSY, CONFLICT, CUT, REPLY_LOST, proxied

from airflow_parallelrun import driver_errors
from airflow_parallelrun.engine import objects
from airflow_parallelrun.engine.object_store import ObjectStore, store_at
from airflow_parallelrun.engine.store import Entry, Store
from airflow_parallelrun.exceptions import ConfigurationError, NotSupportedError, StorageError
from demo.azurite import ACCOUNT, ACCOUNT_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import storage_servers

WRITERS = 8


@pytest.fixture
def store(object_store: storage_servers.ObjectStore) -> ObjectStore:
    found = store_at(f"{object_store.url}/runs/1")
    assert isinstance(found, ObjectStore)
    return found


@pytest.mark.parametrize("count", [40, pytest.param(2000, marks=pytest.mark.long)])
def test_of_many_writers_exactly_one_wins_each_name(count: int, store: ObjectStore) -> None:
    won: list[list[int]] = [[] for _ in range(WRITERS)]
    barrier = threading.Barrier(WRITERS)

    def create(writer: int) -> None:
        barrier.wait()
        for name in range(count):
            # Not all in the same order, so that several are ahead somewhere.
            place = (name + writer * count // WRITERS) % count
            if store.create_exclusive(f"claims/0/{place}", f"writer {writer}".encode()):
                won[writer].append(place)

    threads = [threading.Thread(target=create, args=(writer,)) for writer in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(place for places in won for place in places) == list(range(count))
    assert sum(map(bool, won)) > 1
    for writer, places in enumerate(won):
        for place in places:
            assert store.read(f"claims/0/{place}") == f"writer {writer}".encode()


def test_what_is_made_is_listed_at_once(store: ObjectStore) -> None:
    assert store.names("control/0") == []
    assert store.entries("control/0") == []
    store.put("control/0/b", b"12")
    assert store.entries("control/0") == [Entry("b", 2)]
    store.put("control/0/a", b"", b"1")
    store.put("control/0/below/c", b"not of this folder")
    assert store.entries("control/0") == [Entry("a", 1), Entry("b", 2)]
    store.rename("control/0/b", "control/0/d")
    assert store.names("control/0") == ["a", "d"]
    assert store.folders("control") == ["0"]
    assert store.folders() == ["control"]
    assert store.folders("nothing") == []


def test_what_is_there_and_what_is_not(store: ObjectStore) -> None:
    store.put("plan.json", b"0123456789")
    assert store.read("plan.json") == store.open("plan.json").read() == b"0123456789"
    assert store.read_range("plan.json", 3, 6) == b"345"
    assert store.exists("plan.json")
    assert not store.exists("plan")
    assert store.modified("plan.json") > 1.7e9
    for ask in (store.read, store.open):
        with pytest.raises(FileNotFoundError):
            ask("nothing")
    with pytest.raises(ValueError, match="not the name of an object"):
        store.path("../elsewhere")
    with pytest.raises(StorageError, match="does not grow"):
        store.create_growing("journal/0-1-0.jsonl")


def test_a_store_is_chosen_by_the_root(tmp_path: Any, azure_store: storage_servers.ObjectStore) -> None:
    assert type(store_at(str(tmp_path))) is Store
    assert store_at(azure_store.url).path("plan.json") == f"{azure_store.url}/plan.json"
    with pytest.raises(NotSupportedError, match=r"writing to 'memory://folder'.*abfs://.*s3://"):
        store_at("memory://folder")
    with pytest.raises(ConfigurationError, match="no connection 'nobody'"):
        store_at("abfs://nobody@container/folder")


def test_a_store_that_refuses_is_told_without_the_secret(
    azure_store: storage_servers.ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = azure_store.options["connection_string"].replace(azure_store.secret, "d3Jvbmctc2VjcmV0LWtleQ==")
    monkeypatch.setenv("PARALLELRUN_CONNECTION_WRONG", json.dumps({"connection_string": wrong}))
    store = store_at(azure_store.url.replace(azure_store.connection, "wrong"))
    for attempt in (
        lambda: store.create_exclusive("claims/0/1", b"x"),
        lambda: store.put("plan.json", b"x"),
        lambda: store.read("plan.json"),
    ):
        with pytest.raises(StorageError, match="wrong@") as caught:
            attempt()
        assert "d3Jvbmct" not in str(caught.value)


# A store that does not answer well.


@pytest.fixture
def through(
    object_store: storage_servers.ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """A run directory of which the requests go through a proxy; gives both."""
    monkeypatch.setattr(driver_errors, "BACKOFF_S", 0.01)
    opened: list[Any] = []

    def build(fate: Callable[[str, str], str | None]) -> tuple[Any, ObjectStore]:
        text = json.dumps(object_store.options)
        target = text.partition("http://")[2].partition('"')[0].partition(";")[0].rstrip("/")
        opened.append(proxied(f"http://{target}", fate))
        proxy = opened[-1].__enter__()
        options = json.loads(text.replace(f"http://{target}", proxy.url))
        if object_store.scheme == "s3":  # not what the driver does before our own code is asked
            options["config_kwargs"] = {"retries": {"max_attempts": 1}}
        monkeypatch.setenv("PARALLELRUN_CONNECTION_PROXY", json.dumps(options))
        monkeypatch.setattr("airflow_parallelrun.filesystems._provided._made", {})
        found = store_at(object_store.url.replace(f"{object_store.connection}@", "proxy@") + "/runs/1")
        assert isinstance(found, ObjectStore)
        return proxy, found

    yield build
    for each in opened:
        each.__exit__(None, None, None)


class Once:
    """A fate for the first request that has something in its path."""

    def __init__(self, fate: str, method: str, part: str) -> None:
        self._fate: str | None = fate
        self._method, self._part = method, part

    def __call__(self, method: str, path: str) -> str | None:
        if method != self._method or self._part not in path:
            return None
        fate, self._fate = self._fate, None
        return fate


@pytest.mark.parametrize("fate", [BUSY, CONFLICT, CUT, REPLY_LOST])
def test_a_claim_is_won_whatever_becomes_of_the_first_request(fate: str, through: Any) -> None:
    proxy, store = through(Once(fate, "PUT", "claims/0/1"))
    assert store.create_exclusive("claims/0/1", b"mine")
    assert proxy.fates() == [fate]
    assert not store.create_exclusive("claims/0/1", b"yours")
    assert store.read("claims/0/1") == b"mine"


def test_a_claim_that_somebody_else_has_is_lost_whatever_becomes_of_the_request(through: Any) -> None:
    proxy, store = through(Once(REPLY_LOST, "PUT", "claims/0/1"))
    assert through(lambda method, path: None)[1].create_exclusive("claims/0/1", b"yours")
    assert not store.create_exclusive("claims/0/1", b"mine")
    assert proxy.fates() == [REPLY_LOST]


@pytest.mark.parametrize("fate", [BUSY, CUT])
def test_a_store_that_is_busy_is_asked_again(fate: str, through: Any) -> None:
    proxy, store = through(Once(fate, "PUT", "journal"))
    store.put("journal/0-1-0.jsonl", b"lines")
    proxy.fate = Once(fate, "GET", "journal")
    assert store.read("journal/0-1-0.jsonl") == b"lines"
    proxy.fate = Once(fate, "GET", "")
    assert store.names("journal") == ["0-1-0.jsonl"]
    assert proxy.fates() == [fate] * 3


def test_a_store_that_stays_away_is_an_error(through: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_errors, "TRIES", 2)
    monkeypatch.setattr(driver_errors, "BACKOFF_S", 0.0)
    proxy, store = through(lambda method, path: None)
    policy = getattr(getattr(store._fs, "service_client", None), "_config", None)
    if policy is not None:
        policy.retry_policy.total_retries = 0
    proxy.fate = lambda method, path: BUSY
    with pytest.raises(StorageError, match="proxy@"):
        store.put("journal/0-1-0.jsonl", b"lines")
    with pytest.raises(StorageError, match="proxy@"):
        store.create_exclusive("claims/0/1", b"mine")


def test_a_container_that_does_not_exist_is_told_at_once(object_store: storage_servers.ObjectStore) -> None:
    store = store_at(object_store.url.replace("test-", "none-") + "/runs/1")
    for attempt in (lambda: store.create_exclusive("probe", b"x"), lambda: store.put("plan.json", b"x")):
        with pytest.raises(StorageError, match="no such container or bucket"):
            attempt()
    assert store.names("claims/0") == []
    assert not store.exists("plan.json")


# Objects that are uploaded in parts.


def test_two_writers_of_one_object_do_not_mix_their_parts(object_store: storage_servers.ObjectStore) -> None:
    store, place = objects.objects_at(f"{object_store.url}/rows.txt")
    large = 5 << 20
    first, second = (store.begin(place.path, {"writer": name}) for name in ("first", "second"))
    parts = [second.put(1, b"2" * large)]
    first.put(1, b"1" * large)
    parts.append(second.put(2, b"222"))
    second.complete(parts, objects.ABSENT)
    assert object_store.read("rows.txt") == b"2" * large + b"222"


def test_who_is_overtaken_is_told_that_the_object_exists(azure_store: storage_servers.ObjectStore) -> None:
    store, place = objects.objects_at(f"{azure_store.url}/rows.txt")
    first, second = store.begin(place.path, {}), store.begin(place.path, {})
    late = [first.put(1, b"first")]
    second.complete([second.put(1, b"second")], objects.ABSENT)
    with pytest.raises(FileExistsError):
        first.complete(late, objects.ABSENT)
    assert azure_store.read("rows.txt") == b"second"


@pytest.mark.parametrize("by", ["key", "signature"])
def test_azure_can_read_what_it_is_to_copy_by_a_url_alone(
    by: str, azurite: str, azure_store: storage_servers.ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = azure_store.write("a folder/ä.txt", b"text")
    if by == "signature":
        signature = generate_account_sas(
            ACCOUNT,
            ACCOUNT_KEY,
            ResourceTypes(object=True),
            AccountSasPermissions(read=True),
            datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1),
        )
        options = {"connection_string": f"BlobEndpoint={azurite};SharedAccessSignature={signature}"}
        monkeypatch.setenv("PARALLELRUN_CONNECTION_SIGNED", json.dumps(options))
        url = url.replace(f"{azure_store.connection}@", "signed@")
    store, place = objects.objects_at(url)
    assert isinstance(store, objects.AzureObjects)
    with urllib.request.urlopen(store.readable_url(place.path)) as answer:
        assert answer.read() == b"text"


def test_an_upload_that_somebody_has_removed_is_an_error_of_the_store(
    s3_store: storage_servers.ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, place = objects.objects_at(f"{s3_store.url}/rows.txt")
    upload = store.begin(place.path, {})
    store.abandon(place.path)
    upload.abort()

    def no_such_upload(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("The specified upload does not exist.")

    # S3 says so; moto has an internal error there.
    monkeypatch.setattr(store, "call", no_such_upload)
    with pytest.raises(StorageError, match="another process has removed this upload"):
        objects.patiently("rows.txt", lambda: upload.put(1, b"late"))
