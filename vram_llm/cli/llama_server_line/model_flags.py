"""Flags on files: the model, adapters, projector, and changes to the model itself."""

from vram_llm.cli.llama_server_line.flag import (
    Always,
    Ignored,
    Line,
    OnOff,
    Option,
    Refused,
    Rule,
    ValueKind,
    Words,
    row,
)

_INT, _TEXT, _SWITCH, _ON_OFF = ValueKind.INT, ValueKind.TEXT, ValueKind.SWITCH, ValueKind.ON_OFF
_IMAGES = "an image takes as many tokens as the projector's file says"
_VIDEO = "requests contain no videos"
_CODER = "--port 8012 -ub 1024 -b 1024 -c 0"
_SMALL_CODER = "-hfd ggml-org/Qwen2.5-Coder-0.5B-Q8_0-GGUF"
_GPT_OSS = "--port 8013 -ub 2048 -b 32768 -np 2 -c 262144 --temp 1.0 --top-p 1.0 --top-k 0 --min-p 0.01"
_GEMMA = "--port 8014 -c 0"

MODEL_FLAGS = (
    row("-m --model", _TEXT, Rule("model"), "LLAMA_ARG_MODEL"),
    row("-mu --model-url", _TEXT, Rule("model"), "LLAMA_ARG_MODEL_URL"),
    row("-hf -hfr --hf-repo", _TEXT, Rule("model"), "LLAMA_ARG_HF_REPO"),
    row("-hff --hf-file", _TEXT, Rule("model"), "LLAMA_ARG_HF_FILE"),
    row("-hft --hf-token", _TEXT, Rule("hf_token"), "HF_TOKEN"),
    row("-dr --docker-repo", _TEXT, Refused(
        "models of Docker's hub are not fetched: name a file with -m, or a repository with -hf"
    ), "LLAMA_ARG_DOCKER_REPO"),
    row("--offline", _SWITCH, Rule("offline"), "LLAMA_ARG_OFFLINE"),
    row("-mm --mmproj", _TEXT, Option("--mmproj"), "LLAMA_ARG_MMPROJ"),
    row("-mmu --mmproj-url", _TEXT, Refused("a projector is a local file here: fetch it, and give --mmproj"),
        "LLAMA_ARG_MMPROJ_URL"),
    row("--mmproj-auto / --no-mmproj --no-mmproj-auto", _ON_OFF, OnOff(
        Always("a projector in the model's folder is used"), Words(("--no-mmproj",))
    ), "LLAMA_ARG_MMPROJ_AUTO"),
    row("--mmproj-offload / --no-mmproj-offload", _ON_OFF, OnOff(
        Always("the projector is on a card if one has room"), Words(("--mmproj-device", "host")),
    ), "LLAMA_ARG_MMPROJ_OFFLOAD"),
    row("-mmdev --mmproj-device", _TEXT, Rule("mmproj_device"), "MTMD_BACKEND_DEVICE"),
    row("--image-min-tokens", _INT, Refused(_IMAGES), "LLAMA_ARG_IMAGE_MIN_TOKENS"),
    row("--image-max-tokens", _INT, Refused(_IMAGES), "LLAMA_ARG_IMAGE_MAX_TOKENS"),
    row("--mtmd-batch-max-tokens", _INT, Ignored("images are encoded one at a time"),
        "LLAMA_ARG_MTMD_BATCH_MAX_TOKENS"),
    row("--video-fps", _TEXT, Ignored(_VIDEO), "LLAMA_ARG_VIDEO_FPS"),
    row("--video-timestamp-interval", _INT, Ignored(_VIDEO), "LLAMA_ARG_VIDEO_TIMESTAMP_INTERVAL"),
    row("--video-ffmpeg-dir", _TEXT, Ignored(_VIDEO), "LLAMA_ARG_VIDEO_FFMPEG_DIR"),
    row("--lora", _TEXT, Rule("lora")),
    row("--lora-scaled", _TEXT, Rule("lora")),
    row("--lora-init-without-apply", _SWITCH, Rule("lora_without_apply")),
    row("--control-vector", _TEXT, Option("--control-vector")),
    row("--control-vector-scaled", _TEXT, Option("--control-vector-scaled")),
    row("--control-vector-layer-range", ValueKind.TWO, Rule("layer_range")),
    row("--override-kv", _TEXT, Option("--override-kv")),
    row("--rope-scaling", _TEXT, Option("--rope-scaling"), "LLAMA_ARG_ROPE_SCALING_TYPE"),
    row("--rope-scale", _TEXT, Rule("rope_scale"), "LLAMA_ARG_ROPE_SCALE"),
    row("--rope-freq-base", _TEXT, Rule("rope"), "LLAMA_ARG_ROPE_FREQ_BASE"),
    row("--rope-freq-scale", _TEXT, Rule("rope_scale"), "LLAMA_ARG_ROPE_FREQ_SCALE"),
    row("--yarn-orig-ctx", _INT, Rule("rope"), "LLAMA_ARG_YARN_ORIG_CTX"),
    row("--yarn-ext-factor", _TEXT, Rule("yarn_factor"), "LLAMA_ARG_YARN_EXT_FACTOR"),
    row("--yarn-attn-factor", _TEXT, Rule("yarn_factor"), "LLAMA_ARG_YARN_ATTN_FACTOR"),
    row("--yarn-beta-slow", _TEXT, Rule("yarn_factor"), "LLAMA_ARG_YARN_BETA_SLOW"),
    row("--yarn-beta-fast", _TEXT, Rule("yarn_factor"), "LLAMA_ARG_YARN_BETA_FAST"),
    row("--models-dir", _TEXT, Rule("models_dir"), "LLAMA_ARG_MODELS_DIR"),
    row("--models-preset", _TEXT, Rule("models_preset"), "LLAMA_ARG_MODELS_PRESET"),
    row("--models-max", _INT, Ignored("as many models are loaded as the memory holds"),
        "LLAMA_ARG_MODELS_MAX"),
    row("--models-autoload / --no-models-autoload", _ON_OFF, OnOff(
        Always("a request loads its model"), Ignored("a request loads its model")
    ), "LLAMA_ARG_MODELS_AUTOLOAD"),
    row("--embd-gemma-default", _SWITCH, Line(
        "-hf ggml-org/embeddinggemma-300M-qat-q4_0-GGUF -hff embeddinggemma-300M-qat-Q4_0.gguf --port 8011 "
        "-ub 2048 -b 2048 -np 32 -kvu -c 65536 --embeddings"
    )),
    row("--fim-qwen-1.5b-default", _SWITCH, Line(
        "-hf ggml-org/Qwen2.5-Coder-1.5B-Q8_0-GGUF -hff qwen2.5-coder-1.5b-q8_0.gguf " + _CODER
    )),
    row("--fim-qwen-3b-default", _SWITCH, Line(
        "-hf ggml-org/Qwen2.5-Coder-3B-Q8_0-GGUF -hff qwen2.5-coder-3b-q8_0.gguf " + _CODER
    )),
    row("--fim-qwen-7b-default", _SWITCH, Line(
        "-hf ggml-org/Qwen2.5-Coder-7B-Q8_0-GGUF -hff qwen2.5-coder-7b-q8_0.gguf " + _CODER
    )),
    row("--fim-qwen-7b-spec", _SWITCH, Line(
        f"-hf ggml-org/Qwen2.5-Coder-7B-Q8_0-GGUF -hff qwen2.5-coder-7b-q8_0.gguf {_SMALL_CODER} {_CODER}"
    )),
    row("--fim-qwen-14b-spec", _SWITCH, Line(
        f"-hf ggml-org/Qwen2.5-Coder-14B-Q8_0-GGUF -hff qwen2.5-coder-14b-q8_0.gguf {_SMALL_CODER} {_CODER}"
    )),
    row("--fim-qwen-30b-default", _SWITCH, Line(
        "-hf ggml-org/Qwen3-Coder-30B-A3B-Instruct-Q8_0-GGUF -hff qwen3-coder-30b-a3b-instruct-q8_0.gguf "
        + _CODER
    )),
    row("--gpt-oss-20b-default", _SWITCH, Line(
        f"-hf ggml-org/gpt-oss-20b-GGUF -hff gpt-oss-20b-mxfp4.gguf {_GPT_OSS}"
    )),
    row("--gpt-oss-120b-default", _SWITCH, Line(f"-hf ggml-org/gpt-oss-120b-GGUF {_GPT_OSS}")),
    row("--vision-gemma-4b-default", _SWITCH, Line(f"-hf ggml-org/gemma-3-4b-it-qat-GGUF {_GEMMA}")),
    row("--vision-gemma-12b-default", _SWITCH, Line(f"-hf ggml-org/gemma-3-12b-it-qat-GGUF {_GEMMA}")),
)  # fmt: skip
