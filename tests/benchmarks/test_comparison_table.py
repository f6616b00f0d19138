"""The tables of `benchmarks/compare.py`: medians, spans, ratios, and what does not count."""

import comparison_table as comparison


def measurements(*rows):
    return [
        comparison.Measurement(number, engine, idle, figures)
        for number, engine, idle, figures in rows
    ]


def test_medians_spans_and_ratios_of_rounds():
    taken = measurements(
        (1, "a", 1.0, {"prefill_8": 100.0}),
        (1, "b", 1.0, {"prefill_8": 50.0}),
        (2, "a", 1.0, {"prefill_8": 300.0}),
        (2, "b", 1.0, {"prefill_8": 100.0}),
        (3, "a", 1.0, {"prefill_8": 20.0}),
        (3, "b", 1.0, {"prefill_8": 25.0}),
    )
    text, complete = comparison.table(taken, ["a", "b"], {"prefill_8": "prefill"}, 0.93)
    assert complete
    assert text.splitlines() == [
        "| figure | a | b | a / b |",
        "|---|---|---|---|",
        "| prefill | 100 [20-300] | 50 [25-100] | 2.00 |",
    ]


def test_a_busy_round_counts_for_no_engine():
    taken = measurements(
        (1, "a", 0.99, {"cold_seconds": 1.0}),
        (1, "b", 0.92, {"cold_seconds": 9.0}),
        (2, "a", 0.93, {"cold_seconds": 2.0}),
        (2, "b", 0.95, {"cold_seconds": 4.0}),
    )
    text, complete = comparison.table(taken, ["a", "b"], {"cold_seconds": "cold"}, 0.93)
    assert complete
    assert text.splitlines()[-1] == "| cold | 2.00 [2.00-2.00] | 4.00 [4.00-4.00] | 0.50 |"
    text, complete = comparison.table(taken, ["a", "b"], {"cold_seconds": "cold"}, 0.96)
    assert not complete
    assert text.splitlines()[-1] == "| cold | - | - | - |"


def test_what_an_engine_does_not_do_is_a_dash():
    taken = measurements((1, "a", 1.0, {"x": 1.0}), (1, "b", 1.0, {}))
    text, complete = comparison.table(taken, ["a", "b"], {"x": "x", "y": "y"}, 0.93)
    assert complete
    assert text.splitlines()[2:] == ["| x | 1.00 [1.00-1.00] | - | - |", "| y | - | - | - |"]
