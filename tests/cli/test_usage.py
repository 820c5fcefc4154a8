"""The command line as users of llama-server, Ollama and others type it, and a sentence for what is wrong."""

import json
import math
import sys
from pathlib import Path

import click
import pytest

from tests import zoo
from tests.cli.running import run, run_program
from vram_llm.chat.builtin.table import BUILTIN_TEMPLATES
from vram_llm.chat.template import CHATML
from vram_llm.cli.main import cli
from vram_llm.cli.plan_options import PlanOptions, plan_options
from vram_llm.cli.server_options import server_options
from vram_llm.cli.short_flags import ShortFlagsCommand
from vram_llm.cli.usage_errors import sentence
from vram_llm.engine.request import SamplingParams
from vram_llm.planner.tensor_split import TensorSplit
from vram_llm.planner.types import FlashAttention
from vram_llm.server.config import ReasoningFormat, ServerConfig
from vram_llm.workflows import detection


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run llama3", "vram-llm: there is no command run; did you mean `vram-llm chat`?"),
        ("list", "did you mean `vram-llm models`?"),
        ("ls", "did you mean `vram-llm models`?"),
        ("show x", "did you mean `vram-llm analyze`?"),
        ("modles", "did you mean `vram-llm models`?"),
        ("Serve", "did you mean `vram-llm serve`?"),
        ("ps", "there is no command ps; each `vram-llm serve` runs in a terminal of its own"),
        ("frobnicate", "there is no command frobnicate; there are analyze, bench,"),
        ("some.gguf", "some.gguf is a model, not a command; write `vram-llm serve some.gguf`"),
        ("bench some.gguf", "write `vram-llm bench model some.gguf`"),
        ("bench server", "there is no command server; did you mean `vram-llm bench serve`?"),
        ("bench gemma", "vram-llm bench: write `vram-llm bench model gemma`"),
        ("plan x --paralel 2", "vram-llm plan: there is no option --paralel; did you mean --parallel?"),
        ("plan x --max-model-len 4096", "did you mean --n-ctx?"),
        ("plan x --zzz", "there is no option --zzz (`vram-llm plan --help` explains)"),
        ("analyze x -cmoe", "no option -cmoe; the plan moves experts to the host where that is faster"),
        ("plan x -mg 0", "there is no option -mg; the plan decides"),
        ("plan x -cx 0", "there is no option -cx; did you mean -c?"),
        ("serve -hf org/repo", "there is no option -hf; name the model as hf:ORG/REPO:Q4_K_M"),
        ("chat -mg 0", "vram-llm serve: there is no option -mg; the plan decides; see --tensor-split"),
        ("plan x -c many", "vram-llm plan: --n-ctx: 'many' is not a count; write it like 4096 or 32k"),
        ("plan x -ngl some", "--n-gpu-layers: 'some' is not a number of layers; write it like 33"),
        ("plan x -fa maybe", "--flash-attn: 'maybe' is not one of"),
        ("plan x -np 0", "--parallel: 0 is not in the range"),
        ("serve x --watchdog 1", "--watchdog: '1' is not a time of 2 s or more; write it like 30"),
        ("pull", "MODEL is not a name on a hub; write hf:ORG/REPO:Q4_K_M"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_one_sentence(line: str, expected: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        cli.main(line.split(), prog_name="vram-llm", standalone_mode=False)
    message = sentence(caught.value)
    assert expected in message
    assert "\n" not in message
    assert message.endswith(" --help` explains)")


@pytest.mark.process
def test_usage_is_not_printed_and_the_code_is_64() -> None:
    done = run("list")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (64, "", 1)


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("-c 0", {"n_ctx": 0}),
        ("-c 8192", {"n_ctx": 8192}),
        ("-ngl 99", {"n_gpu_layers": 99}),
        ("-ngl all", {"n_gpu_layers": -1}),
        ("-ngl -1", {"n_gpu_layers": -1}),
        ("-ngl -2", {"n_gpu_layers": -1}),
        ("-ngl auto", {"n_gpu_layers": None}),
        ("--gpu-layers 20", {"n_gpu_layers": 20}),
        ("-np 2", {"parallel": 2}),
        ("-ts 3,1", {"tensor_split": TensorSplit((3.0, 1.0))}),
        ("-fa on", {"flash_attn": FlashAttention.ON}),
        ("-fa off", {"flash_attn": FlashAttention.OFF}),
        ("-fa 1", {"flash_attn": FlashAttention.ON}),
        ("-fa", {"flash_attn": FlashAttention.ON}),
        ("-fa -b 512 -ub 256", {"flash_attn": FlashAttention.ON, "n_batch": 512, "n_ubatch": 256}),
        ("-t 6 -tb 12", {"n_threads": 6, "n_threads_batch": 12}),
        ("-ctk q8_0 -ctv q4_0", {"kv_type_k": "q8_0", "kv_type_v": "q4_0"}),
        ("-md small.gguf", {"draft": "small.gguf"}),
    ],
)
def test_short_flags_as_llama_server_has_them(line: str, fields: dict[str, object]) -> None:
    workload = _asked.main(line.split(), standalone_mode=False).workload
    assert {name: getattr(workload, name) for name in fields} == fields


@click.command(cls=ShortFlagsCommand)
@plan_options
def _asked(options: PlanOptions) -> PlanOptions:
    return options


@pytest.mark.parametrize("command", ["analyze", "plan", "serve", "verify", "chat", "pull"])
def test_a_model_is_named_by_m_as_well(command: str) -> None:
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    context = found.make_context(command, ["-m", "some.gguf"])
    assert context.params["model_option"] == "some.gguf"


def test_a_chat_leaves_the_flags_of_serve_alone() -> None:
    found = cli.get_command(click.Context(cli), "chat")
    assert found is not None
    context = found.make_context("chat", ["x.gguf", "-ngl", "all", "-md", "y.gguf", "-ctk", "q8_0"])
    assert context.params["model"] == "x.gguf"
    assert context.params["more"] == ("-ngl", "all", "-md", "y.gguf", "-ctk", "q8_0")


def test_aliases_with_commas() -> None:
    @click.command(cls=ShortFlagsCommand)
    @server_options
    def served(server: ServerConfig) -> ServerConfig:
        return server

    config = served.main(["-a", "gpt-4o, mine", "--alias", "other"], standalone_mode=False)
    assert config.aliases == ("gpt-4o", "mine", "other")


@pytest.mark.parametrize(
    ("args", "sampling"),
    [
        ([], {}),
        (["--temp", "0", "--seed", "-1"], {"temperature": 0.0}),
        (["--typical", "0.9", "--top-nsigma", "1", "--repeat-last-n", "-1"],
         {"typical_p": 0.9, "top_n_sigma": 1.0, "repeat_last_n": -1}),
        (["--presence-penalty", "0.5", "--frequency-penalty", "-0.5", "--xtc-probability", "0.1",
          "--xtc-threshold", "0.2"],
         {"presence_penalty": 0.5, "frequency_penalty": -0.5, "xtc_probability": 0.1, "xtc_threshold": 0.2}),
        (["--dry-multiplier", "0.8", "--dry-base", "2", "--dry-allowed-length", "3", "--dry-penalty-last-n",
          "64"],
         {"dry_multiplier": 0.8, "dry_base": 2.0, "dry_allowed_length": 3, "dry_penalty_last_n": 64}),
        (["--mirostat", "2", "--mirostat-ent", "4", "--mirostat-lr", "0.2"],
         {"mirostat": 2, "mirostat_tau": 4.0, "mirostat_eta": 0.2}),
        (["--dynatemp-range", "0.5", "--dynatemp-exp", "2"],
         {"dynatemp_range": 0.5, "dynatemp_exponent": 2.0}),
    ],
)  # fmt: skip
def test_flags_of_llama_server_for_sampling(args: list[str], sampling: dict[str, float]) -> None:
    @click.command(cls=ShortFlagsCommand)
    @server_options
    def served(server: ServerConfig) -> ServerConfig:
        return server

    config = served.main(args, standalone_mode=False)
    assert config.sampling == sampling
    SamplingParams(**config.sampling)  # all are fields of it


def test_more_flags_of_llama_server() -> None:
    @click.command(cls=ShortFlagsCommand)
    @server_options
    def served(server: ServerConfig) -> ServerConfig:
        return server

    args = ["-n", "64", "--tags", "code, fast,code", "--reasoning-format", "none"]
    config = served.main(args, standalone_mode=False)
    assert (config.n_predict, config.tags) == (64, ("code", "fast"))
    assert config.reasoning_format is ReasoningFormat.NONE


@pytest.mark.parametrize(("given", "source"), [("llama3", BUILTIN_TEMPLATES["llama3"]), (CHATML, CHATML)])
def test_a_chat_template_by_name_or_as_text(given: str, source: str) -> None:
    @click.command(cls=ShortFlagsCommand)
    @server_options
    def served(server: ServerConfig) -> ServerConfig:
        return server

    assert served.main(["--chat-template", given], standalone_mode=False).chat_template == source


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["--chat-template", "llama9"], "neither a Jinja template nor one of llama.cpp's names: bailing, "),
        (["--chat-template", "{{ oops"], "--chat-template is not a Jinja template"),
        (["--chat-template", "{{ 1 }}"], "leaves out the message of a chat"),
        (["--chat-template", "llama3", "--chat-template-file", "FILE"], "set the same: give one of them"),
    ],
)
def test_what_is_no_chat_template(args: list[str], why: str, tmp_path: Path) -> None:
    @click.command(cls=ShortFlagsCommand)
    @server_options
    def served(server: ServerConfig) -> ServerConfig:
        return server

    file = tmp_path / "chatml.jinja"
    file.write_text(CHATML)
    with pytest.raises(click.UsageError, match=why):
        served.main([str(file) if word == "FILE" else word for word in args], standalone_mode=False)


@pytest.mark.parametrize(
    ("args", "limit_s"),
    [
        ([], None),
        (["--watchdog", "auto"], None),
        (["--watchdog", "30"], 30.0),
        (["--watchdog", "off"], math.inf),
    ],
)
def test_limits_of_the_watchdog(args: list[str], limit_s: float | None) -> None:
    @click.command(cls=ShortFlagsCommand)
    @server_options
    def served(server: ServerConfig) -> ServerConfig:
        return server

    assert served.main(args, standalone_mode=False).watchdog_s == limit_s


@pytest.mark.process
def test_context_0_is_what_the_model_was_trained_on(tmp_path: Path) -> None:
    model = zoo.write(zoo.llama(), tmp_path / "8b.gguf")
    plan = json.loads(run("plan", "-m", model, "-c", "0", "-np", "1", "--gpu", "4090 48GB", "--json").stdout)
    assert plan["context"]["n_ctx"] == 131_072 == detection.analyze(str(model)).context_length


@pytest.mark.process
def test_windows_is_refused_with_the_way_to_go_on() -> None:
    code = "import sys; from vram_llm.cli.main import main; sys.platform = 'win32'; main()"
    done = run_program(sys.executable, "-c", code, "models")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (33, "", 1)
    assert "WSL2" in done.stderr
