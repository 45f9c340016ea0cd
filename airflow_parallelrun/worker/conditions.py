# SPDX-License-Identifier: Apache-2.0
"""Conditions of rows, as a plan has them: what ``TabularDataset.filter`` keeps.

A condition is a list: ``["and", one, other]``, ``["or", one, other]``, ``["not", one]``,
``[">", column, value]`` and the other comparisons, ``["in", column, [value, …]]``, ``["is_null", column]``. A
value is JSON's; ``{"date": text}`` and ``{"datetime": text}`` are ISO 8601. As in SQL a missing value makes a
comparison neither true nor false, whatever stands around it.
"""

from __future__ import annotations

import datetime
import importlib
import operator
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

Condition = List[Any]

COMPARISONS: Dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
DATES: Dict[str, Any] = {"datetime": datetime.datetime, "date": datetime.date}


def leaves(condition: Condition) -> Iterator[Condition]:
    """Yield the comparisons of a condition: those parts that name a column."""
    if condition[0] in ("and", "or", "not"):
        for part in condition[1:]:
            yield from leaves(part)
    else:
        yield condition


def columns_of(condition: Optional[Condition]) -> List[str]:
    """Return the columns that a condition looks at, each once; none without one."""
    return [] if condition is None else list(dict.fromkeys(leaf[1] for leaf in leaves(condition)))


def value_of(value: Any) -> Any:
    """Return a value of a condition as Python has it."""
    if isinstance(value, dict):
        ((kind, text),) = value.items()
        return DATES[kind].fromisoformat(text)
    return value


def as_arrow(condition: Condition) -> Any:
    """Return a condition as an Expression of pyarrow."""
    compute: Any = importlib.import_module("pyarrow.compute")
    pyarrow: Any = importlib.import_module("pyarrow")

    def is_in(column: Any, values: List[Any]) -> Any:
        # pyarrow's own is false for a missing value, and then "not in" would be true.
        found = column.isin(pyarrow.array(values))
        return compute.if_else(column.is_valid(), found, pyarrow.scalar(None, pyarrow.bool_()))

    return _made(condition, compute.field, is_in, lambda column: column.is_null())


def as_sql(condition: Condition, columns: Any) -> Any:
    """Return a condition as a clause of SQLAlchemy.

    :param columns: of the rows, by name
    """
    return _made(
        condition,
        lambda name: columns[name],
        lambda column, values: column.in_(values),
        lambda column: column.is_(None),
    )


def _made(
    condition: Condition,
    column: Callable[[str], Any],
    is_in: Callable[[Any, List[Any]], Any],
    is_null: Callable[[Any], Any],
) -> Any:
    kind = condition[0]
    if kind in ("and", "or", "not"):
        parts: Tuple[Any, ...] = tuple(_made(part, column, is_in, is_null) for part in condition[1:])
        if kind == "not":
            return ~parts[0]
        return parts[0] & parts[1] if kind == "and" else parts[0] | parts[1]
    if kind == "is_null":
        return is_null(column(condition[1]))
    if kind == "in":
        return is_in(column(condition[1]), [value_of(value) for value in condition[2]])
    return COMPARISONS[kind](column(condition[1]), value_of(condition[2]))
