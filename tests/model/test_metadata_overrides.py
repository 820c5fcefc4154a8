"""`--override-kv`: other values of a file's metadata."""

from pathlib import Path
from typing import Any

import click
import pytest

from tests import zoo
from tests.cli.typed import typed
from vram_llm.errors import BadPlan
from vram_llm.machine.detect import what_if
from vram_llm.model.header_reader import read_header
from vram_llm.model.metadata_override import MetadataOverride
from vram_llm.model.metadata_overrides import parse_override, unknown_keys, with_overrides
from vram_llm.model.profile import profile
from vram_llm.model.strip import overrides_of_stripped
from vram_llm.planner.export.formats import emit, from_json, to_json
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.types import Workload


@pytest.fixture
def moe(tmp_path: Path) -> Path:
    return zoo.write(zoo.qwen3_moe(), tmp_path / "moe.gguf")


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("a.b=int:4", "a.b", 4),
        ("a.b=int:-4", "a.b", -4),
        ("a.b=float:1e6", "a.b", 1e6),
        ("a.b=bool:false", "a.b", False),
        ("a.b=str:x=y:z", "a.b", "x=y:z"),
        ("a.b=str:", "a.b", ""),
    ],
)
def test_it_is_written_as_in_llama_cpp(text: str, key: str, value: Any) -> None:
    parsed = parse_override(text)
    assert parsed == MetadataOverride(key, value)
    assert type(parsed.value) is type(value)
    assert parse_override(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a.b", "is not written like KEY=TYPE:VALUE"),
        ("a.b=4", "is not written like KEY=TYPE:VALUE"),
        ("=int:4", "is not written like KEY=TYPE:VALUE"),
        ("a.b=int:four", "'four' is no int"),
        (f"a.b=int:{2**63}", "is no int"),
        ("a.b=bool:1", "'1' is no bool"),
        ("a.b=u32:4", "'u32' is no type of metadata: int, float, bool or str"),
        (f"a.b=str:{'x' * 128}", "at most 127 bytes"),
    ],
)
def test_another_text_is_refused(text: str, why: str) -> None:
    with pytest.raises(click.UsageError, match=why):
        typed("--override-kv", text)


def test_flags_are_rows_of_csv_and_may_be_repeated() -> None:
    flags = ("--override-kv", 'a=int:1,"b=str:x,y"', "--override-kv", "c=bool:true")
    wanted = (MetadataOverride("a", 1), MetadataOverride("b", "x,y"), MetadataOverride("c", True))
    assert typed(*flags).kv_overrides == wanted
    assert typed().kv_overrides == ()


def test_a_profile_has_the_values(moe: Path) -> None:
    header = read_header(moe)
    changed = with_overrides(
        header,
        [
            MetadataOverride("qwen3moe.expert_used_count", 2),
            MetadataOverride("qwen3moe.context_length", 1024),
            MetadataOverride("qwen3moe.expert_used_count", 4),  # the first one counts
        ],
    )
    before, after = profile(header), profile(changed)
    assert (after.n_expert_used, after.context_length) == (2, 1024)
    assert after.active_bytes_per_token < before.active_bytes_per_token
    assert after.total_bytes == before.total_bytes


@pytest.mark.parametrize(
    ("override", "why"),
    [
        (
            MetadataOverride("qwen3moe.expert_used_count", 2.0),
            "as float, and the file has a value of type i",
        ),
        (MetadataOverride("general.architecture", 2), "as int, and the file has a value of type str"),
        (MetadataOverride("tokenizer.chat_template", "x"), "give --chat-template-file"),
        (MetadataOverride("general.sampling.temp", 0.5), "give --temperature"),
        (MetadataOverride("split.count", 2), "it describes the file itself"),
    ],
)
def test_an_override_that_llama_cpp_would_not_use_is_refused(
    moe: Path, override: MetadataOverride, why: str
) -> None:
    with pytest.raises(BadPlan, match=why):
        with_overrides(read_header(moe), [override])


def test_a_key_that_the_file_lacks_is_known(moe: Path) -> None:
    changed = with_overrides(read_header(moe), [MetadataOverride("qwen3moe.no_such_key", 1)])
    assert unknown_keys(changed) == ("qwen3moe.no_such_key",)


def test_a_stripped_copy_gets_those_that_are_not_of_the_vocabulary(moe: Path) -> None:
    used = MetadataOverride("qwen3moe.expert_used_count", 2)
    others = [
        MetadataOverride("tokenizer.ggml.add_bos_token", False),
        MetadataOverride("qwen3moe.vocab_size", 9),
    ]
    assert overrides_of_stripped(with_overrides(read_header(moe), [*others, used])) == (used,)


def test_plans_and_exports_have_them(moe: Path) -> None:
    overrides = (MetadataOverride("qwen3moe.expert_used_count", 2), MetadataOverride("x.name", 'a "b", c'))
    model = profile(with_overrides(read_header(moe), overrides))
    plan = make_plan(model, what_if(["H100"]), Workload(n_ctx=2048), compares=False)
    assert plan.model.kv_overrides == overrides
    assert from_json(to_json(plan), "a plan") == plan
    command = emit(plan, "llama-server")
    assert '--override-kv \'qwen3moe.expert_used_count=int:2,"x.name=str:a ""b"", c"\'' in command
    script = emit(plan, "llama-cpp-python")
    assert "(b'qwen3moe.expert_used_count', C.LLAMA_KV_OVERRIDE_TYPE_INT, 'val_i64', 2)" in script
    compile(script, "script", "exec")
