# SPDX-License-Identifier: Apache-2.0
"""A user's exception as data: type, message, traceback and the innermost frame of the user's own code."""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MESSAGE_LIMIT = 2000
TRACEBACK_LIMIT = 8000

_OWN_FOLDER = os.path.dirname(os.path.abspath(__file__))


class ContractError(Exception):
    """The entry script does not keep the contract; no second try can help."""


class ReturnValueError(TypeError):
    """run() returned something that cannot be counted or written."""


class InputChangedError(Exception):
    """A file that was listed has vanished or is not the same any more."""


class LoadError(Exception):
    """A file of a table is not what the dataset says it is."""


class RowError(Exception):
    """Rows of a table that do not fit its columns or their types; the others of the mini-batch do.

    :param rows: of each, where it stands, the column or None, and what is wrong
    """

    def __init__(self, rows: Sequence[tuple[str, str | None, str]]) -> None:
        self.rows = rows
        more = f" (and {len(rows) - 1} more rows of this mini-batch)" if len(rows) > 1 else ""
        super().__init__(next(self.texts()) + more)

    def texts(self) -> Iterator[str]:
        """Yield a text for each row."""
        for where, column, why in self.rows:
            yield f"{where}: {why}" if column is None else f"{where}, column {column!r}: {why}"


def describe(error: BaseException, source_directory: str) -> dict[str, Any]:
    """Return an exception as a JSON-able dict: type, message, frame (or None) and traceback."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_ours(frame.filename)]
    own = [frame for frame in frames if _is_below(frame.filename, source_directory)]
    innermost = own[-1] if own else (frames[-1] if frames else None)
    text = "".join(traceback.format_list(frames) + traceback.format_exception_only(type(error), error))
    if error.__cause__ or (error.__context__ and not error.__suppress_context__):
        # The chain says why; only the short form leaves out the frames of this package.
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return {
        "type": type(error).__name__,
        "message": _clip(_text(error), MESSAGE_LIMIT),
        "frame": _place(innermost, source_directory) if innermost else None,
        # The snapshot's folder on this node is gone when somebody reads this.
        "traceback": text.replace(source_directory + os.sep, "")[-TRACEBACK_LIMIT:],
    }


def problem(kind: str, message: str) -> dict[str, Any]:
    """Return an error without an exception behind it in the same form."""
    return {"type": kind, "message": _clip(message, MESSAGE_LIMIT), "frame": None, "traceback": ""}


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:  # noqa: BLE001 - user code
        return f"(its __str__ raised {type(second).__name__})"


def _is_ours(filename: str) -> bool:
    return os.path.dirname(os.path.abspath(filename)) == _OWN_FOLDER or filename.startswith(
        "<frozen importlib"
    )


def _is_below(filename: str, folder: str) -> bool:
    # "<string>" and "<frozen codecs>" are no files, and abspath would put them below the current folder.
    return not filename.startswith("<") and os.path.abspath(filename).startswith(
        os.path.abspath(folder) + os.sep
    )


def _place(frame: traceback.FrameSummary, source_directory: str) -> str:
    name = frame.filename
    if _is_below(name, source_directory):
        name = os.path.relpath(name, source_directory)
    return f"{name}, line {frame.lineno}, in {frame.name}"


def _clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + f"… ({len(text)} characters)"
