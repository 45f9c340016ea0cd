# SPDX-License-Identifier: Apache-2.0
"""One seeded run in Azurite of some kinds of faults; ``make faults STORE=azure`` has all of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import fault_kinds
import fault_store
import pytest
import store_kinds
from fault_case import Case

SEED = 0
# Those that differ most; each takes some ten seconds of a core.
KINDS = (
    "node killed in a commit",
    "zombie journals after the seal",
    "bisection",
    "redrive",
    "killed in the publication",
    "two reduces at once",
    "several at once",
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, azurite):
    """What became of a run of each kind, two at a time."""

    def play(name):
        rng = fault_kinds.generator(name, SEED)
        folder, container = tmp_path_factory.mktemp("fault"), fault_store.Container(azurite)
        return Case(store_kinds.KINDS[name](rng), folder, rng, container).play()

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(KINDS, pool.map(play, KINDS), strict=True))


@pytest.mark.parametrize("name", KINDS)
def test_nothing_is_lost_doubled_torn_left_over_or_redone_in_a_store(outcomes, name):
    outcome = outcomes[name]
    assert outcome.survived, outcome
    assert outcome.breaches == []
    assert outcome.unexplained == []


def test_most_of_the_faults_struck_in_a_store(outcomes):
    struck = [name for name, outcome in outcomes.items() if outcome.injected]
    assert len(struck) > 0.7 * len(outcomes)
