# SPDX-License-Identifier: Apache-2.0
"""Partition keys: values that a dataset has in the paths of its files."""

from __future__ import annotations

import datetime
import re
import urllib.parse
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

#: In place of a missing value.
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"

# The parts of a date, as the original writes them, and how many digits each has.
_DATE_PARTS = {"yyyy": 4, "MM": 2, "dd": 2, "HH": 2, "mm": 2, "ss": 2}
_PLACE = re.compile(r"\{([^{}:]+)(?::([^{}]+))?\}|\*|[^{}*]+|[{}]")
_DATE_PART = re.compile("|".join(_DATE_PARTS))
_TYPES: Dict[str, Callable[[str], Any]] = {"int64": int, "float64": float}


class PartitionFormat:
    """A pattern such as ``{user}/{season}/{genres}.wav``.

    It stands for the end of a path, from the beginning of a name on. ``{key}`` is text without a slash,
    ``{key:yyyy/MM/dd}`` a date or time of ``yyyy``, ``MM``, ``dd``, ``HH``, ``mm`` and ``ss``; ``*`` is any
    text without a slash. Where several readings are possible, what stands further left takes more. In
    ``key={key}`` the value is decoded as in a URL, and HIVE_NULL is None, as Hive, Spark and pyarrow do.

    :param text: the pattern, as ``partition_format`` of the original
    :param types: of keys that are not text: ``int64`` or ``float64``
    :raises ValueError: when it is none
    """

    def __init__(self, text: str, types: Optional[Mapping[str, str]] = None) -> None:
        self.text = text
        self.keys: List[str] = []
        self._types = {key: _TYPES[kind] for key, kind in (types or {}).items() if kind in _TYPES}
        self._dates: Dict[str, List[str]] = {}
        self._encoded: List[str] = re.findall(r"([^{}/]+)=\{\1\}", text)
        body = "".join(self._translated(match) for match in _PLACE.finditer(text.lstrip("/")))
        if not self.keys:
            raise ValueError("there is no key in it, such as {user}")
        self._match = re.compile(f"(?:.*/|){body}", re.DOTALL).fullmatch

    def _translated(self, match: re.Match[str]) -> str:
        key, date = match.groups()
        piece = match[0]
        if key is None:
            if piece in "{}":
                raise ValueError(f"the {piece!r} at character {match.start() + 1} is alone")
            return "[^/]*" if piece == "*" else re.escape(piece)
        if key in self.keys:
            raise ValueError(f"the key {key!r} stands in it twice")
        self.keys.append(key)
        if date is None:
            return "([^/]+)"
        parts = self._dates[key] = _DATE_PART.findall(date)
        if "yyyy" not in parts or len(set(parts)) < len(parts):
            raise ValueError(f"{date!r} is not a date such as yyyy/MM/dd, with HH, mm and ss if need be")
        between = _DATE_PART.split(date)
        pieces = [re.escape(between[0])]
        for part, rest in zip(parts, between[1:]):
            pieces.append(f"([0-9]{{{_DATE_PARTS[part]}}}){re.escape(rest)}")
        return "".join(pieces)

    def values(self, path: str) -> Optional[Dict[str, Any]]:
        """Return the keys of a path with their values; None when it does not fit."""
        match = self._match(path)
        if match is None:
            return None
        groups = iter(match.groups())
        try:
            return {key: self._value(key, groups) for key in self.keys}
        except ValueError:  # 31 February, or text where there should be a number
            return None

    def only(self, keys: Sequence[str], path: str) -> Dict[str, Any]:
        """Return some keys of a path that fits, with their values."""
        found = (self.values(path) or {}) if keys else {}
        return {key: found[key] for key in keys}

    def _value(self, key: str, groups: Iterator[str]) -> Any:
        if key in self._dates:
            return _date({part: int(next(groups)) for part in self._dates[key]})
        text = next(groups)
        if key in self._encoded:
            if text == HIVE_NULL:
                return None
            text = urllib.parse.unquote(text, errors="strict")
        return self._types.get(key, str)(text)


def _date(parts: Dict[str, int]) -> datetime.datetime:
    day: Tuple[int, int, int] = (parts["yyyy"], parts.get("MM", 1), parts.get("dd", 1))
    return datetime.datetime(*day, parts.get("HH", 0), parts.get("mm", 0), parts.get("ss", 0))
