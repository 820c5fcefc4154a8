"""Plan a model for a rig that is not here, and say what each card would hold.

python examples/uneven_rig.py MODEL.gguf
"""

import sys

from vram_llm.errors import VramLLMError
from vram_llm.planner.types import Workload
from vram_llm.units import format_bytes
from vram_llm.workflows import detection, planning


def main() -> None:
    """Plan for a 12 GB laptop card and two 24 GB desktop cards."""
    machine = detection.detect(["RTX 4080 Laptop", "2x RTX 3090 Ti"])
    try:
        plan = planning.plan(sys.argv[1], machine, Workload(n_ctx=2048))
    except VramLLMError as error:
        sys.exit(str(error))
    names = {device.id: device.name for device in plan.devices}
    for use in plan.estimate.devices:
        print(f"{names[use.id]}: {format_bytes(use.total_bytes)} of {format_bytes(use.budget_bytes)}")
    print("tensor_split =", list(plan.placement.tensor_split))


if __name__ == "__main__":
    main()
