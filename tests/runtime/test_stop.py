from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgewise.runtime.stop import StopTexts


def run(stops, parts):
    watcher = StopTexts(stops)
    shown = []
    for part in parts:
        text, ended = watcher.push(part)
        shown.append(text)
        if ended:
            return shown, True
    return [*shown, watcher.finish()], False


def reference(stops, text):
    """Character by character: the first moment at which the text so far ends with a stop text."""
    for end in range(1, len(text) + 1):
        lengths = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if lengths:
            return text[: end - max(lengths)], True
    return text, False


ALPHABET = st.sampled_from("ab\n")
STOPS = st.lists(st.text(ALPHABET, min_size=1, max_size=5), max_size=4)
PARTS = st.lists(st.text(ALPHABET, max_size=6), max_size=12)


@settings(max_examples=400, deadline=None)
@example(stops=["abab"], parts=["aba", "abab"])
@example(stops=["abcd", "bc"], parts=["a", "bcd"])
@example(stops=["abc", "c"], parts=["ab", "c"])
@example(stops=["aab"], parts=["a", "a", "a", "b"])
@given(stops=STOPS, parts=PARTS)
def test_any_text_in_any_pieces(stops, parts):
    shown, ended = run(stops, parts)
    assert ("".join(shown), ended) == reference(stops, "".join(parts))


@settings(max_examples=200, deadline=None)
@given(stops=STOPS, parts=PARTS)
def test_no_more_is_held_back_than_could_begin_a_stop_text(stops, parts):
    watcher = StopTexts(stops)
    shown = taken = ""
    for part in parts:
        text, ended = watcher.push(part)
        if ended:
            return
        shown, taken = shown + text, taken + part
        held = taken[len(shown) :]
        assert taken == shown + held
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


def test_over_token_borders():
    assert run(["\nUser:"], ["Hi", "\n", "Us", "er", ": more"]) == (["Hi", "", "", "", ""], True)
    assert run(["\nUser:"], ["Hi", "\n", "Us", "age"]) == (["Hi", "", "", "\nUsage", ""], False)


def test_without_stop_texts_nothing_is_held():
    assert run([], ["a", "", "b"]) == (["a", "", "b", ""], False)
