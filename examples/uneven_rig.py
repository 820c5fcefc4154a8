"""Plan a model for a rig that is not here, and say what each card would hold.

python examples/uneven_rig.py MODEL.gguf
"""

import sys

from vram_llm import api
from vram_llm.errors import VramLLMError
from vram_llm.plan.types import Workload
from vram_llm.units import format_bytes


def main() -> None:
    """Plan for a 12 GB laptop card and two 24 GB desktop cards."""
    machine = api.detect(["RTX 4080 Laptop", "2x RTX 3090 Ti"])
    try:
        plan = api.plan(sys.argv[1], machine, Workload(n_ctx=2048))
    except VramLLMError as error:
        sys.exit(str(error))
    names = {device.id: device.name for device in plan.devices}
    for use in plan.estimate.devices:
        print(f"{names[use.id]}: {format_bytes(use.total_bytes)} of {format_bytes(use.budget_bytes)}")
    print("tensor_split =", list(plan.placement.tensor_split))


if __name__ == "__main__":
    main()
