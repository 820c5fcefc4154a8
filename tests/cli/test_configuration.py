"""Flags, variables and files mean the same, and override each other in a fixed order."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from vram_llm.cli import serve
from vram_llm.cli.configured_command import (
    CONFIG_DIR_VARIABLE,
    CONFIG_VARIABLE,
    ConfiguredCommand,
    key_of,
    options_by_key,
    variable_of,
)
from vram_llm.cli.fleet_config import ServeOptions, read_serve
from vram_llm.cli.fleet_entry import model_options
from vram_llm.cli.plan_options import PlanOptions, plan_options
from vram_llm.cli.server_options import server_options
from vram_llm.errors import VramLLMError
from vram_llm.server.config import ServerConfig
from vram_llm.server.keys_file import add_key

Outcome = tuple[ServerConfig, PlanOptions, dict[str, Any]] | str


@click.command(cls=ConfiguredCommand)
@server_options
@plan_options
def command(server: ServerConfig, options: PlanOptions, **others: Any) -> Any:
    return server, options, others


command.params = serve.command.params  # those that `serve` has for itself are in `others`


def run(*args: str, env: Mapping[str, str] | None = None) -> Any:
    with patch.dict(os.environ, env or {}):
        return command.main(list(args), standalone_mode=False)


def outcome(*args: str, env: Mapping[str, str] | None = None) -> Outcome:
    """The configuration, or the kind of error: two options may contradict each other."""
    try:
        server, options, others = run(*args, env=env)
    except (click.UsageError, VramLLMError) as error:
        return type(error).__name__
    return server, options, others


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A usable file or folder for each option that checks one. No certificate is looked into."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "key").write_text("first\nsecond # Bob's\n")
    (folder / "chat.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    add_key(folder / "keys.json", "ann", [])
    with patch("vram_llm.server.certificate.check_certificate"):
        yield {
            "api_key_file": str(folder / "key"),
            "keys_file": str(folder / "keys.json"),
            "ssl_certfile": str(folder / "cert.pem"),
            "ssl_keyfile": str(folder / "key.pem"),
            "image_dir": str(folder),
            "chat_template_file": str(folder / "chat.jinja"),
        }


# Texts that YAML 1.1 reads as something else, or that need quotes.
_ODD = [
    "on",
    "no",
    "null",
    "~",
    "12:30",
    "0x1f",
    "1e3",
    "010",
    "1_000",
    "2026-11-30",
    "a: b",
    "- a",
    "# a",
    "[x",
]
_TEXT = st.sampled_from(_ODD) | st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8
).filter(lambda text: text.strip() != "" and not text.startswith(("~/", "@")))
_JSON = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT
_WORDS = {
    "TokenCountType": ["32k", "4096"],
    "ContextType": ["32k", "4096", "auto", "max", "0"],
    "GpuLayersType": ["all", "auto", "33", "-1"],
    "MicroBatchType": ["auto", "512"],
    "ByteSizeType": ["0", "4GiB"],
    "TensorSplitType": ["32,33,16", "GPU1=38,GPU2=43"],
    "CountOrAllType": ["all", "3"],
    "OverrideListType": ["experts:0-2=CPU", "ffn:3=CPU,attn:1=GPU1", "auto", "none"],
    "LoraType": ["a.gguf:0.5", "b.gguf"],
    "WatchdogType": ["auto", "off", "30", "2.5"],
    "DurationType": ["90", "1.5", "10m", "1h 30m"],
    "ReplicasType": ["auto", "3"],
    "SwitchType": ["on", "off", "auto", "true", "0"],
}


def values(option: click.Option) -> st.SearchStrategy[Any]:
    """Values of each type that a YAML file may have: texts, numbers, true and false, objects."""
    kind = option.type
    if option.is_flag:
        return st.booleans()
    match kind:
        case click.IntRange():
            return st.integers(kind.min, 100 if kind.max is None else int(kind.max))
        case click.FloatRange():
            least = kind.min + 0.001 if kind.min_open and kind.min is not None else kind.min
            return st.floats(least, 10**6 if kind.max is None else kind.max)
        case click.Choice() if type(kind) is click.Choice:
            return st.sampled_from([str(choice) for choice in kind.choices])
    if type(kind).__name__ in _WORDS:
        return st.sampled_from(_WORDS[type(kind).__name__])
    if kind.name == "json":
        return st.dictionaries(_TEXT, _JSON | st.lists(_JSON, max_size=2), max_size=2)
    return st.integers() if kind is click.INT else _TEXT


def text_of(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def flags_of(option: click.Option, value: Any) -> list[str]:
    flag = f"--{key_of(option)}"
    if option.is_flag:
        return [flag] if value else [*option.secondary_opts[:1]]
    return [f"{flag}={text_of(value)}"]


def line_of(key: str, value: Any) -> str:
    """Objects are written as JSON: PyYAML has YAML 1.1's numbers."""
    if isinstance(value, dict):
        return f"{key}: {json.dumps(value)}\n"
    return yaml.safe_dump({key: value}, allow_unicode=True)


OPTIONS = {key_of(option): option for option in options_by_key(command).values()}


def check_same(keys: list[str], data: st.DataObject, files: Mapping[str, str], folder: Path) -> None:
    args: list[str] = []
    env: dict[str, str] = {}
    document: dict[str, Any] = {}
    for key in keys:
        option = OPTIONS[key]
        one = st.just(files[str(option.name)]) if option.name in files else values(option)
        n_most = 1 if not option.multiple or option.is_flag else 3
        drawn = data.draw(st.lists(one, min_size=1, max_size=n_most), label=key)
        if key == "api-key":  # its variable has keys between spaces
            drawn = [value for value in drawn if len(value.split()) == 1] or ["key"]
        args += [word for value in drawn for word in flags_of(option, value)]
        env[variable_of(key)] = (" " if key == "api-key" else "\n").join(map(text_of, drawn))
        document[key] = drawn if option.multiple else drawn[0]
    path = folder / "config.yaml"
    path.write_text("".join(map(line_of, document, document.values())), encoding="utf-8")
    wanted = outcome(*args)
    assert (env, outcome(env=env)) == (env, wanted)
    assert outcome("--config", str(path)) == wanted, path.read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configuration")


@pytest.mark.parametrize("key", OPTIONS)
@settings(max_examples=5)
@given(data=st.data())
def test_a_flag_a_variable_and_a_file_are_the_same(
    key: str, data: st.DataObject, files: dict[str, str], folder: Path
) -> None:
    check_same([key], data, files, folder)


@settings(max_examples=40, phases=[Phase.generate])  # no shrinking: it takes minutes with all options
@given(data=st.data())
def test_several_options_are_the_same(data: st.DataObject, files: dict[str, str], folder: Path) -> None:
    keys = data.draw(st.lists(st.sampled_from(list(OPTIONS)), min_size=2, max_size=8, unique=True))
    check_same(keys, data, files, folder)


MODEL_KEYS = sorted({key_of(option) for option in model_options().values()} & set(OPTIONS) - {"alias"})


@pytest.mark.parametrize("key", [*MODEL_KEYS, "several"])
@settings(max_examples=3)
@given(data=st.data())
def test_a_key_of_a_model_is_the_flag(
    key: str, data: st.DataObject, files: dict[str, str], folder: Path
) -> None:
    """Another model's entry does not change that, nor do options at the top level."""
    several = st.lists(st.sampled_from(MODEL_KEYS), min_size=2, max_size=8, unique=True)
    args: list[str] = []
    entry: dict[str, Any] = {"source": "a.gguf"}
    for one in data.draw(several) if key == "several" else [key]:
        option = OPTIONS[one]
        value = st.just(files[str(option.name)]) if option.name in files else values(option)
        n_most = 3 if option.multiple and not option.is_flag and option.name != "devices" else 1
        drawn = data.draw(st.lists(value, min_size=1, max_size=n_most), label=one)
        args += [word for each in drawn for word in flags_of(option, each)]
        entry[one] = drawn if option.multiple else drawn[0]
    path = folder / "fleet.yaml"
    entry_text = "".join(map(line_of, entry, entry.values()))
    indented = "- " + entry_text.replace("\n", "\n  ").rstrip() + "\n"
    path.write_text(f"port: 1\nmodels:\n{indented}- source: b.gguf\n  min-p: 0.5\n", encoding="utf-8")
    one_model, read = read_or_refused("a.gguf", *args, "--port", "1"), read_or_refused("--config", str(path))
    assert type(one_model) is type(read), path.read_text()
    if isinstance(one_model, str) or isinstance(read, str):
        return
    assert read.fleet is not None
    spec, server = read.fleet.spec.models[0], read.fleet.servers["a"]
    assert spec.workload == one_model.options.workload, path.read_text()
    assert replace(server, model_name=None) == one_model.server, path.read_text()
    if one_model.fleet is not None:
        assert spec == one_model.fleet.spec.models[0]


def read_or_refused(*args: str) -> ServeOptions | str:
    try:
        return read_serve(args)
    except VramLLMError as error:
        return type(error).__name__


def test_a_flag_overrides_a_variable_that_a_file_that_the_users_own(tmp_path: Path) -> None:
    named, own = tmp_path / "named.yaml", tmp_path / "config.yaml"
    named.write_text("port: 3\nalias: [three, tres]\nseed: 3")
    own.write_text("port: 4\nalias: four\nseed: 4\nmin-p: 0.4")
    own_only = {CONFIG_DIR_VARIABLE: str(tmp_path)}
    files = own_only | {CONFIG_VARIABLE: str(named)}
    variables = files | {"VRAM_LLM_PORT": "2", "VRAM_LLM_ALIAS": "two\ndos", "VRAM_LLM_TOP_K": ""}
    flag = ("--port=1", "--alias=one")
    found = [
        (server.port, server.aliases, server.sampling)
        for server in (
            run(*args, env=env)[0]
            for args, env in (
                (flag, variables),
                ((), variables),
                ((), files),
                (("--config", str(named)), own_only | {CONFIG_VARIABLE: "nowhere"}),
                ((), own_only),
                ((), None),
                (("--config", "none"), variables),
            )
        )
    ]
    assert found == [
        (1, ("one",), {"seed": 3, "min_p": 0.4}),
        (2, ("two", "dos"), {"seed": 3, "min_p": 0.4}),
        (3, ("three", "tres"), {"seed": 3, "min_p": 0.4}),
        (3, ("three", "tres"), {"seed": 3, "min_p": 0.4}),
        (4, ("four",), {"seed": 4, "min_p": 0.4}),
        (8080, (), {}),
        (8080, (), {}),
    ]


REPLACED: dict[str, tuple[list[str], dict[str, Any]]] = {
    "model: a.gguf": (["b.gguf"], {"model": ("b.gguf",), "model_option": None}),
    "plan: p.json": (["b.gguf"], {"model": ("b.gguf",), "plan_file": None}),
    "model: a.gguf\nn-ctx: 1k": (["--plan", "p.json"], {"model_option": None, "plan_file": "p.json"}),
    "smart-split: true": (["--tensor-split", "1,2"], {"smart_split": False}),
}


@pytest.mark.parametrize("text", REPLACED)
def test_what_a_flag_contradicts_is_not_taken_from_a_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    args, wanted = REPLACED[text]
    _, options, others = run("--config", str(path), *args)
    assert {name: others[name] for name in wanted} == wanted
    assert options.given == (("--tensor-split",) if "--tensor-split" in args else ())


def test_options_of_parts_of_layers_keep_their_order_and_are_replaced_together(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        'cpu-moe: false\nn-cpu-ffn: 1\noverride-tensor: ["attn:2=CPU", "ffn:3=CPU"]\nkv-type-k: q8_0'
    )
    workload = run("--config", str(path))[1].workload
    assert [str(one) for one in workload.overrides] == [
        str(one)
        for one in run("--n-cpu-ffn=1", "-ot", "attn:2=CPU", "-ot", "ffn:3=CPU")[1].workload.overrides
    ]
    workload = run("--config", str(path), "--cpu-moe", "--kv-type", "q4_0")[1].workload
    assert workload.overrides == run("--cpu-moe")[1].workload.overrides
    assert workload.kv_type_k == "q4_0"


def test_home_is_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model: ~/m.gguf\nlora: [~/a.gguf:0.5, b~/c]")
    _, options, others = run("--config", str(path), env={"HOME": "/home/ann"})
    assert others["model_option"] == "/home/ann/m.gguf"
    assert [lora.path for lora in options.workload.loras] == ["/home/ann/a.gguf", "b~/c"]


def test_keys_in_a_file_that_all_can_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("api-key: hush")
    path.chmod(0o644)
    assert run("--config", str(path))[0].api_keys == ("hush",)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == (
        "", f"warning: {path} has API keys, and every user of this computer may read it: chmod 600 {path}\n"
    )  # fmt: skip
    path.chmod(0o640)
    assert run("--config", str(path), env={"VRAM_LLM_API_KEY": "a b"})[0].api_keys == ("a", "b")
    assert capsys.readouterr().err == ""


def test_a_variable_that_is_almost_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Kubernetes sets VRAM_LLM_SERVICE_HOST and others for a service of that name."""
    names = ("PROT", "SERVICE_HOST", "PORT_8080_TCP", "DATA_DIR", "CTX_SIZ")
    run(env={f"VRAM_LLM_{name}": "x" for name in names})
    assert capsys.readouterr().err == (
        "warning: $VRAM_LLM_CTX_SIZ sets nothing; did you mean $VRAM_LLM_CTX_SIZE?\n"
        "warning: $VRAM_LLM_PROT sets nothing; did you mean $VRAM_LLM_PORT?\n"
    )
