# SPDX-License-Identifier: Apache-2.0
"""argparse, with messages of one line and a "did you mean"."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NoReturn

from airflow_parallelrun.exceptions import ConfigurationError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Sequence


class CommandParser(argparse.ArgumentParser):
    """One command's options; ``--some_name`` is the same as ``--some-name``."""

    def __init__(self, command: str, description: str, epilog: str = "") -> None:
        super().__init__(
            prog=f"parallelrun {command}",
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Leave the exit status and the printing to the caller."""
        raise ConfigurationError(f"{message.removeprefix('argument ')}; see {self.prog} --help")

    def parse(self, given: Sequence[str]) -> argparse.Namespace:
        """Parse all of *given*.

        :raises ConfigurationError: for anything that does not belong there
        """
        tokens = [_dashed(token) for token in given]
        known = list(self._option_string_actions)
        for token in tokens:
            name = token.partition("=")[0]
            if token.startswith("--") and name not in known:
                # Before argparse, which would complain first that the misspelt option is missing.
                raise UnknownNameError("option", name, known)
        parsed, surplus = self.parse_known_args(tokens)
        if surplus and surplus[0].startswith("-"):
            raise UnknownNameError("option", surplus[0], known)
        if surplus:
            self.error(f"unexpected argument {surplus[0]!r}: a glob needs quotes")
        return parsed


def split_script_arguments(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the command's own arguments from the script's, which follow ``--``."""
    if "--" not in given:
        return list(given), []
    at = list(given).index("--")
    return list(given[:at]), list(given[at + 1 :])


def whole_number(text: str) -> int:
    """An int as people type it."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None


def number(text: str) -> float:
    """A float as people type it."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None


def name_and_value(text: str) -> tuple[str, str]:
    """NAME=VALUE; the value may hold more equals signs, or nothing."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"must look like NAME=VALUE, got {text!r}")
    return name, value


def comma_separated(text: str) -> list[str]:
    """Names with commas between them."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"must be names with commas between them, got {text!r}")
    return found


def _dashed(token: str) -> str:
    if not token.startswith("--"):
        return token
    name, equals, value = token.partition("=")
    return name.replace("_", "-") + equals + value
