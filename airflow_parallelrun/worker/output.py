# SPDX-License-Identifier: Apache-2.0
"""What run() returned, as the bytes of the append_row file; and the segment that they go to.

The bytes are the original's: an element of a list or tuple is its ``str()`` and a newline, nothing
escaped; a DataFrame is ``to_csv`` with a space as separator, no header and no index. A file
``parallel_run_step.settings.json`` beside the entry script changes the arguments of ``to_csv``
(object ``append_row``, in it object ``pandas.DataFrame.to_csv``).
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import time
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence

from .errors import ContractError, ReturnValueError
from .header import FrameHeader

SETTINGS_FILE = "parallel_run_step.settings.json"

_TO_CSV: Dict[str, Any] = {"sep": " ", "header": False, "index": False}
_WRITE_TRIES = 6
# A system call for each row would cost more than to write most of them.
_BUFFER_BYTES = 1 << 18


class SegmentError(Exception):
    """The segment could not be written, however often it was tried: the store's fault, not the script's."""


class Origin(NamedTuple):
    """Where rows come from.

    :param ordinal: the mini-batch
    :param paths: what run() gets
    :param first: of a part of a mini-batch, the place of the first of them in it
    :param tries: which try it is, from 1
    """

    ordinal: int
    paths: List[str]
    first: Optional[int]
    tries: int


class RowFormatter:
    """Formats and counts return values.

    :param script_folder: the entry script's folder, where the settings file may lie
    :param append_row: False for summary_only: values are counted and not formatted
    :param provenance: columns behind each row, of mini_batch, source, row and try
    :param strict: whether more elements than items are an error
    :param agree: asks which header holds for the run's frames; None: frames have the header of the settings
    """

    def __init__(
        self,
        script_folder: str,
        append_row: bool,
        provenance: Sequence[str] = (),
        strict: bool = False,
        agree: Optional[Callable[[str], str]] = None,
    ) -> None:
        self._append_row = append_row
        self._provenance = provenance
        self._strict = strict
        self._to_csv = {**_TO_CSV, **_read_settings(os.path.join(script_folder, SETTINGS_FILE))}
        for name in ("columns", "header"):
            if provenance and isinstance(self._to_csv.get(name), list):
                self._to_csv[name] = [*self._to_csv[name], *provenance]
        self._header: Optional[FrameHeader] = None
        if agree is not None:
            self._header = FrameHeader(self._to_csv, agree)
            self._to_csv["header"] = False

    @property
    def header(self) -> bytes:
        """What stands above the rows of the run's frames, as far as it is known here."""
        return _encoded(self._header.text if self._header is not None else "")

    def count(self, value: Any, items: int) -> int:
        """Return how many elements run() returned.

        :param items: how many items it got
        :raises ReturnValueError: for anything but a list, a tuple or a DataFrame; and for more elements than
            items, if that is an error
        """
        if isinstance(value, (list, tuple)) or _is_data_frame(value):
            count = len(value)
            if self._strict and count > items:
                raise ReturnValueError(f"run() returned {count} elements for {items} items (strict_returns)")
            return count
        if value is None:
            raise ReturnValueError(
                "run() returned None. Return a list, a tuple or a DataFrame with one element for each item "
                "that succeeded; is a return statement missing?"
            )
        raise ReturnValueError(
            f"run() returned {type(value).__module__}.{type(value).__qualname__}. "
            "Return a list, a tuple or a DataFrame with one element for each item that succeeded."
        )

    def rows(self, value: Any, origin: Origin) -> bytes:
        """Return the rows as they stand in the append_row file; nothing for summary_only.

        :raises ReturnValueError: for a frame with a column that has the name of a provenance column, and for
            one that has not the header of the run
        """
        if not self._append_row:
            return b""
        if not isinstance(value, (list, tuple)):
            return _encoded(self._frame(value, origin))
        if not value:
            return b""
        elements = map(str, value)
        if self._provenance:
            elements = map("{}{}".format, elements, self._tails(origin, len(value)))
        return _encoded("\n".join(elements) + "\n")

    def _frame(self, value: Any, origin: Origin) -> str:
        if not len(value) and (self._header is None or not len(value.columns)):
            return ""
        frame = self._with_provenance(value, origin)
        if self._header is not None:
            self._header.check(frame)
        return str(frame.to_csv(**self._to_csv)) if len(frame) else ""

    def _tails(self, origin: Origin, count: int) -> Iterator[str]:
        """Yield what stands behind each element, quoted as to_csv quotes."""
        line = io.StringIO()
        writer = csv.writer(line, delimiter=self._to_csv["sep"], lineterminator="")
        for values in zip(*_columns(origin, count, self._provenance)):
            writer.writerow(("", *values))
            yield line.getvalue()
            line.seek(0)
            line.truncate()

    def _with_provenance(self, frame: Any, origin: Origin) -> Any:
        if not self._provenance:
            return frame
        for name in self._provenance:
            if name in frame.columns:
                raise ReturnValueError(
                    f"run() returned a DataFrame with a column {name!r}, which is a provenance column too. "
                    "Rename it, or leave it out of provenance_columns."
                )
        columns = _columns(origin, len(frame), self._provenance)
        return frame.assign(**dict(zip(self._provenance, columns)))


def _encoded(text: str) -> bytes:
    # surrogateescape: a file name that is not UTF-8 comes out as the bytes it has on disk.
    return text.encode("utf-8", "surrogateescape")


def _columns(origin: Origin, count: int, names: Sequence[str]) -> list[Iterable[Any]]:
    """Return provenance columns for so many rows.

    Which item a row is from is known where run() returned one for each, in their order.
    """
    columns: Dict[str, Iterable[Any]] = {
        "mini_batch": [origin.ordinal] * count,
        "source": origin.paths if len(origin.paths) == count else [""] * count,
        "row": range(origin.first or 0, (origin.first or 0) + count),
        "try": [origin.tries] * count,
    }
    return [columns[name] for name in names]


class Segment:
    """The bytes that one process writes, and no other; the node journals which of them count.

    Rows wait in memory for others until :meth:`flush`, as far as they are few.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._waiting: List[bytes] = []
        self._written = 0
        #: Where the next rows will stand.
        self.end = 0

    def append(self, data: bytes) -> None:
        """Add rows at the end.

        :raises SegmentError: when the store refuses for about 30 s
        """
        self._waiting.append(data)
        self.end += len(data)
        if self.end - self._written >= _BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits.

        A failed write is tried again at the same place: nothing there is journalled yet.

        :raises SegmentError: when the store refuses for about 30 s
        """
        if not self._waiting:
            return
        data = self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting)
        for attempt in range(_WRITE_TRIES):
            try:
                self._write(data)
            except OSError as error:
                if attempt == _WRITE_TRIES - 1:
                    raise SegmentError(str(error)) from error
                time.sleep(2**attempt)
            else:
                break
        self._waiting.clear()
        self._written = self.end

    def _write(self, data: bytes) -> None:
        view, at = memoryview(data), self._written
        while view:
            written = os.pwrite(self._fd, view, at)
            view, at = view[written:], at + written


def _is_data_frame(value: Any) -> bool:
    # A script that returns a frame has imported pandas; one that has not must not pay for the import.
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame)


def _read_settings(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            settings = json.load(file)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ContractError(f"{SETTINGS_FILE} is not JSON: {error}") from error
    try:
        return dict(settings.get("append_row", {}).get("pandas.DataFrame.to_csv", {}))
    except (AttributeError, TypeError, ValueError) as error:
        raise ContractError(
            f'{SETTINGS_FILE} must look like {{"append_row": {{"pandas.DataFrame.to_csv": {{"sep": ","}}}}}}'
        ) from error
