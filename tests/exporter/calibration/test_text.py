"""The text of a calibration: what is read, and which of its tokens are used."""

import hashlib

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from edgewise.exporter.calibration.errors import CalibrationError
from edgewise.exporter.calibration.text import (
    FILE_MAX_BYTES,
    MOST_TOKENS,
    WINDOW,
    CalibrationFile,
    windows_of,
)
from edgewise.exporter.checkpoint import TokenizerFiles


def tokenizer_files(beginning=None):
    """Words are numbers, and each is its own id; a beginning token may be demanded."""
    tokenizer = Tokenizer(WordLevel({str(number): number for number in range(60_000)}, "0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return TokenizerFiles(
        tokenizer_json=tokenizer.to_str(),
        chat_template=None,
        beginning_token_id=beginning,
        end_token_ids=(1,),
        padding_token_id=None,
        beginning_token=None,
        end_token=None,
        add_beginning_token=beginning is not None,
    )


def numbered(words):
    return CalibrationFile("numbers.txt", " ".join(str(word) for word in range(words)), "")


def test_a_file_is_read_with_its_hash(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("Größe\n".encode())
    found = CalibrationFile.read(path)
    assert (found.name, found.text) == ("text.txt", "Größe\n")
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"missing\.txt can not be read: No such file or directory; give a file of plain"),
        (b"abc\xff", r"is no UTF-8 text \(byte 3\)"),
        (b"a" * (FILE_MAX_BYTES + 1), rf"has {FILE_MAX_BYTES + 1} bytes; at most {FILE_MAX_BYTES}"),
    ],
)
def test_what_is_no_text_is_refused_in_a_sentence(tmp_path, content, message):
    path = tmp_path / "missing.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CalibrationError, match=message):
        CalibrationFile.read(path)


@pytest.mark.parametrize("words", [512, 600, 4096, 5000])
def test_windows_of_a_short_text_are_spread_over_it_and_apart(words):
    windows = windows_of(numbered(words), tokenizer_files(), 8192)
    assert windows.shape == (min(words, MOST_TOKENS) // WINDOW, WINDOW)
    assert (windows[0, 0], windows[-1, -1]) == (0, words - 1)
    assert len(set(windows.ravel().tolist())) == windows.size
    assert (windows[:, 1:] - windows[:, :-1] == 1).all()


def test_windows_of_a_long_text_are_spread_over_it():
    words = 50_000
    windows = windows_of(numbered(words), tokenizer_files(), 8192)
    assert windows.shape == (MOST_TOKENS // WINDOW, WINDOW)
    whole_words = windows[:, 1:]  # the first may be cut
    assert whole_words[0, 0] == 1
    assert whole_words[-1, 0] > 0.9 * words
    assert (whole_words[1:, 0] - whole_words[:-1, -1] > WINDOW).all()


def test_a_demanded_beginning_stands_before_every_window():
    windows = windows_of(numbered(2000), tokenizer_files(beginning=7), 8192)
    assert windows.shape[1] == WINDOW
    assert (windows[:, 0] == 7).all()
    assert windows[0, 1] == 0


def test_no_window_is_longer_than_a_model_has_positions():
    windows = windows_of(numbered(5000), tokenizer_files(), 64)
    assert windows.shape == (MOST_TOKENS // 64, 64)


def test_too_short_a_text_is_refused_with_the_numbers():
    with pytest.raises(CalibrationError) as caught:
        windows_of(numbered(300), tokenizer_files(), 8192)
    assert str(caught.value) == (
        "the calibration text numbers.txt has 300 tokens; at least 512 are needed, and up to 4096 "
        "are used: give a longer text"
    )
