"""Embed 256 short texts over HTTP, in one call and in one call each.

    python -m bench.embed [--texts 256] [--rounds 3]

A small BERT of random weights (2 layers of 128) and, for comparison, one of MiniLM-L6's shape, on the CPU.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bench.servers import free_port, ours, running
from tools.random_bert import word_pieces, write_bert

_SHAPES: dict[str, dict[str, Any]] = {
    "2 layers of 128": {"n_embd": 128, "n_layer": 2, "n_head": 2, "n_ff": 512},
    "6 layers of 384": {"n_embd": 384, "n_layer": 6, "n_head": 12, "n_ff": 1536},
}


def texts(n: int) -> list[str]:
    """Sentences of five words."""
    random = np.random.default_rng(1)
    words = [piece for piece in word_pieces() if piece.isalpha() and len(piece) > 2]
    return [" ".join(random.choice(words, 5)) for _ in range(n)]


def timed(client: httpx.Client, calls: list[list[str]]) -> float:
    """Seconds for all `calls`, one after the other."""
    started = time.perf_counter()
    for call in calls:
        body = {"model": "", "input": call, "encoding_format": "base64"}
        client.post("/v1/embeddings", json=body).raise_for_status()
    return time.perf_counter() - started


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    given = texts(args.texts)
    with tempfile.TemporaryDirectory() as name:
        for shape, sizes in _SHAPES.items():
            path, port = write_bert(Path(name) / "bert.gguf", **sizes), free_port()
            with (
                running(ours(path, port, n_ctx=512, parallel=8), port, Path(name) / "log"),
                httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
            ):
                timed(client, [given])
                rounds = [
                    (timed(client, [given]), timed(client, [[text] for text in given]))
                    for _ in range(args.rounds)
                ]
            together, alone = (statistics.median(times) for times in zip(*rounds, strict=True))
            print(
                f"{shape}: {args.texts} texts in one call {together * 1000:.0f} ms, one by one "
                f"{alone * 1000:.0f} ms, {alone / together:.1f} times",
                flush=True,
            )


if __name__ == "__main__":
    main()
