"""The clients that `make clients` runs, in this order."""

from tests.clients.conversation import Client
from tests.clients.environments import Java, Python

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
        name="llama-index",
        program="llama_index.py",
        environment=Python("llama-index"),
        packages=("llama-index-llms-openai-like",),
    ),
)
LM_EVAL = Python("lm-eval")
