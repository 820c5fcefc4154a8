"""Run the suite against both servers and compare the results; see the package."""

import argparse
import sys
from pathlib import Path

from bench.llama_server_suite.comparison import (
    Comparison,
    control_table,
    counted_tests,
    parts_table,
    report,
)
from bench.llama_server_suite.routes import native_parts, parts_left_out
from bench.llama_server_suite.running import CONTROL, OWN, THROUGH, run_suite
from bench.llama_server_suite.source import prepared_suite
from scripts.build_args import SetupError


def main() -> int:
    """Returns 1 if too few tests pass here, or a test fails without a known reason."""
    parser = argparse.ArgumentParser(prog="bench.llama_server_suite")
    parser.add_argument(
        "--only",
        action="append",
        metavar="FILE",
        help="run only FILE, such as test_rerank.py; repeat for more",
    )
    parser.add_argument("--control-only", action="store_true", help="run llama-server alone")
    parser.add_argument(
        "--through",
        choices=THROUGH,
        default=THROUGH[0],
        help="command of this server that gets the tests' lines; through serve only tests of the API count",
    )
    given = parser.parse_args()
    parts = native_parts if given.through == "serve" else parts_left_out
    try:
        suite = prepared_suite()
    except SetupError as error:
        print(f"bench.llama_server_suite: {error}", file=sys.stderr)
        return 2
    files = [f"unit/{name}" for name in given.only or _files(suite.tests)]
    control = run_suite(suite, CONTROL, files, suite.tests / "control.log")
    print("\n".join((*control_table(control, parts), "", *parts_table(control, parts))), flush=True)
    if given.control_only:
        return 0
    counted = counted_tests(control, parts)
    needed = list(dict.fromkeys(test.partition("::")[0] for test in counted))
    own = run_suite(suite, OWN, needed, suite.tests / "own.log", counted, given.through)
    comparison = Comparison(control, own, parts)
    print("\n".join(("", *report(comparison), "", f"logs: {suite.tests}/control.log, own.log")))
    return 0 if comparison.is_good else 1


def _files(tests: Path) -> list[str]:
    return sorted(path.name for path in (tests / "unit").glob("test_*.py"))


if __name__ == "__main__":
    sys.exit(main())
