"""What the `ng` codec does with every byte of a frame, in C. Refusals are ValueError."""

from typing import Literal, overload

from bgf.control.bencode import Encodable, Value

DEPTH_MAX: int
INTEGER_DIGITS_MAX: int
LENGTH_DIGITS_MAX: int

@overload
def decode(data: bytes, at: int) -> dict[bytes, Value]: ...
@overload
def decode(data: bytes, at: int, named: Literal[True]) -> dict[str, Value]: ...
def encode(value: Encodable, before: bytes = b"") -> bytes: ...
