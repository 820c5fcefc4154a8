"""The clients that `make clients` runs, in this order."""

from tests.clients.conversation import Client
from tests.clients.environments import Java, Node, Python
from tests.clients.servers import Model

CLIENTS = (
    Client(
        name="openai-python",
        program="openai_python.py",
        environment=Python("openai-python"),
        packages=("openai",),
    ),
    Client(
        name="openai-responses",
        program="openai_responses.py",
        environment=Python("openai-python"),
        packages=("openai",),
    ),
    Client(
        name="anthropic-python",
        program="anthropic_python.py",
        environment=Python("anthropic-python"),
        packages=("anthropic",),
    ),
    Client(name="java", program="HttpClientChat.java", environment=Java(), packages=("java",)),
    Client(
        name="claude-code",
        program="claude_code.py",
        environment=Node("claude-code"),
        packages=("@anthropic-ai/claude-code",),
        model=Model.SCRIPTED,
    ),
    Client(
        name="codex",
        program="codex.py",
        environment=Node("codex"),
        packages=("@openai/codex",),
        model=Model.SCRIPTED,
    ),
    Client(
        name="openai-node",
        program="openai_node.mjs",
        environment=Node("openai-node"),
        packages=("openai",),
    ),
    Client(
        name="anthropic-node",
        program="anthropic_node.mjs",
        environment=Node("anthropic-node"),
        packages=("@anthropic-ai/sdk",),
    ),
    Client(
        name="ai-sdk-compatible",
        program="ai_sdk.mjs",
        options=("compatible",),
        environment=Node("ai-sdk"),
        packages=("ai", "@ai-sdk/openai-compatible"),
    ),
    Client(
        name="ai-sdk-chat",
        program="ai_sdk.mjs",
        options=("chat",),
        environment=Node("ai-sdk"),
        packages=("ai", "@ai-sdk/openai"),
    ),
    Client(
        name="ai-sdk-responses",
        program="ai_sdk.mjs",
        options=("responses",),
        environment=Node("ai-sdk"),
        packages=("ai", "@ai-sdk/openai"),
    ),
    Client(
        name="ai-sdk-anthropic",
        program="ai_sdk.mjs",
        options=("anthropic",),
        environment=Node("ai-sdk"),
        packages=("ai", "@ai-sdk/anthropic"),
    ),
    Client(
        name="langchain-js-openai",
        program="langchain_js.mjs",
        options=("openai",),
        environment=Node("langchain-js"),
        packages=("langchain", "@langchain/openai"),
    ),
    Client(
        name="langchain-js-responses",
        program="langchain_js.mjs",
        options=("responses",),
        environment=Node("langchain-js"),
        packages=("langchain", "@langchain/openai"),
    ),
    Client(
        name="langchain-js-anthropic",
        program="langchain_js.mjs",
        options=("anthropic",),
        environment=Node("langchain-js"),
        packages=("langchain", "@langchain/anthropic"),
    ),
    Client(
        name="llama-index",
        program="llama_index.py",
        environment=Python("llama-index"),
        packages=("llama-index-llms-openai-like",),
    ),
)
LM_EVAL = Python("lm-eval")
