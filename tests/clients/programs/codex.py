"""Codex CLI, headless, over the Responses API. Arguments and output: see tests/clients/conversation.py.

Its task is to run a command with its own tool. It always streams on the wire; `streamed` reads its events.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

url, model, question, _ = sys.argv[1:]
work = Path.cwd() / "work"
work.mkdir()
(work / "note.txt").write_text("It is 18 degrees and sunny in Paris.\n")
TASK = f"Read the note.\nCALL exec_command {json.dumps({'cmd': 'cat note.txt'})}"
CONFIG = f"""
model = "{model}"
model_provider = "vram-llm"
model_context_window = 262144
check_for_update_on_startup = false

[model_providers.vram-llm]
name = "vram-llm"
base_url = "{url}/v1"
env_key = "VRAM_LLM_API_KEY"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0

[analytics]
enabled = false
"""
home = Path.cwd() / ".codex"
home.mkdir()
(home / "config.toml").write_text(CONFIG)


def codex(prompt: str, *options: str) -> str:
    """What it prints."""
    done = subprocess.run(
        ["codex", "exec", "--skip-git-repo-check", "--sandbox", "danger-full-access", *options, prompt],
        cwd=work, env={**os.environ, "CODEX_HOME": str(home), "VRAM_LLM_API_KEY": "none"},
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"codex ended with {done.returncode}: {done.stderr[-900:]}{done.stdout[-900:]}")
    return done.stdout


def streamed(prompt: str) -> Any:
    """The last message among its events."""
    events = [json.loads(line) for line in codex(prompt, "--json").splitlines()]
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    return [item["text"] for item in items if item["type"] == "agent_message"][-1]


print(
    json.dumps(
        {
            "plain": codex(question),
            "streamed": streamed(question),
            "tool": codex(TASK),
            "tool_streamed": streamed(TASK),
        }
    )
)
