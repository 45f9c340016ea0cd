# SPDX-License-Identifier: Apache-2.0
"""The arguments of the original's driver that stand among the script's own, and set the configuration.

Each is a field of ``ParallelRunConfig`` as well. The script sees them, as it did there.
"""

from __future__ import annotations

import logging
import re
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.config import ParallelRunConfig
from airflow_parallelrun.exceptions import ConfigurationError, InvalidValueError, NotSupportedError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

logger = logging.getLogger(__name__)

FIELDS = (
    "task_overhead_timeout",
    "progress_update_timeout",
    "first_task_creation_timeout",
    "resource_monitor_interval",
    "append_row_dataframe_header",
    "profiling_module",
)
WITHOUT_EFFECT = ("--copy_logs_to_parent", "--push_metrics_to_parent", "--metrics_name_prefix")
# Stands for an argument whose text is not known yet: a reference or a template.
LATER: Any = object()

_RANKS = "rank_mini_batch_count"
_DEFAULTS: dict[str, Any] = {
    field.name: field.default for field in fields(ParallelRunConfig) if field.name in FIELDS
}
_WHOLE = re.compile(r"[+-]?[0-9]{1,15}")
_FLAGS = {"true": True, "false": False}


def apply(config: ParallelRunConfig, arguments: Sequence[Any]) -> ParallelRunConfig:
    """Return the configuration with what the script's arguments set of it.

    Other arguments are the script's own, also those that look like a misspelt one of these. Of one that is
    given several times the last counts.

    :param config: the configuration
    :param arguments: the script's arguments: text, numbers, and LATER
    :raises InvalidValueError: for a value that cannot be, under the argument's name
    :raises ConfigurationError: when the configuration sets the same field to something else
    :raises NotSupportedError: for ``--rank_mini_batch_count``
    """
    for name, text in dict(_given(arguments, (*FIELDS, _RANKS))).items():
        if name == _RANKS:
            _refuse_ranks(text)
            continue
        before = getattr(config, name)
        try:
            changed = replace(config, **{name: _value(text)})
        except InvalidValueError as error:
            raise InvalidValueError(f"--{name}", text, error.rule) from None
        if before not in (_DEFAULTS[name], getattr(changed, name)):
            raise ConfigurationError(
                f"{name} is {before!r} in the configuration, and --{name} {text} among the arguments of the "
                "script sets it to something else. Leave one of them out."
            )
        config = changed
    return config


def take_back(
    config: ParallelRunConfig, arguments: Sequence[str], names: Collection[str]
) -> ParallelRunConfig:
    """Return the configuration without what earlier arguments of the script had set of it.

    :param names: the fields that may be set anew
    """
    given = {name for name, _ in _given(arguments, FIELDS)}
    return replace(config, **{name: _DEFAULTS[name] for name in given.intersection(names)})


def tell_without_effect(arguments: Sequence[Any]) -> None:
    """Say in the log which of the driver's arguments are accepted and do nothing."""
    options = [str(argument).partition("=")[0] for argument in arguments]
    if given := [option for option in options if option in WITHOUT_EFFECT]:
        logger.info(
            "%s: without effect; a run has no parent job. Its logs are below the output folder, and its "
            "progress is with its tasks",
            ", ".join(given),
        )


def _given(arguments: Sequence[Any], names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the arguments of these names with their values, where these are known."""
    for place, argument in enumerate(arguments):
        option, equals, value = str(argument).partition("=")
        if not option.startswith("--") or option[2:] not in names:
            continue
        if not equals:
            value = arguments[place + 1] if place + 1 < len(arguments) else "--"
            if str(value).startswith("--"):
                raise InvalidValueError(option, None, "followed by its value")
        if value is not LATER:
            yield option[2:], str(value)


def _value(text: str) -> Any:
    """Return text as the field's rule takes it; what is no number and no flag stays text for it to judge."""
    if _WHOLE.fullmatch(text):
        return int(text)
    return _FLAGS.get(text.lower(), text)


def _refuse_ranks(text: str) -> None:
    if not _WHOLE.fullmatch(text):
        raise InvalidValueError(f"--{_RANKS}", text, "a whole number")
    if int(text) > 0:
        raise NotSupportedError(
            f"--{_RANKS} {text}",
            f"Give it a folder of {text} small files as input, and set mini_batch_size=1.",
        )
