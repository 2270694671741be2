"""What the `ng` codec does with every byte of a frame, in C. Refusals are ValueError."""

from collections.abc import Callable
from typing import Any, Literal, overload

from bgf.control.bencode import Encodable, Value

DEPTH_MAX: int
INTEGER_DIGITS_MAX: int
LENGTH_DIGITS_MAX: int

@overload
def decode(data: bytes, at: int) -> dict[bytes, Value]: ...
@overload
def decode(
    data: bytes, at: int, named: Literal[True], gathered: frozenset[str] = ...
) -> dict[str, Value]: ...
def encode(value: Encodable, before: bytes = b"") -> bytes: ...
def read_sdp(
    text: bytes,
    read_host: Callable[[str, int], str],
    refuse: Callable[[str, int, str], None],
) -> tuple[list[tuple[Any, ...]], tuple[str, ...]]: ...
def rewrite_sdp(
    text: bytes,
    read_host: Callable[[str, int], str],
    refuse: Callable[[str, int, str], None],
    media: tuple[tuple[str, int, str | None, int, bool, bytes, bool], ...],
    replace_origin: bool,
    rtcp_attribute: bool,
    whole: bytes,
) -> bytes: ...
