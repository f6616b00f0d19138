"""Several answers at once: to one prompt, and to many, whose seeds decide them and nothing else."""

import random
import threading

import pytest

from edgewise.runtime.backends.fake_bundle import write_fake_bundle
from edgewise.runtime.generation import Piece
from edgewise.runtime.loading import load
from edgewise.runtime.options import GenerationOptions, OptionsError, SamplingDefaults
from edgewise.runtime.sessions.answer import collect_all

PROMPT = "What can be said about the weather in the cellar? " * 4
HOT = GenerationOptions(max_tokens=12, raw=True, temperature=3.0, top_p=0.9, seed=2**64 - 2)


@pytest.mark.parametrize("slots", [1, 2, 3, 5])
def test_they_are_those_of_their_seeds_however_many_slots_there_are(fake_bundle, slots):
    with load(fake_bundle) as model:
        expected = [model.generate(PROMPT, HOT.numbered(index)).token_ids for index in range(5)]
    assert len(set(expected)) == 5
    with load(fake_bundle, slots=slots) as model:
        answers = model.generate_several(PROMPT, HOT, count=5)
        assert [answer.token_ids for answer in answers] == expected
        assert model.generate(PROMPT, HOT).token_ids == expected[0]


def test_the_prompt_is_computed_once(fake_bundle):
    with load(fake_bundle, slots=3) as model:
        first, *others = model.generate_several(PROMPT, HOT, count=3)
        assert first.statistics.reused_tokens == 0
        for answer in others:
            assert answer.statistics.reused_tokens == answer.statistics.prompt_tokens - 1


def test_without_a_seed_they_differ(fake_bundle):
    options = GenerationOptions(max_tokens=12, raw=True, temperature=50.0)
    with load(fake_bundle, slots=2) as model:
        one, other = model.generate_several(PROMPT, options, count=2)
        assert one.token_ids != other.token_ids


def test_one_of_one(fake_bundle):
    with load(fake_bundle) as model:
        (answer,) = model.generate_several("Hi", count=1)
        assert answer.text == model.generate("Hi").text


def test_the_same_several_times_is_refused(fake_bundle, tmp_path):
    with load(fake_bundle) as model:
        with pytest.raises(OptionsError, match="n is 2 with the temperature 0"):
            model.generate_several("Hi", count=2)
        for count in (0, 65, 1.0, None):
            with pytest.raises(OptionsError, match=f"n is {count}; accepted: .* from 1 to 64"):
                model.generate_several("Hi", HOT, count=count)
    wild = write_fake_bundle(tmp_path / "wild", defaults=SamplingDefaults(temperature=2.0))
    with load(wild) as model:
        assert len(model.generate_several("Hi", count=2)) == 2


def test_a_fault_ends_all_and_the_next_is_unharmed(fake_bundle):
    with load(fake_bundle, slots=2) as model:
        expected = model.generate("Hi").text
        faulty = GenerationOptions(temperature=1.0, logit_bias={10**6: 1.0})
        with pytest.raises(OptionsError, match="logit_bias has the token 1000000"):
            model.generate_several("Hi", faulty, count=2)
        assert model.generate("Hi").text == expected


def test_pieces_that_end_early_are_a_fault():
    def pieces():
        yield Piece("a", (1,))

    with pytest.raises(ValueError, match="end before"):
        collect_all([pieces(), pieces()])


@pytest.mark.parametrize("slots", [1, 3])
def test_a_seed_gives_the_same_tokens_in_any_company(fake_bundle, slots):
    """Every filter and penalty at once, from many threads, in any order."""
    chance = random.Random(4)  # noqa: S311  # the same requests each time
    requests = {}
    for number in range(12):
        prompt = "".join(chance.choices("abc ", k=chance.randint(1, 40)))
        requests[number] = (
            prompt,
            GenerationOptions(
                max_tokens=chance.randint(1, 20),
                raw=True,
                temperature=chance.choice([0.5, 2.0, 6.0]),
                top_k=chance.choice([0, 40]),
                top_p=chance.choice([1.0, 0.95]),
                typical_p=chance.choice([1.0, 0.9]),
                repetition_penalty=chance.choice([1.0, 1.2]),
                frequency_penalty=chance.choice([0.0, 0.5]),
                dry_multiplier=chance.choice([0.0, 0.8]),
                logit_bias={chance.randrange(260): 5.0},
                seed=number,
            ),
        )
    with load(fake_bundle) as model:
        alone = {number: model.generate(*one).token_ids for number, one in requests.items()}
    together = {}
    with load(fake_bundle, slots=slots) as model:

        def ask(number):
            together[number] = model.generate(*requests[number]).token_ids

        threads = [threading.Thread(target=ask, args=(number,)) for number in requests]
        chance.shuffle(threads)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert together == alone
