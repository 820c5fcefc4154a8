"""aider, headless. Arguments and output: see tests/clients/conversation.py.

It edits files by the text of answers and calls no tools: its task here is to write a file.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

url, model, question, _ = sys.argv[1:]
note = Path.cwd() / "note.txt"
EDIT = """Write the note.
WRITE
note.txt
```
It is 18 degrees and sunny in Paris.
```
END"""


def aider(message: str, *options: str) -> str:
    """What it prints."""
    done = subprocess.run(
        [
            "aider", "--model", f"openai/{model}", "--message", message, "--yes-always", "--no-git",
            "--no-pretty", "--edit-format", "whole", "--no-check-update", "--analytics-disable",
            "--no-show-model-warnings", "--no-show-release-notes", "--no-detect-urls", "--map-tokens", "0",
            *options,
        ],
        env={**os.environ, "OPENAI_API_BASE": f"{url}/v1", "OPENAI_API_KEY": "none"},
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"aider ended with {done.returncode}: {done.stderr[-900:]}{done.stdout[-900:]}")
    return done.stdout


def written(*options: str) -> str:
    """The file, after the edit."""
    note.unlink(missing_ok=True)
    output = aider(EDIT, *options, str(note))
    return note.read_text() if note.exists() else output


print(
    json.dumps(
        {
            "plain": aider(question, "--no-stream"),
            "streamed": aider(question, "--stream"),
            "tool": written("--no-stream"),
            "tool_streamed": written("--stream"),
        }
    )
)
