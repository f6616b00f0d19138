"""What an answer took, and which job ends next."""

from edgewise.device.active_jobs import ActiveJobs
from edgewise.device.job import Job
from edgewise.device.ledger import Key
from edgewise.device.reply_messages import Failure
from edgewise.device.reply_stream import ReplyStream
from edgewise.device.request_messages import Request
from edgewise.runtime.generation import Statistics


def job(name: str = "q", *, priority: int = 5, deadline: float = 100.0) -> Job:
    replies = ReplyStream(
        name,
        streamed=True,
        send_chunk=lambda _chunk: None,
        send_end=lambda _end: None,
        interval_seconds=0.0,
    )
    request = Request(name, prompt="x", priority=priority)
    return Job(Key("s", name), "generate", request, replies, arrived_at=10.0, deadline=deadline)


def settle(one: Job) -> None:
    one.replies.settle(lambda _text, _chunks: Failure(one.request.id, 500, ""))


def test_usage_is_the_models_own_where_it_tells() -> None:
    one = job()
    one.started_at = 12.0
    one.statistics = Statistics(7, 30, 0.25, 28.0, 15.5, 1000)
    usage = one.usage(now=15.0)
    assert (usage.prompt_tokens, usage.generated_tokens, usage.peak_rss_bytes) == (7, 30, 1000)
    assert (usage.queue_ms, usage.time_to_first_token_ms, usage.total_ms) == (2000, 250, 5000)
    assert usage.tokens_per_second == 15.5


def test_usage_is_measured_where_an_answer_was_cut_off() -> None:
    one = job()
    assert one.usage(now=11.0).queue_ms == 1000
    one.started_at = 12.0
    one.count_tokens(0, 12.5)
    for now in (13.0, 13.5, 14.0):
        one.count_tokens(1, now)
    usage = one.usage(now=15.0)
    assert usage.prompt_tokens is None
    assert usage.generated_tokens == 3
    assert usage.time_to_first_token_ms == 1000
    assert usage.tokens_per_second == 2.0
    assert usage.peak_rss_bytes is not None
    assert usage.peak_rss_bytes > 1_000_000


def test_active_jobs_know_the_next_deadline() -> None:
    active = ActiveJobs()
    assert active.next_deadline() == float("inf")
    early, late = job("early", deadline=20.0), job("late", deadline=30.0)
    active.add(late)
    active.add(early)
    assert active.next_deadline() == 20.0
    assert active.due(20.0) == [early]
    settle(early)
    assert active.due(20.0) == []
    assert active.next_deadline() == 30.0
    assert active.get(late.key) is late
    assert active.remove(late.key) is late
    assert active.remove(late.key) is None
