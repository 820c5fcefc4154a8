"""A model that is larger than the memory that a cgroup allows, planned and served from the disk."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import zoo
from tests.cli.running import command, environment, run_here, run_program
from tests.memory_group import MemoryGroup, drop_from_cache, memory_group
from tests.server.live import Serving
from tests.workers import free_ports
from tools.random_model import write_sized
from vram_llm.units import MIB

pytestmark = [
    pytest.mark.process,
    pytest.mark.usefixtures("plans_made_once"),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a group"),
]

_LIMIT_BYTES = 720 * MIB
_PLAN = ("--n-ctx", "512", "--parallel", "1", "--n-ubatch", "64", "--reserve-mib", "480", "--disk", "1GB/s")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of some 260 MiB, of which about half stays in memory."""
    return write_sized(tmp_path_factory.mktemp("model") / "model.gguf", "240m", 8192)


@pytest.fixture
def group(file: Path) -> Iterator[MemoryGroup]:
    """A group that has not read the file yet."""
    drop_from_cache([file])
    try:
        with memory_group(_LIMIT_BYTES) as made:
            yield made
    except OSError as error:
        pytest.skip(f"no cgroup with a limit of memory can be made here: {error}")


def test_it_is_refused_unless_told_and_then_served(file: Path, group: MemoryGroup) -> None:
    refused = run_program(*group.command(*command("serve", file, *_PLAN, "--port", "0")))
    assert refused.returncode == 2, refused.stderr
    assert re.search(r"--from-disk \(each token reads [\d.]+ MiB from the disk, [\d.]+ tok/s", refused.stderr)

    planned = run_program(*group.command(*command("plan", file, *_PLAN, "--from-disk", "--json")))
    assert planned.returncode == 0, planned.stderr
    reads = json.loads(planned.stdout)["disk_reads"]
    assert reads["resident_bytes"] > 40 * MIB
    assert reads["dense_bytes"] > 40 * MIB

    (port,) = free_ports(1)
    words = group.command(*command("serve", file, *_PLAN, "--from-disk", "--port", str(port)))
    with subprocess.Popen(
        words, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        served = Serving(process, port)
        try:
            served.await_health()
            first = complete(served)
            drop_from_cache([file])
            assert complete(served) == first
            assert group.kills == 0
        finally:
            served.end()
            served.client.close()
    assert "each token reads" in served.said()


def complete(served: Serving) -> str:
    """Some tokens after a prompt, always the same ones."""
    reply = served.client.completions.create(model="", prompt="Once upon a time", max_tokens=4, temperature=0)
    return reply.choices[0].text


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The header of a 70B at Q8_0: 69.8 GiB."""
    return zoo.write(zoo.llama(80, 8192, 64, 8, 28672), tmp_path_factory.mktemp("70b") / "70b.gguf", "Q8_0")


RIG = ("--gpu", "RTX 3090 on 48GiB DDR4-3200 2ch, 2GB/s", "--n-ctx", "4096")


def test_explain_gives_the_time_of_each_part(large: Path) -> None:
    plan = run_here("plan", large, *RIG, "--from-disk", "--explain", "--verbose")
    assert plan.returncode == 0, plan.stderr
    said = " ".join(plan.stdout.split())
    assert re.search(r"Runs, with .* on the CPU; each token reads [\d.]+ GiB from the disk\.", said)
    assert re.search(
        r"[\d.]+ GiB of the weights on the CPU stay in memory, and [\d.]+ GiB are left for", said
    )
    assert re.search(r"A token takes [\d.]+ s: GPU0 \d+ ms, the CPU [\d.]+ s, waiting for the disk", said)
    assert re.search(r"If nothing stayed in memory, each token would read all [\d.]+ GiB", said)


def test_another_computer_is_refused_with_the_flag_and_the_speed(large: Path) -> None:
    refused = run_here("plan", large, *RIG)
    assert refused.returncode == 2
    assert re.search(
        r"or --from-disk \(each token reads [\d.]+ GiB from the disk, [\d.]+ tok/s exp", refused.stderr
    )
    exported = run_here("plan", large, *RIG, "--from-disk", "--emit", "llama-server")
    assert "--no-repack" in exported.stdout
    script = run_here("plan", large, *RIG, "--from-disk", "--emit", "llama-cpp-python")
    assert script.returncode == 23
    assert "vram-llm serve --from-disk" in script.stderr
