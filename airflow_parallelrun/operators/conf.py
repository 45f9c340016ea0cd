# SPDX-License-Identifier: Apache-2.0
"""The keys of a run's conf: Airflow lets any through, also a parameter's name with a slip in it."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

# One wrong, swapped or missing letter in a name of four letters or more.
_NEAR = 0.75


def refuse_near_misses(
    conf: Mapping[str, Any], known: Collection[str], origins: Collection[tuple[str, str]]
) -> list[str]:
    """Refuse a key that is most likely meant for a pipeline parameter.

    :param known: the names of all parameters of the DAG
    :param origins: the places where pipeline parameters stand, each with the parameter's name
    :return: the keys that resemble none: other tasks may read them
    :raises ConfigurationError: with the name that was meant, for every such key
    """
    names = {_plain(name): name for _, name in origins}
    # Whoever knows the step better than the DAG names the place: "node_count" for the parameter "nodes".
    places = {_plain(place): name for place, name in origins if not place.startswith("arguments")}
    foreign, misses = [], []
    for key in sorted(set(conf) - set(known)):
        near = difflib.get_close_matches(_plain(key), names, n=1, cutoff=_NEAR)
        meant = names[near[0]] if near else places.get(_plain(key))
        if meant is None:
            foreign.append(key)
        else:
            misses.append(f"unknown parameter {key!r} in the run's conf; did you mean {meant!r}?")
    if misses:
        remedy = (
            "Trigger the DAG again with the right name; if the key is for another task, add it to the DAG's "
            "params."
        )
        raise ConfigurationError(" ".join([*misses, remedy]))
    return foreign


def _plain(name: str) -> str:
    """Leave out what people get wrong by habit: case, underscores, hyphens, an index."""
    return "".join(letter for letter in name.partition("[")[0].casefold() if letter.isalnum())
