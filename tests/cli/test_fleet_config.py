"""A fleet's file: each mistake is one sentence with the line; what it says is what flags say."""

import os
import re
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.cli.running import ROOT
from tests.cli.test_config_file import complaint as complaint_of_flat_file
from vram_llm.cli.configured_command import CONFIG_DIR_VARIABLE
from vram_llm.cli.fleet_config import ConfiguredFleet, read_serve
from vram_llm.errors import BadConfig
from vram_llm.machine.detect import what_if
from vram_llm.machine.types import Machine
from vram_llm.machine.worker_spec import WorkerSpec
from vram_llm.planner.fleet.types import FleetModelSpec
from vram_llm.units import GIB

FLEET = """\
port: 9000
n-ctx: 8k
temperature: 0.5
ttl: 1h30m
models:
  - name: chat
    source: chat.gguf
    aliases: [assistant, helper]
    n-ctx: 32k
    priority: 3
    pin: GPU0
    ttl: 10m
    preload: true
  - source: folder/coder-00001-of-00002.gguf
    replicas: auto
    temperature: 0.1
    devices: [1, "RTX 3060"]
    chat-template-kwargs: {enable_thinking: false}
    ttl: never
  - name: embed
    source: hf:org/embed:Q8_0
    min-residency: 5
    pooling: mean
groups:
  - name: helpers
    models: [chat, embed]
    together: true
  - models: [chat, coder]
    apart: true
workers:
  - 10.0.0.2:50052@8GiB
  - {address: "[::1]:50053", name: attic, ssh: me@attic}
  - {ssh: me@cellar:50054@4GiB, start: true}
"""

TWO = "models:\n  - source: a.gguf\n  - name: b\n    source: b.gguf\n"
"""Valid; lines 1 to 4."""

MISTAKES = {
    "models:": "FILE:1: models takes a list: lines that begin with `- `",
    "models: []": "FILE:1: models is an empty list; give it an entry, or remove the line",
    "models: a.gguf": "FILE:1: models takes a list",
    "models:\n  source: a.gguf": "FILE:1: models takes a list",
    "models:\n  - a.gguf": "FILE:2: an entry of models has keys of its own: `- source: a.gguf`",
    "models:\n  - [a.gguf]": "FILE:2: an entry of models is not a list",
    "models:\n  -": "FILE:2: models has no value; give one, or remove the line",
    "models:\n  - name: chat": "FILE:2: this model has no source: a file, hf:ORG/REPO:Q4_K_M, or a name that",
    "models:\n  - source:": "FILE:2: source has no value",
    "models:\n  - source: [a, b]": "FILE:2: source takes one value, not a list",
    "models:\n  - source: a.gguf\n    source: b.gguf": "FILE:3: source is here twice, first on line 2",
    "models:\n  - source: a.gguf\n    sauce: b": "FILE:3: there is no option sauce; did you mean source?",
    "models:\n  - source: a.gguf\n    prioritt: 1": "FILE:3: there is no option prioritt; did you mean prio",
    "models:\n  - source: a.gguf\n    colour: 1": (
        "FILE:3: there is no option colour; a model takes aliases, devices, min-residency, name, pin, "
    ),
    "models:\n  - source: a.gguf\n    port: 81": (
        "FILE:3: port is an option of the whole server: write it at the top level"
    ),
    "models:\n  - source: a.gguf\n    rpc: b:1": (
        "FILE:3: rpc describes the machine: write it at the top level;"
    ),
    "models:\n  - model: a.gguf": "FILE:2: there is no option model of a model; write source",
    "models:\n  - source: a.gguf\n    served-model-name: b": "FILE:3: there is no option served-model-n",
    "models:\n  - source: a.gguf\n    no-mmap: true": "FILE:3: there is no option no-mmap; write mmap: false",
    "models:\n  - source: a.gguf\n    max-model-len: 1k": (
        "FILE:3: there is no option max-model-len; did you mean n-ctx?"
    ),
    "models:\n  - source: a.gguf\n    n-ctx: lots": "FILE:3: n-ctx: 'lots' is not a count; write it",
    "models:\n  - source: a.gguf\n    n_ctx: 1k\n    ctx-size: 2k": (
        "FILE:4: ctx-size sets the same option as n_ctx in FILE:3"
    ),
    "models:\n  - source: a.gguf\n    temperature: -1": "FILE:3: temperature: -1.0 is not in the range x>=0",
    "models:\n  - source: a.gguf\n    reasoning: 3": "FILE:3: reasoning: '3' is not one of 'auto'",
    "models:\n  - source: a.gguf\n    ttl: soon": (
        "FILE:3: ttl: 'soon' is not a time; write it like 90, 30s, 10m or 1h30m, or never"
    ),
    "models:\n  - source: a.gguf\n    ttl: 0": "FILE:3: ttl: 0 s would unload the model at once; write never",
    "models:\n  - source: a.gguf\n    min-residency: never": "FILE:3: min-residency: 'never' is not a time",
    "models:\n  - source: a.gguf\n    replicas: 0": "FILE:3: replicas: '0' is neither a number from 1 to",
    "models:\n  - source: a.gguf\n    priority: high": "FILE:3: priority: 'high' is not a whole number",
    "models:\n  - source:a.gguf": "FILE:2: a space is missing after the colon: `- source: a.gguf`",
    "models:\n  - source: a.gguf\n    preload: maybe": "FILE:3: preload: 'maybe' is neither true nor false",
    "models:\n  - source: a.gguf\n    devices: []": "FILE:3: devices: this is an empty list; name a device",
    "models:\n  - source: a.gguf\n    devices: [1, 1]": "FILE:3: devices: 1 is here twice",
    "models:\n  - source: a.gguf\n    devices: [0]\n    pin: 1": (
        "FILE:4: pin: 1 is not among the devices that the model may use: 0"
    ),
    "models:\n  - source: a.gguf\n    replicas: 2\n    pin: 1": (
        "FILE:3: replicas: 2 copies need devices of their own, and pin names one, 1"
    ),
    "models:\n  - source: a.gguf\n    devices: 0\n    replicas: 2": (
        "FILE:4: replicas: 2 copies need devices of their own, and devices names 1"
    ),
    "models:\n  - source: a.gguf\n    chat-template-file: /nowhere": (
        "FILE:3: chat-template-file: File '/nowhere' does not exist"
    ),
    "models:\n  - source: a.gguf\n    chat-template-kwargs: {messages: []}": "FILE:2: ",
    "models:\n  - source: a.gguf\n    name: ''": "FILE:3: name: '' is no name of a model",
    "models:\n  - source: a.gguf\n  - source: b/a.gguf": (
        "FILE:3: a is already a name of the model in FILE:2; give it another name"
    ),
    "models:\n  - source: a.gguf\n    aliases: [x, a]": "FILE:2: a is already a name of this model",
    "models:\n  - {source: a.gguf, aliases: b}\n  - source: b.gguf": "FILE:3: b is already a name of the",
    "model: c.gguf\n" + TWO: (
        "FILE:1: model names the one model to serve, and models in FILE:2 lists several: give one of them"
    ),
    "plan: c.json\n" + TWO: "FILE:1: plan names the one model to serve",
    "alias: c\n" + TWO: "FILE:1: alias: this names one model, and several are served",
    "groups:\n  - models: [a, b]\n    apart: true": "FILE:1: groups needs models in the same file",
    "modles:\n  - source: a.gguf": "FILE:1: there is no option modles; did you mean models?",
    TWO + "groups:\n  - apart: true": "FILE:6: a group has the names of its models: `models: [chat, coder]`",
    TWO
    + "groups:\n  - models: [a, c]\n    apart: true": "FILE:6: there is no model c in this file; there are",
    TWO + "groups:\n  - models: [a, b]": (
        "FILE:6: a group has `together: true` or `apart: true`, and this one has neither"
    ),
    TWO + "groups:\n  - {models: [a, b], apart: true, together: true}": "FILE:6: a group has `together",
    TWO + "groups:\n  - models: [a, b]\n    apart: often": "FILE:7: apart is true or false, not 'often'",
    TWO + "groups:\n  - models: [a, a]\n    apart: true": "FILE:6: a is here twice",
    TWO + "groups:\n  - models: [a]\n    apart: true": "FILE:6: a group has two models or more",
    TWO + "groups:\n  - model: [a, b]": "FILE:6: there is no key model of a group; did you mean models?",
    TWO + "groups:\n  - {name: g, models: [a, b], apart: true}\n  - {name: g, models: [a, b], apart: true}": (
        "FILE:7: g is already the name of the group in FILE:6"
    ),
    TWO + "groups:\n  - {models: [a, b], apart: true}\n  - {models: [a, b], together: true}": (
        "FILE:6: a and b are apart here, and together in another group"
    ),
    "preload: true\n" + TWO + "groups:\n  - {models: [a, b], apart: true}": (
        "FILE:7: a and b are apart here, and both have preload; leave one preload out"
    ),
    TWO + "workers: [box]": "FILE:5: 'box' is not an address; write it like 127.0.0.1:50052",
    TWO + "workers: [box:1@lots]": "FILE:5: the memory limit of worker 'box:1@lots': 'lots' is not a size;",
    TWO + "workers:\n  - name: b": (
        "FILE:6: an entry of workers has its address, `address: 10.0.0.2:50052`, or `ssh: me@box`"
    ),
    TWO + "workers:\n  - ssh: -x": "FILE:6: '-x' is not a computer for the ssh client",
    TWO + "workers:\n  - {address: box:1, start: true}": "FILE:6: start needs ssh",
    TWO + "workers:\n  - {ssh: box, start: now}": "FILE:6: start is true or false, not 'now'",
    TWO + "workers:\n  - adress: b:1": "FILE:6: there is no key adress of a worker; did you mean address?",
    TWO + "workers: [box:1, box:1@2GiB]": "FILE:5: box:1 is already a worker in FILE:5",
}


@pytest.fixture(autouse=True)
def _no_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONFIG_DIR_VARIABLE, str(tmp_path / "none"))


def read(text: str, folder: Path, *args: str) -> ConfiguredFleet:
    path = folder / "fleet.yaml"
    path.write_text(text)
    fleet = read_serve(["--config", str(path), *args]).fleet
    assert fleet is not None
    return fleet


def model_of(fleet: ConfiguredFleet, name: str) -> FleetModelSpec:
    return next(model for model in fleet.spec.models if model.name == name)


def test_there_is_a_mistake_of_each_kind() -> None:
    assert len(MISTAKES) >= 60


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: text[:60])
def test_a_mistake(text: str, tmp_path: Path) -> None:
    with pytest.raises(BadConfig) as caught:
        read(text, tmp_path)
    found = str(caught.value).replace(str(tmp_path / "fleet.yaml"), "FILE")
    assert "\n" not in found
    assert found.startswith(MISTAKES[text])


def test_each_key_holds_where_it_stands(tmp_path: Path) -> None:
    fleet = read(FLEET, tmp_path)
    chat, coder, embed = fleet.spec.models
    assert [model.name for model in fleet.spec.models] == ["chat", "coder", "embed"]
    assert (chat.aliases, chat.priority, chat.devices, chat.ttl_s, chat.preload) == (
        ("assistant", "helper"), 3, ("GPU0",), 600.0, True
    )  # fmt: skip
    assert (coder.replicas, coder.devices, coder.ttl_s) == (None, ("1", "RTX 3060"), None)
    assert (embed.ttl_s, embed.min_residency_s, embed.replicas) == (5400.0, 5.0, 1)
    assert [model.workload.n_ctx for model in fleet.spec.models] == [32768, 8192, 8192]
    servers = fleet.servers
    assert [servers[name].sampling for name in ("chat", "coder")] == [
        {"temperature": 0.5},
        {"temperature": 0.1},
    ]
    assert servers["coder"].chat_template_kwargs == {"enable_thinking": False}
    assert {server.port for server in servers.values()} == {9000}
    assert (servers["chat"].model_name, servers["chat"].aliases) == ("chat", ("assistant", "helper"))
    assert fleet.spec.together == (frozenset({"chat", "embed"}),)
    assert fleet.spec.apart == (frozenset({"chat", "coder"}),)
    assert {worker.name: worker.spec for worker in fleet.workers} == {
        "10.0.0.2:50052": WorkerSpec(host="10.0.0.2", limit_bytes=8 * GIB),
        "attic": WorkerSpec(host="[::1]", port=50053, ssh="me@attic"),
        "me@cellar:50054 over SSH": WorkerSpec(port=50054, ssh="me@cellar", limit_bytes=4 * GIB, start=True),
    }


def test_the_file_of_the_documentation(tmp_path: Path) -> None:
    found = re.search(r"^```yaml\n(.*?)^```$", (ROOT / "docs/fleet.md").read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    fleet = read(found[1], tmp_path)
    assert [(model.name, model.ttl_s, model.workload.n_ctx) for model in fleet.spec.models] == [
        ("chat", 3600.0, 32768), ("coder", 3600.0, 16384), ("embed", None, 16384)
    ]  # fmt: skip


def test_flags_override_variables_that_an_entry_that_the_rest_of_the_file(tmp_path: Path) -> None:
    with patch.dict(os.environ, {"VRAM_LLM_N_CTX": "2k", "VRAM_LLM_TEMPERATURE": "0.9"}):
        fleet = read(FLEET, tmp_path, "--n-ctx", "1k", "--ttl", "1m")
    assert {model.workload.n_ctx for model in fleet.spec.models} == {1024}
    assert {model.ttl_s for model in fleet.spec.models} == {60.0}
    assert {server.sampling["temperature"] for server in fleet.servers.values()} == {0.9}


def test_an_entry_replaces_what_contradicts_it_beside_models(tmp_path: Path) -> None:
    fleet = read("kv-type-k: q8_0\n" + TWO + "    kv-type: q4_0\n", tmp_path)
    assert model_of(fleet, "a").workload.kv_type_k == "q8_0"
    assert model_of(fleet, "b").workload.kv_type_k == "q4_0"


def test_models_as_arguments(tmp_path: Path) -> None:
    fleet = read_serve(["CHAT.gguf", "CODER.gguf", "embed=EMBED.gguf", "--n-ctx", "4k"]).fleet
    assert fleet is not None
    assert [(model.name, model.source) for model in fleet.spec.models] == [
        ("CHAT", "CHAT.gguf"), ("CODER", "CODER.gguf"), ("embed", "EMBED.gguf")
    ]  # fmt: skip
    assert {model.workload.n_ctx for model in fleet.spec.models} == {4096}
    for args in ([], ["a.gguf"], ["--model", "a.gguf"], ["--plan", "p.json"]):
        assert read_serve(args).fleet is None
    one = read_serve(["a.gguf", "--ttl", "10m"]).fleet
    assert one is not None
    assert [model.ttl_s for model in one.spec.models] == [600.0]
    missing = read_serve(["missing.gguf", "b=other.gguf"]).fleet
    assert missing is not None
    with pytest.raises(BadConfig, match=r"^there is no file missing\.gguf"):
        missing.check_sources()
    (tmp_path / "fleet.yaml").touch()
    with pytest.raises(
        BadConfig, match=r"is no model; if it is a configuration, write --config .*fleet\.yaml"
    ):
        read_serve([str(tmp_path / "fleet.yaml")])
    odd = tmp_path / "a=b.gguf"
    odd.touch()
    assert read_serve([str(odd)]).fleet is None


def test_a_model_named_on_the_command_line_replaces_the_files_models(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET)
    config = ["--config", str(path)]
    assert read_serve(["a.gguf", "--preload", *config]).fleet is not None
    assert [m.name for m in read_serve(["a=x.gguf", *config]).fleet.spec.models] == ["a"]  # type: ignore[union-attr]  # a fleet


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["a.gguf", "b.gguf", "--alias", "c"], "--alias: this names one model"),
        (["a.gguf", "b.gguf", "--served-model-name", "c"], "--served-model-name: this names one model"),
        (["a.gguf", "b.gguf", "--plan", "p.json"], "--plan is the plan of one model: give one model"),
        (["--plan", "p.json", "--ttl", "5m"], "--plan is the plan of one model: --ttl is for models that"),
        (["a.gguf", "b.gguf", "--model", "c.gguf"], "name the models as arguments: leave --model out"),
        (["a.gguf", "x/a.gguf"], "x/a.gguf: a is already a name of the model in a.gguf"),
        (
            ["a.gguf", "b.gguf", "--replicas", "no"],
            "--replicas: 'no' is neither a number from 1 to 64 nor auto",
        ),
    ],
)
def test_arguments_that_contradict(args: list[str], message: str) -> None:
    with pytest.raises(BadConfig) as caught:
        read_serve(args)
    assert str(caught.value).startswith(message)


def machine() -> Machine:
    return what_if(["RTX 4090 + 2x RTX 3060 12GB"])


def test_devices_by_id_number_and_name(tmp_path: Path) -> None:
    spec = read(FLEET, tmp_path).on(machine())
    assert [model.devices for model in spec.models] == [("GPU0",), ("GPU1", "GPU2"), None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            FLEET.replace("pin: GPU0", "pin: GPU7"),
            "fleet.yaml:11: pin: there is no device GPU7; there are GPU0 (NV",
        ),
        (
            FLEET.replace('[1, "RTX 3060"]', "[9]"),
            "fleet.yaml:17: devices: there is no device 9; there are GPU0",
        ),
        (TWO + "    devices: [1, GPU1]\n    replicas: 2\n", "fleet.yaml:3: b has 2 replicas and 1 devices"),
    ],
)
def test_devices_that_are_not_there(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadConfig) as caught:
        read(text, tmp_path).on(machine())
    assert message in str(caught.value)


def test_files_that_are_not_there_have_their_line(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").touch()
    fleet = read(f"models:\n  - source: {tmp_path}/a.gguf\n  - source: {tmp_path}/b.gguf", tmp_path)
    with pytest.raises(BadConfig) as caught:
        fleet.check_sources()
    assert str(caught.value) == f"{tmp_path}/fleet.yaml:3: there is no file {tmp_path}/b.gguf"


def test_serve_itself_ends_with_the_same_sentence(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("models: []\nprot: 1")
    assert complaint_of_flat_file(path) == f"{path}:2: there is no option prot; did you mean port?"
