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
        name="llama-index",
        program="llama_index.py",
        environment=Python("llama-index"),
        packages=("llama-index-llms-openai-like",),
    ),
)
LM_EVAL = Python("lm-eval")
