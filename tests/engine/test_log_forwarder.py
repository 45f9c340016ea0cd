# SPDX-License-Identifier: Apache-2.0
"""What of the workers' logs is shown in the node's: whole lines, at their level, and not too many."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from airflow_parallelrun.engine.log_forwarder import BYTES_PER_INTERVAL, LogForwarder, _read, _Tail
from airflow_parallelrun.engine.pool import ProcessFiles

STAMP = "2026-01-01 00:00:00,000"


@pytest.fixture
def process(tmp_path):
    paths = {name: str(tmp_path / name) for name in ("stdout", "stderr", "entry_script", "error", "profile")}
    for name in ("stdout", "stderr"):
        (tmp_path / name).touch()
    return SimpleNamespace(name="process003", files=ProcessFiles(**paths))


def forward(process, level="INFO"):
    forwarder = LogForwarder(level)
    forwarder.follow(process)
    forwarder.close()


def write(path, text):
    with open(path, "a") as file:
        file.write(text)


@pytest.fixture
def shown(caplog):
    caplog.set_level("DEBUG", logger="airflow_parallelrun.entry_script")
    return lambda: [(record.levelname, record.getMessage()) for record in caplog.records]


def test_prints_are_info_stderr_is_warning_and_logged_lines_keep_their_level(process, shown):
    write(process.files.stdout, f"printed\n{STAMP} ERROR my.module: wrong\n{STAMP} DEBUG m: fine\n")
    write(process.files.stderr, "Traceback\n")
    write(process.files.entry_script, f"{STAMP} WARNING entry_script: careful\n")
    forward(process, "DEBUG")
    assert shown() == [
        ("INFO", "[process003] printed"),
        ("ERROR", f"[process003] {STAMP} ERROR my.module: wrong"),
        ("DEBUG", f"[process003] {STAMP} DEBUG m: fine"),
        ("WARNING", "[process003 stderr] Traceback"),
        ("WARNING", f"[process003] {STAMP} WARNING entry_script: careful"),
    ]


def test_below_the_level_nothing_is_shown(process, shown):
    write(process.files.stdout, f"printed\n{STAMP} INFO m: x\n{STAMP} WARNING m: y\n")
    forward(process, "WARNING")
    assert shown() == [("WARNING", f"[process003] {STAMP} WARNING m: y")]


def test_a_file_that_is_not_there_is_not_an_error(process, shown):
    forward(process)
    assert shown() == []


def test_a_file_that_cannot_be_read_is_told_once(process, shown, tmp_path):
    (tmp_path / "entry_script").mkdir()
    forward(process)
    ((level, message),) = shown()
    assert level == "WARNING"
    assert "entry_script cannot be read: " in message
    assert "Is a directory" in message


def test_a_line_is_shown_when_it_is_whole(tmp_path):
    path = tmp_path / "log"
    tail = _Tail(str(path), "p", 20)
    write(path, "one\ntw")
    assert _read(tail, last=False) == ["one"]
    assert _read(tail, last=False) == []
    write(path, "o\nthree")
    assert _read(tail, last=False) == ["two"]
    assert _read(tail, last=True) == ["three"]
    assert _read(tail, last=True) == []


def test_of_a_flood_the_end_is_shown_and_how_much_is_missing(tmp_path):
    path = tmp_path / "log"
    tail = _Tail(str(path), "p", 20)
    write(path, "".join(f"line {number}\n" for number in range(20_000)))
    size = path.stat().st_size
    first, *lines = _read(tail, last=False)
    assert first == f"… {size - BYTES_PER_INTERVAL} bytes are not shown, they are in {path}"
    assert lines[-1] == "line 19999"
    assert sum(map(len, lines)) < BYTES_PER_INTERVAL
    assert _read(tail, last=False) == []


def test_a_line_longer_than_the_limit_does_not_stop_the_log(tmp_path):
    path = tmp_path / "log"
    tail = _Tail(str(path), "p", 20)
    write(path, "x" * (3 * BYTES_PER_INTERVAL))
    assert len(_read(tail, last=False)) == 1
    write(path, "\nnext\n")
    assert _read(tail, last=False)[-1] == "next"


def test_bytes_that_are_no_text_and_a_file_that_shrinks(tmp_path):
    path = tmp_path / "log"
    tail = _Tail(str(path), "p", 20)
    path.write_bytes(b"\xff\xfe\n")
    assert _read(tail, last=False) == ["��"]
    path.write_bytes(b"")
    assert _read(tail, last=False) == []
    assert _read(tail, last=True) == []
