"""Which test files have tests that `-m` chooses, by their text: the others need not be imported."""

import re

_ALL_HAVE_IT = re.compile(r"^pytestmark = (\[\s*)?pytest\.mark\.process\b", re.MULTILINE)
_MAY_HAVE_IT = re.compile(r"\bmark\.process\b|\bpytestmark\b")  # one file imports another's pytestmark


def may_choose(text: str, expression: str) -> bool:
    """False if `expression`, that of -m, chooses no test of a file. Other expressions may choose any."""
    if expression == "process":
        return _MAY_HAVE_IT.search(text) is not None
    return expression != "not process" or _ALL_HAVE_IT.search(text) is None
