"""An environment with Ray: the checkout's own, and Ray in addition.

python -m bench.ray_environment MODULE [ARGUMENTS] runs a module in it.
"""

import importlib.util
import os
import runpy
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_FOLDER = ROOT / ".venv-ray"


def enter() -> None:
    """Run this program again with a Python that has Ray, unless this one has. The first time needs PyPI."""
    if importlib.util.find_spec("ray") is not None:
        return
    python = _FOLDER / "bin" / "python"
    if not (_FOLDER / "done").exists():
        print("making .venv-ray, once", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(_FOLDER)], check=True)
        own = next(_FOLDER.glob("lib/python*/site-packages"))
        (own / "checkout.pth").write_text(sysconfig.get_path("purelib") + "\n")
        subprocess.run(
            [
                str(python), "-m", "pip", "install", "--quiet", "--constraint",
                str(ROOT / "requirements-dev.lock"), _requirement(),
            ],
            check=True,
        )  # fmt: skip
        (_FOLDER / "done").touch()
    os.execv(python, [str(python), *sys.orig_argv[1:]])


def _requirement() -> str:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return str(extras["ray"][0])


def main() -> None:
    """Run the module of the command line."""
    enter()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
