from hypothesis import given
from hypothesis import strategies as st

from edgewise.runtime.prompt_beginning import CONTINUATIONS, common_beginning, continued


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=4))
def test_the_common_beginning_is_what_texts_of_the_same_letters_share(sequences):
    shared = common_beginning(sequences)
    assert all(sequence[: len(shared)] == shared for sequence in sequences)
    behind = {tuple(sequence[len(shared) : len(shared) + 1]) for sequence in sequences}
    assert behind == {()} or len(behind) > 1  # nothing follows anywhere, or not the same


def test_a_text_and_the_users_last_message_go_on():
    assert continued("In 2") == [f"In 2{more}" for more in CONTINUATIONS]
    system = {"role": "system", "content": "s"}
    begun = continued([system, {"role": "user", "content": "In 2"}])
    assert begun == [[system, {"role": "user", "content": f"In 2{more}"}] for more in CONTINUATIONS]


def test_behind_another_message_the_user_says_something():
    system = {"role": "system", "content": "s"}
    assert continued([system]) == [
        [system, {"role": "user", "content": more}] for more in CONTINUATIONS
    ]
