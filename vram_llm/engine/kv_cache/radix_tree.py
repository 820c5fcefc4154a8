"""A radix tree over token ids: which slot holds which tokens. Policy only: no llama.cpp, no clock.

Each node is a run of tokens after those of its parents, and `slots` are the slots of llama.cpp's memory whose
cells hold all of them. A slot holds a whole path from the root, so a node's slots are among its parent's, and
a node without slots is removed. Slots that computed the same tokens separately have copies of their own;
slots that share cells have the same copy.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field

Tokens = Sequence[int]


@dataclass(slots=True, eq=False)
class RadixNode:
    """A run of tokens. `start` is the position of the first, `last_used` a number that grows with use.

    `slots` maps each slot to the number of its copy of the cells. `state` is the key of a checkpoint at `end`
    (see checkpoints.py), if there is one.
    """

    tokens: list[int]
    start: int
    parent: "RadixNode | None"
    children: dict[int, "RadixNode"] = field(default_factory=dict)
    slots: dict[int, int] = field(default_factory=dict)
    last_used: int = 0
    state: int | None = None

    @property
    def end(self) -> int:
        """The position after the last token."""
        return self.start + len(self.tokens)

    def n_cells(self, slots: Set[int] | None = None) -> int:
        """Cells that the given slots, or all, have for this node."""
        copies = {copy for slot, copy in self.slots.items() if slots is None or slot in slots}
        return len(self.tokens) * len(copies)

    def path(self) -> Iterator["RadixNode"]:
        """This node and its parents, without the root."""
        node = self
        while node.parent is not None:
            yield node
            node = node.parent


@dataclass(slots=True)
class RadixTree:
    """The paths of all slots."""

    root: RadixNode = field(default_factory=lambda: RadixNode([], 0, None))
    _ends: dict[int, RadixNode] = field(default_factory=dict)  # the last node of each slot's path
    _uses: int = 0
    _n_copies: int = 0

    def match(self, tokens: Tokens) -> tuple[RadixNode, int]:
        """The node where the longest common beginning with any path ends, and its length.

        That node may hold more tokens than the common ones; it is the root if none are common.
        """
        node, length = self.root, 0
        while length < len(tokens) and (child := node.children.get(tokens[length])) is not None:
            node = child
            length += n_common(node.tokens, tokens[length : length + len(node.tokens)])
            if length < node.end:
                break
        return node, length

    def end_of(self, slot: int) -> RadixNode:
        """The last node of a slot's path; the root if the slot holds nothing."""
        return self._ends.get(slot, self.root)

    def ending_at(self, node: RadixNode) -> list[int]:
        """The slots whose paths end with this node."""
        return [slot for slot in node.slots if self._ends[slot] is node]

    def hold(self, slot: int, tokens: Tokens) -> None:
        """Note that a slot computed `tokens`, which begin with the tokens it held before."""
        node = self.end_of(slot)
        while (length := node.end) < len(tokens):
            child = node.children.get(tokens[length])
            if child is None:
                if not node.children and node.slots.keys() == {slot} and node.state is None:
                    node.tokens.extend(tokens[length:])  # a leaf of this slot alone grows
                    break
                child = RadixNode(list(tokens[length:]), length, node)
                node.children[tokens[length]] = child
            else:
                common = n_common(child.tokens, tokens[length : length + len(child.tokens)])
                child = self.split(child, length + common)
            self._n_copies += 1
            child.slots[slot] = self._n_copies
            node = self._ends[slot] = child
        self.touch(node)

    def share(self, source: int, slot: int, node: RadixNode) -> None:
        """Note that an empty slot shares the cells of `source` up to the end of a node."""
        for ancestor in node.path():
            ancestor.slots[slot] = ancestor.slots[source]
        if node is not self.root:
            self._ends[slot] = node
        self.touch(node)

    def split(self, node: RadixNode, position: int) -> RadixNode:
        """Split a node at `position`, which lies in it. Returns the node that ends there."""
        if position == node.end:
            return node
        at = position - node.start
        assert node.parent is not None
        head = RadixNode(
            node.tokens[:at], node.start, node.parent, slots=dict(node.slots), last_used=node.last_used
        )
        node.parent.children[head.tokens[0]] = head
        node.tokens, node.start, node.parent = node.tokens[at:], position, head
        head.children[node.tokens[0]] = node
        return head

    def cut(self, slot: int, length: int) -> list[RadixNode]:
        """Note that a slot holds only its first `length` tokens. Returns the nodes without any slot left."""
        node, gone = self.end_of(slot), []
        while node.parent is not None and node.end > length:
            if node.start < length:
                self.split(node, length)  # `node` is the part after `length` now
            del node.slots[slot]
            if not node.slots:
                del node.parent.children[node.tokens[0]]
                gone.append(node)
            node = node.parent
        if node is self.root:
            self._ends.pop(slot, None)
        else:
            self._ends[slot] = node
        return gone

    def touch(self, node: RadixNode) -> None:
        """Mark a path as used now."""
        self._uses += 1
        for ancestor in node.path():
            ancestor.last_used = self._uses

    def nodes(self) -> Iterator[RadixNode]:
        """Every node but the root."""
        pending = list(self.root.children.values())
        while pending:
            node = pending.pop()
            pending.extend(node.children.values())
            yield node

    def oldest_leaf(self, idle: Set[int]) -> RadixNode | None:
        """The least recently used leaf among those that only idle slots hold."""
        leaves = (node for node in self.nodes() if not node.children and node.slots.keys() <= idle)
        return min(leaves, key=lambda node: node.last_used, default=None)


def n_common(one: Tokens, other: Tokens) -> int:
    """Length of the common prefix, in tokens."""
    low, high = 0, min(len(one), len(other))
    if not high or one[0] != other[0]:
        return 0
    if one[:high] == other[:high]:
        return high
    while high - low > 1:  # they agree up to `low` and differ before `high`
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
