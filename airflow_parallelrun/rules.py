# SPDX-License-Identifier: Apache-2.0
"""What a value of the configuration must be: a check returns it, normalised, or says what it must be."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from airflow_parallelrun.exceptions import InvalidValueError

Check = Callable[[str, Any], Any]

# What the run itself writes into the output folder.
FAILED_ITEMS_FILE = "failed_items.jsonl"
RESULT_FILE = "job_result.json"
LOGS_FOLDER = "logs"
OWN_FOLDER = ".parallelrun"
RESERVED_OUTPUT_NAMES = (FAILED_ITEMS_FILE, RESULT_FILE, LOGS_FOLDER, OWN_FOLDER)

# In the order in which they stand behind a row.
PROVENANCE_COLUMNS = ("mini_batch", "source", "row", "try", "model_version")

UNITS = {"": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}

_SIZE = re.compile(r"([0-9]{1,15})([kKmMgG][bB]|rows)?")
_VERSION = r"[1-9][0-9]{0,17}"
_IN_URI = r"[^/@:\s]+"
MODEL = rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,254}}(:{_VERSION})?|models:/{_IN_URI}(/{_VERSION}|/latest|@{_IN_URI})"
_FORBIDDEN_IN_FILE_NAME = frozenset('~"#%&*:<>?/\\{|}')


def must_be(
    text: str, accepts: Callable[[Any], bool], normalise: Callable[[Any], Any] | None = None
) -> Check:
    def check(name: str, value: Any) -> Any:
        if not accepts(value):
            raise InvalidValueError(name, value, text)
        return normalise(value) if normalise else value

    return check


def is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def whole(low: int, text: str) -> Check:
    return must_be(text, lambda value: is_int(value) and value >= low)


def one_of(normalise: Callable[[str], str], *choices: str) -> Check:
    known = ", ".join(choices[:-1]) + " or " + choices[-1]
    return must_be(known, lambda value: isinstance(value, str) and normalise(value) in choices, normalise)


def mini_batch_size(name: str, value: Any) -> Any:
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    number = int(match[1]) if match else value
    if not is_int(number) or number < 1:
        rule = "a positive count, a size such as '64MB' (KB, MB or GB), or '5000rows'; no space, no fraction"
        raise InvalidValueError(name, value, rule)
    return value


def _is_percent(value: Any) -> bool:
    return (is_int(value) or isinstance(value, float)) and 0 <= value <= 100


count = whole(1, "a whole number, 1 or more")
some_count = whole(1, "a whole number, 1 or more, or None")
seconds = whole(1, "a whole number of seconds, 1 or more")
some_seconds = whole(1, "a whole number of seconds, 1 or more, or None")
flag = must_be("True or False", lambda value: isinstance(value, bool))
tolerated = whole(-1, "a whole number, -1 (tolerate all) or more")
percent = must_be("a number from 0 to 100", _is_percent)
text = must_be("text", lambda value: isinstance(value, str))
pool = must_be("the name of an Airflow pool", lambda value: isinstance(value, str) and bool(value.strip()))


def path(name: str, value: Any) -> str:
    given = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(given, str) or not given.strip() or "\0" in given:
        raise InvalidValueError(name, value, "a path")
    return given.strip()


def inside(name: str, value: str) -> None:
    if value.startswith("/") or ".." in value.split("/"):
        raise InvalidValueError(name, value, "a file inside source_directory, relative to it")


def model(name: str, value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and re.fullmatch(MODEL, value)):
        raise InvalidValueError(
            name,
            value,
            "a registered model such as 'mnist' (the latest version) or 'mnist:3', or an MLflow URI such as "
            "'models:/mnist/3', 'models:/mnist/latest' or 'models:/mnist@alias'",
        )
    return value


def file_name(value: str) -> str:
    if set(value) & _FORBIDDEN_IN_FILE_NAME or not value.isprintable():
        rule = 'a file name without any of ~ " # % & * : < > ? / \\ { | } and control characters'
    elif not value.strip() or value in (".", "..", *RESERVED_OUTPUT_NAMES) or len(os.fsencode(value)) > 255:
        rule = f"a file name of at most 255 bytes, and none of {', '.join(RESERVED_OUTPUT_NAMES)}"
    else:
        return value
    raise InvalidValueError("append_row_file_name", value, rule)


def partition_keys(name: str, value: Any) -> list[str]:
    given = value
    if isinstance(value, str):  # of a pipeline parameter, as in the original
        try:
            given = json.loads(value)
        except ValueError:
            given = None
    texts = isinstance(given, (list, tuple)) and all(isinstance(key, str) and key for key in given)
    if not texts or not given or len(set(given)) < len(given):
        rule = 'a list of the keys, each once, such as ["user", "season"], or that as JSON text'
        raise InvalidValueError(name, value, rule)
    return list(given)


def size(value: int | str) -> tuple[int, str]:
    """Return the number and the unit of a checked ``mini_batch_size``: empty, KB, MB, GB or rows."""
    match = _SIZE.fullmatch(str(value))
    assert match is not None
    unit = match[2] or ""
    return int(match[1]), unit if unit == "rows" else unit.upper()


def size_in_bytes(name: str, value: Any) -> int:
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    number = int(match[1]) if match else value
    if not is_int(number) or number < 1 or (match is not None and match[2] == "rows"):
        rule = "a positive number of bytes, or a size such as '512MB' (KB, MB or GB); no space, no fraction"
        raise InvalidValueError(name, value, rule)
    return int(number) * UNITS[(match[2] or "").upper() if match else ""]


def provenance_columns(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or set(value) - set(PROVENANCE_COLUMNS):
        raise InvalidValueError(name, value, f"a list of some of {', '.join(PROVENANCE_COLUMNS)}")
    return tuple(column for column in PROVENANCE_COLUMNS if column in value)


def environment_variables(name: str, value: Any) -> dict[str, str]:
    # Never shows a value that is text: it may be a secret.
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidValueError(name, type(value).__name__, "a dict of names and texts")
    for key, content in value.items():
        if not isinstance(key, str) or not key or key.startswith("PARALLELRUN_") or set(key) & {"=", "\0"}:
            rule = "text without '=' that does not start with PARALLELRUN_"
            raise InvalidValueError(f"a name in {name}", key, rule)
        if not isinstance(content, str) or "\0" in content:
            shown = "(hidden)" if isinstance(content, str) else content
            raise InvalidValueError(f"{name}[{key!r}]", shown, "text without a NUL character")
    return dict(value)
