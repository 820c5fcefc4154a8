"""Translations of llama-server's command lines."""

from collections.abc import Mapping

import click
import pytest

from vram_llm.cli import serve
from vram_llm.cli.fleet_config import read_serve
from vram_llm.cli.llama_server_line.devices import LlamaDevices
from vram_llm.cli.llama_server_line.translation import Translation, translate

_CARDS = LlamaDevices(
    ids=("GPU1", "GPU0", "GPU2"), by_name={"cuda0": "GPU1", "cuda1": "GPU0", "cuda2": "GPU2"}
)
_BASE = "--model m.gguf"
_END = "--cors-origin *"


def _translated(
    line: str, variables: Mapping[str, str] | None = None, devices: LlamaDevices = _CARDS
) -> Translation:
    return translate(line.split(), variables or {}, lambda: devices)


def _words(line: str, devices: LlamaDevices = _CARDS) -> str:
    """The options, without those that every line gets."""
    words = " ".join(_translated(f"-m m.gguf {line}", devices=devices).arguments())
    return words.replace(f" {_END}", "")


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("", ""),
        ("-c 32768 -t 8 -tb 16", "--n-ctx 32768 --threads 8 --threads-batch 16"),
        ("--ctx_size 0", "--n-ctx 0"),
        ("-c 1 -c 2", "--n-ctx 2"),
        ("-np 1", "--parallel 1"),
        ("--slot-save-path here", "--slot-save-path here --cache-reuse 1"),
        ("-np 4", "--parallel 4 --no-kv-unified"),
        ("-np 4 -kvu", "--parallel 4 --kv-unified"),
        ("-np -1 --no-kv-unified", "--parallel 4 --kv-unified"),
        ("-fa on -ctk q8_0 -ctv q4_0", "--flash-attn on --kv-type-k q8_0 --kv-type-v q4_0"),
        ("-nkvo --no-op-offload", "--no-kv-offload --no-op-offload"),
        ("-b 4096 -ub 8192", "--n-batch 4096 --n-ubatch 4096"),
        ("-lm none", "--no-mmap"),
        ("--rpc 10.0.0.2:50052,10.0.0.3:50052", "--rpc 10.0.0.2:50052 --rpc 10.0.0.3:50052"),
        ("--kv-unified-per-slot 4096 -np 2 -kvu", "--n-ctx 8192 --parallel 2 --kv-unified"),
        ("-a b,a", "--served-model-name a --alias b"),
        ("--api-key one,two", "--api-key one --api-key two"),
        ("--host 0.0.0.0", "--host 0.0.0.0 --insecure"),
        ("--temp 0.6 --presence-penalty 1.5",
         "--temperature 0.6 --presence-penalty 1.5 --repeat-last-n 64"),
        ("--repeat-penalty 1.1 --repeat-last-n 256 --dry-multiplier 0.8",
         "--repeat-penalty 1.1 --repeat-last-n 256 --dry-multiplier 0.8 --dry-penalty-last-n 64"),
        ("--dynatemp-range 0.5 --dynatemp-exp 2", "--dynatemp-range 0.5 --dynatemp-exp 2"),
        ("--samplers top_k;temperature", "--repeat-penalty 1 --presence-penalty 0 --frequency-penalty 0 "
         "--dry-multiplier 0 --top-n-sigma -1 --typical-p 1 --top-p 1 --min-p 0 --xtc-probability 0"),
        ("--sampling-seq k --samplers top_k;temp --min-p 0.2", "--min-p 0.2 --repeat-penalty 1 "
         "--presence-penalty 0 --frequency-penalty 0 --dry-multiplier 0 --top-n-sigma -1 --typical-p 1 "
         "--top-p 1 --min-p 0 --xtc-probability 0"),
        ("--samplers top_k --dynatemp-range 1", "--dynatemp-range 1 --repeat-penalty 1 --presence-penalty 0 "
         "--frequency-penalty 0 --dry-multiplier 0 --top-n-sigma -1 --typical-p 1 --top-p 1 --min-p 0 "
         "--xtc-probability 0 --temperature 1 --dynatemp-range 0"),
        ("--reasoning-budget 0 -rea off", "--reasoning-budget 0 --reasoning off"),
        ("--reasoning-effort high", '--chat-template-kwargs {"reasoning_effort": "high"}'),
        ("--no-cache-prompt -cram 0", "--cache-reuse 0 --slots-ram 0"),
        ("-cram 2048", "--slots-ram 2048MiB"),
        ("--rerank", "--pooling rank"),
        ("--lora a.gguf,b.gguf", "--lora a.gguf --lora b.gguf"),
        ("--lora-scaled a.gguf:0.5", "--lora a.gguf:0.5"),
        ("--no-repack --no-host", "--no-repack --no-host"),
        ("--control-vector a.gguf --control-vector b.gguf --control-vector-layer-range 10 20",
         "--control-vector a.gguf --control-vector b.gguf --control-vector-layer-range 10-20"),
        ("--control-vector-scaled a.gguf:0.5,b.gguf:2", "--control-vector-scaled a.gguf:0.5,b.gguf:2"),
        ("--control-vector a.gguf --control-vector-layer-range 5 -1",
         "--control-vector a.gguf --control-vector-layer-range 5-512"),
        ("--control-vector a.gguf --control-vector-layer-range -1 -1", "--control-vector a.gguf"),
        ("--lora a.gguf --lora-init-without-apply", "--lora a.gguf:0"),
        ("-md d.gguf --spec-draft-n-max 16", "--draft d.gguf"),
        ("-md d.gguf -devd CUDA1 -ngld 99", "--draft d.gguf --draft-device GPU0"),
        ("-md d.gguf -devd CUDA1 -ngld 0", "--draft d.gguf --draft-device host"),
        ("-md d.gguf -devd none", "--draft d.gguf --draft-device host"),
        ("-md d.gguf -devd CUDA0,CUDA1", "--draft d.gguf"),
        ("-mm p.gguf -mmdev CUDA2", "--mmproj p.gguf --mmproj-device GPU2"),
        ("-mm p.gguf -mmdev CUDA2 --no-mmproj-offload", "--mmproj p.gguf --mmproj-device host"),
        ("--spec-type draft-mtp", "--draft mtp"),
        ("-fitt 512,2048", "--reserve-mib 2048"),
        ("--yarn-ext-factor -1 --yarn-attn-factor -1.0 --yarn-beta-slow -1 --yarn-beta-fast -1", ""),
        ("--rope-freq-base 0 --rope-freq-scale 0.0 --yarn-orig-ctx 0", ""),
        ("--rope-scale 4 --rope-freq-scale 0.5", "--rope-freq-scale 0.5"),
        ("--rope-freq-scale 0.5 --rope-scale 4", "--rope-scale 4"),
    ],
)  # fmt: skip
def test_options_of_one_model(line: str, options: str) -> None:
    assert _words(line) == f"{_BASE} {options}".strip()


@pytest.mark.parametrize(
    "line",
    [
        *(f"--pooling {kind}" for kind in ("none", "mean", "cls", "last", "rank")),
        "--embd-normalize -1",
        "--pooling none --embd-normalize 32767",
        "--dynatemp-range 0.5 --dynatemp-exp 1.5",
        "--props",
        "--log-file server.log",
        *(f"--numa {kind}" for kind in ("distribute", "isolate", "numactl")),
        "--mlock",
        *(f"--rope-scaling {kind}" for kind in ("none", "linear", "yarn")),
        "--rope-scale 4 --rope-freq-base 1000000",
        "--rope-freq-scale 0.25",
        "--yarn-orig-ctx 4096 --yarn-ext-factor 0 --yarn-attn-factor 0.5",
        "--yarn-beta-slow 1 --yarn-beta-fast 32",
        "--control-vector a.gguf --control-vector-scaled b.gguf:-0.5",
        "--chat-template chatml",
        "--chat-template {{messages}}",
    ],
)
def test_a_flag_of_the_same_name_is_passed_on_and_serve_takes_its_value(line: str) -> None:
    found = _translated(f"-m m.gguf {line}")
    assert _words(line) == f"{_BASE} {line}"
    assert found.ignored == []
    read_serve([*found.arguments(), "--config", "none"])


@pytest.mark.parametrize(
    ("line", "options", "n_ubatch"),
    [
        ("-ngl 99", "--n-gpu-layers 99", 512),
        ("-ngl all -ts 3,1", "--n-gpu-layers all --tensor-split GPU1=3,GPU0=1", 512),
        ("-ts 3/1/1/7", "--tensor-split GPU1=3,GPU0=1,GPU2=1", 512),
        ("-dev CUDA2,CUDA0 -ts 1,2", "--device GPU2,GPU1 --tensor-split GPU2=1,GPU1=2", 512),
        ("-sm none -mg 1", "--device GPU0", 512),
        ("-dev CUDA2,CUDA0 -sm none -mg 1", "--device GPU1", 512),
        ("-ot exps=CPU -ncmoe 3", "--override-tensor exps=CPU --n-cpu-moe 3", 512),
        ("-ot a=CUDA0,b=CUDA2 -cmoe", "--override-tensor a=GPU1,b=GPU2 --cpu-moe", 512),
        ("-ngl 9 -b 256", "--n-gpu-layers 9 --n-batch 256", 256),
    ],
)
def test_a_line_that_places_weights_gets_llama_servers_buffers(
    line: str, options: str, n_ubatch: int
) -> None:
    whole = "--override-tensor none " if "-ts" in line else ""
    own = f"--no-mmproj {whole}--n-ubatch {n_ubatch} --backend-sampling off --op-offload"
    assert _words(line) == f"{_BASE} {options} {own}"


def test_names_stay_as_they_are_where_no_device_is() -> None:
    none = LlamaDevices(ids=(), by_name={})
    assert "--override-tensor a=CUDA0" in _words("-ot a=CUDA0", none)
    assert "--tensor-split 3,1" in _words("-ts 3,1", none)


@pytest.mark.parametrize(
    ("line", "model"),
    [
        ("-hf ggml-org/gemma-3-4b-it-GGUF", "hf:ggml-org/gemma-3-4b-it-GGUF:Q4_K_M"),
        ("-hf a/b:Q8_0", "hf:a/b:Q8_0"),
        ("-hf a/b -hff c.gguf", "hf:a/b/c.gguf"),
        ("-mu https://h.example/m.gguf", "https://h.example/m.gguf"),
        ("-m /x/m.gguf", "/x/m.gguf"),
    ],
)
def test_the_model(line: str, model: str) -> None:
    assert _translated(line).arguments()[:2] == ["--model", model]


def test_a_flag_overrides_its_variable_and_a_note_says_so() -> None:
    found = _translated("-m m.gguf -c 4096", {"LLAMA_ARG_CTX_SIZE": "1", "LLAMA_ARG_PORT": "9000"})
    assert found.arguments()[:6] == ["--model", "m.gguf", "--port", "9000", "--n-ctx", "4096"]
    assert found.notes() == ["ignored: $LLAMA_ARG_CTX_SIZE is not used: the line has -c"]


def test_a_token_of_the_environment_is_not_printed() -> None:
    assert _translated("-hf a/b", {"HF_TOKEN": "secret"}).environment == {}
    assert _translated("-hf a/b -hft other", {"HF_TOKEN": "secret"}).environment == {"HF_TOKEN": "other"}


@pytest.mark.parametrize(
    ("text", "keys", "shown"),
    [
        ("secret", "secret", '"$LLAMA_API_KEY"'),
        (" one , two,", "one two", '"$(echo "$LLAMA_API_KEY" | tr , " ")"'),
    ],
)
def test_keys_of_the_environment_stay_there(text: str, keys: str, shown: str) -> None:
    found = _translated("-m m.gguf", {"LLAMA_API_KEY": text})
    assert "--api-key" not in found.arguments()
    assert found.environment == {"VRAM_LLM_API_KEY": keys}
    assert found.secrets == {"VRAM_LLM_API_KEY": shown}


def test_a_key_of_the_environment_has_no_spaces() -> None:
    with pytest.raises(click.UsageError, match="no spaces; give --api-key-file"):
        _translated("-m m.gguf", {"LLAMA_API_KEY": "two words"})


def test_a_key_of_the_line_replaces_that_of_the_environment() -> None:
    found = _translated("-m m.gguf --api-key typed", {"LLAMA_API_KEY": "secret"})
    assert found.arguments().count("--api-key") == 1
    assert "typed" in found.arguments()
    assert (found.environment, found.secrets) == ({}, {})


@pytest.mark.parametrize(
    ("variables", "word"),
    [
        ({"LLAMA_ARG_KV_OFFLOAD": "0"}, "--no-kv-offload"),
        ({"LLAMA_ARG_NO_KV_OFFLOAD": "anything"}, "--no-kv-offload"),
        ({"LLAMA_ARG_KV_OFFLOAD": "on"}, "--kv-offload"),
        ({"LLAMA_ARG_SWA_FULL": "1"}, "--swa-full"),
    ],
)
def test_variables_of_switches(variables: Mapping[str, str], word: str) -> None:
    assert word in _translated("-m m.gguf", variables).arguments()


def test_a_variable_that_is_off_leaves_a_switch_out() -> None:
    assert "--swa-full" not in _translated("-m m.gguf", {"LLAMA_ARG_SWA_FULL": "off"}).arguments()


def test_what_is_ignored_is_said_with_its_reason() -> None:
    found = _translated("-m m.gguf --threads-http 4 --no-warmup --jinja")
    assert found.notes() == [
        "ignored: --threads-http 4: requests are read by one event loop",
        "ignored: --no-warmup: the engine computes once before it is ready",
    ]
    assert found.always == ["always so: --jinja: chat templates are rendered by jinja"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("-sm row", "-sm row: a split by rows is not offered"),
        ("--tools all", "--tools all: the server runs no tools"),
        ("--mcp-servers-config f", "the server starts no MCP servers"),
        ("--context-shift", "--context-shift: a context is never shifted"),
        ("--ctx-sise 3", "llama-server has no flag --ctx-sise; did you mean --ctx-size?"),
        ("-np 0", "-np 0: a server has at least one slot"),
        ("-c", "-c needs a value"),
        ("-c many", "-c: 'many' is not a whole number"),
        ("-ot exps", "'exps' is no PATTERN=BUFFER_TYPE"),
        ("-ot exps=CUDA7", "there is no device CUDA7"),
        ("-sm none -mg 5", "-mg 5: there are 3 devices"),
        ("-hf nothing", "-hf nothing: write it like ORG/REPO"),
        ("--samplers temperature;top_k", "another order than llama-server's own"),
        ("--host /tmp/x.sock", "not on UNIX sockets"),
    ],
)
def test_what_is_refused(line: str, sentence: str) -> None:
    with pytest.raises(click.UsageError) as raised:
        _translated(f"-m m.gguf {line}")
    assert sentence in raised.value.message


@pytest.mark.parametrize("flag", ["--gpt-oss-120b-default", "--fim-qwen-7b-spec", "--embd-gemma-default"])
def test_a_named_preset_is_a_line_that_serve_reads(flag: str) -> None:
    arguments = _translated(flag).arguments()
    assert arguments[1].startswith("hf:ggml-org/")
    serve.command.make_context("vram-llm serve", arguments)
