"""Prefixes whose states are on the host, and the search for the one that a prompt begins with."""

from dataclasses import dataclass, field

from vram_llm.engine.kv_cache.offload_store import OffloadStore, State
from vram_llm.engine.kv_cache.radix_tree import Tokens, n_common


@dataclass(slots=True)
class OffloadedPrefixes:
    """Tokens of the states in `store` that belong to no request. `whole_only`: no state serves a part."""

    store: OffloadStore
    whole_only: bool
    _tokens: dict[int, list[int]] = field(default_factory=dict)  # by the store's key

    def longest(self, tokens: Tokens) -> tuple[int, int | None]:
        """The length of the longest beginning of `tokens` that one state holds, and the state's key."""
        best: tuple[int, int | None] = (0, None)
        for key, held in self._available():
            n = n_common(held, tokens)
            if n > best[0] and (n == len(held) or not self.whole_only):
                best = (n, key)
        return best

    def has(self, tokens: Tokens) -> bool:
        """Whether a state for `tokens` is there already."""
        return any(
            n_common(held, tokens) == len(tokens) and (len(held) == len(tokens) or not self.whole_only)
            for _, held in self._available()
        )

    def add(self, tokens: list[int], state: State) -> None:
        """Keep a state; drop shorter ones that it can replace."""
        for key, held in self._available():
            if not self.whole_only and n_common(held, tokens) == len(held):
                self.store.drop(key)
        self._tokens[self.store.put(state)] = tokens

    def drop(self, tokens: list[int]) -> None:
        """Drop the states of these tokens and of beginnings of them."""
        for key, held in self._available():
            if n_common(held, tokens) == len(held):
                self.store.drop(key)

    def _available(self) -> list[tuple[int, list[int]]]:
        """The prefixes that the store still has."""
        for key in [key for key in self._tokens if key not in self.store]:
            del self._tokens[key]
        return list(self._tokens.items())
