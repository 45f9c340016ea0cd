# SPDX-License-Identifier: Apache-2.0
"""Fixtures of real stores: Azurite for Azure Blob, servers from PyPI for S3, Google Cloud Storage and SFTP.

A test that takes ``azure_store``, ``s3_store``, ``gcs_store`` or ``sftp_store`` gets a container, bucket or
folder of its own, and a connection to it in its environment. One that takes ``input_store`` runs for each of
them, with ``object_store`` for each that a run can write to. A server starts when a test asks first.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from azure_copies import copying

from airflow_parallelrun import driver_errors
from airflow_parallelrun.filesystems import make_filesystem, variable
from demo.azurite import ACCOUNT, ACCOUNT_KEY, LISTENS, command, connection_string, listening, missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

# moto takes any; this one can be looked for.
S3_SECRET = "secret-of-the-s3-server"
# One request after the other: moto looks whether an object exists, and then makes it.
_S3_SERVER = """
import threading
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

app, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

def one_at_a_time(environ, start_response):
    with lock:
        return [b"".join(app(environ, start_response))]

run_simple("127.0.0.1", 0, one_at_a_time, threaded=True)
"""
# It takes no credentials.
_GCS_SECRET = "secret-of-nobody"
# Connections stay open, and its own server serves one after the other.
_GCS_SERVER = """
from functools import partial
from http.server import ThreadingHTTPServer
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

handler = partial(RequestHandler, Storage(use_memory_fs=True))
server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
print("listens on http://127.0.0.1:%d" % server.server_port, flush=True)
server.serve_forever()
"""
SFTP_SECRET = "password-of-the-sftp-server"
_SFTP_SERVER = """
import asyncio, asyncssh, sys

class Server(asyncssh.SSHServer):
    def password_auth_supported(self):
        return True

    def validate_password(self, username, password):
        return password == sys.argv[1]

class Files(asyncssh.SFTPServer):
    def __init__(self, channel):
        super().__init__(channel, chroot=".")

async def serve():
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.listen(
        "127.0.0.1", 0, server_factory=Server, server_host_keys=[key], sftp_factory=Files
    )
    print("listens on sftp://127.0.0.1:%d" % server.get_port(), flush=True)
    await asyncio.Event().wait()

asyncio.run(serve())
"""


@dataclass(frozen=True)
class ObjectStore:
    """A container, bucket or folder of a test.

    :param scheme: of its URLs
    :param connection: the name of the connection
    :param container: the container, the bucket, or the absolute path of the folder
    :param options: what fsspec's driver takes
    :param secret: the text that nobody may see
    """

    scheme: str
    connection: str
    container: str
    options: dict[str, Any]
    secret: str
    fs: Any

    @property
    def url(self) -> str:
        """Return its URL, such as ``abfs://azurite@container``."""
        return f"{self.scheme}://{self.connection}@{self.container}"

    @property
    def environment(self) -> dict[str, str]:
        """Return the variable that has the connection."""
        return {variable(self.connection): json.dumps(self.options)}

    def write(self, path: str, data: bytes = b"") -> str:
        """Write an object, and return its URL."""
        self.fs.pipe_file(f"{self.container}/{path}", data)
        return f"{self.url}/{path}"

    def read(self, path: str) -> bytes:
        """Return an object's bytes."""
        data: bytes = self.fs.cat_file(f"{self.container}/{path}")
        return data

    def paths(self, folder: str = "") -> list[str]:
        """Return the paths of all objects in a folder, relative to the container."""
        found = self.fs.find(f"{self.container}/{folder}".rstrip("/"))
        return sorted(path.removeprefix(f"{self.container}/") for path in found)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a store that does not answer asked again at once, and not after some time."""
    monkeypatch.setattr(driver_errors, "BACKOFF_S", 0.0)


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start Azurite's blob service; return the URL of its account."""
    if problem := missing():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no Azurite: {problem}")
    folder = tmp_path_factory.mktemp("azurite")
    with _server(command("--inMemoryPersistence"), folder, LISTENS) as url:
        yield f"{url}/{ACCOUNT}"


@pytest.fixture(scope="session")
def copying_azurite(azurite: str) -> Iterator[str]:
    """Have Azurite copy blocks; return the URL of its account."""
    with copying(azurite) as proxy:
        yield proxy.url


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start moto's server; return its URL."""
    folder = tmp_path_factory.mktemp("s3")
    argv = [sys.executable, "-c", _S3_SERVER]
    with _server(argv, folder, re.compile(r"Running on (http://\S+)")) as url:
        yield url


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start an emulator of Google Cloud Storage; return its URL."""
    folder = tmp_path_factory.mktemp("gcs")
    with _server([sys.executable, "-c", _GCS_SERVER], folder, re.compile(r"listens on (\S+)")) as url:
        yield url


@pytest.fixture(scope="session")
def sftp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Start an SFTP server, which serves a folder of its own; return its port."""
    folder = tmp_path_factory.mktemp("sftp")
    argv = [sys.executable, "-c", _SFTP_SERVER, SFTP_SECRET]
    with _server(argv, folder, re.compile(r"listens on \S+:(\d+)")) as port:
        yield int(port)


@pytest.fixture
def azure_store(azurite: str, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """Make a container on Azurite."""
    return _connected(azure_container(azurite), monkeypatch)


@pytest.fixture
def copying_azure_store(copying_azurite: str, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """Make a container on Azurite, which copies blocks here."""
    return _connected(azure_container(copying_azurite, "copying_azurite"), monkeypatch)


@pytest.fixture
def s3_store(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """Make a bucket on the S3 server."""
    return _connected(s3_bucket(s3_server), monkeypatch)


@pytest.fixture
def gcs_store(gcs_server: str, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """Make a bucket on the emulator of Google Cloud Storage."""
    options = {"token": "anon", "endpoint_url": gcs_server, "project": "tests"}
    return _connected(_made("gs", "emulator", options, _GCS_SECRET), monkeypatch)


@pytest.fixture
def sftp_store(sftp_server: int, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """Make a folder on the SFTP server."""
    options = {"host": "127.0.0.1", "port": sftp_server, "username": "tests", "password": SFTP_SECRET}
    return _connected(_made("sftp", "asyncssh", options, SFTP_SECRET), monkeypatch)


@pytest.fixture(params=["azure", "s3"])
def object_store(request: pytest.FixtureRequest) -> ObjectStore:
    """Make a container on Azurite, then a bucket on the S3 server: the test runs for each."""
    store: ObjectStore = request.getfixturevalue(f"{request.param}_store")
    return store


@pytest.fixture(params=["copying_azure", "s3"])
def copying_store(request: pytest.FixtureRequest) -> ObjectStore:
    """Make a container, then a bucket, in stores that copy parts of their objects themselves."""
    store: ObjectStore = request.getfixturevalue(f"{request.param}_store")
    return store


@pytest.fixture(params=["azure", "s3", "gcs", "sftp"])
def input_store(request: pytest.FixtureRequest) -> ObjectStore:
    """Make a container, a bucket or a folder in each store that a run can read from."""
    store: ObjectStore = request.getfixturevalue(f"{request.param}_store")
    return store


def azure_container(endpoint: str, connection: str = "azurite") -> ObjectStore:
    """Make a container on Azurite, for a fixture of another scope.

    :param endpoint: what the fixture ``azurite`` returned
    :param connection: the name of the connection
    """
    return _made("abfs", connection, {"connection_string": connection_string(endpoint)}, ACCOUNT_KEY)


def s3_bucket(endpoint: str) -> ObjectStore:
    """Make a bucket on the S3 server, for a fixture of another scope.

    :param endpoint: what the fixture ``s3_server`` returned
    """
    options = {
        "key": "key-of-the-tests",
        "secret": S3_SECRET,
        "client_kwargs": {"endpoint_url": endpoint, "region_name": "eu-west-1"},
    }
    return _made("s3", "moto", options, S3_SECRET)


def _made(scheme: str, connection: str, options: dict[str, Any], secret: str) -> ObjectStore:
    fs = make_filesystem(scheme, options)
    container = ("/" if scheme == "sftp" else "") + f"test-{secrets.token_hex(8)}"
    store = ObjectStore(scheme, connection, container, options, secret, fs)
    fs.mkdir(store.container)
    return store


def _connected(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    return store


@contextmanager
def _server(argv: Sequence[str], folder: Path, says: re.Pattern[str]) -> Iterator[str]:
    """Run a server, which says on which free port it listens; return the URL that it says."""
    log = folder / "server.log"
    with log.open("wb") as stream:
        server = subprocess.Popen(argv, cwd=folder, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL)
    try:
        url = listening(log, says, lambda: server.poll() is None)
        if url is None:
            pytest.fail(f"{argv!r} does not listen: {log.read_text(errors='replace')}")
        yield url
    finally:
        # It has nothing to save, and would wait for connections that nobody uses.
        server.kill()
        server.wait()
