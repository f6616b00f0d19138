"""The tree against a comparison with every sequence, and its shape after any history."""

from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.runtime.prefix_tree import PrefixTree

TOKENS = st.lists(st.integers(0, 2), max_size=8)  # few tokens: much is shared


def shared(left, right):
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length


def brute_force(held, tokens):
    length = max((shared(sequence, tokens) for sequence in held.values()), default=0)
    if length == 0:
        return 0, frozenset()
    return length, frozenset(
        key for key, sequence in held.items() if shared(sequence, tokens) == length
    )


def check_shape(node, sequences, prefix, is_root):
    """Every node has the keys that pass, and branches unless a sequence ends in it."""
    path = prefix + node.run
    assert node.keys == {key for key, held in sequences.items() if held[: len(path)] == path}
    if not is_root:
        assert node.run
        ends = any(held == path for held in sequences.values())
        assert ends or len(node.children) > 1 or not node.children
    for first, child in node.children.items():
        assert child.run[0] == first
        check_shape(child, sequences, path, False)


@settings(max_examples=400, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.sampled_from(["insert", "remove"]), st.integers(0, 5), TOKENS), max_size=25
    ),
    questions=st.lists(TOKENS, min_size=1, max_size=5),
)
def test_any_history_answers_as_a_comparison_with_all(changes, questions):
    tree, held = PrefixTree(), {}
    for change, key, tokens in changes:
        if change == "insert":
            tree.insert(key, tokens)
            held[key] = tuple(tokens)
        else:
            tree.remove(key)
            held.pop(key, None)
    assert len(tree) == len(held)
    for key in range(6):
        assert (key in tree) == (key in held)
        assert tree.sequence(key) == held.get(key, ())
    for question in questions:
        assert tuple(tree.longest(question)) == brute_force(held, question)
    check_shape(tree._root, held, (), True)


def test_a_question_ends_in_the_middle_of_a_run():
    tree = PrefixTree()
    tree.insert("a", [1, 2, 3, 4])
    tree.insert("b", [1, 2, 9])
    assert tuple(tree.longest([1, 2, 3])) == (3, frozenset("a"))
    assert tuple(tree.longest([1, 2, 7])) == (2, frozenset("ab"))
    assert tuple(tree.longest([7])) == (0, frozenset())
