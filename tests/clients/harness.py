"""lm-evaluation-harness, which holds no conversation: bench.lm_eval compares its log-likelihoods."""

import subprocess
import sys

from tests.clients.environments import ROOT, ClientsError, Python


def log_likelihoods(environment: Python) -> bool:
    """True if the harness ran; its figures are printed."""
    try:
        environment.install()
    except ClientsError as error:
        print(f"{environment.name}: {error}")
        return False
    python = environment.folder / "bin" / "python"
    return subprocess.run([sys.executable, "-m", "bench.lm_eval", str(python)], cwd=ROOT).returncode == 0
