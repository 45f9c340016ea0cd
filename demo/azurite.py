# SPDX-License-Identifier: Apache-2.0
"""Azurite, which stands for Azure's blob store on this machine; ``make`` has it from npm."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from demo.components import Components

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAM = Path(sys.prefix, "azurite", "node_modules", "azurite", "dist", "src", "blob", "main.js")
# Its one account: the same everywhere, and public.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
# What it prints once it does.
LISTENS = re.compile(r"listens on (http://\S+)")

_CONNECTION = "demo_store"
_CONTAINER = "demo"
_START_S = 60


class AzuriteError(RuntimeError):
    """Azurite is not there, or did not start."""


def missing() -> str | None:
    """Say what is missing to run it; None when nothing is."""
    if shutil.which("node") is None:
        return "node is not installed"
    return None if PROGRAM.is_file() else f"{PROGRAM} is not there: make azurite"


def command(*options: str) -> list[str]:
    """Return the command that starts it on a free port."""
    always = ["--blobPort", "0", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    return ["node", str(PROGRAM), *always, *options]


def connection_string(endpoint: str) -> str:
    """Return what opens it.

    :param endpoint: the URL of its account
    """
    parts = {
        "DefaultEndpointsProtocol": "http",
        "AccountName": ACCOUNT,
        "AccountKey": ACCOUNT_KEY,
        "BlobEndpoint": endpoint,
    }
    return ";".join(f"{name}={value}" for name, value in parts.items())


def listening(log: Path, says: re.Pattern[str], is_alive: Callable[[], bool]) -> str | None:
    """Wait until a server has written on which URL it listens; None when it has ended, or takes too long."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        alive = is_alive()
        if found := says.search(log.read_text(errors="replace")):
            return found[1]
        if not alive:
            break
        time.sleep(0.05)
    return None


class DemoStore:
    """A container that the demo reads from and writes to; it is kept in a folder.

    :param folder: where Azurite keeps everything
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._components = Components(folder / "run", folder / "logs")
        self._connection_string = ""
        self._fs: Any = None

    def __enter__(self) -> Self:
        """Start Azurite.

        :raises AzuriteError: when it is not there, or does not start
        """
        if problem := missing():
            raise AzuriteError(f"no Azurite: {problem}")
        self._components.stop()
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        try:
            self._start(data)
        except BaseException:
            self._components.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it; what is in it stays."""
        self._components.stop()

    @property
    def environment(self) -> dict[str, str]:
        """Return the variable by which Airflow has the connection."""
        connection = {"conn_type": "wasb", "extra": {"connection_string": self._connection_string}}
        return {f"AIRFLOW_CONN_{_CONNECTION.upper()}": json.dumps(connection)}

    def url(self, path: str) -> str:
        """Return the URL of a path in the container."""
        return f"abfs://{_CONNECTION}@{_CONTAINER}/{path}"

    def upload(self, folder: Path, path: str) -> int:
        """Put the files of a folder there, unless they are; return how many were put."""
        files = sorted(folder.iterdir())
        there = self._fs.find(f"{_CONTAINER}/{path}")
        if len(there) == len(files):
            return 0
        self._fs.pipe({f"{_CONTAINER}/{path}/{file.name}": file.read_bytes() for file in files})
        return len(files)

    def read(self, url: str) -> str:
        """Return the text at a URL of the container."""
        data: bytes = self._fs.cat_file(f"{_CONTAINER}/{url.removeprefix(self.url(''))}")
        return data.decode()

    def _start(self, data: Path) -> None:
        # Only now: not every demo needs it, nor has its driver.
        from airflow_parallelrun.filesystems import make_filesystem

        self._components.start("azurite", command("--location", str(data)), os.environ, data)
        (component,) = self._components.listed()
        log = self._components.log("azurite")
        found = listening(log, LISTENS, component.is_alive)
        if found is None:
            raise AzuriteError(f"Azurite does not start.\n{log.read_text(errors='replace')}")
        self._connection_string = connection_string(f"{found}/{ACCOUNT}")
        self._fs = make_filesystem("abfs", {"connection_string": self._connection_string})
        if not self._fs.exists(_CONTAINER):
            self._fs.mkdir(_CONTAINER)
