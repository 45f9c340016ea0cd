# SPDX-License-Identifier: Apache-2.0
"""One seeded run of every kind of fault that this machine allows; ``make faults N=500`` does many."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import fault_kinds
import pytest
from fault_case import Case

SEED = 0


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What became of a run of each kind, two at a time."""

    def play(name):
        rng = fault_kinds.generator(name, SEED)
        return Case(fault_kinds.KINDS[name](rng), tmp_path_factory.mktemp("fault"), rng).play()

    names = list(fault_kinds.available())
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(names, pool.map(play, names), strict=True))
    fault_kinds.clean_up()
    return found


@pytest.mark.parametrize("name", fault_kinds.KINDS)
def test_nothing_is_lost_doubled_torn_left_over_or_redone(outcomes, name):
    if name not in outcomes:
        pytest.skip("this machine does not allow it")
    outcome = outcomes[name]
    assert outcome.survived, outcome
    assert outcome.breaches == []
    assert outcome.unexplained == []


def test_most_of_the_faults_struck(outcomes):
    struck = [name for name, outcome in outcomes.items() if outcome.injected]
    assert len(struck) > 0.8 * len(outcomes)
