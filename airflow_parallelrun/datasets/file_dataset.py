# SPDX-License-Identifier: Apache-2.0
"""Files as a dataset, and a dataset as an input."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from airflow_parallelrun.exceptions import (
    ConfigurationError,
    InvalidValueError,
    NotSupportedError,
    UnknownNameError,
)
from airflow_parallelrun.parameters import PipelineParameter

from .listing import is_remote, local_path

MODES = ("mount", "download", "direct")

_INPUT_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_PATHS_RULE = "a path as text, or a list of at least one"

Path = str | os.PathLike[str]


@dataclass(frozen=True)
class FileDataset:
    """Files: each path a file, a folder (every file below it), a glob, or a URL of one of these.

    See ``list_files`` for what exactly is listed, and in which order.

    :param paths: as given; relative ones are relative to the DAG file, or to where the command runs
    :raises InvalidValueError: for no path, or one that is not text
    """

    paths: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the paths' form; whether they exist is known where the job runs."""
        object.__setattr__(self, "paths", _texts(self.paths))

    @classmethod
    def from_files(
        cls, path: Path | Sequence[Path], validate: bool = True, partition_format: str | None = None
    ) -> FileDataset:
        """Make a dataset of files.

        :param path: one path or several
        :param validate: accepted as in the original; the input is always checked before a node starts
        :param partition_format: not supported yet
        :raises NotSupportedError: for a partition format
        """
        if partition_format is not None:
            instead = "Leave it out; mini_batch_size counts files."
            raise NotSupportedError(f"partition_format={partition_format!r}", instead)
        return cls(_texts(path))

    def as_mount(self) -> DatasetInput:
        """Use it as an input whose files the script opens by path."""
        return DatasetInput(self, "mount").check_mode()

    def as_download(self) -> DatasetInput:
        """Use it as an input whose files are on the node's disk; local ones are used where they are."""
        return DatasetInput(self, "download").check_mode()

    def as_direct(self) -> DatasetInput:
        """Use it as an input whose paths or URLs the script gets as they are."""
        return DatasetInput(self, "direct")

    def as_named_input(self, name: str) -> DatasetInput:
        """Use it as an input with a name; mounted, unless ``.as_direct()`` or ``.as_download()`` follows."""
        return DatasetInput(self, "mount", name)


@dataclass(frozen=True)
class DatasetInput:
    """A dataset, and how the script gets it.

    :param dataset: the dataset, or a parameter whose default is one or that has no default
    :param mode: ``mount``, ``download`` or ``direct``
    :param name: letters, digits and underscores that do not start with a digit
    :raises InvalidValueError: for any other value
    """

    dataset: FileDataset | PipelineParameter
    mode: str = "mount"
    name: str | None = None

    def __post_init__(self) -> None:
        """Check all but the paths."""
        if self.mode not in MODES:
            raise InvalidValueError("mode", self.mode, f"one of {', '.join(MODES)}")
        named = isinstance(self.name, str) and _INPUT_NAME.fullmatch(self.name)
        if self.name is not None and not named:
            rule = "letters, digits and underscores that do not start with a digit"
            raise InvalidValueError("the name of an input", self.name, rule)
        if not (_comes_with_the_run(self.dataset) or isinstance(_default(self.dataset), FileDataset)):
            rule = "a dataset such as Dataset.File.from_files(…), or a PipelineParameter whose default is one"
            raise InvalidValueError("the dataset of an input", self.dataset, rule)

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
        """Return the input itself, if its files can be had in its mode.

        :raises NotSupportedError: for a URL that would have to be mounted or downloaded
        """
        paths = () if _comes_with_the_run(self.dataset) else _default(self.dataset).paths
        for path in paths:
            if self.mode != "direct" and is_remote(path):
                instead = "Use as_direct(): the script gets the URLs and opens them itself."
                raise NotSupportedError(f"as_{self.mode}() of {path!r}", instead)
        return self

    def resolve(self, base_directory: str) -> DatasetInput:
        """The same input with absolute local paths; URLs stay as they are.

        :param base_directory: what relative paths are relative to
        """
        paths = (path if is_remote(path) else local_path(path, base_directory) for path in self.paths)
        return replace(self, dataset=FileDataset(tuple(paths)))

    def to_dict(self) -> dict[str, Any]:
        """As plain data, ready for JSON; a pipeline parameter is left in place under ``paths``."""
        dataset = self.dataset
        paths = dataset if isinstance(dataset, PipelineParameter) else list(dataset.paths)
        return {"type": "file", "paths": paths, "mode": self.mode, "name": self.name}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DatasetInput:
        """Make it from what ``to_dict`` gave, and check everything again.

        :raises ConfigurationError: for a key that is unknown, missing or wrong
        """
        known = ("type", "paths", "mode", "name")
        for key in values:
            if key not in known:
                raise UnknownNameError("key of an input", key, known)
        if values.get("type", "file") != "file":
            raise NotSupportedError(f"an input of type {values['type']!r}", "Use an input of files.")
        paths = values.get("paths")
        dataset = paths if isinstance(paths, PipelineParameter) else FileDataset(_texts(paths))
        return cls(dataset, values.get("mode", "mount"), values.get("name")).check_mode()


def _comes_with_the_run(dataset: object) -> bool:
    return isinstance(dataset, PipelineParameter) and dataset.is_required


def _default(dataset: object) -> Any:
    return dataset.default_value if isinstance(dataset, PipelineParameter) else dataset


def _texts(value: object) -> tuple[str, ...]:
    several = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    items = list(value) if several else [value]  # type: ignore[call-overload]
    if not items:
        raise InvalidValueError("path", value, _PATHS_RULE)
    return tuple(_text(item) for item in items)


def _text(item: object) -> str:
    text = os.fspath(item) if isinstance(item, os.PathLike) else item
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise InvalidValueError("path", item, _PATHS_RULE)
    return text
