"""Overrides that a user dictates, on headers of published models."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import zoo
from tests.cli.typed import typed
from tests.planner.cases import DESKTOP, LAPTOP, machine, profile_of
from vram_llm.errors import BadPlan
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.override_check import checked_overrides, unmatched_notes
from vram_llm.planner.override_text import override_flags, parse_overrides
from vram_llm.planner.overrides import Override

RIG = machine([DESKTOP, LAPTOP])


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelProfile]:
    """qwen: experts in each layer; deepseek: none in the first three; llama: no experts."""

    def made(name: str, model: zoo.Model) -> ModelProfile:
        folder: Path = tmp_path_factory.mktemp(name)
        return profile_of(model, folder)

    return {
        "qwen": made("qwen", zoo.PUBLISHED["qwen3_30b"]()),
        "deepseek": made("deepseek", zoo.PUBLISHED["deepseek_r1"]()),
        "llama": made("llama", zoo.PUBLISHED["llama_8b"]()),
    }


def checked(profile: ModelProfile, flags: Sequence[str]) -> tuple[Override, ...]:
    wanted = typed(*flags).overrides
    assert wanted is not None
    return checked_overrides(profile, RIG, wanted)


@pytest.mark.parametrize(
    ("name", "flags", "normal"),
    [
        ("qwen", ["-ot", r"\.ffn_.*_exps\.=CPU"], "--n-cpu-moe 48"),
        ("qwen", ["--cpu-moe"], "--n-cpu-moe 48"),
        ("qwen", ["-ncmoe", "7", "-ot", "experts:3-9=cpu"], "--n-cpu-moe 10"),
        ("qwen", ["-ot", r"blk\.[0-3]\..*exps=CPU,exps=gpu1"],
         "--n-cpu-moe 4 --override-tensor experts:4-47=GPU1"),
        ("qwen", ["-ot", "experts:2=GPU1", "-ncmoe", "4"],
         "--override-tensor experts:0-1,3=CPU,experts:2=GPU1"),
        ("qwen", ["-ncmoe", "4", "-ot", "experts:2=GPU1"], "--n-cpu-moe 4"),
        ("qwen", ["-ot", r"blk\.1\..*(gate|up)_exps=GPU1", "-ncmoe", "2"],
         "--n-cpu-moe 1 --override-tensor experts_up:1=GPU1,experts_down:1=CPU"),
        ("qwen", ["-ot", "gate_exps=GPU1", "-ncmoe", "2"],
         r"--override-tensor gate_exps=GPU1,^blk\.(?:0|1)\.ffn_(?:up|down|gate|gate_up)_(?:ch)?exps\.=CPU"),
        ("qwen", ["-ot", r"blk\.1\..*(gate|up)_exps=CPU,blk.1.ffn_down_exps=CPU"],
         "--override-tensor experts:1=CPU"),
        ("deepseek", ["-ncmoe", "5"], "--override-tensor experts:3-4=CPU"),
        ("deepseek", ["-ncffn", "3"], "--n-cpu-ffn 3"),
        ("llama", ["-ot", "ffn_down.weight=GPU1"], "--override-tensor ffn_down:0-31=GPU1"),
        ("llama", ["-ot", "attn_q=GPU1,output=CPU"], "--override-tensor attn_q=GPU1,output=CPU"),
        ("llama", ["-ot", "exps=GPU1,output=CPU"], "--override-tensor output=CPU"),
        ("qwen", ["-ncmoe", "99"], "--n-cpu-moe 48"),
    ],
)  # fmt: skip
def test_the_normal_form(name: str, flags: list[str], normal: str, profiles: dict[str, ModelProfile]) -> None:
    found = checked(profiles[name], flags)
    assert " ".join(override_flags(found)) == normal
    assert checked(profiles[name], [*flags, *override_flags(found)]) == found


def test_a_note_names_patterns_that_match_nothing(profiles: dict[str, ModelProfile]) -> None:
    wanted = parse_overrides("exps=GPU1,output=CPU")
    assert unmatched_notes(profiles["llama"], wanted) == ("the model has no tensors for exps",)
    assert unmatched_notes(profiles["llama"], wanted[1:]) == ()


def test_layers_of_a_pattern_that_is_no_part(profiles: dict[str, ModelProfile]) -> None:
    (override,) = checked(profiles["llama"], ["-ot", r"blk\.1.\.attn_q=CPU"])
    assert (override.part, override.layers) == (None, tuple(range(10, 20)))


@pytest.mark.parametrize(
    ("name", "flags", "sentence"),
    [
        ("llama", "-ncmoe 4", "--n-cpu-moe 4 moves nothing: .* has no routed experts; --n-cpu-ffn moves"),
        ("llama", "-cmoe", "--cpu-moe moves nothing: llama of 32 layers has no routed experts; --n-cpu-ffn"),
        ("qwen", "-ncffn 3", "has no dense feed-forward weights; --n-cpu-moe moves"),
        ("qwen", "-ot experts:0-99=GPU1", "is for more layers than .* has: those with .* are 0-47"),
        ("deepseek", "-ncmoe 2", "moves nothing: of .* only layers 3-60 have routed experts"),
        ("llama", "-ot exps=CPU", "moves nothing: .* has no tensor of such a name; one is blk.0.attn_n"),
        ("llama", "-ot ffn=GPU7", "puts weights on GPU7, and the devices are GPU0, GPU1, CPU"),
        ("llama", "-ot (ffn=CPU", "is no regular expression: missing"),
        ("llama", "-ot (?i)ffn=CPU", "has inline flags, which llama.cpp's std::regex may read"),
        ("llama", "-ot (?<!x)ffn=CPU", "has a look-behind, which"),
        ("llama", "-ot (?P<a>ffn)=CPU", "has a named group, which"),
        ("llama", "-ot (?>f)fn=CPU", "has a group or quantifier that never gives back, which"),
        ("llama", "-ot f++n=CPU", "has a group or quantifier that never gives back, which"),
        ("llama", r"-ot \Ablk=CPU", r"has \\A, which"),
        ("llama", "-ot [[:alpha:]]ffn=CPU", r"has a \[ inside a set, which"),
        ("llama", "-ot []x]ffn=CPU", r"has a set that starts with \], which"),
        ("llama", "-ot f{n=CPU", "has a { that starts no quantifier, which"),
        ("llama", "-ot f\u00fcr=CPU", "has a character other than printable ASCII, which"),
    ],
)  # fmt: skip
def test_each_refusal_is_a_sentence(
    name: str, flags: str, sentence: str, profiles: dict[str, ModelProfile]
) -> None:
    with pytest.raises(BadPlan, match=sentence):
        checked(profiles[name], flags.split())
