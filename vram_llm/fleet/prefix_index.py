"""Which beginnings of prompts an engine probably holds, without asking it.

A prompt is cut into blocks, and each block has a key that depends on all before it. Blocks grow with their
position, so that even a very long prompt has some hundred, and a common beginning is found to a sixteenth of
its length. The index notes the prompts that an engine gets. Engines drop the prompts that are unused for the
longest time: if the answer to a prompt says that the engine had dropped it, all older ones are gone too.
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from vram_llm.engine.request import Image, Request

MAX_KEYS = 32_768  # of an engine: some megabytes
_LEAST_CHARS, _LEAST_TOKENS = 64, 16  # of a block
_GROWTH = 16  # a block has at least this part of what is before it
_SAMPLE_BYTES = 65_536  # of an image's file, at either end


@dataclass(frozen=True, slots=True)
class PrefixKey:
    """The end of a block of a prompt: `length` characters, or tokens if the prompt is given in tokens."""

    key: bytes
    length: int


def prefix_keys(request: Request, answer: str = "", tokens: Sequence[int] = ()) -> tuple[PrefixKey, ...]:
    """The keys of a prompt's blocks, or of a prompt with its answer, shortest first.

    Requests of other namespaces or adapters have other keys. The last block is left out unless it is full.
    """
    prompt = request.prompt
    whole = prompt + answer if isinstance(prompt, str) else (*prompt, *tokens)
    kind = f"{request.namespace} {request.adapters} {isinstance(prompt, str)} {request.suffix or ''}"
    digest = blake2b(kind.encode("utf-8", "surrogatepass"), digest_size=12)
    found = []
    for start, end in _blocks(len(whole), _LEAST_CHARS if isinstance(whole, str) else _LEAST_TOKENS):
        for image in request.images:
            if start <= image.at < end:
                digest.update(_sample(image))
        part = whole[start:end]
        digest.update(
            part.encode("utf-8", "surrogatepass") if isinstance(part, str) else array("i", part).tobytes()
        )
        found.append(PrefixKey(digest.digest(), end))
    return tuple(found)


def _blocks(length: int, least: int) -> Iterator[tuple[int, int]]:
    start = 0
    while (end := start + max(least, start // _GROWTH)) <= length:
        yield start, end
        start = end


def _sample(image: Image) -> bytes:
    data = image.data
    return len(data).to_bytes(8, "little") + data[:_SAMPLE_BYTES] + data[-_SAMPLE_BYTES:]


@dataclass(frozen=True, slots=True)
class HeldPrefix:
    """The part of a prompt that an engine holds: `length` characters or tokens, last used at `used`."""

    length: int = 0
    used: int = 0


NOTHING_HELD = HeldPrefix()


class PrefixIndex:
    """Keys of the beginnings that one engine holds, at most `most`."""

    def __init__(self, most: int = MAX_KEYS) -> None:
        self._most = most
        self._used: OrderedDict[bytes, int] = OrderedDict()  # by last use, the oldest first
        self._n_uses = 0

    def __len__(self) -> int:
        return len(self._used)

    def find(self, keys: Sequence[PrefixKey]) -> HeldPrefix:
        """The part of a prompt that the engine holds."""
        found = NOTHING_HELD
        for key in keys:
            if (used := self._used.get(key.key)) is None:
                break
            found = HeldPrefix(key.length, used)
        return found

    def note(self, keys: Sequence[PrefixKey]) -> None:
        """The engine computes a prompt."""
        self._n_uses += 1
        for key in reversed(keys):  # the first block is the last to be dropped
            self._used[key.key] = self._n_uses
            self._used.move_to_end(key.key)
        while len(self._used) > self._most:
            self._used.popitem(last=False)

    def drop_old(self, used: int) -> None:
        """The engine has dropped a prompt that was last used at `used`: forget it and all older ones."""
        while self._used and next(iter(self._used.values())) <= used:
            self._used.popitem(last=False)

    def clear(self) -> None:
        """The engine holds nothing."""
        self._used.clear()
