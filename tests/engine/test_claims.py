# SPDX-License-Identifier: Apache-2.0
"""R3: each chunk is one node's, and a node that comes late does not try each one that is taken."""

from __future__ import annotations

import pytest
from workbench import make_plan

from airflow_parallelrun.engine.claims import Claims
from airflow_parallelrun.engine.names import Attempt
from airflow_parallelrun.engine.rounds import Started
from airflow_parallelrun.engine.store import Store


@pytest.fixture
def claims(tmp_path):
    plan = make_plan(tmp_path, mini_batches=40, node_count=4)

    def of_node(node, k=1):
        started = Started(Attempt(node, k), 0, f"token-{node}-{k}")
        return Claims(plan, started, range(40))

    return of_node


def all_of(claims):
    return list(iter(claims.next, None))


def test_a_node_begins_at_its_own_share_and_goes_round(claims):
    assert all_of(claims(1)) == [*range(10, 40), *range(10)]


def test_two_nodes_share_and_none_gets_what_the_other_has(claims):
    one, other = claims(0), claims(2)
    taken = [(one.next(), other.next()) for _ in range(20)]
    assert sorted(chunk for pair in taken for chunk in pair) == list(range(40))
    assert one.next() is None
    assert other.next() is None


def test_after_a_claim_that_is_lost_those_that_are_taken_are_known(claims, monkeypatch):
    late, early = claims(1), claims(2)
    assert [early.next() for _ in range(20)] == list(range(20, 40))
    assert [late.next() for _ in range(10)] == list(range(10, 20))
    tried = []
    create = Store.create_exclusive
    monkeypatch.setattr(
        Store, "create_exclusive", lambda self, name, data: (tried.append(name), create(self, name, data))[1]
    )
    assert late.free == 30
    assert late.next() == 0
    assert tried == ["claims/0/20", "claims/0/0"]
    assert late.free == 9


def test_what_an_earlier_start_of_the_node_claims_meanwhile_is_inherited(claims):
    first, second = claims(3, k=1), claims(3, k=2)
    claimed = [first.next() for _ in range(3)]
    assert [second.next() for _ in range(4)] == [30, 31, 32, 33]
    assert claimed == [30, 31, 32]


def test_it_is_known_how_long_a_claim_takes(claims):
    node = claims(0)
    assert node.seconds == 0
    node.next()
    assert 0 < node.seconds < 10
