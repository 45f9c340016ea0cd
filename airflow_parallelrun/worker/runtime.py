# SPDX-License-Identifier: Apache-2.0
"""The entry script: imported once, then ``init()``, ``run()`` for each mini-batch, ``shutdown()``.

The worker process and ``parallelrun check`` (in the foreground, for a debugger) use the same class.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from typing import TYPE_CHECKING, Any, Callable, Dict, List, NamedTuple, Optional, Sequence

from . import shims
from .errors import ContractError
from .output import TEXT, RowFormatter
from .profiling import Profiler

if TYPE_CHECKING:
    from .loading import Loaded
    from .output import Origin


class Settings(NamedTuple):
    """What a process needs to run an entry script; travels as JSON."""

    entry_script: str
    source_directory: str
    arguments: List[str]
    append_row: bool
    logging_level: str
    agent_name: str
    log_dir: str
    output_dir: str
    error_log: str
    segment: str = ""
    item_files: Sequence[str] = ()
    sources: Sequence[Dict[str, Any]] = ()
    partition_keys: Sequence[str] = ()
    strict_returns: bool = False
    provenance_columns: Sequence[str] = ()
    dataframe_header: bool = False
    profiling_module: Optional[str] = None
    profile: str = ""
    append_row_format: str = "text"
    model: Optional[str] = None


class MiniBatchContext(NamedTuple):
    """The second argument of a ``run()`` that takes one.

    :param minibatch_index: identifies the mini-batch within the run; good as part of a file name. Of a part
        of a mini-batch that is bisected it is the index, a dot, and the place of the part's first item
    :param partition_key_value: the mini-batch's partition keys and values; empty without partition keys
    :param dataset: what the mini-batch is of the dataset
    """

    minibatch_index: str
    partition_key_value: Dict[str, Any]
    dataset: MiniBatchDataset


class MiniBatchDataset:
    """A mini-batch in place of the original's dataset object, by the names of its two most used methods.

    :param loaded: the mini-batch
    """

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded

    def to_path(self) -> List[str]:
        """Return the paths of the files, each once; of a table the path or URL of its file."""
        return list(dict.fromkeys(self._loaded.places or self._loaded.paths))

    def to_pandas_dataframe(self) -> Any:
        """Return a copy of the DataFrame that run() gets.

        :raises TypeError: when the input is files
        """
        if isinstance(self._loaded.value, list):
            raise TypeError("to_pandas_dataframe() is for tables; this input is files, see to_path()")
        return self._loaded.value.copy()


class EntryScript:
    """An entry script in this process.

    :param settings: paths, arguments and names
    :param ask: asks the node, such as for a model's path or the header of the output file
    :raises ContractError: when the settings call for what this interpreter has not got
    """

    def __init__(self, settings: Settings, ask: shims.Ask) -> None:
        self._settings = settings
        folder = os.path.dirname(settings.entry_script)
        sys.argv = [settings.entry_script, *settings.arguments]
        sys.path[:0] = (
            [folder] if folder == settings.source_directory else [folder, settings.source_directory]
        )
        self._ask = ask
        agrees = settings.dataframe_header or settings.append_row_format != TEXT
        self.formatter = RowFormatter(
            folder,
            settings.append_row,
            settings.provenance_columns,
            settings.strict_returns,
            self._agree if agrees else None,
            settings.append_row_format,
        )
        if settings.model is not None:
            self.formatter.models.append(settings.model)
        self._profiler: Optional[Profiler] = None
        if settings.profiling_module is not None:
            self._profiler = Profiler(settings.profiling_module, settings.profile)
        shims.install(
            self._find_model,
            shims.EntryScriptSettings(settings.agent_name, settings.log_dir, settings.output_dir),
        )

    def load(self) -> None:
        """Import the script and call its ``init()``, if it has one.

        :raises ContractError: when it has no ``run()`` that takes a mini-batch
        """
        path = self._settings.entry_script
        name = os.path.splitext(os.path.basename(path))[0]
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ContractError("an entry script is a Python file, with a name that ends in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        self._run = _function(module, "run")
        if self._run is None:
            raise ContractError("the script has no function run(mini_batch)")
        self._takes_context = _takes_context(self._run)
        self._shutdown = _function(module, "shutdown")
        init = _function(module, "init")
        if init is not None:
            self._call(init)

    def run(self, loaded: Loaded, origin: Origin) -> Any:
        """Call ``run()`` and return what it returned.

        :param loaded: the mini-batch
        :param origin: which one that is
        """
        assert self._run is not None
        if not self._takes_context:
            return self._call(self._run, loaded.value)
        index = str(origin.ordinal) if origin.first is None else f"{origin.ordinal}.{origin.first}"
        context = MiniBatchContext(index, loaded.keys, MiniBatchDataset(loaded))
        return self._call(self._run, loaded.value, context)

    def shutdown(self) -> None:
        """Call ``shutdown()``, if the script has one; nothing is called after it."""
        try:
            if self._shutdown is not None:
                self._call(self._shutdown)
        finally:
            if self._profiler is not None:
                self._profiler.write()

    def _agree(self, header: str, version: int = 0) -> str:
        """Return the header, or this version of the schema, that holds for the run."""
        return str(self._ask("header", {"header": header, "version": version}))

    def _find_model(self, subject: str, arguments: Dict[str, Any]) -> str:
        """Ask where a model is, and keep in mind which it is."""
        path, version = self._ask(subject, arguments)
        model = f"{arguments['name']}:{version}"
        if model not in self.formatter.models:
            self.formatter.models.append(model)
        return str(path)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self._profiler is None:
            return function(*arguments)
        return self._profiler.call(function, *arguments)


def _function(module: Any, name: str) -> Callable[..., Any] | None:
    value = getattr(module, name, None)
    if value is not None and not callable(value):
        raise ContractError(f"{name} is not a function: {value!r}")
    return value


def _takes_context(run: Callable[..., Any]) -> bool:
    try:
        parameters = list(inspect.signature(run).parameters.values())
    except (TypeError, ValueError):  # a function written in C need not have a signature
        return False
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not named and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise ContractError("run() takes no argument; it must take the mini-batch")
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if keywords:
        raise ContractError(f"run() requires the keyword argument {keywords[0]!r}, and is called without any")
    required = [p for p in named if p.default is p.empty]
    if len(required) > 2:
        raise ContractError(
            f"run() requires {len(required)} arguments; it is called with the mini-batch and, "
            "if it takes a second, the mini-batch context"
        )
    return len(named) >= 2
