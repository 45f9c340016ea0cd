# SPDX-License-Identifier: Apache-2.0
"""A value that the person or the program that triggers a run may choose."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.exceptions import InvalidValueError

if TYPE_CHECKING:
    from airflow_parallelrun.datasets import DatasetInput

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN = (int, str, float, bool, type(None))


class _Default(Enum):
    # An enum member is the same object after pickling, too.
    NONE_GIVEN = "none given"


@dataclass(frozen=True)
class PipelineParameter:
    """Stands where a value will be known only when the run starts.

    :param name: shown in the Trigger form and used in the run's conf; a Python identifier
    :param default_value: used when the run does not say: a number, text, bool, None, a list of these, or a
        dataset. Left out, every run has to say; a DAG with a schedule refuses that
    :raises InvalidValueError: for any other name or default
    """

    name: str
    default_value: Any = _Default.NONE_GIVEN

    def __post_init__(self) -> None:
        """Check the name and the kind of default."""
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            rule = "letters, digits and underscores that do not start with a digit"
            raise InvalidValueError("the name of a PipelineParameter", self.name, rule)
        value = self.default_value
        if isinstance(value, list) and all(isinstance(item, _PLAIN) for item in value):
            # A copy: nobody else can change it after it was checked.
            object.__setattr__(self, "default_value", list(value))
        elif not isinstance(value, (*_PLAIN, _Default)) and not _is_dataset(value):
            rule = "a number, text, bool, None, a list of these, or a dataset (Dataset.File.from_files(…))"
            raise InvalidValueError(f"default_value of PipelineParameter {self.name!r}", value, rule)

    def __repr__(self) -> str:
        """Show it as one writes it."""
        default = "" if self.is_required else f", default_value={self.default_value!r}"
        return f"PipelineParameter(name={self.name!r}{default})"

    @property
    def is_required(self) -> bool:
        """Whether each run has to give a value, because there is no default."""
        return self.default_value is _Default.NONE_GIVEN

    def as_mount(self) -> DatasetInput:
        """Use the dataset that this parameter stands for as an input; see ``FileDataset.as_mount``."""
        return self._input().as_mount()

    def as_download(self) -> DatasetInput:
        """Use the dataset that this parameter stands for as an input; see ``FileDataset.as_download``."""
        return self._input().as_download()

    def as_direct(self) -> DatasetInput:
        """Use the dataset that this parameter stands for as an input; see ``FileDataset.as_direct``."""
        return self._input().as_direct()

    def as_named_input(self, name: str) -> DatasetInput:
        """Use the dataset that this parameter stands for as an input; see ``FileDataset.as_named_input``."""
        return self._input().as_named_input(name)

    def _input(self) -> DatasetInput:
        # Without a default it stands for files: there is no other kind of dataset.
        from airflow_parallelrun.datasets import DatasetInput

        if self.is_required or _is_dataset(self.default_value):
            return DatasetInput(self)
        rule = (
            "a dataset such as Dataset.File.from_files(…), or left out, for a parameter that is used as an "
            "input"
        )
        raise InvalidValueError(f"default_value of PipelineParameter {self.name!r}", self.default_value, rule)


def _is_dataset(value: object) -> bool:
    # Here and above, not at the top: the datasets import this module, and they are made into inputs there.
    from airflow_parallelrun.datasets import FileDataset, TabularDataset

    return isinstance(value, FileDataset | TabularDataset)
