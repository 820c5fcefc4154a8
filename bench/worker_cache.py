"""The first and the second load over a worker that keeps weights: bytes over the link, and seconds.

    python -m bench.worker_cache [--layers N]

A random llama with layers of an 8B model is loaded by a new process each time, as a restarted server does it,
over the loopback and over a link of 1 Gbit/s and 2 ms each way (bench/link.py, which needs root on Linux).
The weights are in the page cache.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.link import Far, shaped_link
from tests.workers import await_listening, free_ports, worker_process
from vram_llm.llama.random_model import RandomModelShape
from vram_llm.model.header_cache import CACHE_DIR_VARIABLE
from vram_llm.model.header_reader import read_header

_SENT = Path("/sys/class/net/vlbench0/statistics/tx_bytes")
_LOOPBACK = Far("127.0.0.1", ())
_ROUNDS = 3


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--load", nargs=2, metavar=("ENDPOINT", "MODEL"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.load:
        endpoint, path = given.load
        print(_load(endpoint, path, given.layers))
        return
    shape = _shape(given.layers)
    with tempfile.TemporaryDirectory(prefix="vram-llm-") as name:
        model = _write(shape, Path(name) / "model.gguf")
        print(f"weights on the worker: {shape.read_bytes / 1e6:,.0f} MB; medians of {_ROUNDS} rounds\n")
        print(f"{'link':<12}{'worker':<26}{'MB sent':>10}{'seconds':>10}")
        for link in ("loopback", "1 Gbit/s"):
            with ExitStack() as stack:
                far = _LOOPBACK if link == "loopback" else stack.enter_context(shaped_link())
                for worker, sent, seconds in _rows(far, model, given.layers, Path(name)):
                    mb = f"{sent / 1e6:,.0f}" if far is not _LOOPBACK else ""
                    print(f"{link:<12}{worker:<26}{mb:>10}{seconds:>10.2f}", flush=True)


def _rows(far: Far, model: Path, n_layers: int, folder: Path) -> Iterator[tuple[str, float, float]]:
    cases = ("no cache", "first load", "second load", "worker restarted")
    found: dict[str, list[tuple[float, float]]] = {case: [] for case in cases}
    for number in range(_ROUNDS):
        cache = folder / f"{far.address}-{number}"
        (port,) = free_ports(1)
        for row, size in (("no cache", "0"), ("first load", "8GiB"), ("worker restarted", "8GiB")):
            with _worker(far, port, size, cache) as endpoint:
                found[row].append(_timed(endpoint, model, n_layers))
                if row == "first load":
                    found["second load"].append(_timed(endpoint, model, n_layers))
                    time.sleep(3)  # until the weights are on the disk
    for row, times in found.items():
        yield row, *(statistics.median(values) for values in zip(*times, strict=True))


def _timed(endpoint: str, model: Path, n_layers: int) -> tuple[float, float]:
    """Bytes that crossed the shaped link, and seconds of the load."""
    before = _sent()
    command = [sys.executable, "-m", "bench.worker_cache", "--layers", str(n_layers)]
    done = subprocess.run([*command, "--load", endpoint, model], capture_output=True, check=True)
    return _sent() - before, float(done.stdout)


def _sent() -> float:
    return float(_SENT.read_text()) if _SENT.exists() else 0.0


@contextmanager
def _worker(far: Far, port: int, size: str, cache: Path) -> Iterator[str]:
    endpoint = f"{far.address}:{port}"
    command = [*far.inside, sys.executable, "-m", "vram_llm", "worker", "--listen", endpoint]
    command += ["--threads", "1", "--cache-size", size, *(["--insecure"] if far is not _LOOPBACK else [])]
    env = {**os.environ, CACHE_DIR_VARIABLE: str(cache)}
    with worker_process(command, env) as process:
        await_listening(endpoint, process)
        yield endpoint


def _shape(n_layers: int) -> RandomModelShape:
    return RandomModelShape(n_embd=4096, n_ff=14336, n_layers=n_layers, n_head=32, n_head_kv=8, n_vocab=8192)


def _write(shape: RandomModelShape, path: Path) -> Path:
    """A model whose tensors all differ: equal ones would be sent once."""
    header = read_header(shape.write_random(path))
    with path.open("r+b") as stream:
        for number, tensor in enumerate(header.tensors):
            stream.seek(header.shards[0].data_offset + tensor.offset + 2)  # in the first block's weights
            stream.write(number.to_bytes(2, "little"))
    return path


def _load(endpoint: str, model: str, n_layers: int) -> float:
    """Seconds until the worker has all weights."""
    from vram_llm.llama import bindings as b
    from vram_llm.llama import rpc
    from vram_llm.llama.params import ModelParams
    from vram_llm.planner.llama_split import placement_from_counts
    from vram_llm.planner.types import Context

    handles = rpc.connect(endpoint)
    context = Context(
        n_ctx=256, parallel=1, kv_type_k="f16", kv_type_v="f16", n_batch=32, n_ubatch=32, n_threads=1,
        use_mmap=True, pipeline_copies=False,
    )  # fmt: skip
    params = ModelParams(placement_from_counts(["RPC0"], [n_layers], n_layers), context, handles)
    began = time.perf_counter()
    loaded = b.C.llama_model_load_from_file(os.fsencode(model), params.struct)
    if not loaded:
        raise SystemExit(b.last_errors())
    b.props_of(handles[0])  # the answer comes after all weights
    seconds = time.perf_counter() - began
    b.C.llama_model_free(loaded)
    return seconds


if __name__ == "__main__":
    main()
