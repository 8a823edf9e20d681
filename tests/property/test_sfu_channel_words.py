"""Every word of the channel survives the crossing."""

from __future__ import annotations

import dataclasses
import types
import typing
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfu.channel import WORDS, decode, encode
from sfu.errors import ChannelError

# What crosses are numbers of 64 bits (msgpack) and text without half surrogates (UTF-8).
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**64 - 1),
    float: st.floats(allow_nan=False),
    str: st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    bytes: st.binary(max_size=100),
    type(None): st.none(),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of an annotation as our words use them."""
    if kind in PLAIN:
        return PLAIN[kind]
    arguments = typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        return st.one_of(*map(values, arguments))
    if typing.get_origin(kind) is tuple:
        if arguments[-1] is ...:
            return st.lists(values(arguments[0]), max_size=3).map(tuple)
        return st.tuples(*map(values, arguments))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from(kind)
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{field.name: values(hints[field.name]) for field in dataclasses.fields(kind)})


@pytest.mark.parametrize("word", WORDS.values(), ids=WORDS.keys())
def test_what_is_encoded_is_decoded(word: type[Any]) -> None:
    @settings(max_examples=15, deadline=None)
    @given(st.integers(0, 2**63), values(word))
    def crosses(number: int, value: Any) -> None:
        assert decode(encode(number, value)) == (number, value)

    crosses()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_a_word(body: bytes) -> None:
    try:
        _, word = decode(body)
    except ChannelError:
        return
    assert type(word) in WORDS.values()
