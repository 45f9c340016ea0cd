# SPDX-License-Identifier: Apache-2.0
"""The command, in a process of its own or in the test's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from steered import Steered
from workplace import Ended, Workplace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Workplace]:
    work = Workplace(tmp_path)
    yield work
    for process in work.started:  # a test that failed must not leave anything
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture
def steered(work: Workplace) -> Steered:
    return Steered(work)


@pytest.fixture
def in_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """The command within the test's process: for what ends before anything runs."""
    from airflow_parallelrun.cli import main

    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> Ended:
        try:
            status = main(arguments)
        except SystemExit as end:  # argparse's way to end after --help
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return Ended(status, captured.out, captured.err)

    return command
