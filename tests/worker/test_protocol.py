# SPDX-License-Identifier: Apache-2.0
"""Messages come out as they went in, wherever the stream is cut."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_parallelrun.worker import protocol
from airflow_parallelrun.worker.protocol import MessageReader, Result

# A loaded machine is slow; no example may fail for that.
STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


STREAKS = st.tuples(st.just("streak"), st.integers(), st.binary(max_size=40)).map(list)
WITH_STREAKS = st.lists(STREAKS | st.lists(VALUE, min_size=1, max_size=4), max_size=6)


def encode(message):
    """A streak is followed by its line: its last element says how long that is."""
    if message[0] != "streak":
        return protocol.encode(message)
    return protocol.encode([*message[:-1], len(message[-1])]) + message[-1]


@STEADY
@given(WITH_STREAKS, st.data())
def test_cut_anywhere(messages, data):
    stream = b"".join(map(encode, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    reader, read = MessageReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        read += reader.feed(stream[start:end])
    assert read == messages


@STEADY
@given(WITH_STREAKS)
def test_byte_by_byte(messages):
    reader, read = MessageReader(), []
    for byte in b"".join(map(encode, messages)):
        read += reader.feed(bytes([byte]))
    assert read == messages


@STEADY
@given(VALUE)
def test_a_message_is_one_line_of_ascii(value):
    line = protocol.encode(["x", value])
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert line.isascii()


def test_texts_that_are_no_utf_8_travel():
    name = b"/in/\xff\xfe".decode("utf-8", "surrogateescape")
    assert MessageReader().feed(protocol.encode(["answer", True, name])) == [["answer", True, name]]


def test_a_result_travels_as_a_plain_array():
    result = Result(3, 99, "short", 5, 4, 4, 10, 20, 2**32 - 1, 0.25, 0.125, {"type": "E", "message": "m"})
    ((kind, *values),) = MessageReader().feed(protocol.encode(["result", *result]))
    assert kind == "result"
    assert Result(*values) == result
