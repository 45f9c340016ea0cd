# SPDX-License-Identifier: Apache-2.0
"""What the benchmark says follows from what it measured."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from benchmarks import figures
from benchmarks.choice import Choice
from benchmarks.measure import CommandFailedError, Measured, Stamps
from benchmarks.peers import Ours, Program, Task
from benchmarks.processes import Memory
from benchmarks.ratios import confidence, estimate
from benchmarks.session import Comparison
from benchmarks.table import Report
from benchmarks.verify import WrongOutputError, check, fingerprint
from benchmarks.workloads import CHECK, FULL, QUICK, Workload, makespan

TASK = Task(Path("noop.py"), Path("files"), 1)
LOOP = Measured(wall_s=2.0, cpu_s=4.0, start_s=0.1, init_s=0.2, work_s=1.6, end_s=0.1)


def rows(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def comparison(name: str, *walls: float, rows: int = 1, seconds: tuple[float, ...] = ()) -> Comparison:
    workload = Workload(name, name, TASK, rows, ("ours",), seconds=seconds)
    runs = [Measured(wall_s, 5.0, 0.3, 0.2, wall_s - 0.8, 0.3) for wall_s in walls]
    return Comparison(workload, Ours(), [LOOP] * len(walls), runs)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a\nb\n", "2 rows, and 3 are right"),
        ("a\nb\nc\nb\n", "4 rows, and 3 are right"),
        ("a\nb\nb\n", "not the right ones"),
        ("a\nb\nc", "not the right ones"),
        ("", "0 rows"),
    ],
    ids=["missing", "doubled", "replaced", "torn", "empty"],
)
def test_wrong_rows_are_found(tmp_path: Path, text: str, complaint: str) -> None:
    right = fingerprint(rows(tmp_path / "right", "a\nb\nc\n"))
    with pytest.raises(WrongOutputError, match=complaint):
        check(rows(tmp_path / "found", text), right)


def test_a_file_that_is_not_there_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(WrongOutputError, match="no file"):
        check(tmp_path / "none", fingerprint(rows(tmp_path / "right", "a\n")))


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    check(rows(tmp_path / "found", "c\na\nb\n"), fingerprint(rows(tmp_path / "right", "a\nb\nc\n")))


def test_seven_values_have_an_interval_of_all_of_them() -> None:
    found = estimate([1.2, 1.0, 1.1, 1.5, 0.9, 1.3, 1.4])
    assert found[:3] == (1.2, 0.9, 1.5)
    assert found.confidence == pytest.approx(1 - 2 / 2**7)


def test_with_more_values_the_ends_are_cut_off() -> None:
    found = estimate(range(15))
    assert found[:3] == (7, 3, 11)
    assert found.confidence == confidence(15, 3) >= 0.95 > confidence(15, 4)


def test_one_value_says_nothing_about_the_median() -> None:
    assert estimate([1.1]) == (1.1, 1.1, 1.1, 0.0)


def test_the_interval_has_the_median_as_often_as_it_says() -> None:
    random = Random(1)
    estimates = [estimate([random.random() for _ in range(9)]) for _ in range(4000)]
    hits = sum(found.low <= 0.5 <= found.high for found in estimates) / len(estimates)
    assert hits == pytest.approx(confidence(9, 1), abs=0.02)


def test_times_are_between_the_first_init_and_the_last_run() -> None:
    second = 10**9
    stamps = [
        Stamps(11, 3 * second, 5 * second, 6 * second, 7 * second),
        Stamps(12, 2 * second, 4 * second, 5 * second, 9 * second),
    ]
    found = Measured.of(second, 10 * second, 1.5, stamps)
    assert found == Measured(wall_s=9, cpu_s=1.5, start_s=1, init_s=2, work_s=5, end_s=1)
    assert (found.fixed_s, found.span_s) == (2, 7)


def test_a_process_that_got_nothing_to_do_counts_for_nothing() -> None:
    stamps = [Stamps(11, 2, 3, 4, 5), Stamps(12, 3, 0, 0, 0)]
    assert Measured.of(1, 6, 0.0, stamps).end_s == pytest.approx(1e-9)


def test_a_command_that_runs_nothing_is_no_success() -> None:
    with pytest.raises(CommandFailedError, match="no process has called run"):
        Measured.of(1, 6, 0.0, [Stamps(12, 3, 4, 0, 0)])


def test_a_ratio_is_of_the_loop_in_the_same_pair() -> None:
    found = comparison("files", 3.0, 2.2)
    found.loops[1] = Measured(1.1, 1.0, 0.1, 0.1, 0.8, 0.1)
    assert found.ratios(lambda run: run.wall_s) == pytest.approx([1.5, 2.0])


@pytest.mark.parametrize(
    ("seconds", "processes", "takes"),
    [((1, 1, 1, 1), 2, 2), ((1, 1, 1, 9), 2, 10), ((9, 1, 1, 1), 2, 9), ((1, 1), 8, 1)],
)
def test_whoever_is_free_takes_the_next(seconds: tuple[float, ...], processes: int, takes: float) -> None:
    assert makespan(seconds, processes) == takes


def test_a_peer_that_is_not_installed_is_left_out_with_the_reason() -> None:
    absent = Program("absent", "pool", requires="a_package_that_nobody_has")
    workload = Workload("files", "files", TASK, 1, ("ours", "absent"))
    peers = {"ours": Ours(), "absent": absent}
    choice = Choice(FULL)
    assert choice.pairs(workload, peers) == {"ours": 7}
    (line,) = choice.left_out(workload, peers)
    assert line.startswith("files, absent: a_package_that_nobody_has is not installed")
    assert line in Report(left_out=[line]).markdown()


def test_modes_leave_out_what_takes_too_long() -> None:
    workload = Workload("rows", "rows", TASK, 1, ("ours", "ray"))
    peers = {"ours": Ours(), "ray": Program("ray", "ray_data")}
    assert "million" not in Choice(QUICK).workload_names()
    assert "million" in Choice(FULL).workload_names()
    assert Choice(CHECK).pairs(workload, peers) == {"ours": 1}
    assert Choice(QUICK).left_out(workload, peers) == ["rows, ray: not in quick mode"]
    assert Choice(QUICK, ["million"], ["ray"], 2).pairs(workload, peers) == {"ray": 2}


def test_full_mode_repeats_a_peer_as_often_as_ours_where_a_model_runs() -> None:
    peers = {"ours": Ours(), "pool": Program("pool", "pool")}
    pairs = {
        name: Choice(FULL).pairs(Workload(name, name, TASK, 1, ("ours", "pool")), peers)
        for name in ("files", "tensorflow", "noop")
    }
    assert pairs == {
        "files": {"ours": 7, "pool": 7},
        "tensorflow": {"ours": 7, "pool": 7},
        "noop": {"ours": 7, "pool": 3},
    }


def test_the_report_shows_ratio_interval_and_targets() -> None:
    report = Report(comparisons=[comparison("files", 2.6, 2.4, 2.8), comparison("small", 0.9, 0.9)])
    report.figures += figures.from_comparisons(report.comparisons, {"files": 400_000.0})
    text = report.markdown()
    assert "| ours | 3 | 2.60 | 1.30 | 1.20 to 1.40 (75%) | 5.00 | 1.25 |" in text
    assert "| small: before the first init() and after the last run() | 0.6 s | at most 0.5 s | no |" in text
    assert "fixed cost of small, times the loop's wall time | 1 times |  |  |" in text
    assert "small and of listing, times the loop's wall time | 0.8 times | at most 1.05 times | yes |" in text
    assert report.to_dict()["comparisons"][0]["ratio"]["median"] == pytest.approx(1.3)


def test_what_a_mini_batch_costs_is_split_into_its_parts() -> None:
    found = comparison("noop", 1.0, rows=1000)
    found.engine = [{"split_s": 0.006, "node_s": 0.3, "first_init_s": 0.28, "reduce_s": 0.001}]
    values = [each.value for each in figures.from_comparisons([found], {"noop": 4.0})]
    assert values == pytest.approx([4, 2, 20, 1, 23])


def test_what_each_further_mini_batch_costs_has_no_fixed_cost_in_it() -> None:
    engine = [{"split_s": 0.1, "node_s": 0.3, "first_init_s": 0.2, "reduce_s": 0.1}]
    few, many = comparison("noop", 1.0, rows=1000), comparison("million", 1.9, rows=10_000)
    few.engine = many.engine = engine
    found = list(figures.from_comparisons([few, many], {"noop": 4.0, "million": 4.0}))
    assert found[-1].what.startswith("from noop to million")
    assert found[-1].value == pytest.approx(96)


def test_a_dispatcher_is_measured_by_the_ideal() -> None:
    found = comparison("skew-last", 2.2, seconds=(1.0, 1.0))
    (figure,) = figures.from_comparisons([found], {})
    assert (figure.value, figure.is_met) == (pytest.approx(1.6), False)
    assert "| 2.20 | 1.10 |  | 5.00 | 1.25 | 1.00 | 1.60 |" in Report(comparisons=[found]).markdown()


def test_memory_is_over_the_loops() -> None:
    memory = {("noop", "loop"): Memory(30, 10), ("noop", "ours"): Memory(170, 110)}
    (figure,) = figures.of_memory(memory)
    assert (figure.value, figure.is_met) == (100, True)
    assert "| noop | ours | 170 | 110 |" in Report(memory=memory).markdown()


def test_a_wrong_output_is_in_the_report() -> None:
    found = comparison("files")
    found.wrong = "2 rows, and 3 are right"
    report = Report(comparisons=[found], failures=["files, ours: 2 rows, and 3 are right"])
    assert "| ours | **WRONG OUTPUT** |" in report.markdown()
    assert "- files, ours: 2 rows, and 3 are right" in report.markdown()
    assert report.to_dict()["comparisons"][0]["ratio"] is None


def test_a_target_that_is_missed_is_said_to_be() -> None:
    assert figures.Figure("wall", 1.06, "times", 1.05).is_met is False
    assert figures.Figure("rate", 1.5, "GB/s", 1, at_least=True).is_met is True
    assert figures.Figure("size", 3, "MB").is_met is None
