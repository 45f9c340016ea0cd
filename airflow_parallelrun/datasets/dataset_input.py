# SPDX-License-Identifier: Apache-2.0
"""A dataset as an input of a job."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.exceptions import (
    ConfigurationError,
    InvalidValueError,
    NotSupportedError,
    UnknownNameError,
)
from airflow_parallelrun.filesystems import is_remote
from airflow_parallelrun.parameters import PipelineParameter

from .listing import local_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .file_dataset import FileDataset
    from .tabular_dataset import TabularDataset

MODES = ("mount", "download", "direct")

_INPUT_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


@dataclass(frozen=True)
class DatasetInput:
    """A dataset, and how the script gets it.

    :param dataset: the dataset, or a parameter whose default is one or that has no default: that gets files
    :param mode: ``mount``, ``download`` or ``direct``; None = ``direct`` for tables, which are read in
        pieces where they are, else ``mount``
    :param name: letters, digits and underscores that do not start with a digit
    :raises InvalidValueError: for any other value
    """

    dataset: FileDataset | TabularDataset | PipelineParameter
    mode: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        """Check all but the paths."""
        if self.mode is None:
            object.__setattr__(self, "mode", "direct" if self.is_tabular else "mount")
        if self.mode not in MODES:
            raise InvalidValueError("mode", self.mode, f"one of {', '.join(MODES)}")
        named = isinstance(self.name, str) and _INPUT_NAME.fullmatch(self.name)
        if self.name is not None and not named:
            rule = "letters, digits and underscores that do not start with a digit"
            raise InvalidValueError("the name of an input", self.name, rule)
        if not (_comes_with_the_run(self.dataset) or self.known_dataset):
            rule = "a dataset such as Dataset.File.from_files(…), or a PipelineParameter whose default is one"
            raise InvalidValueError("the dataset of an input", self.dataset, rule)

    @property
    def known_dataset(self) -> FileDataset | TabularDataset | None:
        """The dataset, or the default of the parameter that stands for it; None without one."""
        known = _default(self.dataset)
        return known if isinstance(known, _kinds()) else None

    @property
    def is_tabular(self) -> bool:
        """Whether run() gets DataFrames."""
        return isinstance(self.known_dataset, _kinds()[1])

    @property
    def item(self) -> str:
        """What its items are, as people are told."""
        return getattr(self.known_dataset, "item", "file")

    @property
    def connection(self) -> str | None:
        """The database that a query asks; None for files, which alone have paths."""
        return getattr(self.known_dataset, "connection", None)

    @property
    def only_new(self) -> bool:
        """Whether only files are wanted that no earlier run of the step has processed."""
        return bool(getattr(self.known_dataset, "only_new", False))

    @property
    def paths(self) -> tuple[str, ...]:
        """The dataset's paths.

        :raises ConfigurationError: while the dataset is a pipeline parameter
        """
        if isinstance(self.dataset, PipelineParameter):
            message = f"the input is still {self.dataset!r}; it has paths only once the run has started."
            raise ConfigurationError(message)
        return self.dataset.paths

    def as_mount(self) -> DatasetInput:
        """The same input, mounted."""
        return replace(self, mode="mount").check_mode()

    def as_download(self) -> DatasetInput:
        """The same input, downloaded."""
        return replace(self, mode="download").check_mode()

    def as_direct(self) -> DatasetInput:
        """The same input, its paths or URLs as they are."""
        return replace(self, mode="direct")

    def as_named_input(self, name: str) -> DatasetInput:
        """The same input under another name."""
        return replace(self, name=name)

    def check_mode(self) -> DatasetInput:
        """Return the input itself, if it can be had in its mode.

        :raises NotSupportedError: for a table in another mode than ``direct``
        """
        if self.is_tabular and self.mode != "direct":
            instead = "Leave it out, or use as_direct(): processes read their own parts of a table's files."
            raise NotSupportedError(f"as_{self.mode}() of a table", instead)
        return self

    @property
    def is_staged(self) -> bool:
        """Whether nodes copy what lies at URLs for their processes."""
        return (self.is_tabular or self.mode != "direct") and not self.connection

    def resolve(self, base_directory: str) -> DatasetInput:
        """The same input with absolute local paths; URLs stay as they are.

        :param base_directory: what relative paths are relative to
        """
        dataset: Any = self.dataset
        if self.connection:
            return replace(self, dataset=dataset.resolve_database(base_directory))
        paths = tuple(path if is_remote(path) else local_path(path, base_directory) for path in self.paths)
        return replace(self, dataset=replace(dataset, paths=paths))

    def to_dict(self) -> dict[str, Any]:
        """As plain data, ready for JSON; a pipeline parameter is left in place under ``paths``."""
        dataset = self.dataset
        paths = dataset if isinstance(dataset, PipelineParameter) else list(dataset.paths)
        kind = "tabular" if self.is_tabular else "file"
        document = {"type": kind, "paths": paths, "mode": self.mode, "name": self.name}
        return document | (_options(self.known_dataset) if self.known_dataset else {})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DatasetInput:
        """Make it from what ``to_dict`` gave, and check everything again.

        :raises ConfigurationError: for a key that is unknown, missing or wrong
        """
        names = ("file", "tabular")
        if values.get("type", "file") not in names:
            raise InvalidValueError("the type of an input", values["type"], f"one of {', '.join(names)}")
        kind = _kinds()[names.index(values.get("type", "file"))]
        own = ("type", "paths", "mode", "name")
        options = [field.name for field in fields(kind) if field.name != "paths"]
        for key in values:
            if key not in (*own, *options):
                raise UnknownNameError("key of an input", key, (*own, *options))
        dataset = values.get("paths")
        if not isinstance(dataset, PipelineParameter):
            given = {name: values[name] for name in options if name in values}
            dataset = kind.of(dataset, **given)
        return cls(dataset, values.get("mode"), values.get("name")).check_mode()


def _kinds() -> tuple[type[FileDataset], type[TabularDataset]]:
    # Here, not at the top: both make inputs of themselves.
    from .file_dataset import FileDataset
    from .tabular_dataset import TabularDataset

    return FileDataset, TabularDataset


def _options(dataset: Any) -> dict[str, Any]:
    """Return what a dataset says beside its paths, as far as it is not what one says without a word."""
    plain = type(dataset)(dataset.paths)
    names = [field.name for field in fields(dataset)]
    return {name: getattr(dataset, name) for name in names if getattr(dataset, name) != getattr(plain, name)}


def _comes_with_the_run(dataset: object) -> bool:
    return isinstance(dataset, PipelineParameter) and dataset.is_required


def _default(dataset: object) -> Any:
    return dataset.default_value if isinstance(dataset, PipelineParameter) else dataset
