"""Claude Code, headless. Arguments and output: see tests/clients/conversation.py.

Its task is to read a file with its own tool. It streams on the wire in both forms of output.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

url, model, question, _ = sys.argv[1:]
note = Path.cwd() / "note.txt"
note.write_text("It is 18 degrees and sunny in Paris.\n")
TASK = f"Read the note.\nCALL Read {json.dumps({'file_path': str(note)})}"
SETTINGS = {
    "ANTHROPIC_BASE_URL": url,
    "ANTHROPIC_AUTH_TOKEN": "none",
    "ANTHROPIC_MODEL": model,
    "ANTHROPIC_DEFAULT_HAIKU_MODEL": model,
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "API_TIMEOUT_MS": "60000",
    "CLAUDE_CODE_MAX_RETRIES": "0",
}


def claude(prompt: str, *options: str) -> list[dict[str, Any]]:
    """What it prints, line by line."""
    done = subprocess.run(
        ["claude", "-p", prompt, "--allowedTools", "Read", *options],
        env={**os.environ, **SETTINGS}, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"claude ended with {done.returncode}: {done.stderr[-700:]}{done.stdout[-700:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def plain(prompt: str) -> Any:
    """The result of --output-format json."""
    return claude(prompt, "--output-format", "json")[-1]["result"]


def streamed(prompt: str) -> list[str]:
    """The pieces of text of --output-format stream-json."""
    lines = claude(prompt, "--output-format", "stream-json", "--verbose", "--include-partial-messages")
    events = [line["event"] for line in lines if line["type"] == "stream_event"]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    return [delta["text"] for delta in deltas if delta["type"] == "text_delta"]


print(
    json.dumps(
        {
            "plain": plain(question),
            "streamed": streamed(question),
            "tool": plain(TASK),
            "tool_streamed": streamed(TASK),
        }
    )
)
