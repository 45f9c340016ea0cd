# SPDX-License-Identifier: Apache-2.0
"""What the command says before anything runs: help, options, wrong usage."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from airflow_parallelrun import __version__
from airflow_parallelrun.cli import options, parser
from airflow_parallelrun.config import ParallelRunConfig
from airflow_parallelrun.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

JOB = ("score.py", "--input", "in", "--output", "out")


def config(*given: str, job: tuple[str, ...] = JOB) -> ParallelRunConfig:
    return options.config_of(options.parse_job("run", "", [*job, *given]))


def test_version(in_process: Callable[..., Any]) -> None:
    ended = in_process("--version")
    assert (ended.status, ended.out) == (0, f"parallelrun {__version__}\n")


def test_help_has_examples_and_every_public_command(in_process: Callable[..., Any]) -> None:
    ended = in_process("--help")
    assert ended.status == 0
    assert "examples:" in ended.out
    assert all(f"\n  {name} " in ended.out for name in ("run", "resume", "check", "models"))


@pytest.mark.parametrize("given", [(), ("models",)])
def test_no_command_shows_the_help_and_is_wrong_usage(
    given: tuple[str, ...], in_process: Callable[..., Any]
) -> None:
    ended = in_process(*given)
    assert ended.status == 2
    assert ended.out.startswith("usage: parallelrun")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("rnu",), "unknown command 'rnu'; did you mean 'run'?"),
        (("--versoin",), "unknown option '--versoin'; did you mean '--version'?"),
        (("models", "lst"), "unknown command 'models lst'; did you mean 'models list'?"),
        (("run",), "the following arguments are required: ENTRY_SCRIPT, --input; see parallelrun run --help"),
        (("run", "score.py", "--imput", "in"), "unknown option '--imput'; did you mean '--input'?"),
        (("run", "score.py", "--inp", "in"), "unknown option '--inp'; did you mean '--input'?"),
        (
            ("run", "score.py", "--input", "a.png", "b.png"),
            "unexpected argument 'b.png': a glob needs quotes; see parallelrun run --help",
        ),
        (
            ("run", "score.py", "--input", "in"),
            "--output is missing: the folder for the results, or --run-directory-root to make one in",
        ),
        (
            ("run", *JOB, "--node-count", "two"),
            "--node-count: must be a whole number, got 'two'; see parallelrun run --help",
        ),
        (("run", *JOB, "--node_count", "0"), "--node-count must be a whole number, 1 or more, got 0."),
        (
            ("run", *JOB, "--allowed-failed-percent", "101"),
            "--allowed-failed-percent must be a number from 0 to 100, got 101.0.",
        ),
        (
            ("run", *JOB, "--output-action", "append"),
            "--output-action must be append_row or summary_only, got 'append'.",
        ),
        (
            ("run", *JOB, "--environment-variable", "A"),
            "--environment-variables/--environment-variable: must look like NAME=VALUE, got 'A'; "
            "see parallelrun run --help",
        ),
        (
            ("run", *JOB, "--python", "no-such-python"),
            "--python must be an interpreter's path, or the name of one on PATH, got 'no-such-python'.",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    given: tuple[str, ...], message: str, in_process: Callable[..., Any]
) -> None:
    ended = in_process(*given)
    assert (ended.status, ended.out, ended.err) == (2, "", f"parallelrun: {message}\n")


@pytest.mark.parametrize("command", ["run", "check"])
def test_every_field_of_the_configuration_has_an_option(command: str, in_process: Callable[..., Any]) -> None:
    described = in_process(command, "--help").out
    for field in dataclasses.fields(ParallelRunConfig):
        if field.name not in options.NOT_OPTIONS:
            assert re.search(rf"^  {options.option_of(field.name)}\b", described, re.MULTILINE), field.name
    assert {field.name for field in dataclasses.fields(ParallelRunConfig)} == {
        *options.FIELD_OPTIONS,
        *options.NOT_OPTIONS,
    }


def test_defaults_are_the_configurations_own_but_for_three_that_it_requires() -> None:
    made = config()
    assert (made.error_threshold, made.output_action, made.node_count) == (0, "append_row", 1)
    for field in dataclasses.fields(ParallelRunConfig):
        if field.default is not dataclasses.MISSING and field.name not in (
            "source_directory",
            "append_row_file_name",
            "error_threshold",
            "output_action",
            "compute_target",
            "node_count",
        ):
            assert getattr(made, field.name) == field.default, field.name


def test_every_option_reaches_its_field(tmp_path: Path) -> None:
    given = {
        "--python": sys.executable,
        "--error-threshold": "-1",
        "--output-action": "summary_only",
        "--node-count": "2",
        "--process-count-per-node": "3",
        "--mini-batch-size": "5",
        "--source-directory": str(tmp_path),
        "--description": "a text",
        "--logging-level": "debug",
        "--run-invocation-timeout": "7",
        "--run-max-try": "2",
        "--append-row-file-name": "rows.txt",
        "--allowed-failed-count": "4",
        "--allowed-failed-percent": "2.5",
        "--init-timeout": "9",
    }
    flat = [text for pair in given.items() for text in pair]
    variables = [
        "--environment-variable",
        "A=1",
        "--environment-variables",
        "B=x=y",
        "--environment_variable",
        "C=",
    ]
    made = config(*flat, *variables, job=(f"{tmp_path}/sub/score.py", *JOB[1:]))
    assert made.environment.python == sys.executable
    assert made.entry_script == "sub/score.py"
    assert made.source_directory == str(tmp_path)
    assert made.environment_variables == {"A": "1", "B": "x=y", "C": ""}
    assert made.allowed_failed_percent == 2.5
    numbers = (made.error_threshold, made.node_count, made.process_count_per_node, made.run_max_try)
    assert numbers == (-1, 2, 3, 2)
    assert (made.run_invocation_timeout, made.init_timeout, made.allowed_failed_count) == (7, 9, 4)
    assert made.mini_batch_size == "5"
    assert (made.output_action, made.logging_level) == ("summary_only", "DEBUG")
    assert (made.description, made.append_row_file_name) == ("a text", "rows.txt")


def test_partition_keys_have_commas_between_them() -> None:
    assert config("--partition-keys", "user, season").partition_keys == ["user", "season"]
    with pytest.raises(ConfigurationError, match="--partition-keys: must be names with commas between them"):
        config("--partition-keys", "user,,season")


def test_a_script_outside_the_source_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ENTRY_SCRIPT must be a file in --source-directory"):
        config("--source-directory", str(tmp_path))


def test_everything_after_two_dashes_is_the_scripts() -> None:
    parsed = options.parse_job("run", "", [*JOB, "--", "--input", "x", "--", "y"])
    assert parsed.script_arguments == ["--input", "x", "--", "y"]
    assert parsed.input == ["in"]


def test_underscores_in_values_stay() -> None:
    assert config("--append_row_file_name=a_b.txt").append_row_file_name == "a_b.txt"
    assert parser.name_and_value("A_B=c_d=e") == ("A_B", "c_d=e")


def test_starting_is_cheap() -> None:
    """No heavy import before the engine asks for it."""
    heavy = ("airflow", "fsspec", "numpy", "pandas", "pyarrow", "rich")
    code = (
        "import sys\n"
        "from airflow_parallelrun.cli import options\n"
        f"options.request_of(options.parse_job('run', '', {JOB!r}))\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[]\n", "")
