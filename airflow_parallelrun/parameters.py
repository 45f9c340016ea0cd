# SPDX-License-Identifier: Apache-2.0
"""A value that the person or the program that triggers a run may choose."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from airflow_parallelrun.exceptions import InvalidValueError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN = (int, str, float, bool, type(None))


@runtime_checkable
class _Dataset(Protocol):
    # Structural: the datasets import this module. Only a dataset, not an input made of it, has from_files.
    def from_files(self, path: Any) -> Any: ...

    def as_mount(self) -> Any: ...

    def as_download(self) -> Any: ...

    def as_direct(self) -> Any: ...

    def as_named_input(self, name: str) -> Any: ...


@dataclass(frozen=True)
class PipelineParameter:
    """Stands where a value will be known only when the run starts.

    :param name: shown in the Trigger form and used in the run's conf; a Python identifier
    :param default_value: used when the run does not say: a number, text, bool, None, a list of these, or a
        dataset
    :raises InvalidValueError: for any other name or default
    """

    name: str
    default_value: Any

    def __post_init__(self) -> None:
        """Check the name and the kind of default."""
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            rule = "letters, digits and underscores that do not start with a digit"
            raise InvalidValueError("the name of a PipelineParameter", self.name, rule)
        value = self.default_value
        if isinstance(value, list) and all(isinstance(item, _PLAIN) for item in value):
            # A copy: nobody else can change it after it was checked.
            object.__setattr__(self, "default_value", list(value))
        elif not isinstance(value, (*_PLAIN, _Dataset)):
            rule = "a number, text, bool, None, a list of these, or a dataset (Dataset.File.from_files(…))"
            raise InvalidValueError(f"default_value of PipelineParameter {self.name!r}", value, rule)

    def as_mount(self) -> Any:
        """Use the dataset that this parameter stands for as an input; see ``FileDataset.as_mount``."""
        return replace(self._dataset().as_mount(), dataset=self)

    def as_download(self) -> Any:
        """Use the dataset that this parameter stands for as an input; see ``FileDataset.as_download``."""
        return replace(self._dataset().as_download(), dataset=self)

    def as_direct(self) -> Any:
        """Use the dataset that this parameter stands for as an input; see ``FileDataset.as_direct``."""
        return replace(self._dataset().as_direct(), dataset=self)

    def as_named_input(self, name: str) -> Any:
        """Use the dataset that this parameter stands for as an input; see ``FileDataset.as_named_input``."""
        return replace(self._dataset().as_named_input(name), dataset=self)

    def _dataset(self) -> _Dataset:
        if isinstance(self.default_value, _Dataset):
            return self.default_value
        rule = "a dataset such as Dataset.File.from_files(…) for a parameter that is used as an input"
        raise InvalidValueError(f"default_value of PipelineParameter {self.name!r}", self.default_value, rule)
