"""Ray, which is imported only where a cluster is asked for."""

import os
from types import ModuleType

from vram_llm.errors import MissingExtra


def import_ray() -> ModuleType:
    """Ray with Ray Serve. A node that this process starts sends no usage statistics.

    Its engines have the usual priority: Ray's own default is a niceness of 15. Raises MissingExtra if Ray is
    not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
        import ray.serve
    except ImportError:
        raise MissingExtra(
            "several machines are served by Ray, which is not installed: `pip install 'vram-llm[ray]'` on "
            "each of them"
        ) from None
    module: ModuleType = ray
    return module
