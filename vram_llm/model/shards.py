"""Names of a split model's parts: NAME-00001-of-00003.gguf (llama_split_path in src/llama.cpp)."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

_NAME = re.compile(r"(?P<prefix>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_END = ".gguf"


@dataclass(frozen=True, slots=True)
class ShardName:
    """The parts of a shard's file name, which may have folders in front."""

    prefix: str
    number: int  # from 1
    count: int

    def part(self, number: int) -> str:
        """The name of another part of the same model."""
        return f"{self.prefix}-{number:05d}-of-{self.count:05d}{_END}"

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of all parts."""
        return tuple(self.part(i + 1) for i in range(self.count))


def shard_name(name: str) -> ShardName | None:
    """The parts of a shard's name; None for a file that is a whole model."""
    match = _NAME.fullmatch(name)
    return ShardName(match["prefix"], int(match["number"]), int(match["count"])) if match else None


def is_later_shard(name: str) -> bool:
    """Whether a name is that of a shard after the first."""
    shard = shard_name(name)
    return shard is not None and shard.number != 1


def stem(name: str) -> str:
    """The name of a model without folders, shard number and `.gguf`."""
    name = name.rpartition("/")[2]
    shard = shard_name(name)
    return name.removesuffix(_END) if shard is None else shard.prefix


def by_model(names: Iterable[str]) -> dict[str, list[str]]:
    """The names of each model's files in a list of names, by the name of its lowest part there."""
    models: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name in sorted(names):
        shard = shard_name(name)
        models[(name, 0) if shard is None else (shard.prefix, shard.count)].append(name)
    return {files[0]: files for files in models.values()}
