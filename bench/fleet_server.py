"""A server of a fleet's plan: `python -m bench.fleet_server PLAN.json PORT`.

`vram-llm serve` plans for all of the machine's memory; a measurement of swaps needs a plan for less.
"""

import sys
from pathlib import Path

from vram_llm.planner.fleet.fleet_json import fleet_from_json
from vram_llm.server.config import ServerConfig
from vram_llm.server.fleet.routed_models import FleetSettings
from vram_llm.workflows.fleet_serving import serve_fleet


def main() -> None:
    """Serve until a signal."""
    plan = fleet_from_json(Path(sys.argv[1]).read_bytes(), sys.argv[1])
    configs = {model.spec.name: ServerConfig(model_name=model.spec.name) for model in plan.models}
    serve_fleet(FleetSettings(plan=plan, configs=configs), ServerConfig(port=int(sys.argv[2])))


if __name__ == "__main__":
    main()
