# SPDX-License-Identifier: Apache-2.0
"""What all programs share: what to do, the list of files, the script, the rows."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from typing import IO, Any, NamedTuple


class Work(NamedTuple):
    """What a program is told, as JSON on its command line.

    :param script: the entry script
    :param folder: the folder with the input files
    :param mini_batch_size: files per ``run()``
    :param processes: how many
    :param rows: the file to write
    """

    script: str
    folder: str
    mini_batch_size: int
    processes: int
    rows: str

    def mini_batches(self) -> list[list[str]]:
        """List the files, sorted, and cut the list."""
        files: list[str] = []
        for folder, _, names in os.walk(self.folder):
            files += [os.path.join(folder, name) for name in names]
        files.sort()
        size = self.mini_batch_size
        return [files[first : first + size] for first in range(0, len(files), size)]


def read_work() -> Work:
    """Return what the command line says."""
    return Work(**json.loads(sys.argv[1]))


def load(path: str) -> Any:
    """Import an entry script and call its ``init()``."""
    sys.path.insert(0, os.path.dirname(path))
    spec = importlib.util.spec_from_file_location("entry_script", path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.init()
    return script


def write(file: IO[str], rows: list[Any]) -> None:
    """Write the rows of a mini-batch."""
    file.writelines(f"{row}\n" for row in rows)
