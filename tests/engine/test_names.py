# SPDX-License-Identifier: Apache-2.0
"""Names tell who made an object, and are read back as they were written."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_parallelrun.engine import names
from airflow_parallelrun.engine.names import Attempt, ControlEntry

# A loaded machine is slow; no example may fail for that.
STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NUMBER = st.integers(0, 10**9)
ATTEMPT = st.builds(Attempt, NUMBER, st.integers(1, 10**6))


@STEADY
@given(ATTEMPT)
def test_attempts_are_read_back_from_every_name_they_stand_in(attempt):
    assert Attempt.parse(str(attempt)) == attempt
    assert Attempt.parse(f"{attempt}-0.jsonl") == attempt
    assert Attempt.parse(f"{attempt}-3-0") == attempt


@STEADY
@given(st.builds(ControlEntry, ATTEMPT, NUMBER, NUMBER, NUMBER, NUMBER))
def test_control_entries_are_read_back(entry):
    assert ControlEntry.parse(str(entry)) == entry
    assert "/" not in str(entry)


def test_names_as_documented():
    assert str(Attempt(3, 2)) == "3-2"
    assert str(ControlEntry(Attempt(3, 2), 7, 5, 90, 4)) == "3-2-7-5-90-4"
    assert names.claims(4) == "claims/4"
    assert names.control(4) == "control/4"
    assert names.abort(4) == "control/4/abort.json"
    assert names.seal(4) == "rounds/4/sealed.json"
    assert [names.process_name(number) for number in (3, 1234)] == ["process003", "process1234"]
