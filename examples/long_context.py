"""How long a context fits on one card of 24 GB, by what the KV cache is stored as.

python examples/long_context.py MODEL.gguf [--gpu "RTX 3090"]
"""

import argparse
import sys
from dataclasses import replace

from vram_llm.errors import DoesNotFit, VramLLMError
from vram_llm.planner.types import Workload
from vram_llm.units import format_bytes
from vram_llm.workflows import detection, planning

LONGEST = Workload(largest_ctx=True, parallel=1)


def main() -> None:
    """Plan the longest context for each type of KV cache, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--gpu", default="RTX 3090")
    args = parser.parse_args()
    try:
        machine = detection.detect([args.gpu])
        print("KV cache     context  in memory  tok/s at its end")
        for kind in ("f16", "q8_0", "q4_0"):
            workload = replace(LONGEST, kv_type_k=kind, kv_type_v=kind)
            try:
                plan = planning.plan(args.model, machine, workload)
                plan = planning.plan(
                    args.model, machine, replace(workload, expect_depth=plan.context.n_ctx - 1)
                )
            except DoesNotFit as error:
                print(f"{kind:<10} {error}")
                continue
            held = sum(use.context_bytes for use in plan.estimate.devices)
            speed = f"{1 / plan.speed.step_s:,.1f}" if plan.speed and plan.speed.step_s else "?"
            print(f"{kind:<10} {plan.context.n_ctx:>9,} {format_bytes(held):>10}  {speed}")
    except VramLLMError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
