"""`vram-llm bench serve` as a person runs it."""

import json
import shlex
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import click
import pytest

from tests.bench.timed_server import TimedServer
from tests.cli.running import command, environment, run
from tests.patience import PATIENCE_S, looks
from tests.server.live import in_thread
from tests.workers import free_ports
from vram_llm.cli.bench_serve import serve
from vram_llm.cli.usage_errors import sentence
from vram_llm.errors import BadPicture

pytestmark = pytest.mark.process

NVIDIAS = (
    "--host 127.0.0.1 --port {port} --model timed --dataset-name random --random-input-len 1024 "
    "--random-output-len 1024 --num-warmups 20 --ignore-eos --max-concurrency 8 --num-prompts 64 "
    "--save-result --result-filename {file}"
)
SHORT = "--random-input-len 8 --random-output-len 4 --num-prompts 6 --disable-tqdm"


@asynccontextmanager
async def _listening(server: TimedServer) -> AsyncIterator[int]:
    async with await server.listen() as sockets:
        yield sockets.sockets[0].getsockname()[1]


@pytest.fixture(scope="module")
def server() -> TimedServer:
    return TimedServer()


@pytest.fixture(scope="module")
def port(server: TimedServer) -> Iterator[int]:
    with in_thread(_listening(server)) as port:
        yield port


def bench(words: str, **options: str) -> "subprocess.CompletedProcess[str]":
    done = run("bench", "serve", *shlex.split(words), env=environment(columns=100) | options)
    assert "Traceback" not in done.stderr
    return done


def test_nvidias_command_as_written(server: TimedServer, port: int, tmp_path: Path) -> None:
    file = tmp_path / "results" / "spark.json"
    server.requests.clear()
    done = bench(NVIDIAS.format(port=port, file=file))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "============ Serving Benchmark Result ============"
    assert "Successful requests:                     64        " in lines
    assert "Maximum request concurrency:             8         " in lines
    assert "Total input tokens:                      65536     " in lines
    assert "Total generated tokens:                  65536     " in lines
    saved = json.loads(file.read_text())
    assert saved["total_output_tokens"] == 65536
    assert (saved["backend"], saved["request_rate"], saved["max_concurrency"]) == ("openai", "inf", 8)
    assert len([each for each in server.requests if each["max_tokens"] == 1024]) == 84
    assert all(each["ignore_eos"] for each in server.requests)


def test_options_with_several_values_and_lines_of_a_file(port: int, tmp_path: Path) -> None:
    words = (
        f"--url 127.0.0.1:{port} {SHORT} --goodput ttft:60000 tpot:60000 --metadata tp=1 host=rig "
        f"--append-result --result-dir {tmp_path} --result-filename all.jsonl --percentile-metrics ttft,e2el "
        "--metric-percentiles 50,99.9 --request-rate 500 --backend openai-chat --save-detailed"
    )
    for n in (1, 2):
        done = bench(words)
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
        assert len(lines) == n
    assert (lines[0]["tp"], lines[0]["host"], lines[0]["request_rate"]) == ("1", "rig", 500.0)
    assert lines[0]["request_goodput"] == lines[0]["request_throughput"]
    assert lines[0]["input_lens"] == [8] * 6
    assert "p99.9_e2el_ms" in lines[0]
    assert "Request goodput (req/s):" in done.stdout
    assert "ITL" not in done.stdout


def test_a_sweep_and_a_comparison(port: int, tmp_path: Path) -> None:
    saving = f"--save-result --result-dir {tmp_path} --result-filename"
    done = bench(f"--url 127.0.0.1:{port} {SHORT} --sweep --max-concurrency 2 {saving} sweep.json")
    assert done.returncode == 0, done.stderr
    assert "knee: " in done.stdout
    swept = json.loads((tmp_path / "sweep.json").read_text())
    assert swept["loads"][0]["max_concurrency"] == 1
    assert swept["knee_concurrency"] in (1, 2)
    other = f"--compare http://127.0.0.1:{port}/v1 --rounds 2 {saving} compared.json"
    done = bench(f"--port {port} {SHORT} {other}")
    assert done.returncode == 0, done.stderr
    assert "medians of 2 rounds" in done.stdout
    figures = json.loads((tmp_path / "compared.json").read_text())["figures"]
    assert [len(figure["first"]) for figure in figures] == [2] * len(figures)


def _heed_ctrl_c() -> None:
    """A shell without a terminal lets its background jobs, and their children, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_prints_what_was_measured() -> None:
    slow = TimedServer(itl_s=0.01)
    with in_thread(_listening(slow)) as port:
        words = (
            f"--port {port} --random-input-len 8 --random-output-len 4 --num-prompts 5000 --max-concurrency 2"
        )
        with subprocess.Popen(
            command("bench", "serve", *words.split()),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
            preexec_fn=_heed_ctrl_c,
        ) as process:  # fmt: skip
            for _ in looks():
                if len([each for each in slow.requests if each["max_tokens"] == 4]) > 10:
                    break
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert "interrupted after" in err
    assert "Traceback" not in err
    assert "Serving Benchmark Result" in out
    assert "Failed requests:                         0         " in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--goodput ttft",
            "--goodput: 'ttft' is not a latency and its most milliseconds; write it like ttft:500",
        ),
        ("--goodput ttft:5 speed:5", "write it like ttft:500, with ttft, tpot, itl or e2el"),
        ("--request-rate 0", "--request-rate: '0' is not a number above 0, or inf"),
        ("--percentile-metrics ttft,speed", "'speed' is not one of ttft, tpot"),
        ("--metric-percentiles 101", "are not percentiles from 0 to 100"),
        ("--metadata tp=1 version", "--metadata: 'version' has no = between a key and a value"),
        ("--dataset-name custom", "--dataset-path FILE"),
        ("--dataset-path some.jsonl", "--dataset-name sharegpt or custom"),
        ("--sweep --compare 127.0.0.1:1", "give one of them"),
        ("--plot x.svg", "needs --sweep"),
        ("--sweep --request-rate 5", "leave out --request-rate"),
        ("--url http://[::1", "is no address of a server"),
    ],
)
def test_wrong_options(words: str, message: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        serve.main(shlex.split(words), standalone_mode=False)
    assert message in sentence(caught.value)


def test_a_picture_of_an_unknown_kind_is_refused_before_the_load() -> None:
    with pytest.raises(BadPicture, match=r"x\.pdf is no name for a picture"):
        serve.main(["--sweep", "--plot", "x.pdf"], standalone_mode=False)


def test_a_mistake_in_one_sentence(port: int) -> None:
    done = bench(f"--port {port} --model gpt")
    assert done.returncode == 1
    assert "has no model 'gpt'; --model timed is there" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout


def test_a_server_that_is_away_or_fails_or_wants_a_key() -> None:
    (free,) = free_ports(1)
    done = bench(f"--port {free}")
    assert done.returncode == 34
    assert f"no server answers at http://127.0.0.1:{free}" in done.stderr
    with in_thread(_listening(TimedServer(lose_after=2))) as port:
        done = bench(f"--port {port} {SHORT}")
        assert done.returncode == 1
        assert "Failed requests:                         6 " in done.stdout
        assert done.stderr.splitlines() == [
            "failed: the server closed the connection before the end of the answer",
            "vram-llm: none of 6 requests was answered",
        ]
    with in_thread(_listening(TimedServer(key="secret"))) as port:
        assert bench(f"--port {port} {SHORT}", OPENAI_API_KEY="secret").returncode == 0
