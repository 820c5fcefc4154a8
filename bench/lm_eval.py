"""Compare lm-evaluation-harness's log-likelihoods from this server with llama.cpp's own.

    python -m bench.lm_eval .venv-clients/bin/python

The harness has its own environment, which `make clients` sets up. A small task, made here without the
network, uses its `local-completions`: log-likelihoods of continuations, by echo and logprobs.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np

from bench.servers import free_port, ours, running
from tools.random_model import write_llama

_TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: {kind}
doc_to_text: "{{{{context}}}}"
target_delimiter: ""
{more}
metric_list:
  - metric: acc
"""
_KINDS = {
    "loglikelihood": 'doc_to_target: "{{continuation}}"',
    "multiple_choice": 'doc_to_choice: "{{choices}}"\ndoc_to_target: gold',
}


def documents(n: int) -> list[dict[str, Any]]:
    """Contexts with possible continuations."""
    random = np.random.default_rng(1)

    def words(low: int, high: int) -> str:
        return " ".join(f"w{i}" for i in random.integers(0, 60, random.integers(low, high)))

    found = []
    for _ in range(n):
        choices = [f" {words(1, 5)}" for _ in range(3)]
        doc = {"context": words(5, 60), "continuation": choices[0], "choices": choices}
        found.append({**doc, "gold": int(random.integers(3))})
    return found


def harness(python: str, port: int, folder: Path) -> dict[str, list[tuple[dict[str, Any], list[float]]]]:
    """Run the harness. Returns each task's documents with the log-likelihoods of their continuations."""
    line = [
        python, "-m", "lm_eval", "--model", "local-completions", "--tasks", ",".join(_KINDS),
        "--include_path", str(folder), "--model_args", f"model=tiny,base_url=http://127.0.0.1:{port}/v1/completions",
        "--log_samples", "--output_path", str(folder / "out"),
    ]  # fmt: skip
    home = {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    subprocess.run(line, check=True, cwd=folder, env={**os.environ, **home})
    found = {}
    for kind in _KINDS:
        (path,) = (folder / "out").rglob(f"samples_{kind}_*.jsonl")
        samples = [json.loads(line) for line in path.read_text().splitlines()]
        found[kind] = [(s["doc"], [float(response[0]) for response in s["filtered_resps"]]) for s in samples]
    return found


def own(model: llama_cpp.Llama, context: str, continuation: str) -> float:
    """llama.cpp's log-likelihood of a continuation, by one llama_decode over it and its context."""
    whole = model.tokenize((context + continuation).encode(), add_bos=False)
    n_context = len(model.tokenize(context.encode(), add_bos=False))
    model.reset()  # type: ignore[no-untyped-call]  # the bindings give it no types
    model.eval(whole)
    logits = model.scores[: len(whole)].astype(np.float64)
    logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return float(sum(logprobs[i - 1, whole[i]] for i in range(n_context, len(whole))))


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("python", help="Python of an environment with lm_eval[api]")
    parser.add_argument("--documents", type=int, default=40)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        data = folder / "data.json"
        data.write_text("\n".join(json.dumps(document) for document in documents(args.documents)))
        for kind, more in _KINDS.items():
            (folder / f"{kind}.yaml").write_text(_TASK.format(name=kind, data=data, kind=kind, more=more))
        path = write_llama(folder / "tiny.gguf", quant=gguf.GGMLQuantizationType.F32)
        line = ours(path, port, n_ctx=2048, parallel=4, more=("--flash-attn", "off"))
        with running(line, port, folder / "log"):
            found = harness(str(Path(args.python).absolute()), port, folder)
        model = llama_cpp.Llama(str(path), n_ctx=2048, logits_all=True, verbose=False)
        for kind, samples in found.items():
            apart = []
            for doc, reported in samples:
                follows = [doc["continuation"]] if kind == "loglikelihood" else doc["choices"]
                pairs = zip(reported, follows, strict=True)
                apart += [abs(value - own(model, doc["context"], text)) for value, text in pairs]
            print(f"{kind}: {len(apart)} log-likelihoods, at most {max(apart):.2g} from llama.cpp's own")


if __name__ == "__main__":
    main()
