"""llama-swap's config.yaml: its form, its commands, and the models that it lets run together."""

import shlex
from itertools import chain, combinations
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planner.export.fleets import card_plan, fleet_of, replace_path
from vram_llm.errors import BadPlan
from vram_llm.planner.export.exported_fleet import ExportedFleet, ExportedModel
from vram_llm.planner.export.llama_server import command_line
from vram_llm.planner.export.llama_swap import llama_swap_config
from vram_llm.planner.export.setting import Setting

NAMES = {"type": "array", "items": {"type": "string"}}
GROUP = {
    "type": "object",
    "required": ["members"],
    "additionalProperties": False,
    "properties": {"swap": {"type": "boolean"}, "exclusive": {"type": "boolean"}, "members": NAMES},
}
MATRIX = {
    "type": "object",
    "required": ["vars", "sets"],
    "additionalProperties": False,
    "properties": {
        "vars": {"propertyNames": {"pattern": "^[a-zA-Z0-9]{1,8}$"}, "minProperties": 1},
        "evict_costs": {"additionalProperties": {"type": "integer", "minimum": 1}},
        "sets": {"additionalProperties": {"type": "string"}, "minProperties": 1},
    },
}
MODEL = {
    "type": "object",
    "required": ["cmd"],
    "additionalProperties": False,
    "properties": {
        "cmd": {"type": "string", "minLength": 1},
        "env": {"type": "array", "items": {"type": "string", "pattern": "^[A-Z_][A-Z0-9_]*=.*$"}},
        "aliases": NAMES,
        "ttl": {"type": "integer", "minimum": -1},
    },
}
FORM = {  # the keys that are written, as llama-swap's config-schema.json has them
    "type": "object",
    "required": ["models"],
    "additionalProperties": False,
    "properties": {
        "healthCheckTimeout": {"type": "integer", "minimum": 15},
        "models": {"additionalProperties": MODEL},
        "groups": {"additionalProperties": GROUP},
        "matrix": MATRIX,
        "hooks": {"properties": {"on_startup": {"properties": {"preload": NAMES}}}},
    },
    "not": {"required": ["groups", "matrix"]},
}


def config_of(fleet: ExportedFleet) -> dict[str, Any]:
    found = yaml.safe_load(llama_swap_config(fleet))
    jsonschema.validate(found, FORM)
    assert isinstance(found, dict)
    return found


def may_run_together(config: dict[str, Any], names: str) -> set[frozenset[str]]:
    """Every set of models that llama-swap lets run at a time, by its rules of groups and of the matrix."""
    subsets = chain.from_iterable(combinations(names, n) for n in range(1, len(names) + 1))
    if "groups" in config:
        limits = [set(group["members"]) for group in config["groups"].values() if group["swap"]]
        assert sorted(chain(*(group["members"] for group in config["groups"].values()))) == sorted(names)
        assert not any(group["exclusive"] for group in config["groups"].values())
        return {frozenset(one) for one in subsets if all(len(limit & set(one)) < 2 for limit in limits)}
    variables = config["matrix"]["vars"]
    sets = [{variables[word] for word in text.split(" & ")} for text in config["matrix"]["sets"].values()]
    return {frozenset(one) for one in subsets if any(set(one) <= fitting for fitting in sets)}


@settings(max_examples=60)
@given(st.lists(st.sets(st.sampled_from("abcde"), min_size=1), max_size=5))
def test_exactly_the_sets_that_fit_may_run_together(drawn: list[set[str]]) -> None:
    candidates = {frozenset(one) for one in drawn} | {frozenset(name) for name in "abcde"}
    sets = [one for one in candidates if not any(one < other for other in candidates)]
    config = config_of(fleet_of("abcde", ["".join(sorted(one)) for one in sets]))
    fitting = {frozenset(one) for top in sets for n in range(1, 6) for one in combinations(sorted(top), n)}
    assert may_run_together(config, "abcde") == fitting


@pytest.mark.parametrize(
    ("sets", "form"),
    [
        (["abc"], "groups"),  # all together
        (["ac", "bc"], "groups"),  # one of two beside one that stays
        (["a", "b", "c"], "groups"),  # one at a time
        (["ab", "bc"], "groups"),  # one of a and c beside b
        (["ab", "bc", "ca"], "matrix"),  # any two of three
    ],
)
def test_groups_where_they_say_the_same(sets: list[str], form: str) -> None:
    assert form in config_of(fleet_of("abc", sets))


def test_a_command_is_the_one_of_the_plan_with_the_models_own_settings() -> None:
    plan = card_plan(1, 2, name="a b")
    own = (Setting("--temp", "0.6", None), Setting("--chat-template-kwargs", '{"a": 1}', None))
    model = ExportedModel(
        name="chat: large",
        plan=plan,
        aliases=("x", "y"),
        settings=own,
        ttl_s=600.0,
        load_s=100.0,
        preload=True,
    )
    config = config_of(ExportedFleet(models=(model,), sets=(frozenset({model.name}),)))
    entry = config["models"]["chat: large"]
    words = shlex.split(entry["cmd"])
    assert words[:3] == ["llama-server", "--port", "${PORT}"]
    alone = shlex.split(command_line(plan).replace("\\\n", " "), comments=True)
    assert entry["env"] == alone[:2] == ["CUDA_DEVICE_ORDER=PCI_BUS_ID", "CUDA_VISIBLE_DEVICES=GPU-1,GPU-2"]
    flags = alone[3 : alone.index("--host")]
    assert words[3:] == [*flags, "--temp", "0.6", "--chat-template-kwargs", '{"a": 1}']
    assert (entry["aliases"], entry["ttl"]) == (["x", "y"], 600)
    assert config["healthCheckTimeout"] == 400
    assert config["hooks"] == {"on_startup": {"preload": ["chat: large"]}}


def test_a_higher_priority_costs_more_than_all_lower_ones() -> None:
    models = tuple(
        ExportedModel(name=name, plan=card_plan(0), priority=priority, load_s=load_s)
        for name, priority, load_s in (("a", 0, 5.4), ("b", 0, 0.1), ("c", 1, 2.0), ("d", 2, None))
    )
    fleet = ExportedFleet(models=models, sets=tuple(map(frozenset, ("ab", "bc", "cd", "da", "ac"))))
    assert config_of(fleet)["matrix"]["evict_costs"] == {"a": 5, "b": 1, "c": 8, "d": 15}


def test_names_that_are_long_or_alike_have_variables_of_their_own() -> None:
    names = ["model-one-a", "model-one-b", "…"]
    models = tuple(ExportedModel(name=name, plan=card_plan(0)) for name in names)
    sets = tuple(frozenset(pair) for pair in combinations(names, 2))
    variables = config_of(ExportedFleet(models=models, sets=sets))["matrix"]["vars"]
    assert variables == {"modelone": "model-one-a", "m2": "model-one-b", "m3": "…"}


@pytest.mark.parametrize("path", ["/srv/${HOME}/a.gguf", "/srv/a\nb.gguf"])
def test_a_path_that_llama_swap_would_read_as_something_else(path: str) -> None:
    plan = replace_path(card_plan(0), path)
    fleet = ExportedFleet(models=(ExportedModel(name="a", plan=plan),), sets=(frozenset("a"),))
    with pytest.raises(BadPlan, match=r"config\.yaml cannot hold"):
        llama_swap_config(fleet)
