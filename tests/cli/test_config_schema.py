"""The schema of configuration files: it takes what is read, and refuses what editors can see is wrong."""

import json
import re
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cli.running import ROOT
from tests.cli.test_configuration import OPTIONS, values
from tests.cli.test_fleet_config import FLEET, MISTAKES, TWO
from vram_llm.cli import config
from vram_llm.cli.config_schema import config_file_schema
from vram_llm.cli.fleet_entry import model_options

SCHEMA = config_file_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
REFUSED = (  # an editor marks them; other mistakes are seen when the file is read
    "models:",
    "models: []",
    "models: a.gguf",
    "models:\n  - a.gguf",
    "models:\n  - name: chat",
    "models:\n  - source: a.gguf\n    sauce: b",
    "models:\n  - source: a.gguf\n    port: 81",
    "models:\n  - source: a.gguf\n    rpc: b:1",
    "models:\n  - model: a.gguf",
    "models:\n  - source: a.gguf\n    temperature: -1",
    "models:\n  - source: a.gguf\n    reasoning: 3",
    "models:\n  - source: a.gguf\n    preload: maybe",
    "modles:\n  - source: a.gguf",
    TWO + "groups:\n  - apart: true",
    TWO + "groups:\n  - models: [a]\n    apart: true",
    TWO + "workers:\n  - adress: b:1",
)


def as_editors_read(text: str) -> Any:
    return yaml.safe_load(text)


def test_it_is_a_schema_and_is_shipped() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(CliRunner().invoke(config.command, ["--schema"]).stdout) == SCHEMA


@pytest.mark.parametrize("key", OPTIONS)
@settings(max_examples=10)
@given(data=st.data())
def test_it_takes_each_value_of_an_option(key: str, data: st.DataObject) -> None:
    value = data.draw(values(OPTIONS[key]))
    VALIDATOR.validate({key: [value] if OPTIONS[key].multiple else value})
    if key in model_options():
        VALIDATOR.validate({"models": [{"source": "a.gguf", key: value}]})


def test_it_takes_the_files_of_tests_and_documents() -> None:
    found = re.findall(
        r"^```yaml\n(.*?)^```$", (ROOT / "docs/fleet.md").read_text(), re.MULTILINE | re.DOTALL
    )
    for text in (FLEET, *found):
        VALIDATOR.validate(as_editors_read(text))


@pytest.mark.parametrize("text", REFUSED)
def test_it_refuses_mistakes_of_keys_and_kinds(text: str) -> None:
    assert text in MISTAKES
    assert not VALIDATOR.is_valid(as_editors_read(text))
