"""`vram-llm config`: the effective options with their places, and a template."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from vram_llm.cli import config, serve
from vram_llm.cli.config_file import read_config
from vram_llm.cli.configured_command import CONFIG_DIR_VARIABLE, key_of, options_by_key
from vram_llm.cli.fleet_config import read_serve


def ask(*args: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner(env=env).invoke(config.command, list(args))


def options(*args: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    found = json.loads(ask(*args, "--json", env=env).stdout)["options"]
    return {one["key"]: (one["value"], one["source"], one["place"]) for one in found}


def test_the_place_of_each_value(tmp_path: Path) -> None:
    named, own = tmp_path / "named.yaml", tmp_path / "config.yaml"
    named.write_text(
        '# more\nn_ctx: 32k\napi-key: hush\nalias: [a, "b,c"]\nchat-template-kwargs: {think: false}\n'
    )
    own.write_text("model: a.gguf\nreserve-mib: 512\nn-ctx: 1k\ninsecure: true\n")
    env = {CONFIG_DIR_VARIABLE: str(tmp_path), "VRAM_LLM_MIN_P": "0.25", "VRAM_LLM_INSECURE": "no"}
    found = options("b.gguf", "--config", str(named), "-np", "3", "-fa", "-ncmoe", "2", env=env)
    assert {key: found[key] for key in (
        "model", "parallel", "flash-attn", "n-cpu-moe", "min-p", "insecure", "n-ctx", "api-key", "alias",
        "chat-template-kwargs", "reserve-mib", "port", "watchdog", "mmap", "cpu-moe",
    )} == {
        "model": ("b.gguf", "command line", "MODEL"),
        "parallel": (3, "command line", "--parallel"),
        "flash-attn": ("on", "command line", "--flash-attn"),
        "n-cpu-moe": (["2"], "command line", "--n-cpu-moe"),
        "min-p": (0.25, "variable", "$VRAM_LLM_MIN_P"),
        "insecure": (False, "variable", "$VRAM_LLM_INSECURE"),
        "n-ctx": ("32k", "file", f"{named}:2"),
        "api-key": ("(hidden)", "file", f"{named}:3"),
        "alias": (["a", "b,c"], "file", f"{named}:4"),
        "chat-template-kwargs": ({"think": False}, "file", f"{named}:5"),
        "reserve-mib": (512, "file", f"{own}:2"),
        "port": (8080, "default", None),
        "watchdog": ("auto", "default", None),
        "mmap": (None, "default", None),
        "cpu-moe": (None, "default", None),
    }  # fmt: skip
    assert set(found) == {key_of(option) for option in options_by_key(serve.command).values()}
    assert options(env={"VRAM_LLM_API_KEY": "hush"})["api-key"] == (
        "(hidden)", "variable", "$VRAM_LLM_API_KEY"
    )  # fmt: skip


def test_what_is_printed_is_a_file_that_means_the_same(tmp_path: Path) -> None:
    args = ("m.gguf", "-c", "8k", "--no-mmap", "--alias", "a, b", "--alias", "null", "-ot", "ffn:3,7-9=CPU",
            "--host", "::1,127.0.0.1", "--chat-template-kwargs", '{"a": {"b": [1, "on"]}}', "--seed", "-1",
            "--lora", "-x #.gguf", "--from-disk", "--no-mmproj", "--gpu", "RTX 3090 @ PCIe 3 x4")  # fmt: skip
    printed = ask(*args)
    path = tmp_path / "c.yaml"
    path.write_text(printed.stdout)
    before, after = options(*args), options("--config", str(path))
    assert {key: value for key, (value, *_) in after.items()} == {
        key: value for key, (value, *_) in before.items()
    }
    assert "hush" not in ask("--api-key", "hush").stdout


def test_a_template_sets_nothing_until_its_lines_do(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(ask("--template").stdout)
    assert read_config(path) == []
    lines = [line.removeprefix("# ") for line in path.read_text().splitlines()]
    keys = set(options())
    examples = [line for line in lines if line.partition(":")[0] in keys and not line.endswith(":")]
    assert sorted(line.partition(":")[0] for line in examples) == sorted(keys)
    path.write_text(
        "\n".join(line for line in examples if not line.partition(": ")[2].strip('["]').isupper())
    )
    found = options("--config", str(path))
    defaults = options()
    changed = {key for key in found if found[key][0] != defaults[key][0]}
    assert changed <= {"smart-split", "cpu-moe", "mmap", "op-offload", "kv-offload"}


def test_the_templates_models_are_a_file_when_their_comments_are_removed(tmp_path: Path) -> None:
    text = ask("--template").stdout
    lines = text[text.index("# models:") :].splitlines()
    path = tmp_path / "c.yaml"
    plain = "\n".join(line.removeprefix("# ") for line in lines)
    path.write_text(
        plain.replace("[NAME, NAME]", "[NAME, b]").replace("HOST:PORT@SIZE", "h:1@4GiB")
        .replace("groups:", "  - {name: b, source: b.gguf}\ngroups:", 1)
    )  # fmt: skip
    printed = ask("--config", str(path))
    assert printed.exit_code == 0, printed.stderr
    assert "  - name: NAME " in printed.stdout


FLEET = """\
n-ctx: 8k
models:
  - name: chat
    source: a.gguf
    alias: [x, "y,z"]
    n-ctx: 32k
    chat-template-kwargs: {a: {b: 1}}
    ttl: 10m
  - source: b.gguf
    devices: [0, "RTX 3060"]
    preload: true
groups:
  - {models: [chat, b], apart: true}
workers:
  - box:50052@4GiB
  - {ssh: attic}
"""


def test_the_models_of_a_fleet_with_the_place_of_each_value(tmp_path: Path) -> None:
    path, again = tmp_path / "fleet.yaml", tmp_path / "again.yaml"
    path.write_text(FLEET)
    args = ("--config", str(path), "--n-ctx", "4k")
    document = json.loads(ask(*args, "--json", env={"VRAM_LLM_TTL": "5m"}).stdout)
    chat, other = (
        {one["key"]: (one["value"], one["source"], one["place"]) for one in model["options"]}
        for model in document["models"]
    )
    assert chat == {
        "name": ("chat", "file", f"{path}:3"),
        "source": ("a.gguf", "file", f"{path}:4"),
        "alias": (["x", "y,z"], "file", f"{path}:5"),
        "n-ctx": ("4k", "command line", "--n-ctx"),
        "chat-template-kwargs": ({"a": {"b": 1}}, "file", f"{path}:7"),
        "ttl": ("5m", "variable", "$VRAM_LLM_TTL"),
    }
    assert other["name"] == ("b", "default", None)
    assert other["devices"] == (["0", "RTX 3060"], "file", f"{path}:10")
    assert [(one["key"], one["place"]) for one in document["lists"]] == [
        ("groups", f"{path}:12"), ("workers", f"{path}:14")
    ]  # fmt: skip
    again.write_text(ask(*args).stdout)
    assert read_serve(["--config", str(again)]).fleet.spec == read_serve(list(args)).fleet.spec  # type: ignore[union-attr]  # both are fleets
    assert [worker.spec for worker in read_serve(["--config", str(again)]).fleet.workers] == [  # type: ignore[union-attr]  # a fleet
        worker.spec
        for worker in read_serve(list(args)).fleet.workers  # type: ignore[union-attr]  # a fleet
    ]


@pytest.mark.parametrize("args", [["--prot", "1"], ["--port", "x"], ["--config", "nowhere"]])
def test_mistakes_are_those_of_serve(args: list[str]) -> None:
    done = ask(*args)
    assert done.exit_code != 0
    assert done.stdout == ""
