"""The ledger: one request, one answer; bounded; forgetful after a while."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edgewise.device.ledger import Entry, Key, Ledger, MemoryLedger, Standing, Verdict

KEY = Key("sensor", "q1")


def entry(
    key: Key = KEY, content: bytes = b"x", lifetime: float = 10.0, verb: str = "generate"
) -> Entry:
    return Entry(key, verb, content, "reply/topic", b"correlation", lifetime)


def test_it_fulfils_the_interface() -> None:
    ledger: Ledger = MemoryLedger()
    assert ledger.unfinished() == []


def test_a_request_is_new_then_open_then_settled() -> None:
    ledger = MemoryLedger()
    assert ledger.open(entry()) == Verdict(Standing.NEW)
    assert ledger.open(entry()) == Verdict(Standing.OPEN)
    assert ledger.unfinished() == [entry()]
    ledger.settle(KEY, b"answer")
    assert ledger.open(entry()) == Verdict(Standing.SETTLED, b"answer")
    assert ledger.unfinished() == []


def test_another_content_under_the_same_id_is_a_conflict_but_another_sender_is_not() -> None:
    ledger = MemoryLedger()
    ledger.open(entry())
    assert ledger.open(entry(content=b"y")).standing is Standing.CONFLICT
    assert ledger.open(entry(verb="classify")).standing is Standing.CONFLICT
    ledger.settle(KEY, b"answer")
    assert ledger.open(entry(content=b"y")).standing is Standing.CONFLICT
    assert ledger.open(entry(Key("other", "q1"), b"y")).standing is Standing.NEW


def test_a_forgotten_request_is_new_again() -> None:
    ledger = MemoryLedger()
    ledger.open(entry())
    ledger.forget(KEY)
    assert ledger.open(entry(content=b"y")).standing is Standing.NEW


def test_a_forbidden_request_is_settled_when_it_comes() -> None:
    ledger = MemoryLedger()
    assert ledger.forbid(KEY, b"cancelled", 10.0).standing is Standing.NEW
    assert ledger.open(entry()) == Verdict(Standing.SETTLED, b"cancelled")
    assert ledger.forbid(KEY, b"again", 10.0) == Verdict(Standing.SETTLED, b"cancelled")


def test_outcomes_expire_and_open_requests_do_not() -> None:
    now = 0.0
    ledger = MemoryLedger(kept_seconds=100.0, clock=lambda: now)
    open_key = Key("sensor", "open")
    ledger.open(entry())
    ledger.open(entry(open_key))
    ledger.settle(KEY, b"answer")
    now = 109.0
    assert ledger.open(entry()).standing is Standing.SETTLED
    now = 110.0
    assert ledger.open(entry()).standing is Standing.NEW
    assert ledger.open(entry(open_key)).standing is Standing.OPEN


def test_the_oldest_outcomes_make_room_by_number_and_by_bytes() -> None:
    keys = [Key("sensor", str(number)) for number in range(4)]
    few = MemoryLedger(max_entries=3)
    small = MemoryLedger(max_outcome_bytes=250)
    for ledger in (few, small):
        for key in keys:
            ledger.open(entry(key))
            ledger.settle(key, b"x" * 100)
        assert ledger.open(entry(keys[0])).standing is Standing.NEW
        assert ledger.open(entry(keys[3])).standing is Standing.SETTLED


class LedgerMachine(RuleBasedStateMachine):
    """Against a model that keeps everything: what the ledger still knows, it knows rightly."""

    keys = st.builds(Key, st.sampled_from("ab"), st.sampled_from("12345"))

    def __init__(self) -> None:
        super().__init__()
        self.ledger = MemoryLedger(max_entries=4, max_outcome_bytes=60)
        self.contents: dict[Key, bytes] = {}
        self.outcomes: dict[Key, bytes] = {}

    @rule(key=keys, content=st.sampled_from([b"p", b"q"]))
    def open(self, key: Key, content: bytes) -> None:
        verdict = self.ledger.open(entry(key, content))
        if verdict.standing is Standing.NEW:
            assert key not in self.contents or key in self.outcomes
            self.contents[key] = content
            self.outcomes.pop(key, None)
        elif verdict.standing is Standing.CONFLICT:
            assert self.contents[key] != content
        else:
            assert self.contents[key] == content
            assert verdict.outcome == self.outcomes.get(key)

    @rule(key=keys, size=st.integers(0, 40))
    def settle(self, key: Key, size: int) -> None:
        if key in self.contents and key not in self.outcomes:
            self.outcomes[key] = b"x" * size
            self.ledger.settle(key, self.outcomes[key])

    @invariant()
    def open_requests_are_never_forgotten(self) -> None:
        waiting = {key for key in self.contents if key not in self.outcomes}
        assert {item.key for item in self.ledger.unfinished()} == waiting


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLedgerMachine = LedgerMachine.TestCase
