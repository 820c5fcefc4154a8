"""Every command in README.md, NOTES.md and docs/ is run as it is written, or named here with the reason.

Models are headers made by tests/zoo under the names that the text uses; other hardware is a what-if card.
"""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import zoo
from tests.cli.running import (
    ROOT,
    each_plan_once,
    environment,
    run,
    run_here,
    run_program,
    without_alternatives,
)
from tests.cli.running import command as line
from tests.cli.typed import printed_flags
from tests.patience import PATIENCE_S
from tests.server.live import Serving, await_health, serving
from tests.workers import await_listening, free_ports, worker_process
from tools.random_model import write_llama
from vram_llm.cli.tables import print_plan
from vram_llm.planner.export.formats import from_json

pytestmark = pytest.mark.process

BIG = "Llama-3_3-Nemotron-Super-49B-v1_5-Q8_0-00001-of-00002.gguf"
GENERATED = "docs/cli.md"  # written from --help; tests/scripts/test_cli_reference.py
DOCUMENTS = ("README.md", "NOTES.md", *sorted(
    name for path in (ROOT / "docs").rglob("*.md") if (name := str(path.relative_to(ROOT))) != GENERATED
))  # fmt: skip
NOT_RUN = {
    "vram-llm worker": "listens on a port that may be in use; README.md's line is run with another port",
    "vram-llm watch gpu.lan:8080": "asks another computer; tests/cli/test_watch.py watches a server here",
    "vram-llm tune model.gguf --minutes 5 --rpc 10.0.0.2:50052": (
        "asks another computer; tests/test_tuning.py tunes here"
    ),
    "make setup": "has run, or these tests would not",
    "make demo": "stays until Ctrl+C; CI runs `make demo ONCE=1` before the tests",
    "make test": "is what runs these tests",
    ". .venv/bin/activate": "is for a shell",
    "vram-llm calibrate": "measures for a minute; tests/cli/test_calibrate.py runs it on workers",
    "vram-llm calibrate --seconds 2": "measures this computer, as tests/cli/test_calibrate.py does",
    "python examples/embeddings.py QUESTION TEXT TEXT": "names no texts; tests/test_examples.py runs it",
    'python examples/vision.py PICTURE.png "What is this?"': "names no picture; tests/test_examples.py does",
    "python examples/structured.py": "tests/test_examples.py runs it as it is written",
    "python examples/uneven_rig.py MODEL.gguf": "tests/test_examples.py runs it on the 49B",
    "python examples/long_context.py MODEL.gguf": "tests/test_examples.py runs it on the 8B",
    "python examples/tools.py": "tests/test_examples.py runs it as it is written",
    'python examples/langchain_chat.py "What is GGUF?"': "tests/test_examples.py runs it as it is written",
    'examples/chat.sh "What is VRAM?"': "tests/test_examples.py runs it as it is written",
    "python -m examples.modernizer FOLDER --context 32768": "names no folder; tests/examples runs it",
}


def blocks(name: str) -> Iterator[list[str]]:
    """The indented blocks of a document, without their indentation."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / name).read_text(), flags=re.MULTILINE | re.DOTALL)
    for found in re.finditer(r"(?:^ {4}.*\n|^\n(?= {4}))+", text, re.MULTILINE):
        yield [line[4:] for line in found[0].splitlines()]


def python_blocks(name: str) -> list[str]:
    """The blocks of Python in a document."""
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)


def commands(name: str) -> list[str]:
    """Command lines in blocks: those after `$ `, and those of blocks that have no `$`."""
    found = []
    for lines in blocks(name):
        joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
        prompted = [line[2:] for line in joined if line.startswith("$ ")]
        starts = ("vram-llm ", "make ", "pip ", ". ", "python ", "examples/")
        found += prompted or [line for line in joined if line.startswith(starts)]
    return [re.sub(r"\s{2,}#.*", "", line).strip() for line in found]


def in_text(name: str) -> list[str]:
    """Commands in backticks within the text, but those with a place for something: FILE, HOST:PORT."""
    found = re.findall(r"`(vram-llm [^`]*)`", (ROOT / name).read_text())
    return [one for one in found if not re.search(r"\b[A-Z]{3,}\b(?!\.gguf)", one)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models that the documents name, and `vram-llm`."""
    folder = tmp_path_factory.mktemp("readme")
    zoo.write(zoo.nemotron_49b(), folder / BIG.replace("-00001-of-00002", ""), shard_bytes=40 * 10**9)
    assert (folder / BIG).exists()
    write_llama(folder / "MODEL.gguf", n_embd=128, n_ctx_train=8192)
    (folder / "plan.json").write_text(run("plan", folder / "MODEL.gguf", "--json").stdout)
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


def shell(command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run in a shell in which `vram-llm` and `python` are these, with `data_apart`."""
    arranged = (
        f'vram-llm() {{ "{sys.executable}" -m vram_llm "$@"; }}\npython() {{ "{sys.executable}" "$@"; }}\n'
    )
    return run_program("bash", "-c", arranged + command, cwd=folder, env=data_apart(folder))


def data_apart(folder: Path) -> dict[str, str]:
    """An environment in which what is measured stays in `folder`."""
    return environment(120) | {"VRAM_LLM_DATA_DIR": str(folder / "data")}


def is_server(command: str) -> bool:
    return command.startswith(("vram-llm serve", "vram-llm worker"))


def needs_server(command: str) -> bool:
    return command.startswith(("python ", "examples/", "vram-llm bench serve"))


def ports_of(commands: list[str]) -> dict[str, str]:
    """Addresses in `commands` where this machine may have another program, each with a free one in place."""
    found = dict.fromkeys(one for command in commands for one in re.findall(r"127\.0\.0\.1:\d+", command))
    return {one: f"127.0.0.1:{port}" for one, port in zip(found, free_ports(len(found)), strict=True)}


EVERY = [
    (name, command)
    for command, name in {
        command: name for name in reversed(DOCUMENTS) for command in (*commands(name), *in_text(name))
    }.items()
]
TO_RUN = [one for one in EVERY if one[1] not in NOT_RUN]
ALONE = [one for one in TO_RUN if not is_server(one[1]) and not needs_server(one[1])]


def test_there_are_commands_to_try_and_reasons_for_the_rest() -> None:
    assert len(ALONE) > 10
    assert set(NOT_RUN) <= {command for _, command in EVERY}


@pytest.fixture(autouse=True, scope="module")
def _plans_made_once() -> Iterator[None]:
    with each_plan_once():
        yield


def needs_process(command: str) -> bool:
    """Whether a command is run in a shell: it needs one, or is no plan that is only printed."""
    return not command.startswith("vram-llm plan ") or bool(re.search(r"[>|]|--plot\b", command))


@pytest.mark.parametrize(("name", "command"), ALONE)
def test_as_written(folder: Path, name: str, command: str) -> None:
    if needs_process(command):
        done = shell(command, folder)
    else:
        done = run_here(*shlex.split(command)[1:], cwd=folder, env=data_apart(folder))
    assert done.returncode == 0, f"{name}: {command}\n{done.stderr}"


PLANS = [
    command
    for _, command in ALONE
    if command.startswith("vram-llm plan ") and not re.search(r"--(compare|check|emit|json)\b", command)
]


@pytest.mark.parametrize("command", PLANS)
def test_a_plan_is_planned_again_by_the_flags_it_prints(
    folder: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(re.sub(r"--explain|--verbose|--plot \S+", "", command))[1:]
    document = run_here(*words, "--json", cwd=folder).stdout
    planned = json.loads(document)
    if not planned.get("placement", {}).get("device_order"):  # the machine alone, or nothing on a device
        return
    print_plan(from_json(document.encode(), command), n_ways=None, verbose=True)
    printed = printed_flags(capsys.readouterr().out)
    own = next(flags for flags in printed if flags[0] == "--n-gpu-layers")
    with without_alternatives():
        again = run_here(*words, "--json", *own, cwd=folder)
    assert json.loads(again.stdout)["placement"] == planned["placement"]
    flags_of_ways = {tuple(way["flags"]) for way in planned["alternatives"] if way["flags"] and way["fits"]}
    assert flags_of_ways <= set(printed)


def test_servers_and_workers_as_written_but_for_their_ports(folder: Path) -> None:
    """A worker is started where it is mentioned, and serves what follows."""
    begun = [command for _, command in TO_RUN if is_server(command)]
    assert len(begun) >= 3
    ports = ports_of(begun)
    with ExitStack() as stack:
        for command in begun:
            for old, new in ports.items():
                command = command.replace(old, new)
            _, kind, *arguments = shlex.split(command)
            if kind == "worker":
                process = stack.enter_context(worker_process([*line("worker"), *arguments], environment()))
                await_listening(arguments[arguments.index("--listen") + 1], process)
                continue
            here = [str(folder / one) if (folder / one).exists() else one for one in arguments]
            with serving(*here) as served:
                served.await_health()
                assert served.client.models.list().data


@pytest.mark.parametrize(("name", "command"), [one for one in TO_RUN if needs_server(one[1])])
def test_with_a_server_as_written_but_for_its_port(
    demo_server: Serving, folder: Path, name: str, command: str
) -> None:
    option = "" if command.endswith('"') and command.startswith("examples/") else "--base-url"
    done = shell(f"{command} {option} {demo_server.url}/v1", folder)
    assert done.returncode == 0, f"{name}: {command}\n{done.stderr}"


def test_python_as_written_but_for_its_port(demo_server: Serving, folder: Path) -> None:
    (code,) = (one for lines in blocks("README.md") if "from openai" in (one := "\n".join(lines)))
    (folder / "readme.py").write_text(code.replace("http://127.0.0.1:8080", demo_server.url))
    done = shell("python readme.py", folder)
    assert done.returncode == 0, done.stderr
    assert "Hello" in done.stdout


def test_planning_from_python_as_written(folder: Path) -> None:
    planning, _ = python_blocks("docs/python.md")
    (folder / "planning.py").write_text(planning)
    done = shell("python planning.py", folder)
    assert done.returncode == 0, done.stderr
    assert "GPU" in done.stdout
    assert "tok/s" in done.stdout


def test_serving_from_python_as_written_but_for_its_port(folder: Path) -> None:
    _, code = python_blocks("docs/python.md")
    (port,) = free_ports(1)
    (folder / "serving.py").write_text(code.replace("8080", str(port)))
    command = [sys.executable, "serving.py"]
    with subprocess.Popen(command, cwd=folder, env=environment(), stderr=subprocess.PIPE) as process:
        try:
            await_health(f"http://127.0.0.1:{port}", process)
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
