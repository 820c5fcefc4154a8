"""One run of the suite against one server."""

import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.llama_server_suite.source import Suite
from bench.servers import free_port
from scripts.setup import ROOT
from tests.pictures import png

CONTROL, OWN = "llama-server", "vram-llm"
THROUGH = ("llama-server", "serve")  # the commands of this server that may get the tests' command lines
_TEST_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Result:
    """One test's outcome: "passed", "failed" or "skipped".

    `requests` are such as "GET /health 200", `options` those of the servers it started ("--model").
    """

    id: str
    outcome: str
    requests: tuple[str, ...]
    options: tuple[str, ...]
    message: str
    seconds: float


def run_suite(
    suite: Suite,
    server: str,
    files: Iterable[str],
    log: Path,
    tests: Iterable[str] | None = None,
    through: str = THROUGH[0],
) -> dict[str, Result]:
    """Run the files, or the `tests` in them, against `server`; results by test id. Output goes to `log`.

    `through` is the command that this server is started by.
    """
    with tempfile.TemporaryDirectory() as scratch:
        record, launcher = Path(scratch, "record.jsonl"), Path(scratch, "server")
        record.touch()
        launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bench.llama_server_suite.launcher "$@"\n')
        launcher.chmod(0o755)
        settings = {
            "LLAMA_SERVER_BIN_PATH": str(launcher),
            "PYTHONPATH": os.pathsep.join(map(str, (suite.tests, Path(__file__).parent, ROOT))),
            "PORT": str(free_port()),
            "SUITE_LLAMA_SERVER": str(suite.llama_server),
            "SUITE_MODELS": str(suite.models),
            "SUITE_PICTURE": base64.b64encode(png(1, 56, 56)).decode(),
            "SUITE_RECORD": str(record),
            "SUITE_SERVER": server,
            "SUITE_THROUGH": through,
        }
        if tests is not None:
            Path(scratch, "tests").write_text("\n".join(tests))
            settings["SUITE_TESTS"] = str(Path(scratch, "tests"))
        with log.open("wb") as output:
            subprocess.run(_command(suite, files), cwd=suite.tests, stdout=output, stderr=output,
                           env={**os.environ, **settings}, check=False)  # fmt: skip
        results = [_result(json.loads(line)) for line in record.read_text().splitlines()]
    return {result.id: result for result in results}


def _command(suite: Suite, files: Iterable[str]) -> list[str]:
    return [
        str(suite.python), "-m", "pytest", "-p", "plugin", "-p", "no:cacheprovider", "--tb=short", "-v",
        f"--timeout={_TEST_TIMEOUT_S}", *files,
    ]  # fmt: skip


def _result(line: Mapping[str, Any]) -> Result:
    return Result(
        id=line["id"],
        outcome=line["outcome"],
        requests=tuple(line["requests"]),
        options=tuple(line["options"]),
        message=line["message"],
        seconds=line["seconds"],
    )
