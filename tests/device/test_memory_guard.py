"""Refusing while memory is short: with the numbers, and without asking the system all the time."""

from edgewise.device.memory_guard import READ_SECONDS, MemoryGuard

MIB = 1024 * 1024


def test_less_than_the_reserve_is_refused_with_the_numbers() -> None:
    refusal = MemoryGuard(64 * MIB, left=lambda: 20 * MIB).refusal("q1")
    assert refusal is not None
    assert (refusal.id, refusal.code) == ("q1", 507)
    assert "20 MiB" in refusal.message
    assert "64 MiB" in refusal.message


def test_enough_or_unknown_is_not_refused() -> None:
    assert MemoryGuard(64 * MIB, left=lambda: 64 * MIB).refusal("q1") is None
    assert MemoryGuard(64 * MIB, left=lambda: None).refusal("q1") is None
    assert MemoryGuard(0, left=lambda: 0).refusal("q1") is None


def test_the_system_is_asked_once_in_a_while() -> None:
    now = [100.0]
    told = iter([10 * MIB, 90 * MIB])
    guard = MemoryGuard(64 * MIB, left=lambda: next(told), clock=lambda: now[0])
    assert guard.refusal("q1") is not None
    now[0] += READ_SECONDS / 2
    assert guard.refusal("q2") is not None
    now[0] += READ_SECONDS
    assert guard.refusal("q3") is None
