# SPDX-License-Identifier: Apache-2.0
"""Rows of a database's query as DataFrames: a part of it is the rows whose key is in a range."""

from __future__ import annotations

import contextlib
import datetime
import importlib
from decimal import Decimal
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from .conditions import DATES, Condition, as_sql, columns_of
from .delimited import BadRow, Parsed, is_int64, text_type, to_datetime
from .errors import InputChangedError, LoadError
from .items import END, FIRST, ONLY, UNTIL, Item

_FETCHED = 1 << 12
_SHOWN = 40
_OPTIONS = "the driver does not take the options of the URL"


class Query:
    """A query, read by ranges of a key; by one connection, which opens when it is needed.

    :param url: of the database, as SQLAlchemy has it
    :param text: the query
    :param key: a column
    :param condition: which rows are meant; None for all
    :raises ImportError: when this interpreter lacks SQLAlchemy or the database's driver
    :raises LoadError: when the URL is none
    """

    def __init__(self, url: str, text: str, key: str, condition: Optional[Condition] = None) -> None:
        self._sql: Any = importlib.import_module("sqlalchemy")
        self.key = key
        self._condition = condition
        # A colon in it is no parameter of ours.
        self._text = text.replace(":", r"\:")
        try:
            self._engine = self._sql.create_engine(url, pool_pre_ping=True)
        except self._sql.exc.NoSuchModuleError as error:
            raise LoadError(str(error)) from error
        except self._sql.exc.ArgumentError:  # whose text may have the URL, and that a password
            raise LoadError("its URL is none that SQLAlchemy can read") from None
        except (TypeError, ValueError) as error:
            raise LoadError(f"{_OPTIONS}: {error}") from error

    def close(self) -> None:
        """Close the connection."""
        self._engine.dispose()

    def columns(self) -> List[str]:
        """Return the names of the columns.

        :raises LoadError: when the database refuses
        """
        everything = self._sql.select(self._sql.literal_column("*")).select_from(self._rows([]))
        with self._result(everything.limit(0)) as result:
            return [*result.keys()]

    def first(self, names: Sequence[str], count: int) -> List[Any]:
        """Return these columns of the first rows, by the key.

        :raises LoadError: when the database refuses
        """
        rows = self._rows([*names, self.key])
        statement = self._select([rows.c[name] for name in names], rows).order_by(rows.c[self.key])
        with self._result(statement.limit(count)) as result:
            return [*result.fetchall()]

    def each_key(self) -> Iterator[Any]:
        """Yield the key of every row, in order.

        :raises LoadError: when the database refuses
        """
        rows = self._rows([self.key])
        key = rows.c[self.key]
        with self._result(self._select([key], rows).order_by(key)) as result:
            for (value,) in result:
                yield value

    def missing(self, names: Sequence[str]) -> List[int]:
        """Return how many rows have no value in each of some columns.

        :raises LoadError: when the database refuses
        """
        rows, count = self._rows(names), self._sql.func.count
        with self._result(self._select([count() - count(rows.c[name]) for name in names], rows)) as result:
            return [*result.one()]

    def read(self, names: Sequence[str], first: Any, last: Any) -> List[Any]:
        """Return the rows with a key in a range: of each these columns, and the key behind them.

        :param first: the least key
        :param last: the greatest key
        :raises LoadError: when the database refuses
        """
        rows = self._rows([*names, self.key])
        key = rows.c[self.key]
        statement = self._select([*(rows.c[name].label(None) for name in names), key.label(None)], rows)
        with self._result(statement.where(key >= first, key <= last).order_by(key)) as result:
            return [*result.fetchall()]

    def _rows(self, names: Sequence[str]) -> Any:
        """Return the query as a table with these columns, and those of the condition."""
        wanted = dict.fromkeys([*names, *columns_of(self._condition)])
        columns = [self._sql.column(name) for name in wanted]
        return self._sql.text(self._text).columns(*columns).subquery("parallelrun_rows")

    def _select(self, columns: Sequence[Any], rows: Any) -> Any:
        statement = self._sql.select(*columns).select_from(rows)
        return statement if self._condition is None else statement.where(as_sql(self._condition, rows.c))

    @contextlib.contextmanager
    def _result(self, statement: Any) -> Iterator[Any]:
        try:
            try:
                connection = self._engine.connect()
            except TypeError as error:
                raise LoadError(f"{_OPTIONS}: {error}") from error
            # Rows come as they are taken, where the driver can do that; else it has all in memory at once.
            options = {"stream_results": True, "max_row_buffer": _FETCHED}
            with connection.execution_options(**options):
                yield connection.execute(statement)
        except self._sql.exc.SQLAlchemyError as error:
            raise LoadError(str(getattr(error, "orig", None) or error)) from error


class SqlParts:
    """Parts of a query.

    :param document: the source, as the plan has it, with the URL of the database
    :param pandas: the module; None for one who only counts rows
    :raises ImportError: when this interpreter lacks SQLAlchemy or the database's driver
    """

    def __init__(self, document: Dict[str, Any], pandas: Any) -> None:
        self._unit: str = document["key"]
        self.columns: List[Tuple[str, str]] = [(name, kind) for name, kind in document["columns"]]
        self._key_type: str = document["key_type"]
        self._pandas = pandas
        self._query: Optional[Query] = None
        if pandas is not None:
            asked = document["query"], document["key"], document["condition"]
            self._query = Query(document["url"], *asked)
        # Of the rows that were read last.
        self._keys: List[Any] = []

    def parse(self, item: Item, place: str) -> Parsed:
        """Return the rows of a part.

        :raises LoadError: when the database refuses
        :raises InputChangedError: when there are not as many as there were
        """
        assert self._query is not None
        first, last = (_key(item[place], self._key_type) for place in (FIRST, END))
        rows = self._query.read([name for name, _ in self.columns], first, last)
        if len(rows) != item[UNTIL] - item[ONLY]:
            raise InputChangedError(
                f"{item[0]}: {len(rows)} rows have {self._unit} from {item[FIRST]} to {item[END]}; "
                f"{item[UNTIL] - item[ONLY]} had, when it was split"
            )
        *columns, self._keys = map(list, zip(*rows))
        return self._parsed(columns, len(rows))

    def count(self, items: Sequence[Item], places: Optional[Sequence[str]]) -> int:
        """Return how many rows parts have; split has counted them."""
        return sum(item[UNTIL] - item[ONLY] for item in items)

    def where(self, item: Item, places: List[int]) -> List[str]:
        """Return the keys of the rows at some places of the part that was read last."""
        return [f"{self._unit} {self._keys[place]}" for place in places]

    def close(self) -> None:
        """Close the connection."""
        if self._query is not None:
            self._query.close()

    def _parsed(self, columns: List[List[Any]], count: int) -> Parsed:
        made: Dict[str, List[Any]] = {}
        bad: Dict[int, BadRow] = {}
        for (name, kind), values in zip(self.columns, columns):
            made[name], unfit = _converted(values, kind, self._pandas)
            for place, why in unfit.items():
                bad.setdefault(place, BadRow(place, name, why))
        if bad:
            made = {
                name: [value for place, value in enumerate(values) if place not in bad]
                for name, values in made.items()
            }
        left = range(count - len(bad))
        frame = self._pandas.DataFrame(
            {name: self._column(made[name], kind) for name, kind in self.columns}, index=left
        )
        return Parsed(frame if len(left) else None, count, [bad[place] for place in sorted(bad)])

    def _column(self, values: List[Any], kind: str) -> Any:
        if kind.startswith("datetime"):
            return self._pandas.Series(values, dtype="datetime64[ns]")
        return self._pandas.Series(values, dtype=text_type(self._pandas) if kind == "string" else kind)


def key_type(value: Any) -> str:
    """Return the type of a key: ``int``, ``str``, ``date`` or ``datetime``; empty for any other."""
    for name, kind in (("int", int), ("str", str), ("datetime", datetime.datetime), ("date", datetime.date)):
        if isinstance(value, kind) and not isinstance(value, bool):
            return name
    return ""


def as_json(key: Any) -> Any:
    """Return a key as the plan has it."""
    return key.isoformat() if isinstance(key, datetime.date) else key


def type_of(values: Sequence[Any]) -> Optional[str]:
    """Return the type of a column that has these values; None when all are missing."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return "bool"
    if kinds == {int}:
        return "int64" if all(is_int64(value) for value in values if value is not None) else "object"
    if kinds and kinds <= {int, float, Decimal}:
        return "float64"
    if kinds == {str}:
        return "string"
    if kinds and kinds <= {datetime.date, datetime.datetime}:
        return "datetime"
    return "object" if kinds else None


def _key(value: Any, kind: str) -> Any:
    return DATES[kind].fromisoformat(value) if kind in DATES else value


# What converting raises when a value does not fit.
_REFUSED = (ValueError, TypeError, ArithmeticError)
# Of these types nothing needs to be converted.
_FITTING: Dict[str, Set[type]] = {
    "int64": {int},
    "float64": {float, type(None)},
    "bool": {bool},
    "string": {str, type(None)},
}


def _converted(values: List[Any], kind: str, pandas: Any) -> Tuple[List[Any], Dict[int, str]]:
    """Return values in a type, and why for the places of those that do not fit."""
    if kind == "object":
        return values, {}
    if kind.startswith("datetime"):
        with contextlib.suppress(*_REFUSED):
            return _dates(values, kind, pandas), {}
    elif {type(value) for value in values} <= _FITTING[kind] and (
        kind != "int64" or (is_int64(min(values)) and is_int64(max(values)))
    ):
        return values, {}
    converted: List[Any] = []
    unfit: Dict[int, str] = {}
    for place, value in enumerate(values):
        try:
            converted.append(_value(value, kind, pandas))
        except _REFUSED:
            converted.append(None)
            shown = repr(value)
            shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
            missing = f"the value is missing; the column is {kind}"
            unfit[place] = missing if value is None else f"{shown} is not {kind}"
    return converted, unfit


def _dates(values: List[Any], kind: str, pandas: Any) -> List[Any]:
    """Return values as dates and times.

    :raises ValueError: when one does not fit, or TypeError
    """
    texts = [value.isoformat() if isinstance(value, datetime.date) else value for value in values]
    if not {type(text) for text in texts} <= {str, type(None)}:
        raise TypeError
    # A format is that of texts.
    has_texts = any(text is value for text, value in zip(texts, values) if value is not None)
    return list(to_datetime(pandas, texts, kind if has_texts else "datetime"))


def _value(value: Any, kind: str, pandas: Any) -> Any:
    """Return a value in a type.

    :raises ValueError: when it does not fit, or another of Python's errors for that
    """
    if value is None:
        if kind in ("int64", "bool"):
            raise ValueError
        return None
    if kind == "string":
        if isinstance(value, (bytes, memoryview)):
            raise TypeError
        return str(value)
    if kind.startswith("datetime"):
        return _dates([value], kind, pandas)[0]
    if not isinstance(value, (bool, int, float, Decimal)):
        raise TypeError
    if kind == "float64":
        return float(value)
    whole = int(value)
    if whole != value or not (is_int64(whole) if kind == "int64" else whole in (0, 1)):
        raise ValueError
    return bool(whole) if kind == "bool" else whole
