"""Flags on the server: addresses, keys, routes, chat templates, caches, log."""

from vram_llm.cli.llama_server_line.flag import (
    Always,
    ByValue,
    Ignored,
    OnOff,
    Option,
    Refused,
    Rule,
    TemplateVariable,
    ValueKind,
    Words,
    row,
)

_INT, _TEXT, _SWITCH, _ON_OFF = ValueKind.INT, ValueKind.TEXT, ValueKind.SWITCH, ValueKind.ON_OFF
_TOOLS = "the server runs no tools: clients run those that an answer calls"
_MCP = "the server starts no MCP servers: clients run the tools that an answer calls"
_PROXY = "the server fetches nothing for web pages"
_ROUTE = "the route is always there"
_PAGE = "the server has its own dashboard"
_CORS = "every method and header is allowed for the origins of --cors-origins"
_CHECKPOINTS = "the engine keeps the states that its prefix cache needs"
_FORM = "the log has one form; --log-jsonl makes each line an object"

SERVER_FLAGS = (
    row("--host", _TEXT, Rule("host"), "LLAMA_ARG_HOST"),
    row("--port", _INT, Option("--port"), "LLAMA_ARG_PORT"),
    row("--reuse-port", _SWITCH, Ignored("a port has one server"), "LLAMA_ARG_REUSE_PORT"),
    row("--api-key", _TEXT, Rule("api_key"), "LLAMA_API_KEY"),
    row("--api-key-file", _TEXT, Option("--api-key-file"), "LLAMA_ARG_API_KEY_FILE"),
    row("--ssl-key-file", _TEXT, Option("--ssl-keyfile"), "LLAMA_ARG_SSL_KEY_FILE"),
    row("--ssl-cert-file", _TEXT, Option("--ssl-certfile"), "LLAMA_ARG_SSL_CERT_FILE"),
    row("--cors-origins", _TEXT, Option("--cors-origin", each=True), "LLAMA_ARG_CORS_ORIGINS"),
    row("--cors-methods", _TEXT, Ignored(_CORS), "LLAMA_ARG_CORS_METHODS"),
    row("--cors-headers", _TEXT, Ignored(_CORS), "LLAMA_ARG_CORS_HEADERS"),
    row("--cors-credentials / --no-cors-credentials", _ON_OFF, Ignored("clients send keys, and no cookies"),
        "LLAMA_ARG_CORS_CREDENTIALS"),
    row("--api-prefix", _TEXT, Refused("routes have no prefix here: let a reverse proxy add it"),
        "LLAMA_ARG_API_PREFIX"),
    row("--path", _TEXT, Ignored(_PAGE), "LLAMA_ARG_STATIC_PATH"),
    row("--ui --webui / --no-ui --no-webui", _ON_OFF, OnOff(Always(_PAGE), Ignored(_PAGE)), "LLAMA_ARG_UI"),
    row("--ui-config --webui-config", _TEXT, Ignored(_PAGE), "LLAMA_ARG_UI_CONFIG"),
    row("--ui-config-file --webui-config-file", _TEXT, Ignored(_PAGE), "LLAMA_ARG_UI_CONFIG_FILE"),
    row("--ui-mcp-proxy --webui-mcp-proxy / --no-ui-mcp-proxy --no-webui-mcp-proxy", _ON_OFF, OnOff(
        Refused(_PROXY), Always(_PROXY)
    ), "LLAMA_ARG_UI_MCP_PROXY"),
    row("--tools", _TEXT, Refused(_TOOLS), "LLAMA_ARG_TOOLS"),
    row("--tools-runtime", _TEXT, Refused(_TOOLS), "LLAMA_ARG_TOOLS_RUNTIME"),
    row("--mcp-servers-config", _TEXT, Refused(_MCP), "LLAMA_ARG_MCP_SERVERS_CONFIG"),
    row("--mcp-servers-json", _TEXT, Refused(_MCP), "LLAMA_ARG_MCP_SERVERS_JSON"),
    row("-ag --agent / -no-ag --no-agent", _ON_OFF, OnOff(Refused(_TOOLS), Always(_TOOLS)),
        "LLAMA_ARG_AGENT"),
    row("-a --alias", _TEXT, Rule("alias"), "LLAMA_ARG_ALIAS"),
    row("--tags", _TEXT, Option("--tags"), "LLAMA_ARG_TAGS"),
    row("-to --timeout", _INT, Ignored("a silent stream is kept open by comments, and no answer is cut off"),
        "LLAMA_ARG_TIMEOUT"),
    row("--sse-ping-interval", _INT, ByValue({"-1": Words(("--sse-ping-interval", "0"))},
                                             Option("--sse-ping-interval")), "LLAMA_ARG_SSE_PING_INTERVAL"),
    row("--threads-http", _INT, Ignored("requests are read by one event loop"), "LLAMA_ARG_THREADS_HTTP"),
    row("--metrics", _SWITCH, Always(_ROUTE), "LLAMA_ARG_ENDPOINT_METRICS"),
    row("--props", _SWITCH, Words(("--props",)), "LLAMA_ARG_ENDPOINT_PROPS"),
    row("--slots / --no-slots", _ON_OFF, OnOff(Always(_ROUTE), Words(("--no-slots",))),
        "LLAMA_ARG_ENDPOINT_SLOTS"),
    row("--slot-save-path", _TEXT, Rule("slot_save_path")),
    row("--media-path", _TEXT, Option("--image-dir")),
    row("--sleep-idle-seconds", _INT, ByValue({"-1": Always("the model stays loaded")}, Option("--ttl"))),
    row("-cb --cont-batching / -nocb --no-cont-batching", _ON_OFF, OnOff(
        Always("sequences are always batched"), Ignored("sequences are always batched")
    ), "LLAMA_ARG_CONT_BATCHING"),
    row("--embedding --embeddings", _SWITCH, Rule("embeddings"), "LLAMA_ARG_EMBEDDINGS"),
    row("--rerank --reranking", _SWITCH, Words(("--pooling", "rank")), "LLAMA_ARG_RERANKING"),
    row("--pooling", _TEXT, Option("--pooling"), "LLAMA_ARG_POOLING"),
    row("--warmup / --no-warmup", _ON_OFF, OnOff(
        Always("the engine computes once before it is ready"),
        Ignored("the engine computes once before it is ready"),
    )),
    row("--perf / --no-perf", _ON_OFF, Ignored("answers have timings, and /metrics has sums"),
        "LLAMA_ARG_PERF"),
    row("--cache-prompt / --no-cache-prompt", _ON_OFF, OnOff(
        Always("computed beginnings of prompts are reused"), Words(("--cache-reuse", "0"))
    ), "LLAMA_ARG_CACHE_PROMPT"),
    row("--cache-reuse", _INT, Ignored("beginnings of prompts are reused, and no parts behind a difference"),
        "LLAMA_ARG_CACHE_REUSE"),
    row("-cram --cache-ram", _INT, Rule("cache_ram"), "LLAMA_ARG_CACHE_RAM"),
    row("--cache-idle-slots / --no-cache-idle-slots", _ON_OFF, Ignored(_CHECKPOINTS),
        "LLAMA_ARG_CACHE_IDLE_SLOTS"),
    row("-ctxcp --ctx-checkpoints --swa-checkpoints", _INT, Ignored(_CHECKPOINTS),
        "LLAMA_ARG_CTX_CHECKPOINTS"),
    row("-cms --checkpoint-min-step", _INT, Ignored(_CHECKPOINTS), "LLAMA_ARG_CHECKPOINT_MIN_SPACING_NT"),
    row("-sps --slot-prompt-similarity", _TEXT, Ignored(
        "a request gets the slot with the longest common beginning"
    )),
    row("--jinja / --no-jinja", _ON_OFF, OnOff(
        Always("chat templates are rendered by jinja"), Ignored("chat templates are rendered by jinja")
    ), "LLAMA_ARG_JINJA"),
    row("--chat-template", _TEXT, Option("--chat-template"), "LLAMA_ARG_CHAT_TEMPLATE"),
    row("--chat-template-file", _TEXT, Option("--chat-template-file"), "LLAMA_ARG_CHAT_TEMPLATE_FILE"),
    row("--chat-template-kwargs", _TEXT, Rule("template_variables"), "LLAMA_ARG_CHAT_TEMPLATE_KWARGS"),
    row("--skip-chat-parsing / --no-skip-chat-parsing", _ON_OFF, OnOff(
        Refused("thinking and tool calls are always separated from the answer"),
        Always("thinking and tool calls are separated from the answer"),
    ), "LLAMA_ARG_SKIP_CHAT_PARSING"),
    row("--prefill-assistant / --no-prefill-assistant", _ON_OFF, OnOff(
        Always("an assistant's last message is continued"),
        Refused("an assistant's last message is always continued"),
    ), "LLAMA_ARG_PREFILL_ASSISTANT"),
    row("--reasoning-format", _TEXT, ByValue(
        dict.fromkeys(("auto", "deepseek", "none"), Option("--reasoning-format")),
        Refused("thinking is in reasoning_content, or with none in the content"),
    ), "LLAMA_ARG_THINK"),
    row("-rea --reasoning", _TEXT, ByValue(
        {
            **dict.fromkeys(("on", "1", "true", "enabled"), Words(("--reasoning", "on"))),
            **dict.fromkeys(("off", "0", "false", "disabled"), Words(("--reasoning", "off"))),
            **dict.fromkeys(("auto", "-1"), Words(("--reasoning", "auto"))),
        },
        Refused("it is on, off or auto"),
    ), "LLAMA_ARG_REASONING"),
    row("--reasoning-effort", _TEXT, ByValue(
        {"default": Always("the template decides")}, TemplateVariable("reasoning_effort")
    ), "LLAMA_ARG_REASONING_EFFORT"),
    row("--reasoning-budget", _INT, Option("--reasoning-budget"), "LLAMA_ARG_THINK_BUDGET"),
    row("--reasoning-budget-message", _TEXT, Refused("thinking ends at its budget without a message"),
        "LLAMA_ARG_THINK_BUDGET_MESSAGE"),
    row("--reasoning-preserve / --no-reasoning-preserve", _ON_OFF, OnOff(
        TemplateVariable("preserve_reasoning", value=True),
        TemplateVariable("preserve_reasoning", value=False),
    ), "LLAMA_ARG_REASONING_PRESERVE"),
    row("--log-file", _TEXT, Option("--log-file"), "LLAMA_ARG_LOG_FILE"),
    row("--log-jsonl / --no-log-jsonl", _ON_OFF, OnOff(
        Words(("--log-format", "json")), Words(("--log-format", "text"))
    ), "LLAMA_ARG_LOG_JSONL"),
    row("-v --verbose --log-verbose", _SWITCH, Words(("--verbose",))),
    row("-lv --verbosity --log-verbosity", _INT, ByValue(
        dict.fromkeys(("4", "5"), Words(("--verbose",))),
        Ignored("the log has two levels; 4 and 5 are --verbose"),
    ), "LLAMA_ARG_LOG_VERBOSITY"),
    row("--log-disable", _SWITCH, Ignored("faults are logged")),
    row("--log-prompts-dir", _TEXT, Ignored("--log-prompts of `vram-llm serve` writes prompts to the log")),
    row("--log-colors", _TEXT, Ignored(_FORM), "LLAMA_ARG_LOG_COLORS"),
    row("--log-prefix / --no-log-prefix", _ON_OFF, Ignored(_FORM), "LLAMA_ARG_LOG_PREFIX"),
    row("--log-timestamps / --no-log-timestamps", _ON_OFF, Ignored(_FORM), "LLAMA_ARG_LOG_TIMESTAMPS"),
    row("-h --help --usage", _SWITCH, Rule("help")),
    row("--version", _SWITCH, Rule("version")),
    row("--list-devices", _SWITCH, Refused("`vram-llm doctor` lists the devices")),
    row("-cl --cache-list", _SWITCH, Refused("`vram-llm models` lists the models on this disk")),
    row("--completion-bash", _SWITCH, Refused("`vram-llm completion bash` prints the script")),
)  # fmt: skip
