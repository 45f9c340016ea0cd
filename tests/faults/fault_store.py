# SPDX-License-Identifier: Apache-2.0
"""The container that a run with faults writes to, seen by Azure's own client and not by the package.

What is in it is copied into a folder of the same layout, which is what the checker reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
from typing import TYPE_CHECKING

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import ContainerClient

from demo.azurite import ACCOUNT, LISTENS, command, connection_string, listening, missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONNECTION = "faults"


class Container:
    """A container of a run.

    :param endpoint: the URL of the account
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        name = f"faults-{secrets.token_hex(8)}"
        self._client = ContainerClient.from_connection_string(connection_string(endpoint), name)
        self._client.create_container()
        self.url = f"abfs://{CONNECTION}@{name}"
        self._copied: dict[str, str] = {}

    def put(self, path: str, data: bytes) -> None:
        """Write an object."""
        self._client.upload_blob(path, data)

    def copy_to(self, folder: Path) -> None:
        """Have a folder hold what the container holds; what has not changed is not touched."""
        found = {blob.name: str(blob.etag) for blob in self._client.list_blobs()}
        for path in self._copied.keys() - found.keys():
            (folder / path).unlink()
            del self._copied[path]
        for path, etag in found.items():
            if self._copied.get(path) == etag:
                continue
            with contextlib.suppress(ResourceNotFoundError):  # gone meanwhile
                data = self._client.download_blob(path).readall()
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(data)
                self._copied[path] = etag

    def remove(self) -> None:
        """Remove it, with all that is in it."""
        self._client.delete_container()
        self._client.close()


def environment(endpoint: str) -> dict[str, str]:
    """Return the variable that has the connection, for whoever reaches the account at a URL."""
    options = {"connection_string": connection_string(endpoint)}
    return {f"PARALLELRUN_CONNECTION_{CONNECTION.upper()}": json.dumps(options)}


@contextlib.contextmanager
def azurite(folder: Path) -> Iterator[str]:
    """Run Azurite; return the URL of its account.

    :param folder: for its log
    """
    if problem := missing():
        raise SystemExit(f"no Azurite: {problem}")
    log = folder / "azurite.log"
    with log.open("wb") as stream:
        server = subprocess.Popen(
            command("--inMemoryPersistence"),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
    try:
        url = listening(log, LISTENS, lambda: server.poll() is None)
        if url is None:
            raise SystemExit(f"Azurite does not start: {log.read_text(errors='replace')}")
        yield f"{url}/{ACCOUNT}"
    finally:
        server.terminate()
        server.wait()
        os.unlink(log)
