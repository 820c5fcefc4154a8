"""llm, the command line tool. Arguments and output: see tests/clients/conversation.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

url, model, question, task = sys.argv[1:]
settings = Path.cwd() / "llm"
settings.mkdir()
(settings / "extra-openai-models.yaml").write_text(
    f"""
- model_id: vram-llm
  model_name: {model}
  api_base: {url}/v1
  supports_tools: true
"""
)
FUNCTION = """
def get_weather(city: str) -> str:
    "Weather of a city"
    return '{"city": "%s", "temperature": 18, "sky": "sunny"}' % city
"""


def llm(prompt: str, *options: str) -> str:
    """What it prints."""
    done = subprocess.run(
        ["llm", "-m", "vram-llm", "--key", "none", "-o", "temperature", "0", *options, prompt],
        env={**os.environ, "LLM_USER_PATH": str(settings)}, capture_output=True, text=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"llm ended with {done.returncode}: {done.stderr[-900:]}{done.stdout[-900:]}")
    return done.stdout


tools = ("--functions", FUNCTION)
print(
    json.dumps(
        {
            "plain": llm(question, "--no-stream"),
            "streamed": llm(question),
            "tool": llm(task, "--no-stream", *tools),
            "tool_streamed": llm(task, *tools),
        }
    )
)
