# SPDX-License-Identifier: Apache-2.0
"""Conditions as people write them: ``(dataset["income"] > 100) & dataset["store"].isin([1, 2])``."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_parallelrun.exceptions import ConfigurationError, InvalidValueError
from airflow_parallelrun.worker.conditions import COMPARISONS, value_of

if TYPE_CHECKING:
    from collections.abc import Iterable

_RULE = "a number, a text, True, False, a date or a datetime; for missing values there is is_null()"


class Condition:
    """What is true of some rows; combine several with ``&``, ``|`` and ``~``.

    :param document: as the plan has it; see :mod:`airflow_parallelrun.worker.conditions`
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, document: list[Any]) -> None:
        self.document = document

    def __and__(self, other: Condition) -> Condition:
        """Both are true."""
        return Condition(["and", self.document, document_of(other)])

    def __or__(self, other: Condition) -> Condition:
        """One of them is true, or both."""
        return Condition(["or", self.document, document_of(other)])

    def __invert__(self) -> Condition:
        """It is false; where a missing value makes it neither, this is neither."""
        return Condition(["not", self.document])

    def __bool__(self) -> NoReturn:
        """Refuse ``and``, ``or``, ``not`` and ``1 < column < 2``, which ask for it and would lose a half.

        :raises ConfigurationError: always
        """
        raise ConfigurationError(
            "a condition of rows is neither true nor false. Write (a) & (b), (a) | (b) and ~(a), each in "
            "brackets, in place of and, or, not and of chained comparisons."
        )


@dataclass(frozen=True, eq=False)
class Column:
    """A column of a dataset; compare it with a value to get a :class:`Condition`.

    :param name: of the column
    """

    name: str

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, value: object) -> Condition:  # type: ignore[override]
        """The value is this one."""
        return self._compared("==", value)

    def __ne__(self, value: object) -> Condition:  # type: ignore[override]
        """The value is there, and another one."""
        return self._compared("!=", value)

    def __lt__(self, value: object) -> Condition:
        """The value is less."""
        return self._compared("<", value)

    def __le__(self, value: object) -> Condition:
        """The value is less, or this one."""
        return self._compared("<=", value)

    def __gt__(self, value: object) -> Condition:
        """The value is greater."""
        return self._compared(">", value)

    def __ge__(self, value: object) -> Condition:
        """The value is greater, or this one."""
        return self._compared(">=", value)

    def isin(self, values: Iterable[object]) -> Condition:
        """The value is one of these."""
        given = [_json(value) for value in values]
        if not given:
            raise InvalidValueError("the values of isin", given, "one value at least")
        return Condition(["in", self.name, given])

    def is_null(self) -> Condition:
        """There is no value."""
        return Condition(["is_null", self.name])

    def _compared(self, kind: str, value: object) -> Condition:
        return Condition([kind, self.name, _json(value)])


def document_of(condition: object) -> list[Any]:
    """Return a condition as the plan has it.

    :raises InvalidValueError: for anything else than a condition
    """
    if not isinstance(condition, Condition):
        rule = "a condition, such as (dataset['income'] > 100), in brackets where it stands beside another"
        raise InvalidValueError("the filter", condition, rule)
    return condition.document


def check_document(document: Any) -> None:
    """Check a condition that comes as JSON.

    :raises InvalidValueError: when it is none
    """
    if not _is_document(document):
        rule = '["and", …, …], ["or", …, …], ["not", …], [">", column, value], ["in", column, values], …'
        raise InvalidValueError("condition", document, rule)


def _is_document(document: Any) -> bool:
    match document:
        case ["and" | "or", one, other]:
            return _is_document(one) and _is_document(other)
        case ["not", one]:
            return _is_document(one)
        case ["is_null", str()]:
            return True
        case ["in", str(), [*values]]:
            return bool(values) and all(map(_is_value, values))
        case [str() as kind, str(), value]:
            return kind in COMPARISONS and _is_value(value)
    return False


def _is_value(value: Any) -> bool:
    try:
        return bool(_json(value_of(value)) == value)
    except (InvalidValueError, KeyError, TypeError, ValueError):
        return False


def _json(value: object) -> Any:
    # pandas' NaT is a datetime, too, and like NaN not equal to itself; its Timestamps may have nanoseconds.
    if isinstance(value, datetime.datetime) and value == value:
        if datetime.datetime.fromisoformat(value.isoformat()) != value:
            raise InvalidValueError("the value of a comparison", value, "a datetime of whole microseconds")
        return {"datetime": value.isoformat()}
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return {"date": value.isoformat()}
    is_number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if not is_number and not isinstance(value, str):
        raise InvalidValueError("the value of a comparison", value, _RULE)
    return value
