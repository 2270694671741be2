"""Bencode: what is read, what is refused, and that nothing else ever happens."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgf.control import bencode
from bgf.control.bencode import DEPTH_MAX, INTEGER_DIGITS_MAX, BadBencode, Encodable

LARGEST = 10**INTEGER_DIGITS_MAX - 1
leaves = st.integers(-LARGEST, LARGEST) | st.binary(max_size=40)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=20,
)

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@unhurried
@given(st.dictionaries(st.text(max_size=8), values, max_size=6))
def test_what_is_written_is_read_back(message: dict[str, Encodable]) -> None:
    encoded = bencode.encode(message)
    assert bencode.encode(bencode.text(bencode.decode(encoded))) == encoded


@unhurried
@given(st.binary(max_size=200))
def test_noise_raises_bad_bencode_or_nothing(noise: bytes) -> None:
    for data in (noise, b"d" + noise, b"d1:a" + noise):
        try:
            assert isinstance(bencode.decode(data), dict)
        except BadBencode as error:
            assert error.reason


@unhurried
@given(st.dictionaries(st.text(max_size=8), values, max_size=6), st.data())
def test_a_damaged_message_raises_bad_bencode_or_nothing(
    message: dict[str, Encodable], data: st.DataObject
) -> None:
    encoded = bytearray(bencode.encode(message))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    try:
        bencode.decode(bytes(encoded))
    except BadBencode as error:
        assert error.reason


def test_keys_need_not_be_sorted_and_the_first_of_a_kind_counts() -> None:
    assert bencode.decode(b"d1:b1:x1:ai7e1:b1:ye") == {b"b": b"x", b"a": 7}


def test_what_some_keys_say_each_time_is_one_list() -> None:
    data = b"k d1:bl1:xe1:a1:p1:b1:y1:bl1:zi2ee1:a1:qe"
    assert bencode.decode_named(data, 2) == {"b": [b"x"], "a": b"p"}
    gathered = frozenset(("b", "c"))
    assert bencode.decode_named(data, 2, gathered) == {"b": [b"x", b"y", b"z", 2], "a": b"p"}
    assert bencode.decode_named(b"d3:b c1:x3:b-c1:ye", 0, frozenset(("b-c",))) == {
        "b-c": [b"x", b"y"]
    }
    # Inside another dictionary the first counts as ever.
    assert bencode.decode_named(b"d1:bd1:b1:x1:b1:yee", 0, gathered) == {"b": {b"b": b"x"}}


def test_keys_are_written_sorted() -> None:
    assert bencode.encode({"b": 1, "a": [b"\xff", "é"]}) == b"d1:al1:\xff2:\xc3\xa9e1:bi1ee"


def test_bytes_that_are_no_utf8_survive_as_text() -> None:
    text = bencode.text(bencode.decode(b"d1:\xff3:a\xfebe"))
    assert bencode.encode(text) == b"d1:\xff3:a\xfebe"


def test_a_line_end_after_the_dictionary_is_ignored() -> None:
    assert bencode.decode(b"d1:ai1ee\r\n") == {b"a": 1}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a dictionary"),
        (b"i1e", "not a dictionary"),
        (b"d", "ends at byte 1"),
        (b"d1:a", "ends at byte 4"),
        (b"d1:a1:b", "ends at byte 7"),
        (b"di1ei2ee", "key must be a string (at byte 1)"),
        (b"dle1:ae", "key must be a string (at byte 1)"),
        (b"d1:a5:xye", "string of 5 bytes at byte 4, 3 are left"),
        (b"d1:a99999999:xe", "string of 99999999 bytes"),
        (b"d1:a999999999:xe", "a string length has 1 to 8 digits"),
        (b"d1:a-1:xe", "no value begins with byte 0x2d"),
        (b"d1:a+1:xe", "no value begins with byte 0x2b"),
        (b"d1:a1_0:0123456789e", "a string length has 1 to 8 digits"),
        (b"d1:a 1:xe", "no value begins with byte 0x20"),
        (b"d1:aie", "an integer has 1 to"),
        (b"d1:ai-ee", "an integer has 1 to"),
        (b"d1:ai--1ee", "an integer has 1 to"),
        (b"d1:ai1.5ee", "an integer has 1 to"),
        (b"d1:ai1_0ee", "an integer has 1 to"),
        (b"d1:ai" + b"9" * 19 + b"ee", "an integer has 1 to 18 digits"),
        (b"d1:ai" + b"9" * 60_000 + b"ee", "an integer has 1 to 18 digits"),
        (b"d1:axe", "no value begins with byte 0x78 (at byte 4)"),
        (b"d1:ai1ee1:b", "3 bytes follow the dictionary"),
        (b"d1:a" + b"l" * 60_000, f"nested deeper than {DEPTH_MAX}"),
        (b"d1:a" * 15_000, f"nested deeper than {DEPTH_MAX}"),
    ],
)
def test_bad_bencode_names_what_and_where(data: bytes, reason: str) -> None:
    with pytest.raises(BadBencode) as caught:
        bencode.decode(data)
    assert reason in caught.value.reason
    assert "\n" not in caught.value.reason


@pytest.mark.parametrize("digits", ["0", "-0", "007", "-" + "9" * INTEGER_DIGITS_MAX])
def test_integers_up_to_the_limit(digits: str) -> None:
    assert bencode.decode(f"d1:ai{digits}ee".encode()) == {b"a": int(digits)}


def test_depth_up_to_the_limit() -> None:
    inner = DEPTH_MAX - 1
    bencode.decode(b"d1:a" + b"l" * inner + b"e" * inner + b"e")
    with pytest.raises(BadBencode):
        bencode.decode(b"d1:a" + b"l" * (inner + 1) + b"e" * (inner + 1) + b"e")
