# SPDX-License-Identifier: Apache-2.0
"""Copies of what lies in a store, where a node has put them for its processes: local files.

``<spool>/<mini-batch>/<item>/<path>`` is the copy of an item, ``<spool>/<mini-batch>/<item>.json`` says why
there is none. A path is that of the URL without its connection; a name that could lead out of the folder, or
that no file can have, is changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Dict, Tuple, Type

from .errors import InputChangedError, LoadError

_NAME_BYTES = 255
_KEPT_BYTES = 150
_ERRORS: Dict[str, Type[Exception]] = {
    "InputChangedError": InputChangedError,
    "LoadError": LoadError,
}


class Copies:
    """The copies for a mini-batch.

    :param spool: the node's folder of copies
    :param ordinal: the mini-batch
    """

    def __init__(self, spool: str, ordinal: int) -> None:
        self.folder = f"{spool}/{ordinal}"

    def path(self, number: int, url: str) -> str:
        """Return where the copy of an item is, or is to be.

        :param number: the item's place in the mini-batch
        """
        authority, _, path = url.partition("://")[2].partition("/")
        names = [authority.rpartition("@")[2], *path.split("/")]
        return "/".join([self.folder, str(number), *map(_safe, names if names[0] else names[1:])])

    def find(self, number: int, url: str) -> str:
        """Return where the copy of an item is.

        :raises InputChangedError: when the file in the store is not what was listed
        :raises LoadError: when it could not be read, and when the script has removed the copy
        """
        path = self.path(number, url)
        if os.path.exists(path):
            return path
        try:
            with open(self._failure(number), encoding="utf-8") as file:
                kind, message = json.load(file)
        except FileNotFoundError:
            raise LoadError(f"{url}: its copy {path} is gone; a script must leave its input alone") from None
        raise _ERRORS[kind](message)

    def fail(self, number: int, error: Exception) -> None:
        """Say why there is no copy of an item."""
        os.makedirs(self.folder, exist_ok=True)
        with open(self._failure(number), "w", encoding="utf-8") as file:
            json.dump([type(error).__name__, str(error)], file)

    def _failure(self, number: int) -> str:
        return f"{self.folder}/{number}.json"


def _safe(name: str) -> str:
    """Return a name that stays in its folder, and that a file can have."""
    if name in ("", ".", ".."):
        return name.replace(".", "%2E") or "%"
    data = name.replace("\0", "%00").encode("utf-8", "surrogateescape")
    if len(data) > _NAME_BYTES:  # its end tells what it is
        end = data[-_KEPT_BYTES:].decode("utf-8", "ignore")
        return f"{hashlib.sha256(data).hexdigest()[:32]}~{end}"
    return data.decode("utf-8", "surrogateescape")


def is_url(path: str) -> bool:
    """Tell whether the path of an item is a URL."""
    return "://" in path  # no path of a listing has two slashes in a row


def identity(path: str) -> Tuple[int, int]:
    """Return what tells a file from all others for as long as it is open, whatever names it has."""
    status = os.stat(path)
    return status.st_dev, status.st_ino
