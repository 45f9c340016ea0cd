# SPDX-License-Identifier: Apache-2.0
"""Messages come out as they went in, wherever the stream is cut."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_parallelrun.worker import protocol
from airflow_parallelrun.worker.protocol import LineReader, Result

# A loaded machine is slow; no example may fail for that.
STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.lists(st.lists(VALUE, max_size=4), max_size=6)


@STEADY
@given(MESSAGES, st.data())
def test_cut_anywhere(messages, data):
    stream = b"".join(map(protocol.encode, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    reader, read = LineReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        read += reader.feed(stream[start:end])
    assert read == messages


@STEADY
@given(MESSAGES)
def test_byte_by_byte(messages):
    reader, read = LineReader(), []
    for byte in b"".join(map(protocol.encode, messages)):
        read += reader.feed(bytes([byte]))
    assert read == messages


@STEADY
@given(VALUE)
def test_a_message_is_one_line_of_ascii(value):
    line = protocol.encode(["x", value])
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert line.isascii()


def test_file_names_that_are_no_text_travel():
    name = b"/in/\xff\xfe".decode("utf-8", "surrogateescape")
    assert LineReader().feed(protocol.encode(["run", [[0, 0, [[name, 1, 1]]]]]))[0][1][0][2][0][0] == name


def test_a_result_travels_as_a_plain_array():
    result = Result(3, 99, "short", 5, 4, 4, 10, 20, 2**32 - 1, 0.25, 0.125, {"type": "E", "message": "m"})
    ((kind, values),) = LineReader().feed(protocol.encode(["done", [result, result]]))
    assert kind == "done"
    assert [Result(*each) for each in values] == [result, result]
    assert json.loads(json.dumps(result)) == list(result)
