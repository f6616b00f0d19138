import re
import tracemalloc

import pytest
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from edgewise.runtime.detokenizer import Detokenizer, TokenBytes, TokenizerError

TEXTS = [
    "The capital of France is Paris.",
    "naïve café, 12 € in Zürich; 東京は雨。",
    "🙂👩‍👩‍👧 families",
    "  leading and trailing  ",
    "a\n\n\tb\r\n",
    "",
]


def pieces(inner, ids, **values):
    detokenizer = Detokenizer(TokenBytes(inner), **values)
    return [*(detokenizer.push(token) for token in ids), detokenizer.finish()]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["byte_level_tokenizer", "byte_fallback_tokenizer"])
def test_text_comes_back_in_whole_characters(request, name, text):
    inner = request.getfixturevalue(name)
    ids = inner.encode(text).ids
    parts = pieces(inner, ids)
    assert "".join(parts) == text
    assert not any("\ufffd" in part for part in parts)
    assert parts[-1] == ""


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["byte_level_tokenizer", "byte_fallback_tokenizer"])
def test_a_character_comes_with_its_last_token(request, name, text):
    """After each token, all that a decoder of the bytes so far can know has been given out."""
    inner = request.getfixturevalue(name)
    token_bytes = TokenBytes(inner)
    detokenizer = Detokenizer(token_bytes, continues=True)
    given, known = "", b""
    for token in inner.encode(text).ids:
        given += detokenizer.push(token)
        known += token_bytes.of(token)
        assert given == known.decode("utf-8", "ignore")


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_ids_of_a_byte_level_tokenizer(byte_level_tokenizer, data):
    size = byte_level_tokenizer.get_vocab_size()
    ids = data.draw(st.lists(st.integers(0, size + 2), max_size=30))
    assert "".join(pieces(byte_level_tokenizer, ids)) == byte_level_tokenizer.decode(ids)


def test_every_pair_of_bytes_of_a_byte_level_tokenizer(byte_level_tokenizer):
    """The replacement of invalid UTF-8 is that of `tokenizers`, for every start of a sequence."""
    token_bytes = TokenBytes(byte_level_tokenizer)
    single = {token_bytes.of(i): i for i in range(420) if len(token_bytes.of(i)) == 1}
    tail = single[b"\x80"]
    starts = [single[bytes([byte])] for byte in range(0x70, 0x100)]
    for first in starts:
        for second in starts:
            for ids in ([first, second], [first, second, tail], [first, second, tail, tail]):
                detokenizer = Detokenizer(token_bytes)
                text = "".join(map(detokenizer.push, ids)) + detokenizer.finish()
                assert text == byte_level_tokenizer.decode(ids)


def test_added_tokens_that_look_like_bytes(byte_level_tokenizer):
    """`tokenizers` takes an added token whose letters all stand for bytes as those bytes."""
    inner = tokenizers.Tokenizer.from_str(byte_level_tokenizer.to_str())
    inner.add_tokens(["é", "Ã©", "東é"])
    size = inner.get_vocab_size()
    for ids in ([size - 3], [size - 2], [size - 1], [size - 3, size - 1], list(range(size))):
        assert "".join(pieces(inner, ids)) == inner.decode(ids)


def byte_fallback_reference(inner, ids, special):
    """Decode runs of byte tokens on their own: characters kept, U+FFFD for every other byte."""
    text, run = "", b""
    for token_id in [*ids, None]:
        token = None if token_id is None or token_id in special else inner.id_to_token(token_id)
        if token_id is not None and token is None:
            continue
        if token is not None and (match := re.fullmatch("<0x(..)>", token)):
            run += bytes([int(match[1], 16)])
            continue
        while run:
            for length in (1, 2, 3, 4):
                try:
                    text += run[:length].decode()
                except UnicodeDecodeError:
                    continue
                run = run[length:]
                break
            else:
                text += "\ufffd"
                run = run[1:]
        text += (token or "").replace("▁", " ")
    return text.removeprefix(" ")


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_ids_of_a_byte_fallback_tokenizer(byte_fallback_tokenizer, data):
    inner = byte_fallback_tokenizer
    size = inner.get_vocab_size()
    any_id = st.integers(0, size + 2)
    high_bytes = st.integers(3 + 0x70, 3 + 0xFF)
    character = st.characters(codec="utf-8").map(lambda c: [3 + byte for byte in c.encode()])
    parts = st.one_of(any_id.map(lambda i: [i]), high_bytes.map(lambda i: [i]), character)
    ids = [i for part in data.draw(st.lists(parts, max_size=15)) for i in part]
    text = "".join(pieces(inner, ids))
    assert text == byte_fallback_reference(inner, ids, {0, 1, 2})
    decoded = inner.decode(ids)
    if "\ufffd" not in decoded:
        assert text == decoded


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_continued_text_keeps_its_space(byte_fallback_tokenizer, data):
    inner = byte_fallback_tokenizer
    plain = st.lists(st.integers(3 + 256, inner.get_vocab_size() - 1), min_size=1, max_size=10)
    prompt, answer = data.draw(plain), data.draw(plain)
    before = inner.decode(prompt)
    assume(before)
    assert before + "".join(pieces(inner, answer, continues=True)) == inner.decode(prompt + answer)


def test_the_first_space_goes_only_at_the_start(byte_fallback_tokenizer):
    inner = byte_fallback_tokenizer
    the = inner.encode("the").ids
    assert "".join(pieces(inner, [1, *the, *the])) == "the the"
    assert "".join(pieces(inner, the, continues=True)) == " the"


def test_metaspace():
    vocabulary = {"▁a": 0, "b": 1, "▁▁c▁": 2, "é": 3}
    for scheme in ("always", "first", "never"):
        inner = tokenizers.Tokenizer(models.BPE(vocabulary, []))
        inner.decoder = decoders.Metaspace(prepend_scheme=scheme)
        inner.add_special_tokens(["<s>"])
        for ids in ([0, 1, 0], [2, 2], [4, 2, 4, 0], [3, 0], [9, 0], [1, 0, 4]):
            assert "".join(pieces(inner, ids)) == inner.decode(ids)


@pytest.mark.parametrize("cleanup", [True, False])
@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, 22), max_size=12))
def test_any_ids_of_word_pieces(cleanup, ids):
    words = ["[SEP]", "##ing", "##s", "walk", ".", "?", "!", ",", "'", "n't", "'m", "do not"]
    words += ["'s", "'ve", "'re", "##.", "## . x", "é", "東", "a ' b", "#", "##"]
    vocabulary = {word: index for index, word in enumerate(words)}
    inner = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[SEP]"))  # noqa: S106 - a token, no secret
    inner.decoder = decoders.WordPiece(cleanup=cleanup)
    inner.add_special_tokens(["[SEP]"])
    text = inner.decode(ids)
    assert "".join(pieces(inner, ids)) == text
    before = inner.decode([3])
    assert before + "".join(pieces(inner, ids, continues=True)) == inner.decode([3, *ids])


@pytest.mark.parametrize(
    ("decoder", "match"),
    [
        (None, "decoder is absent"),
        (decoders.CTC(), "decoder is CTC; accepted: ByteLevel"),
        (decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()]), r"ByteLevel \+ Fuse"),
        (decoders.Sequence([decoders.Strip(" ", 1, 0), decoders.Fuse()]), r"Strip \+ Fuse"),
        (decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 1, 1)]), "at the end"),
        (decoders.Replace(tokenizers.Regex("x+"), " "), "Replace of"),
    ],
)
def test_decoders_that_can_not_be_streamed(decoder, match):
    inner = tokenizers.Tokenizer(models.BPE({"a": 0}, []))
    inner.decoder = decoder
    with pytest.raises(TokenizerError, match=match):
        TokenBytes(inner)


def test_memory_does_not_grow_with_the_answer(byte_level_tokenizer):
    ids = byte_level_tokenizer.encode(TEXTS[1] + TEXTS[2]).ids
    detokenizer = Detokenizer(TokenBytes(byte_level_tokenizer))
    for token in ids:
        detokenizer.push(token)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(300):
            for token in ids:
                detokenizer.push(token)
        # 300 answers would take far more than what an allocator may round up.
        assert tracemalloc.get_traced_memory()[0] - before < 16_000
    finally:
        tracemalloc.stop()


@pytest.mark.real
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_ids_of_smollm2(smollm2_tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, 49151), max_size=40))
    assert "".join(pieces(smollm2_tokenizer, ids)) == smollm2_tokenizer.decode(ids)
