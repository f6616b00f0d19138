"""Chunks in any order, repeated and lost: what is given out is the text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.device.assembly import Assembly
from edgewise.device.errors import DeviceError
from edgewise.device.reply_messages import Chunk, Final, Usage


@settings(deadline=None)
@given(st.lists(st.text(min_size=1, max_size=4), max_size=12), st.data())
def test_the_text_is_whole_whatever_happens_to_the_chunks(
    parts: list[str], data: st.DataObject
) -> None:
    arriving = data.draw(st.lists(st.sampled_from(range(len(parts) or 1)), max_size=30))
    assembly = Assembly()
    given_out = ""
    for index in arriving:
        if index < len(parts):
            given_out += assembly.add(Chunk("q", index, parts[index]))
            assert "".join(parts).startswith(given_out)
    final = Final("q", "ok", "".join(parts), len(parts), Usage())
    assert given_out + assembly.finish(final) == final.text == assembly.text


def test_in_order_each_chunk_comes_out_at_once() -> None:
    assembly = Assembly()
    assert [assembly.add(Chunk("q", seq, text)) for seq, text in enumerate("abc")] == list("abc")


def test_a_gap_holds_back_until_it_is_filled() -> None:
    assembly = Assembly()
    assert assembly.add(Chunk("q", 1, "b")) == ""
    assert assembly.add(Chunk("q", 2, "c")) == ""
    assert assembly.add(Chunk("q", 0, "a")) == "abc"
    assert assembly.add(Chunk("q", 1, "b")) == ""


def test_a_final_that_contradicts_the_chunks_is_refused() -> None:
    assembly = Assembly()
    assembly.add(Chunk("q", 0, "yes"))
    with pytest.raises(DeviceError, match="two agents"):
        assembly.finish(Final("q", "ok", "no", 1, Usage()))
