"""Faults of headers that know GGUF's structure, and cases made of them; `case(n)` is always the same.

Each fault is a function that changes a `Draft`; `FAULTS` has them by name. Past 400 lines because the forty
faults are a list.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.model.header_drafts import Draft, TensorEntry, copy, seeds, string

EDGES = (
    0,
    1,
    2,
    7,
    31,
    2**7,
    2**8 - 1,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**62,
    2**63,
    2**64 - 1,
)
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
LAYOUTS = {kind: struct.Struct("<" + code) for kind, code in NUMBERS.items()}
STRING, ARRAY = 8, 9


Fault = Callable[[Draft, Random], None]
FAULTS: dict[str, Fault] = {}


@dataclass(frozen=True)
class Case:
    """One case: the files of a model in order, and the faults in one of them."""

    drafts: tuple[Draft, ...]
    faults: tuple[str, ...]

    def write(self, folder: Path) -> Path:
        """Write all files; the path of the first."""
        n = len(self.drafts)
        names = ["m.gguf"] if n == 1 else [f"m-{i + 1:05d}-of-{n:05d}.gguf" for i in range(n)]
        for name, draft in zip(names, self.drafts, strict=True):
            draft.write(folder / name)
        return folder / names[0]


def case(number: int) -> Case:
    """Case `number`: a seed model with one to four faults."""
    random = Random(f"mutated header {number}")
    models = seeds()
    drafts = tuple(copy(draft) for draft in models[number % len(models)])
    names = list(FAULTS)
    chosen = [names[number // len(models) % len(names)]]
    chosen += random.choices(names, k=random.choice((0, 0, 1, 3)))
    for name in chosen:
        FAULTS[name](random.choice(drafts), random)
    return Case(drafts, tuple(chosen))


def fault(function: Fault) -> Fault:
    """Add a fault to `FAULTS`, by its name with spaces."""
    FAULTS[function.__name__.replace("_", " ")] = function
    return function


def _number(random: Random) -> int:
    """A number that programs trip over, or any."""
    return (
        random.choice(EDGES) if random.random() < 0.8 else random.getrandbits(random.choice((8, 16, 32, 64)))
    )


def _scalar(random: Random) -> bytes:
    """A value of any number's type."""
    kind = random.choice(list(LAYOUTS))
    return struct.pack("<I", kind) + random.randbytes(LAYOUTS[kind].size)


def _whole(random: Random) -> bytes:
    """A whole number of a type that llama.cpp takes."""
    number = _number(random)
    return random.choice((
        struct.pack("<II", 4, number % 2**32),
        struct.pack("<IQ", 10, number),
        struct.pack("<Ii", 5, number % 2**31 - random.choice((0, 2**31))),
    ))  # fmt: skip


def _own_key(draft: Draft, random: Random) -> int | None:
    """The place of a key of the architecture; None if the draft has none."""
    own = [i for i, (key, _) in enumerate(draft.pairs) if not key.startswith((b"general.", b"tokenizer."))]
    return random.choice(own) if own else None


def _put(draft: Draft, random: Random, value: bytes) -> None:
    """Give a key of the architecture another value."""
    if (i := _own_key(draft, random)) is not None:
        draft.pairs[i] = (draft.pairs[i][0], value)


def _add(draft: Draft, random: Random, key: bytes, value: bytes) -> None:
    draft.pairs.insert(random.randint(0, len(draft.pairs)), (key, value))


def _tensor(draft: Draft, random: Random) -> TensorEntry:
    if not draft.tensors:
        draft.tensors.append(TensorEntry(b"t", [32], 0, 0))
    return random.choice(draft.tensors)


@fault
def wrong_magic(draft: Draft, random: Random) -> None:
    draft.magic = random.choice((b"GGUX", b"FUGG", b"\0\0\0\0", b"PK\3\4", b"<htm", b"lmgg", b""))


@fault
def other_version(draft: Draft, random: Random) -> None:
    draft.version = random.choice((0, 1, 2, 4, 3 << 24, 2**32 - 1, _number(random)))


@fault
def wrong_count_of_keys(draft: Draft, random: Random) -> None:
    draft.n_pairs = random.choice((_number(random), len(draft.pairs) + random.randint(-3, 3)))


@fault
def wrong_count_of_tensors(draft: Draft, random: Random) -> None:
    draft.n_tensors = random.choice((_number(random), len(draft.tensors) + random.randint(-3, 3)))


@fault
def a_key_twice(draft: Draft, random: Random) -> None:
    _add(draft, random, *random.choice(draft.pairs))


@fault
def a_key_with_odd_characters(draft: Draft, random: Random) -> None:
    key = random.choice(
        (b"", b"\0", b"a\nb", b"\x1b[2J", "\u202egeneral".encode(), b"\xff\xfe", b"k" * 65536)
    )
    _add(draft, random, key, struct.pack("<II", 4, 1))


@fault
def a_long_key(draft: Draft, random: Random) -> None:
    _add(draft, random, struct.pack("<Q", _number(random)), b"")


@fault
def a_value_of_another_type(draft: Draft, random: Random) -> None:
    i = random.randrange(len(draft.pairs))
    key, value = draft.pairs[i]
    draft.pairs[i] = (
        key,
        struct.pack("<I", random.choice((*range(14), _number(random) % 2**32))) + value[4:],
    )


@fault
def a_number_at_the_edge(draft: Draft, random: Random) -> None:
    _put(draft, random, _whole(random))


@fault
def a_real_number(draft: Draft, random: Random) -> None:
    number = random.choice((0.0, -1.0, 0.5, float("nan"), float("inf"), -float("inf"), 1e38))
    _put(
        draft,
        random,
        struct.pack("<If", 6, number) if random.random() < 0.5 else struct.pack("<Id", 12, number),
    )


@fault
def any_scalar(draft: Draft, random: Random) -> None:
    _put(draft, random, _scalar(random))


@fault
def a_key_is_missing(draft: Draft, random: Random) -> None:
    if draft.pairs:
        del draft.pairs[random.randrange(len(draft.pairs))]


@fault
def text_for_a_number(draft: Draft, random: Random) -> None:
    text = random.choice((b"", b"8", b"\x1b]0;x\x07", b"\xff" * 100, b"x" * 70_000, random.randbytes(50)))
    _put(draft, random, struct.pack("<I", STRING) + string(text))


@fault
def a_huge_text(draft: Draft, random: Random) -> None:
    length = random.choice((2**20, 2**22, 2**22 + 1, 2**24))
    text = random.choice((b"x", b"\xff", "\U0001f999".encode())) * (length // 4)
    value = struct.pack("<I", STRING) + string(text)
    _add(draft, random, random.choice((b"tokenizer.chat_template", b"general.description")), value)


@fault
def a_text_longer_than_the_file(draft: Draft, random: Random) -> None:
    _add(draft, random, b"general.url", struct.pack("<IQ", STRING, _number(random)))


@fault
def a_per_layer_array(draft: Draft, random: Random) -> None:
    n = random.choice((0, 1, 2, 3, 4, 511, 512, 513, 4096, 4097, 20_000))
    kind = random.choice(list(LAYOUTS))
    numbers = random.choice((bytes(n * LAYOUTS[kind].size), random.randbytes(n * LAYOUTS[kind].size)))
    _put(draft, random, struct.pack("<IIQ", ARRAY, kind, n) + numbers)


@fault
def an_array_of_wrong_length(draft: Draft, random: Random) -> None:
    kind = random.choice((*LAYOUTS, STRING))
    value = struct.pack("<IIQ", ARRAY, kind, _number(random)) + random.randbytes(random.choice((0, 8, 400)))
    _add(draft, random, random.choice((b"tokenizer.ggml.tokens", b"general.tags")), value)


@fault
def an_array_in_an_array(draft: Draft, random: Random) -> None:
    inner = struct.pack("<IQ", 4, 2) + bytes(8)
    for _ in range(random.choice((1, 2, 1000))):
        inner = struct.pack("<IQ", ARRAY, 1) + inner
    _put(draft, random, struct.pack("<I", ARRAY) + inner)


@fault
def an_array_of_an_odd_type(draft: Draft, random: Random) -> None:
    kind = random.choice((13, 14, 255, 2**31, 2**32 - 1))
    _put(draft, random, struct.pack("<IIQ", ARRAY, kind, random.choice((0, 1, _number(random)))) + bytes(16))


@fault
def strings_with_wrong_lengths(draft: Draft, random: Random) -> None:
    strings = b"".join(string(b"token") for _ in range(random.choice((1, 300, 3000))))
    at = random.randrange(0, len(strings), 13)
    strings = strings[:at] + struct.pack("<Q", _number(random)) + strings[at + 8 :]
    value = struct.pack("<IIQ", ARRAY, STRING, len(strings) // 13) + strings
    _add(draft, random, random.choice((b"tokenizer.ggml.tokens", b"llama.classifier.output_labels")), value)


@fault
def many_keys(draft: Draft, random: Random) -> None:
    value = random.choice((struct.pack("<I?", 7, True), struct.pack("<IIQ", ARRAY, 2, 64) + bytes(128)))
    draft.pairs += [(b"k%d" % i, value) for i in range(random.choice((1000, 5000)))]


@fault
def an_alignment(draft: Draft, random: Random) -> None:
    value = struct.pack("<II", 4, random.choice((0, 1, 3, 8, 16, 33, 64, 4096, 2**31)))
    _add(draft, random, b"general.alignment", random.choice((value, _whole(random), _scalar(random))))


@fault
def shard_numbers(draft: Draft, random: Random) -> None:
    key = random.choice((b"split.no", b"split.count", b"split.tensors.count"))
    number = random.choice((0, 1, 2, 3, 4, 999, 1001, 65535, _number(random) % 2**16))
    values = (struct.pack("<IH", 2, number), struct.pack("<Ii", 5, number), _scalar(random))
    draft.pairs = [pair for pair in draft.pairs if pair[0] != key]
    _add(draft, random, key, random.choice(values))


@fault
def another_architecture(draft: Draft, random: Random) -> None:
    name = random.choice((
        b"", b"clip", b"gemma3", b"mamba2", b"llama\n", b"x" * 5000, b"\xff", b"deepseek2", b"bert",
        b"qwen3next", b"rwkv6", b"t5", b"controlvector", b"jamba", b"lfm2", b"gpt-oss",
    ))  # fmt: skip
    key, old = (
        b"general.architecture",
        [value for key, value in draft.pairs if key == b"general.architecture"],
    )
    draft.pairs = [pair for pair in draft.pairs if pair[0] != key]
    _add(draft, random, key, struct.pack("<I", STRING) + string(name))
    if old and random.random() < 0.7:  # its keys go with it
        prefix = old[0][12:] + b"."
        draft.pairs = [
            (name + b"." + own.removeprefix(prefix) if own.startswith(prefix) else own, value)
            for own, value in draft.pairs
        ]


@fault
def an_offset(draft: Draft, random: Random) -> None:
    tensor = _tensor(draft, random)
    tensor.offset = random.choice((_number(random), tensor.offset + random.choice((-32, -1, 1, 31, 32))))


@fault
def overlapping_tensors(draft: Draft, random: Random) -> None:
    _tensor(draft, random).offset = _tensor(draft, random).offset


@fault
def a_dimension(draft: Draft, random: Random) -> None:
    tensor = _tensor(draft, random)
    if tensor.dims:
        tensor.dims[random.randrange(len(tensor.dims))] = _number(random)


@fault
def a_number_of_dimensions(draft: Draft, random: Random) -> None:
    tensor = _tensor(draft, random)
    if random.random() < 0.5:
        tensor.n_dims = random.choice((0, 5, _number(random)))
    else:
        tensor.dims = [random.choice((0, 1, 32, 2**31)) for _ in range(random.randint(0, 6))]


@fault
def a_tensor_type(draft: Draft, random: Random) -> None:
    _tensor(draft, random).type = random.choice((*range(-1, 45), _number(random)))


@fault
def a_tensor_name(draft: Draft, random: Random) -> None:
    _tensor(draft, random).name = random.choice((
        b"", b"\0", b"blk.0.attn_q.weight", b"blk.99999999999999999999.ffn_up.weight",
        b"blk.-1.ffn_up.weight", b"blk.511.x", "blk.\u0663.ffn_up.weight".encode(), b"n" * 63, b"n" * 64,
        b"\x1b[31m", b"\xff\xfe", b"token_embd.weight", b"output.weight",
        b"blk.0.ffn_up_exps.weight", b"blk.1.ssm_in.weight",
    ))  # fmt: skip


@fault
def tensors_twice(draft: Draft, random: Random) -> None:
    tensor = _tensor(draft, random)
    draft.tensors.insert(random.randint(0, len(draft.tensors)), tensor)


@fault
def tensors_missing(draft: Draft, random: Random) -> None:
    """Without their data: the other offsets follow."""
    kept = [each for each in draft.tensors if random.random() < 0.7]
    offset = 0
    for i, tensor in enumerate(kept):
        before = draft.tensors.index(tensor)
        after = draft.tensors[before + 1].offset if before + 1 < len(draft.tensors) else draft.data_bytes
        size = after - tensor.offset
        kept[i] = TensorEntry(tensor.name, tensor.dims, tensor.type, offset)
        offset += max(size, 0)
    draft.tensors, draft.data_bytes = kept, max(offset, 0)


@fault
def many_tensors(draft: Draft, random: Random) -> None:
    for i in range(random.choice((500, 3000))):
        draft.tensors.append(TensorEntry(b"blk.%d.x%d.weight" % (i % 3, i), [32], 0, draft.data_bytes))
        draft.data_bytes += 128


@fault
def cut_short(draft: Draft, random: Random) -> None:
    draft.keeps_hole = random.random() < 0.3
    share = random.random()
    draft.edits.append(lambda raw: raw.__delitem__(slice(int(share * len(raw)), None)))


@fault
def data_cut_short(draft: Draft, random: Random) -> None:
    draft.data_bytes = random.choice((0, max(draft.data_bytes - random.choice((1, 32, 4096)), 0)))


@fault
def a_huge_hole(draft: Draft, random: Random) -> None:
    """The header goes on in it: an array, a text, or a list of keys."""
    draft.data_bytes = random.choice((2**30, 2**40))
    count = random.choice((10**5, 10**6, 2**22, 2**27))
    draft.pairs.append(random.choice((
        (b"tokenizer.ggml.scores", struct.pack("<IIQ", ARRAY, random.choice((0, 6, 10)), count)),
        (b"tokenizer.ggml.tokens", struct.pack("<IIQ", ARRAY, STRING, count)),
        (b"general.description", struct.pack("<IQ", STRING, count)),
    )))  # fmt: skip
    draft.tensors, draft.n_tensors = [], random.choice((0, 10, 60_000))


@fault
def damaged_bytes(draft: Draft, random: Random) -> None:
    places = [(random.random(), random.getrandbits(8)) for _ in range(random.choice((1, 2, 8, 64)))]

    def edit(raw: bytearray) -> None:
        for share, byte in places if raw else ():
            raw[int(share * len(raw))] = byte

    draft.edits.append(edit)


@fault
def eight_damaged_bytes(draft: Draft, random: Random) -> None:
    share, number = random.random(), struct.pack("<Q", _number(random))

    def edit(raw: bytearray) -> None:
        at = int(share * len(raw))
        raw[at : at + 8] = number

    draft.edits.append(edit)


@fault
def inserted_bytes(draft: Draft, random: Random) -> None:
    share, more = random.random(), random.randbytes(random.choice((1, 4, 8, 100)))

    def edit(raw: bytearray) -> None:
        at = int(share * len(raw))
        raw[at:at] = more

    draft.edits.append(edit)


@fault
def a_piece_of_the_header_again(draft: Draft, random: Random) -> None:
    begin, length, to = random.random(), random.choice((8, 40, 400)), random.random()

    def edit(raw: bytearray) -> None:
        at = int(begin * len(raw))
        piece = raw[at : at + length]
        raw[int(to * len(raw)) : int(to * len(raw)) + len(piece)] = piece

    draft.edits.append(edit)
