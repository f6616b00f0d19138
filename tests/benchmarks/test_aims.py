"""The table of aims: which figure answers, whom it is compared with, met or missed."""

import pytest
from aims import AIMS, Aim, Contender, aims_table
from comparison_table import Measurement
from workloads import TASKS, labels

INT4 = Contender("four", "edgewise", "int8,mlp=int4-block32")
INT8 = Contender("eight", "edgewise", "int8")
LLAMA = Contender("llama.cpp", "llama_cpp", "")
GENAI = Contender("genai", "genai", "")
ALL = [INT4, INT8, LLAMA, GENAI]


def rounds(figure, **values):
    return [
        Measurement(number, name.replace("llama", "llama.cpp"), 1.0, {figure: value})
        for name, given in values.items()
        for number, value in enumerate(given, 1)
    ]


def line(aim, measurements, contenders=ALL):
    return aims_table([aim], contenders, measurements, 0.93).splitlines()[2]


def test_the_best_of_ours_is_named_and_the_best_peer_is_of_each_round():
    taken = rounds("x", four=[10, 12, 30], eight=[11, 11, 11], llama=[5, 10, 1], genai=[10, 5, 20])
    # four: 1.0, 1.2, 1.5; eight: 1.1, 1.1, 0.55
    assert (
        line(Aim("it", "x", 1.2), taken)
        == "| it | at least 1.2x the best peer | 1.2x (four) | met |"
    )
    assert line(Aim("it", "x", 1.3), taken).endswith("| 1.2x (four) | **missed** |")
    # against llama.cpp alone, four: 2, 1.2, 30; eight: 2.2, 1.1, 11
    assert line(Aim("it", "x", 2.5, "llama_cpp"), taken) == (
        "| it | at least 2.5x llama.cpp | 2.2x (eight) | **missed** |"
    )


def test_less_is_better():
    taken = rounds("s", four=[1.0, 1.0], eight=[3.0, 3.0], llama=[2.0, 4.0], genai=[4.0, 2.0])
    aim = Aim("it", "s", 0.5, less_is_better=True)
    assert line(aim, taken) == "| it | at most 0.5x the best peer | 0.5x (four) | met |"


def test_four_bits_are_asked_of_bundles_that_have_them():
    taken = rounds("x", four=[1.0], eight=[9.0], llama=[1.0])
    assert "| 1x (four) |" in line(Aim("it", "x", 1.0, bits_4=True), taken)
    alone = line(Aim("it", "x", 1.0, bits_4=True), taken, [INT8, LLAMA])
    assert alone == "| it | at least 1x the best peer | - | not measured |"


def test_a_figure_by_itself_needs_no_peer():
    taken = rounds("m", four=[70.0, 60.0, 50.0])
    aim = Aim("it", "m", 64.0, "none", less_is_better=True, unit=" MiB")
    assert line(aim, taken) == "| it | at most 64 MiB | 60 MiB (four) | met |"


def test_without_a_peer_and_in_a_busy_round_there_is_no_figure():
    taken = rounds("x", four=[1.0])
    assert line(Aim("it", "x", 1.0), taken).endswith("| - | not measured |")
    taken = [Measurement(1, "four", 0.5, {"m": 1.0})]
    assert line(Aim("it", "m", 1.0, "none"), taken).endswith("| - | not measured |")


@pytest.mark.parametrize("name", AIMS)
def test_every_aim_is_about_a_figure_that_some_workload_gives(name):
    assert {aim.figure for aim in AIMS[name]} <= labels(list(TASKS)).keys()
