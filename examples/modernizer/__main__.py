"""python -m examples.modernizer FOLDER [--base-url URL] [--context TOKENS] [--report FILE]."""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from openai import AsyncOpenAI

from examples.modernizer import code_base, costs, levels, parts
from examples.modernizer.client import Client

HERE = Path(__file__).resolve().parent
OWN = "this computer's electricity"


def main() -> None:
    """Review a code base, write the report, print what it cost and would have cost."""
    parser = argparse.ArgumentParser(prog="modernizer", description=__doc__)
    parser.add_argument("folder", type=Path, help="code base to review")
    parser.add_argument("--base-url", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--api-key", default="none")
    parser.add_argument(
        "--context", type=int, default=8192, help="tokens one request may take: serve's --n-ctx"
    )
    parser.add_argument("--answer-tokens", type=int, default=600, help="most tokens of an answer")
    parser.add_argument("--overlap", type=int, default=20, help="lines that pieces of a large file share")
    parser.add_argument("--concurrency", type=int, default=8, help="requests at a time: serve's --parallel")
    parser.add_argument("--report", type=Path, default=Path("modernizer.json"))
    parser.add_argument(
        "--prices", type=Path, default=HERE / "prices.json", help="cloud prices to compare with"
    )
    parser.add_argument("--watts", type=float, default=500.0, help="what this computer draws")
    parser.add_argument("--kwh-price", type=float, default=0.30)
    args = parser.parse_args()
    try:
        report = asyncio.run(run(args))
    except ValueError as error:  # what cannot be made to fit
        sys.exit(str(error))
    args.report.write_text(json.dumps(report, indent=2), encoding="utf-8")
    usage = report["usage"]
    print(f"{len(report['files'])} files, {len(report['parts'])} parts, {len(report['modules'])} modules")
    print(
        f"{usage['prompt_tokens']:,} tokens read ({usage['cached_tokens']:,} of them computed before), "
        f"{usage['completion_tokens']:,} written, {report['requests']} requests in {report['seconds']:.1f} s"
    )
    print(costs.table(report["costs"]))
    print(f"report: {args.report}")


async def run(args: argparse.Namespace) -> dict[str, Any]:
    """The whole report."""
    budget = args.context - 4 * args.answer_tokens - 400  # the validator reads three answers and writes one
    least = 6 * args.answer_tokens + 100  # two reports of a level, side by side
    if budget < least:
        sys.exit(
            f"a --context of {args.context} leaves {budget} tokens to read, {least - budget} too few for "
            f"answers of {args.answer_tokens}; serve with a longer --n-ctx, or lower --answer-tokens"
        )
    started = time.monotonic()
    with httpx.Client(timeout=60) as http:
        count = code_base.counter(http, args.base_url)
        files = code_base.load(args.folder, count)
        if not files:
            sys.exit(f"there is no source file in {args.folder}")
        cut = parts.cut(files, budget, args.overlap, count)
        async with AsyncOpenAI(base_url=args.base_url, api_key=args.api_key, timeout=3600) as openai:
            model = (await openai.models.list()).data[0].id
            kept = args.report.with_suffix(".answers.jsonl")
            client = Client(openai, model, kept, args.concurrency, args.answer_tokens)
            found = await levels.review_all(client, cut, budget, count)
    seconds = time.monotonic() - started
    bills = {price.name: price.of(client.usage) for price in costs.prices(args.prices)}
    return {
        "folder": str(args.folder),
        "model": model,
        "files": [{"path": file.path, "module": file.module, "tokens": file.tokens} for file in files],
        **found,
        "requests": client.asked,
        "usage": client.usage,
        "seconds": seconds,
        "costs": {OWN: costs.electricity(seconds, args.watts, args.kwh_price), **bills},
    }


if __name__ == "__main__":
    main()
