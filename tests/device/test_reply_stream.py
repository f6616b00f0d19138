"""An answer on its way: chunks that add up to the text, exactly one end, whoever ends it."""

import threading
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.device.reply_messages import Chunk, Failure, Final, Usage
from edgewise.device.reply_stream import End, ReplyStream


class Listener:
    """Keeps what a stream sends, on a clock that tests move."""

    def __init__(self, *, streamed: bool = True, interval: float = 0.05) -> None:
        self.now = 0.0
        self.chunks: list[Chunk] = []
        self.ends: list[End] = []
        self.stream = ReplyStream(
            "q",
            streamed=streamed,
            send_chunk=self.chunks.append,
            send_end=self.ends.append,
            interval_seconds=interval,
            clock=lambda: self.now,
        )


def ok(text: str, chunks: int) -> Final:
    return Final("q", "ok", text, chunks, Usage(), "stop")


def test_the_first_text_goes_at_once_later_ones_are_gathered() -> None:
    listener = Listener()
    for text, now in [("a", 0.0), ("b", 0.01), ("c", 0.02), ("d", 0.06), ("e", 0.07)]:
        listener.now = now
        listener.stream.add(text)
    assert [chunk.text for chunk in listener.chunks] == ["a", "bcd"]
    listener.stream.settle(ok)
    assert [(chunk.seq, chunk.text) for chunk in listener.chunks] == [
        (0, "a"),
        (1, "bcd"),
        (2, "e"),
    ]
    assert listener.ends == [ok("abcde", 3)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=5), st.floats(0, 0.2))), st.booleans())
def test_the_chunks_are_the_text(parts: list[tuple[str, float]], streamed: bool) -> None:
    listener = Listener(streamed=streamed)
    for text, pause in parts:
        listener.now += pause
        listener.stream.add(text)
    listener.stream.settle(ok)
    end = listener.ends[0]
    assert isinstance(end, Final)
    whole = "".join(text for text, _ in parts)
    assert end.text == whole.encode("utf-8", "replace").decode()
    assert [chunk.seq for chunk in listener.chunks] == list(range(end.n_chunks))
    assert "".join(chunk.text for chunk in listener.chunks) == (end.text if streamed else "")
    assert all(chunk.text for chunk in listener.chunks)


def test_the_first_end_wins_and_nothing_comes_after_it() -> None:
    listener = Listener()
    listener.stream.add("a")
    assert not listener.stream.settled
    assert listener.stream.settle(ok) is True
    assert listener.stream.settled
    assert listener.stream.settle(lambda _text, _chunks: Failure("q", 500, "late")) is False
    listener.stream.add("b")
    assert listener.ends == [ok("a", 1)]
    assert len(listener.chunks) == 1


def test_half_a_character_is_replaced_since_it_cannot_be_sent() -> None:
    listener = Listener()
    listener.stream.add("x\ud800")
    listener.stream.settle(ok)
    assert listener.ends == [ok("x?", 1)]


def test_many_threads_end_it_once() -> None:
    listener = Listener(interval=0.0)
    barrier = threading.Barrier(9)
    won: list[bool] = []

    def run(work: Callable[[], None]) -> threading.Thread:
        def main() -> None:
            barrier.wait()
            work()

        thread = threading.Thread(target=main)
        thread.start()
        return thread

    def adding() -> None:
        for _ in range(500):
            listener.stream.add("x")

    def ending() -> None:
        won.append(listener.stream.settle(ok))

    threads = [run(adding), *(run(ending) for _ in range(8))]
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]
    end = listener.ends[0]
    assert isinstance(end, Final)
    assert end.text == "x" * len(listener.chunks) == "x" * end.n_chunks
