"""Make an environment with PyTorch, and run the training in it.

    python -m tools.demo_model [--steps N] [--output FILE]

Standard library only; the environment is build/demo-model and stays for the next time.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
VENV = ROOT / "build" / "demo-model"
PYTHON = VENV / "bin" / "python"
REQUIREMENTS = HERE / "requirements.txt"


def main() -> int:
    """Train. Returns the exit code."""
    stamp = VENV / ".requirements"
    if not stamp.exists() or stamp.read_text() != REQUIREMENTS.read_text():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
        pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "--requirement", str(REQUIREMENTS)], check=True)
        stamp.write_text(REQUIREMENTS.read_text())
    command = [str(PYTHON), "-m", "tools.demo_model.train", *sys.argv[1:]]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
