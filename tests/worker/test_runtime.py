# SPDX-License-Identifier: Apache-2.0
"""The entry script in this process: how it is imported, called, and what it must be."""

from __future__ import annotations

import ast
import functools
import sys
import textwrap
from pathlib import Path

import pytest

from airflow_parallelrun import worker
from airflow_parallelrun.worker.errors import ContractError
from airflow_parallelrun.worker.loading import Loaded
from airflow_parallelrun.worker.output import Origin
from airflow_parallelrun.worker.runtime import (
    EntryScript,
    Settings,
    _takes_context,
)

SOURCES = sorted(Path(worker.__file__).parent.glob("*.py"))


def batch(ordinal, first=None, keys=None):
    """What run() is called with, as far as it matters here."""
    return Loaded(["x"], ["/in/x"], 1, None, keys or {}), Origin(ordinal, ["/in/x"], first, 1)


class Callable1:
    def __call__(self, mini_batch):
        return mini_batch


class Methods:
    def run(self, mini_batch, context):
        return mini_batch

    @staticmethod
    def static(mini_batch):
        return mini_batch

    @classmethod
    def of_class(cls, mini_batch, context):
        return mini_batch


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def named(a):
    return a


def with_context(a, context):
    return a


def keyword_with_default(a, *, b=1):
    return a


def positional_only(a, b, /):
    return a


def everything(*args, **kwargs):
    return args


def one_and_more(a, *rest):
    return a


def nothing():
    return []


def two_and_default(a, b, c=3):
    return a


@pytest.mark.parametrize(
    ("run", "takes"),
    [
        (named, False),
        (with_context, True),
        (keyword_with_default, False),
        (positional_only, True),
        (everything, False),
        (one_and_more, False),
        (two_and_default, True),
        (lambda batch: batch, False),
        (Callable1(), False),
        (Methods().run, True),
        (Methods.static, False),
        (Methods.of_class, True),
        (functools.partial(with_context, context=1), False),
        (decorated(named), False),
        (decorated(with_context), True),
        (len, False),
        (list, False),
        (print, False),
    ],
)
def test_who_gets_the_context(run, takes):
    assert _takes_context(run) is takes


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (nothing, "takes no argument"),
        (lambda **settings: [], "takes no argument"),
        (lambda a, b, c: [], "requires 3 arguments"),
        (lambda a, b, c, d=1: [], "requires 3 arguments"),
        (lambda a, *, b: [], "requires the keyword argument 'b'"),
    ],
)
def test_what_cannot_be_called(run, message):
    with pytest.raises(ContractError, match=message):
        _takes_context(run)


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Make an entry script of a text; this interpreter forgets it again."""
    for name in ("argv", "path", "meta_path"):
        monkeypatch.setattr(sys, name, [*getattr(sys, name)])
    before = set(sys.modules)

    def make(text, name="score_rt.py", arguments=()):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
        here = str(tmp_path)
        settings = Settings(
            str(path), here, [*arguments], True, "INFO", "process000", here, here, "errors.txt"
        )
        return EntryScript(settings, lambda *_: None)

    yield make
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def test_imported_once_initialised_once_and_run_as_often_as_needed(script):
    entry = script("""
        calls = []
        def init(): calls.append("init")
        def run(mini_batch): calls.append("run"); return calls
        def shutdown(): calls.append("shutdown")
        calls.append("import")
    """)
    entry.load()
    assert entry.run(*batch(0)) == ["import", "init", "run"]
    assert entry.run(*batch(1)) == ["import", "init", "run", "run"]
    entry.shutdown()
    assert entry.run(*batch(1))[-2:] == ["shutdown", "run"]


def test_the_context_names_the_mini_batch(script):
    entry = script("def run(mini_batch, context): return [context]\n")
    entry.load()
    (context,) = entry.run(*batch(17))
    assert (context.minibatch_index, context.partition_key_value) == ("17", {})
    assert context.dataset.to_path() == ["/in/x"]
    with pytest.raises(TypeError, match="this input is files"):
        context.dataset.to_pandas_dataframe()
    (context,) = entry.run(*batch(17, first=3, keys={"user": "ada"}))
    assert (context.minibatch_index, context.partition_key_value) == ("17.3", {"user": "ada"})


def test_the_script_finds_arguments_itself_and_both_folders(script, tmp_path):
    (tmp_path / "at_root_rt.py").write_text("ROOT = 1\n")
    text = """
        import os, sys, at_root_rt
        argv, path, mine, name = sys.argv, list(sys.path), __file__, __name__
        def run(mini_batch): return [mini_batch]
    """
    entry = script(text, "folder/score_rt.py", ["--a", "b c"])
    entry.load()
    module = sys.modules["score_rt"]
    assert module.argv == [str(tmp_path / "folder" / "score_rt.py"), "--a", "b c"]
    assert module.path[:2] == [str(tmp_path / "folder"), str(tmp_path)]
    assert (module.mine, module.name) == (module.argv[0], "score_rt")


def test_init_and_shutdown_are_optional(script):
    entry = script("def run(mini_batch): return mini_batch\n")
    entry.load()
    entry.shutdown()
    assert entry.run(*batch(0)) == ["x"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def init(): pass\n", r"no function run\(mini_batch\)"),
        ("run = 3\n", "run is not a function: 3"),
        ("def run(b): return b\ninit = 'x'\n", "init is not a function"),
        ("def run(b): return b\nshutdown = 1\n", "shutdown is not a function"),
    ],
)
def test_a_script_that_does_not_keep_the_contract(script, text, message):
    with pytest.raises(ContractError, match=message):
        script(text).load()


def test_a_file_that_is_no_module(script):
    with pytest.raises(ContractError, match=r"ends in .py"):
        script("", "score_rt.txt").load()


def test_errors_of_the_script_are_its_own(script):
    with pytest.raises(ZeroDivisionError):
        script("1 / 0\n").load()
    with pytest.raises(SystemExit):
        script("import sys\ndef run(b): pass\ndef init(): sys.exit(3)\n").load()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_worker_source_is_python_3_8_and_imports_the_standard_library_alone(path):
    tree = ast.parse(path.read_text(), str(path), feature_version=(3, 8))
    imported = set()
    # What a function imports it needs for tables only, and says so when it is not there.
    for node in tree.body if path.name in ("delimited.py", "parquet.py", "table.py") else ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1
            imported |= {node.module.split(".")[0]} if node.level == 0 else set()
    assert imported <= sys.stdlib_module_names


def test_there_are_worker_sources():
    assert {"bootstrap.py", "process.py", "guardian.py"} <= {path.name for path in SOURCES}
