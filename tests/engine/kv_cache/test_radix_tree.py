"""The radix tree compared with a plain list of the tokens of each slot."""

from hypothesis import given, settings
from hypothesis import strategies as st

from vram_llm.engine.kv_cache.radix_tree import RadixTree, n_common

Tokens = list[int]
_tokens = st.lists(st.integers(0, 2), max_size=12)


@given(_tokens, _tokens)
def test_n_common(one: Tokens, other: Tokens) -> None:
    n = n_common(one, other)
    assert one[:n] == other[:n]
    assert n == min(len(one), len(other)) or one[n] != other[n]


def _held(tree: RadixTree, slot: int) -> Tokens:
    return [token for node in reversed(list(tree.end_of(slot).path())) for token in node.tokens]


def _check(tree: RadixTree, slots: dict[int, Tokens]) -> None:
    for slot, tokens in slots.items():
        assert _held(tree, slot) == tokens
    for node in tree.nodes():
        assert node.tokens
        assert node.parent is not None
        assert node.parent.children[node.tokens[0]] is node
        assert node.start == node.parent.end
        assert node.slots
        holders = {slot for slot, tokens in slots.items() if len(tokens) >= node.end}
        assert node.slots.keys() <= holders


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["hold", "cut", "share"]), st.integers(0, 3), _tokens), max_size=12)
)
def test_it_knows_the_tokens_of_each_slot(events: list[tuple[str, int, Tokens]]) -> None:
    tree, slots = RadixTree(), {slot: list[int]() for slot in range(4)}
    for what, slot, tokens in events:
        if what == "hold":
            slots[slot] = slots[slot] + tokens
            tree.hold(slot, slots[slot])
        elif what == "cut":
            slots[slot] = slots[slot][: len(tokens)]
            tree.cut(slot, len(tokens))
        elif not slots[slot]:
            source = (slot + 1) % 4
            tree.share(source, slot, tree.end_of(source))
            slots[slot] = list(slots[source])
        _check(tree, slots)
        node, length = tree.match(tokens)
        assert length == max(n_common(held, tokens) for held in slots.values())
        assert node.start < length <= node.end or length == 0


def test_shared_cells_count_once_and_copies_twice() -> None:
    tree = RadixTree()
    tree.hold(0, [1, 2, 3, 4])
    tree.share(0, 1, tree.split(tree.end_of(0), 2))
    tree.hold(1, [1, 2, 9])
    tree.hold(2, [1, 2, 3])  # computed for itself
    assert sum(node.n_cells() for node in tree.nodes()) == 4 + 1 + 3
    assert sum(node.n_cells({1}) for node in tree.nodes()) == 3
    tree.cut(0, 0)
    assert sum(node.n_cells() for node in tree.nodes()) == 3 + 3


def test_the_oldest_leaf_of_idle_slots() -> None:
    tree = RadixTree()
    for slot, tokens in enumerate([[1, 1], [2, 2], [3, 3]]):
        tree.hold(slot, tokens)
    tree.touch(tree.end_of(0))
    assert tree.oldest_leaf({0, 1, 2}) is tree.end_of(1)
    assert tree.oldest_leaf({0, 2}) is tree.end_of(2)
    assert tree.oldest_leaf(set()) is None
