# SPDX-License-Identifier: Apache-2.0
"""What run() returned, as the bytes of the append_row file; and the segment that they go to.

As text the bytes are the original's: an element of a list or tuple is its ``str()`` and a newline, nothing
escaped; a DataFrame is ``to_csv`` with a space as separator, no header and no index. A file
``parallel_run_step.settings.json`` beside the entry script changes the arguments of ``to_csv``
(object ``append_row``, in it object ``pandas.DataFrame.to_csv``). The formats whose columns have names are in
``formats.py`` and ``arrow.py``.
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

from .arrow import ParquetRows
from .columns import KINDS, as_list_or_frame, can_be_counted, check_clash, is_of
from .errors import ContractError, ReturnValueError
from .formats import Agree, CsvRows, JsonRows, encoded
from .header import FrameHeader

SETTINGS_FILE = "parallel_run_step.settings.json"
TEXT, CSV, JSONL, PARQUET = "text", "csv", "jsonl", "parquet"

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
    :param provenance: columns behind each row, of mini_batch, source, row, try and model_version
    :param strict: whether more elements than items are an error
    :param agree: asks which header, or schema, holds for the run; None: text has the header of the settings
    :param row_format: text, csv, jsonl or parquet
    :raises ContractError: when the settings cannot be used, or this interpreter cannot write the format
    """

    def __init__(
        self,
        script_folder: str,
        append_row: bool,
        provenance: Sequence[str] = (),
        strict: bool = False,
        agree: Optional[Agree] = None,
        row_format: str = TEXT,
    ) -> None:
        settings = _read_settings(os.path.join(script_folder, SETTINGS_FILE))
        self._is_text = append_row and row_format == TEXT
        self._typed: CsvRows | JsonRows | ParquetRows | None = None
        if append_row and not self._is_text:
            self._typed = _typed(row_format, agree, settings)
        self._provenance = provenance
        self._strict = strict
        #: The models that the script was given or has asked for, each as ``name:version``.
        self.models: List[str] = []
        self._to_csv = {**_TO_CSV, **settings}
        for name in ("columns", "header"):
            if provenance and isinstance(self._to_csv.get(name), list):
                self._to_csv[name] = [*self._to_csv[name], *provenance]
        self._header: Optional[FrameHeader] = None
        if agree is not None and self._is_text:
            self._header = FrameHeader(self._to_csv, agree)
            self._to_csv["header"] = False

    @property
    def header(self) -> bytes:
        """What stands above the rows of the run, as far as it is known here."""
        if self._typed is not None:
            return self._typed.header
        return encoded(self._header.text if self._header is not None else "")

    def count(self, value: Any, items: int) -> int:
        """Return how many elements run() returned, along the first axis.

        :param items: how many items it got
        :raises ReturnValueError: for what has no such length; and for more elements than items, if that is an
            error
        """
        if isinstance(value, (list, tuple)) or can_be_counted(value):
            count = len(value)
            if self._strict and count > items:
                raise ReturnValueError(f"run() returned {count} elements for {items} items (strict_returns)")
            return count
        if value is None:
            raise ReturnValueError(
                f"run() returned None. Return {KINDS}, with one element for each item that succeeded; is a "
                "return statement missing?"
            )
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if is_of(value, "numpy", "ndarray"):
            kind = "an array without a dimension"
        raise ReturnValueError(
            f"run() returned {kind}. Return {KINDS}, with one element for each item that succeeded."
        )

    def rows(self, value: Any, origin: Origin) -> bytes:
        """Return the rows as they stand in the append_row file; nothing for summary_only.

        :raises ReturnValueError: for a column that has the name of a provenance column, for what has not the
            header or the schema of the run, and for what cannot be written in the format
        """
        if not self._is_text:
            return self._typed_rows(value, origin)
        if not isinstance(value, (list, tuple)):
            if not is_of(value, "pandas", "DataFrame"):
                value = as_list_or_frame(value)
            if not isinstance(value, list):
                return encoded(self._frame(value, origin))
        if not value:
            return b""
        elements = map(str, value)
        if self._provenance:
            elements = map("{}{}".format, elements, self._tails(origin, len(value)))
        return encoded("\n".join(elements) + "\n")

    def shown(self, rows: bytes) -> str:
        """Return rows, with what stands above them, as people can read them."""
        if self._typed is not None:
            return self._typed.shown(rows)
        return (self.header + rows).decode("utf-8", "replace")

    def _typed_rows(self, value: Any, origin: Origin) -> bytes:
        if self._typed is None or not len(value):
            return b""
        columns = self._columns(origin, len(value), None)
        return self._typed.rows(value, dict(zip(self._provenance, columns)))

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
        for values in zip(*self._columns(origin, count)):
            writer.writerow(("", *values))
            yield line.getvalue()
            line.seek(0)
            line.truncate()

    def _with_provenance(self, frame: Any, origin: Origin) -> Any:
        if not self._provenance:
            return frame
        check_clash(frame.columns, self._provenance)
        columns = self._columns(origin, len(frame))
        return frame.assign(**dict(zip(self._provenance, columns)))

    def _columns(self, origin: Origin, count: int, absent: Optional[str] = "") -> list[Sequence[Any]]:
        """Return provenance columns for so many rows.

        Which item a row is from is known where run() returned one for each, in their order.

        :param absent: stands where nothing is known
        """
        columns: Dict[str, Sequence[Any]] = {
            "mini_batch": [origin.ordinal] * count,
            "source": origin.paths if len(origin.paths) == count else [absent] * count,
            "row": range(origin.first or 0, (origin.first or 0) + count),
            "try": [origin.tries] * count,
            "model_version": [",".join(self.models) or absent] * count,
        }
        return [columns[name] for name in self._provenance]


def _typed(
    row_format: str, agree: Optional[Agree], settings: Dict[str, Any]
) -> CsvRows | JsonRows | ParquetRows:
    if settings:
        raise ContractError(
            f"{SETTINGS_FILE} sets {', '.join(settings)} of to_csv, which is for append_row_format {TEXT}; "
            f"it is {row_format} here. Leave them out, or choose {TEXT}."
        )
    if row_format == JSONL:
        return JsonRows()
    assert agree is not None
    return CsvRows(agree) if row_format == CSV else ParquetRows(agree)


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
