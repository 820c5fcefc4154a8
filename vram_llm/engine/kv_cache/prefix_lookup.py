"""The longest beginning of a prompt that is already computed, and where its cells or its state are."""

from bisect import insort
from dataclasses import dataclass

from vram_llm.engine.kv_cache.offload import Offloader
from vram_llm.engine.kv_cache.radix_tree import RadixNode, n_common
from vram_llm.engine.kv_cache.slots import SlotTable
from vram_llm.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class FoundPrefix:
    """A beginning of `length` tokens: in the tree up to `node`, or in the store under `key`, or of length 0.

    `branch` is how many tokens the tree has in common with the prompt, usable or not.
    """

    length: int = 0
    node: RadixNode | None = None
    key: int | None = None
    branch: int = 0


@dataclass(frozen=True, slots=True)
class PrefixLookup:
    """Looks up prompts among the slots and the offloaded prefixes.

    A beginning of fewer than `min_prefix_tokens` is not worth sharing; 0 turns sharing off. If slots
    cannot share cells (`can_share` is False), a sequence continues in the idle slot that holds its beginning.
    """

    slots: SlotTable
    offloader: Offloader
    min_prefix_tokens: int
    can_share: bool

    def find(self, sequence: Sequence) -> FoundPrefix:
        """The longest usable beginning of a waiting sequence."""
        if sequence.saved_state is not None and sequence.saved_state[0] in self.slots.store:
            return FoundPrefix(length=sequence.saved_state[1], key=sequence.saved_state[0])
        if not self.min_prefix_tokens or sequence.prompt_logprobs_pending:
            return FoundPrefix()
        tokens = sequence.cache_key(-1)  # the last token is computed in any case, for its logits
        matched, branch = self.slots.tree.match(tokens)
        node, length = self._usable(matched, branch)
        n_offloaded, key = self.offloader.prefixes.longest(tokens)
        if n_offloaded >= length + self.min_prefix_tokens:
            return FoundPrefix(n_offloaded, None, key, branch)
        return FoundPrefix(length, node, None, branch)

    def _usable(self, matched: RadixNode, branch: int) -> tuple[RadixNode | None, int]:
        """The last node on the path to `matched` that a sequence can begin after, and the length it reuses.

        The tree agrees with the prompt on `branch` tokens, which end in `matched`.
        """
        node: RadixNode | None = matched
        length = branch
        if not self.can_share:
            idle = self.slots.idle
            node = next((ancestor for ancestor in matched.path() if idle & ancestor.slots.keys()), None)
            length = 0 if node is None else min(node.end, branch)
        if self.slots.memory.is_stateful and node is not None:
            usable = (
                ancestor for ancestor in node.path() if ancestor.end <= branch and self._has_state(ancestor)
            )
            node = next(usable, None)
            length = 0 if node is None else node.end
        if node is not None and not self.can_share and not self._pays_to_take(node, length):
            return None, 0
        return (None, 0) if length < self.min_prefix_tokens else (node, length)

    def _pays_to_take(self, node: RadixNode, length: int) -> bool:
        """Whether an idle slot that holds these tokens may lose the tokens it holds after them.

        If another slot is free, it may lose at most as many tokens as are reused.
        """
        end = self.slots.tree.end_of(self.source(node)).end
        return not self.slots.free or end - length <= length

    def _has_state(self, node: RadixNode) -> bool:
        """Whether a stateful model has a state for the end of this node."""
        if node.state is not None and node.state in self.slots.store:
            return True
        return self.slots.idle_slot_at(node) is not None

    def prefix_being_computed(self, sequence: Sequence, length: int) -> bool:
        """Whether a running sequence is about to compute much more of the beginning than `length` tokens.

        A stateful model then saves a checkpoint where the two prompts differ.
        """
        slots = self.slots
        is_of_use = self.can_share and (slots.store.would_keep(1) or not slots.memory.is_stateful)
        if not self.min_prefix_tokens or not is_of_use or sequence.saved_state is not None:
            return False
        for other in slots.running.values():
            if other.n_cached >= other.n_prompt:
                continue
            if (other.adapters, other.namespace) != (sequence.adapters, sequence.namespace):
                continue
            common = min(n_common(other.tokens, sequence.tokens), len(sequence.tokens) - 1, sequence.n_shared)
            if other.n_cached < common and common >= length + self.min_prefix_tokens:
                if slots.memory.is_stateful and common not in other.checkpoint_positions:
                    insort(other.checkpoint_positions, common)
                return True
        return False

    def n_pinned_of(self, found: FoundPrefix) -> int:
        """Cells of a found beginning that running sequences hold already."""
        if found.node is None:
            return 0
        source, n_pinned = self.source(found.node), 0
        for node in found.node.path():
            in_use = {node.slots[slot] for slot in node.slots.keys() & self.slots.running.keys()}
            if node.slots[source] in in_use:
                n_pinned += min(node.end, found.length) - node.start
        return n_pinned

    def source(self, node: RadixNode) -> int:
        """The slot whose cells are shared: an idle one at `node`, else a running one.

        If slots cannot share cells: the idle slot that would lose least.
        """
        slots = self.slots
        resting = slots.idle_slot_at(node) if slots.memory.is_stateful else None
        if resting is not None:
            return resting
        if not self.can_share:
            return min(slots.idle & node.slots.keys(), key=lambda slot: slots.tree.end_of(slot).end)
        return min(node.slots, key=lambda slot: slot not in slots.running)
