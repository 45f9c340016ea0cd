# SPDX-License-Identifier: Apache-2.0
"""What the demo shows of a run."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from demo.install import uv_environment
from demo.progress import Totals, display_for
from demo.report import Predictions, _exception_lines


def _node(**changes: Any) -> dict[str, Any]:
    node = {
        "mini_batches_total": 160,
        "mini_batches_done": 0,
        "items_failed": 0,
        "seconds": 2.0,
        "first_init_s": None,
    }
    return {**node, **changes}


def test_totals_add_up_the_nodes() -> None:
    totals = Totals.of(
        [
            _node(mini_batches_done=30, items_failed=2, seconds=6.0, first_init_s=4.0),
            _node(mini_batches_done=10, items_failed=1, seconds=8.0, first_init_s=5.0),
        ]
    )
    assert totals == Totals(mini_batches=160, done=40, items_failed=3, seconds=8.0, first_init_s=4.0)
    assert str(totals) == "3 items failed, 10 mini-batches/s, 12 s left"


def test_totals_say_no_rate_before_anything_is_done() -> None:
    assert str(Totals.of([])) == "0 items failed"
    assert str(Totals.of([_node(), _node(first_init_s=1.0)])) == "0 items failed"


def test_plain_progress_is_one_line_for_each_phase_and_the_end() -> None:
    output = io.StringIO()
    display = display_for(Console(file=output, width=120))
    display.show("planning", Totals())
    display.show("planning", Totals())
    display.show("inference", Totals.of([_node(mini_batches_done=80, first_init_s=1.0)]))
    display.show("inference", Totals.of([_node(mini_batches_done=100, first_init_s=1.0)]))
    display.close()
    assert [line.strip() for line in output.getvalue().splitlines()] == [
        "planning …",
        "80 of 160 mini-batches done, 0 items failed, 80 mini-batches/s, 1 s left",
        "100 of 160 mini-batches done, 0 items failed, 100 mini-batches/s, 1 s left",
    ]


def test_predictions_are_sorted_and_compared_with_the_labels() -> None:
    predictions = Predictions.of("b.png: 2\na.png: 1\nc.png: 3\nd.png: 4\n")
    assert predictions.rows[0] == ("a.png", "1")
    assert predictions.accuracy({"a.png": "1", "b.png": "2", "c.png": "3", "d.png": "5"}) == 0.75


def test_the_cause_is_the_engines_error_and_not_airflows_wrapper() -> None:
    wrapped = [
        {"exc_type": "AirflowFailException", "exc_value": "20 items failed"},
        {"exc_type": "ThresholdExceededError", "exc_value": "20 items failed\nmore"},
    ]
    messages = [{"event": "start"}, {"event": "Task failed", "error_detail": wrapped}, {"event": "end"}]
    assert _exception_lines(messages) == ["  ThresholdExceededError: 20 items failed", "  more"]
    only = [{"event": "Task failed", "error_detail": wrapped[:1]}]
    assert _exception_lines(only) == ["  AirflowFailException: 20 items failed"]
    assert _exception_lines([{"event": "::group::x"}, {"event": "killed"}]) == ["  killed"]


def test_pips_settings_are_handed_to_uv_and_uvs_own_win() -> None:
    pip = {"index-url": "file:///a", "find-links": "/b\\n/c", "cert": "/d"}
    environment = uv_environment(pip, {"PATH": "/bin", "SSL_CERT_FILE": "/e"})
    assert environment == {
        "PATH": "/bin",
        "SSL_CERT_FILE": "/e",
        "UV_DEFAULT_INDEX": "file:///a",
        "UV_FIND_LINKS": "/b,/c",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
