# SPDX-License-Identifier: Apache-2.0
"""Airflow's connections as file systems; Airflow takes them from the environment here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from storage_servers import S3_SECRET

from airflow_parallelrun.exceptions import ConfigurationError
from airflow_parallelrun.filesystems import hide, is_known, locate
from airflow_parallelrun.hooks.datastore import DatastoreHook
from airflow_parallelrun.hooks.filesystems import connected
from demo.azurite import ACCOUNT, ACCOUNT_KEY

if TYPE_CHECKING:
    from pathlib import Path

    from storage_servers import ObjectStore


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make an Airflow connection, called ``store``."""

    def make(conn_type: str, **fields: Any) -> DatastoreHook:
        monkeypatch.setenv("AIRFLOW_CONN_STORE", json.dumps({"conn_type": conn_type, **fields}))
        return DatastoreHook("store")

    return make


def _datastore(store: ObjectStore) -> dict[str, Any]:
    """Return the fields of a connection of our own type to a test's store."""
    extra = {"protocol": store.scheme, "root": store.container}
    return {"conn_type": "parallelrun_datastore", "password": json.dumps(store.options), "extra": extra}


def _of_another_provider(store: ObjectStore) -> dict[str, Any]:
    """Return the fields of a connection of a provider's type to a test's store."""
    if store.scheme == "abfs":
        return {"conn_type": "wasb", "extra": {**store.options}}
    extra = {"endpoint_url": store.options["client_kwargs"]["endpoint_url"], "region_name": "eu-west-1"}
    fields = {"login": store.options["key"], "password": store.options["secret"], "extra": extra}
    return {"conn_type": "aws", **fields}


@pytest.mark.parametrize("fields", [_datastore, _of_another_provider])
def test_a_url_leads_to_what_its_connection_has(
    fields: Any, object_store: ObjectStore, connection: Any
) -> None:
    connection(**fields(object_store))
    object_store.write("folder/a.txt", b"text")
    url = f"{object_store.scheme}://store@{object_store.container}/folder/a.txt"
    with connected([url, "/a/path", f"{url}/too"]):
        place = locate(url)
        assert place.fs.cat_file(place.path) == b"text"
        assert place.url(place.path) == url
        with connected([url]):
            assert locate(url).fs is place.fs
        assert locate(url).fs is place.fs
    assert not is_known((object_store.scheme, "store"))
    assert hide(f"is {object_store.secret}") == "is ***"


def test_a_datastore_lists_its_root_when_it_is_tested(object_store: ObjectStore, connection: Any) -> None:
    object_store.write("a.txt")
    object_store.write("folder/b.txt")
    hook = connection(**_datastore(object_store))
    root = f"{object_store.scheme}://{object_store.container}"
    assert hook.test_connection() == (True, f"{root} can be listed, and has 2 entries.")
    object_store.fs.rm(object_store.container, recursive=True)
    passed, message = hook.test_connection()
    assert not passed
    assert "'store' cannot be listed" in message
    assert object_store.secret not in message


def test_airflows_command_tests_a_datastore(s3_store: ObjectStore, tmp_path: Path) -> None:
    s3_store.write("a.txt")
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW_CONN_STORE": json.dumps(_datastore(s3_store)),
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
    }
    argv = [sys.executable, "-m", "airflow", "connections", "test", "store"]
    tested = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "Connection success!" in tested.stdout
    assert S3_SECRET not in tested.stdout + tested.stderr


@pytest.mark.parametrize(
    ("conn_type", "fields", "account", "host"),
    [
        ("wasb", {"login": ACCOUNT}, ACCOUNT, f"https://{ACCOUNT}.blob.core.windows.net"),
        ("wasb", {"host": f"https://{ACCOUNT}.blob.core.chinacloudapi.cn/"}, ACCOUNT, None),
        ("adls", {"host": ACCOUNT}, ACCOUNT, f"https://{ACCOUNT}.blob.core.windows.net"),
        ("adls", {"host": "other", "login": "x", "extra": {"account_name": ACCOUNT}}, ACCOUNT, None),
    ],
)
def test_an_azure_connection_needs_no_more_than_account_and_key(
    conn_type: str, fields: dict[str, Any], account: str, host: str | None, connection: Any
) -> None:
    fs = connection(conn_type, password=ACCOUNT_KEY, **fields).get_fs("abfs")
    assert (fs.account_name, fs.account_key) == (account, ACCOUNT_KEY)
    if host is not None:
        assert fs.account_url == host
    elif "account_name" not in fields.get("extra", {}):
        assert fs.account_url == f"https://{ACCOUNT}.blob.core.chinacloudapi.cn"


@pytest.mark.parametrize(
    ("conn_type", "fields", "scheme", "message"),
    [
        ("parallelrun_datastore", {}, None, "does not say its protocol"),
        ("parallelrun_datastore", {"extra": {"protocol": "s3"}}, "abfs", "is for s3://.*begins with abfs://"),
        (
            "parallelrun_datastore",
            {"extra": {"protocol": "s3"}, "password": "hunter2-and-more"},
            None,
            "secret options must be a JSON object",
        ),
        (
            "parallelrun_datastore",
            {"extra": {"protocol": "s3", "options": "hunter2-and-more"}},
            None,
            "its options must be a JSON object",
        ),
        (
            "parallelrun_datastore",
            {"extra": {"protocol": "abfs"}, "password": '{"connection_string": "hunter2-and-more"}'},
            None,
            "abfs cannot be made of these options",
        ),
        ("parallelrun_datastore", {"extra": {"protocol": "smb"}}, None, "driver that is not installed"),
        ("google_cloud_platform", {}, "gs", "install apache-airflow-providers-google"),
        ("http", {}, "smb", "nothing here opens smb://.*make it a Datastore"),
        ("postgres", {}, None, "'postgres', which is no store of files"),
        ("wasb", {"extra": {"connection_string": "hunter2-and-more"}}, "abfs", "ValueError"),
    ],
)
def test_a_connection_that_cannot_be_used(
    conn_type: str, fields: dict[str, Any], scheme: str | None, message: str, connection: Any
) -> None:
    with pytest.raises(
        ConfigurationError, match=f"the connection 'store' cannot be used: .*{message}"
    ) as err:
        connection(conn_type, **fields).get_fs(scheme)
    assert "hunter2" not in str(err.value)


def test_a_connection_that_nobody_knows() -> None:
    with (
        pytest.raises(ConfigurationError, match="there is no connection 'nobodys': make an Airflow"),
        connected(["s3://nobodys@bucket/a"]),
    ):
        pass


def test_a_user_is_no_connection() -> None:
    with connected(["sftp://somebody@host/a"]):
        assert not is_known(("sftp", "somebody"))


def test_the_environment_comes_before_airflow(s3_store: ObjectStore) -> None:
    with connected([s3_store.url]):
        assert locate(s3_store.url).fs.key == s3_store.options["key"]


def test_every_text_among_the_secret_options_is_kept_secret(connection: Any) -> None:
    hidden = {"key": "an-id", "account": "names-nothing-secret", "inner": {"token": "deeper-hidden"}}
    extra = {"protocol": "memory", "options": {"keyfile": '{"private_key": "within-a-text"}'}}
    with pytest.raises(ConfigurationError):  # a memory store takes no such options
        connection("parallelrun_datastore", password=json.dumps(hidden), extra=extra).get_fs("s3")
    assert hide("names-nothing-secret deeper-hidden within-a-text") == "*** *** ***"
