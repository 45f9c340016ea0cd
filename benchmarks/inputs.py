# SPDX-License-Identifier: Apache-2.0
"""Makes the input files, each set once: a folder that is complete has its mark beside it."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

# Larger folders are slow to make, and nobody has them.
_IN_FOLDER = 10_000


class Inputs:
    """The sets of input files.

    :param root: the folder that has them
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def images(self, count: int) -> Path:
        """Return a folder of PNG files of 28 by 28 pixels, scikit-learn's digits over and over."""
        return self._made(f"images-{count}", self._images(count))

    def empty(self, count: int) -> Path:
        """Return a folder of empty files."""
        return self._made(f"empty-{count}", (b"" for _ in range(count)))

    def sleeps(self, seconds: tuple[float, ...]) -> Path:
        """Return a folder of files that say how long they take."""
        name = hashlib.sha256(repr(seconds).encode()).hexdigest()[:8]
        return self._made(f"sleeps-{name}", (str(each).encode() for each in seconds))

    def table(self, kind: str, rows: int) -> Path:
        """Return a folder with one table of numbers, 12 columns wide.

        :param kind: ``csv`` or ``parquet``
        """
        return self._made(f"table-{kind}-{rows}", self._table(kind, rows), f".{kind}")

    def _table(self, kind: str, rows: int) -> Iterator[bytes]:
        import numpy as np
        import pyarrow as pa
        from pyarrow import csv, parquet

        random = np.random.default_rng(1)
        columns = {"id": np.arange(rows)}
        for number in range(11):
            columns[f"x{number}"] = random.normal(size=rows).round(6)
        content = io.BytesIO()
        write = csv.write_csv if kind == "csv" else parquet.write_table
        write(pa.table(columns), content)
        yield content.getvalue()

    def _images(self, count: int) -> Iterator[bytes]:
        from demo.digits import DemoData

        data = DemoData(self._root / "digits")
        if not data.has_images():
            data.make_images()
        images = [path.read_bytes() for path in sorted(data.images.iterdir())]
        for number in range(count):
            yield images[number % len(images)]

    def _made(self, name: str, contents: Iterable[bytes], suffix: str = "") -> Path:
        folder, mark = self._root / name, self._root / f"{name}.complete"
        if not mark.exists():
            shutil.rmtree(folder, ignore_errors=True)
            for number, content in enumerate(contents):
                if number % _IN_FOLDER == 0:
                    inner = folder / f"{number // _IN_FOLDER:04d}"
                    inner.mkdir(parents=True)
                (inner / f"{number:07d}{suffix}").write_bytes(content)
            os.sync()  # what is still on its way to the disk would disturb the first run
            mark.touch()
        return folder
