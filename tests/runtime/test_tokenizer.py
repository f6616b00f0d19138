import threading

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from edgewise.common.errors import EdgewiseError
from edgewise.runtime.bundle import Bundle, SpecialTokens, TokenizerProbe
from edgewise.runtime.tokenizer import Tokenizer, TokenizerError


@pytest.fixture
def manifest(manifest_maker):
    def make(**changes):
        return manifest_maker(
            **({"vocabulary_size": 500, "probes": (), "tokens": TOKENS} | changes)
        )

    return make


TOKENS = SpecialTokens(0, (1,), None, False, "<|start|>", "<|end|>")


def test_special_tokens_are_understood_unless_told_otherwise(byte_level_tokenizer, manifest):
    tokenizer = Tokenizer(byte_level_tokenizer, manifest())
    assert tokenizer.encode("<|start|>a<|end|>") == [0, *tokenizer.encode("a"), 1]
    plain = tokenizer.encode("<|start|>a<|end|>", special=False)
    assert not {0, 1} & set(plain)
    assert tokenizer.decode(plain) == "<|start|>a<|end|>"
    assert tokenizer.encode("<|end|>") == [1]


def test_the_manifest_decides_on_the_beginning_token(byte_level_tokenizer, manifest):
    ids = Tokenizer(byte_level_tokenizer, manifest()).encode("the")
    adding = Tokenizer(
        byte_level_tokenizer,
        manifest(tokens=SpecialTokens(0, (1,), None, True, "<|start|>", "<|end|>")),
    )
    assert adding.encode("the") == [0, *ids]
    assert adding.encode("the", add_beginning=False) == ids
    assert adding.encode("") == [0]


def test_decoding_leaves_special_tokens_out(byte_level_tokenizer, manifest):
    tokenizer = Tokenizer(byte_level_tokenizer, manifest())
    ids = tokenizer.encode("<|start|>Zürich 🙂<|end|>")
    assert tokenizer.decode(ids) == "Zürich 🙂"
    detokenizer = tokenizer.detokenizer()
    assert "".join(map(detokenizer.push, ids)) + detokenizer.finish() == "Zürich 🙂"


def test_the_bytes_of_tokens_are_those_of_the_text(byte_level_tokenizer, manifest):
    tokenizer = Tokenizer(byte_level_tokenizer, manifest())
    ids = tokenizer.encode("<|start|>Zürich 🙂\n<|end|>")
    assert b"".join(map(tokenizer.bytes_of, ids)) == "Zürich 🙂\n".encode()
    assert tokenizer.bytes_of(1) == b""
    assert tokenizer.bytes_of(10**6) == b""


def test_padding_and_truncation_of_the_file_do_not_count(byte_level_tokenizer, manifest):
    inner = type(byte_level_tokenizer).from_str(byte_level_tokenizer.to_str())
    ids = inner.encode("the rain in spain").ids
    inner.enable_truncation(2)
    inner.enable_padding(length=50)
    assert Tokenizer(inner, manifest()).encode("the rain in spain") == ids


def test_probes(byte_level_tokenizer, manifest):
    ids = tuple(byte_level_tokenizer.encode("the rain").ids)
    Tokenizer(byte_level_tokenizer, manifest(probes=(TokenizerProbe("the rain", ids),)))
    wrong = TokenizerProbe("the rain", (*ids, 7))
    with pytest.raises(TokenizerError, match=r"encodes 'the rain' as .*export the bundle again"):
        Tokenizer(byte_level_tokenizer, manifest(probes=(wrong,)))


def test_more_ids_than_the_model_knows(byte_level_tokenizer, manifest):
    size = byte_level_tokenizer.get_vocab_size()
    Tokenizer(byte_level_tokenizer, manifest(vocabulary_size=size))
    with pytest.raises(TokenizerError, match=f"has {size} ids, the model knows {size - 1}"):
        Tokenizer(byte_level_tokenizer, manifest(vocabulary_size=size - 1))


def test_half_a_surrogate_pair(byte_level_tokenizer, manifest):
    with pytest.raises(EdgewiseError, match=r"'\\ud83d' at 2, half of a surrogate pair"):
        Tokenizer(byte_level_tokenizer, manifest()).encode("ab\ud83d")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xff", b'{"model": {"type": "Magic"}}'])
def test_a_file_that_is_no_tokenizer(tmp_path, manifest, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json can not be read by tokenizers"):
        Tokenizer.open(Bundle(tmp_path, manifest()))


def test_opens_the_file_of_a_bundle(tmp_path, byte_level_tokenizer, manifest):
    byte_level_tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.open(Bundle(tmp_path, manifest()))
    assert tokenizer.encode("rain") == byte_level_tokenizer.encode("rain").ids


def test_threads_do_not_see_each_others_special_setting(byte_level_tokenizer, manifest):
    tokenizer = Tokenizer(byte_level_tokenizer, manifest())
    wrong = []

    def work(special):
        expected = tokenizer.encode("<|start|>", special=special)
        wrong.extend(
            ids
            for _ in range(500)
            if (ids := tokenizer.encode("<|start|>", special=special)) != expected
        )

    threads = [threading.Thread(target=work, args=(index % 2 == 0,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


TEXT = "Zoë met 東京's <|end|> rain, in Zürich 🙂."


@pytest.mark.parametrize("name", ["byte_level_tokenizer", "byte_fallback_tokenizer"])
def test_spans_are_the_ids_with_their_places(name, request, manifest):
    tokenizer = Tokenizer(request.getfixturevalue(name), manifest())
    spans = tokenizer.spans(TEXT)
    assert [span.token_id for span in spans] == tokenizer.encode(TEXT, add_beginning=False)
    covered = set()
    for span in spans:
        assert 0 <= span.start <= span.end <= len(TEXT)
        covered |= set(range(span.start, span.end))
        text = tokenizer.decode([span.token_id]).strip()
        if text and "\ufffd" not in text:  # a whole character or more
            assert text in TEXT[span.start : span.end]
    assert covered == set(range(len(TEXT)))
    with pytest.raises(TokenizerError, match="surrogate"):
        tokenizer.spans("\ud800")


def test_spans_of_word_pieces_are_places_of_the_text_as_it_is_written(manifest):
    inner = tokenizers.Tokenizer(
        models.WordPiece(
            {"[UNK]": 0, "zur": 1, "##ich": 2, "zurich": 3, "is": 4, "far": 5, ",": 6, "n": 7},
            unk_token="[UNK]",  # noqa: S106  # public
        )
    )
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    spans = Tokenizer(inner, manifest()).spans("ZURICH, Zürn is  far")
    assert [(span.token_id, span.start, span.end, span.word) for span in spans] == [
        (3, 0, 6, 0),
        (6, 6, 7, 1),
        (0, 8, 12, 2),
        (4, 13, 15, 3),
        (5, 17, 20, 4),
    ]
