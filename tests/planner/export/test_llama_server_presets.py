"""The file of llama-server's --models-preset: its form, devices of several plans, how many at a time."""

import dataclasses
import re

import pytest

from tests.planner.export.fleets import card_plan, fleet_of
from tests.planner.saved import CONTEXT
from vram_llm.errors import BadPlan
from vram_llm.planner.export.exported_fleet import ExportedFleet, ExportedModel, most_at_a_time
from vram_llm.planner.export.llama_server_presets import presets
from vram_llm.planner.export.setting import Setting
from vram_llm.planner.types import Companion, CompanionKind, Plan


def sections(text: str) -> dict[str, dict[str, str]]:
    """The sections, by the grammar of llama.cpp's common/preset.cpp: a value ends at ";", "#" or the line."""
    found: dict[str, dict[str, str]] = {"": {}}
    name = ""
    for line in text.splitlines():
        if not line or re.match(r"[ \t]*[;#]", line):
            continue
        if header := re.fullmatch(r"\[[ \t]*([^\]]+?)[ \t]*\]", line):
            name = header[1]
            found[name] = {}
            continue
        pair = re.match(r"([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*=[ \t]*((?:(?![ \t]*(?:[;#]|$)).)*)", line)
        assert pair is not None, line
        found[name][pair[1]] = pair[2]
    return found


def with_adapters(plan: Plan, *paths: str) -> Plan:
    loras = tuple(
        Companion(
            kind=CompanionKind.LORA, path=path, name="l", total_bytes=1, device=None, uses={}, method=""
        )
        for path in paths
    )
    return dataclasses.replace(plan, companions=loras)


def test_cards_have_the_same_numbers_in_all_sections() -> None:
    models = (
        ExportedModel(name="chat", plan=card_plan(2, 0), preload=True, aliases=("x", "y")),
        ExportedModel(name="coder", plan=card_plan(1, 2), settings=(Setting("--temp", "0.1", None),)),
    )
    text = presets(ExportedFleet(models=models, sets=(frozenset({"chat", "coder"}),)))
    found = sections(text)
    assert found.pop("") == {"version": "1"}
    assert {name: section["device"] for name, section in found.items()} == {
        "chat": "CUDA0,CUDA1", "coder": "CUDA2,CUDA0"
    }  # fmt: skip
    command = text.splitlines()[0]
    assert (
        "CUDA_VISIBLE_DEVICES=GPU-2,GPU-0,GPU-1 llama-server --models-preset FILE --models-max 2" in command
    )
    assert [section["load-on-startup"] for section in found.values()] == ["true", "false"]
    assert found["chat"]["alias"] == "x,y"
    assert found["coder"]["temp"] == "0.1"
    assert found["coder"]["model"] == "/srv/models/big.gguf"
    assert not {"host", "port"} & set(found["chat"])


def test_a_remark_on_all_models_is_there_once_and_whole() -> None:
    plans = [
        dataclasses.replace(card_plan(0), context=dataclasses.replace(CONTEXT, parallel=n)) for n in (1, 2)
    ]
    roomy = [
        dataclasses.replace(plan, context=dataclasses.replace(plan.context, n_outputs_max=8))
        for plan in plans
    ]
    models = tuple(ExportedModel(name=name, plan=plan) for name, plan in zip("ab", roomy, strict=True))
    text = presets(ExportedFleet(models=models, sets=(frozenset("ab"),)))
    assert text.count("--cache-ram and --ctx-checkpoints are 0") == 1
    for n_rows in (1, 2):
        assert (
            f"# llama-server asks for {n_rows} rows of logits; the plan has room for 8, so\n"
            "# compute on the output's device is smaller than planned.\n["
        ) in text


def test_no_more_start_than_fit_by_number() -> None:
    text = presets(fleet_of("abc", ["ab", "c"], preload=True))
    assert "--models-max 1 " in text
    assert [section.get("load-on-startup") for section in sections(text).values()] == [
        None, "true", "false", "false"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sets", "most"),
    [(["abcd"], 4), (["abc", "abd", "acd", "bcd"], 3), (["abc", "ad", "bd", "cd"], 2), (["abc", "d"], 1)],
)
def test_any_so_many_models_fit(sets: list[str], most: int) -> None:
    assert most_at_a_time(fleet_of("abcd", sets)) == most


def test_several_adapters_are_one_value() -> None:
    plan = with_adapters(card_plan(0), "/srv/a.gguf", "/srv/b, c.gguf")
    fleet = ExportedFleet(models=(ExportedModel(name="a", plan=plan),), sets=(frozenset("a"),))
    assert sections(presets(fleet))["a"]["lora"] == '/srv/a.gguf,"/srv/b, c.gguf"'


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [("a]", "x", "cannot hold ']', and name is 'a]'"), ("org/a:q4", "x", "cannot hold ':'"),
     ("a", "x#1", "a preset of llama-server cannot hold '#', and model is")],
)  # fmt: skip
def test_characters_that_end_a_value(name: str, path: str, message: str) -> None:
    fleet = ExportedFleet(
        models=(ExportedModel(name=name, plan=card_plan(0, name=path)),), sets=(frozenset({name}),)
    )
    with pytest.raises(BadPlan, match=re.escape(message)):
        presets(fleet)


def test_what_the_router_cannot_do_is_said() -> None:
    fleet = fleet_of("ab", ["ab"], n_replicas=2)
    text = presets(dataclasses.replace(fleet, together=(frozenset("ab"),)))
    assert "# a is planned with 2 replicas; this is the first." in text
    assert "# a, b: nothing here loads and unloads them together." in text
