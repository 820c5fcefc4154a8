"""Compare the two runs of the suite."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bench.llama_server_suite.reasons import reason
from bench.llama_server_suite.routes import Parts
from bench.llama_server_suite.running import Result

SHARE_WANTED = 0.97


@dataclass(frozen=True, slots=True)
class Comparison:
    """Results by test id: the control's, and this server's of the tests that count, which have no `parts`."""

    control: Mapping[str, Result]
    own: Mapping[str, Result]
    parts: Parts

    @property
    def counted(self) -> list[str]:
        """Tests that the control passes, and that use no part of llama-server that does not count."""
        return counted_tests(self.control, self.parts)

    @property
    def passed(self) -> list[str]:
        """Counted tests that pass here."""
        return [test for test in self.counted if test in self.own and self.own[test].outcome == "passed"]

    @property
    def failed(self) -> list[str]:
        """Counted tests that fail here."""
        passed = set(self.passed)
        return [test for test in self.counted if test not in passed]

    @property
    def unexplained(self) -> list[str]:
        """Failures without a known reason."""
        return [test for test in self.failed if reason(test) is None]

    @property
    def is_good(self) -> bool:
        """Whether enough tests pass and each failure has its reason."""
        return not self.unexplained and len(self.passed) >= SHARE_WANTED * len(self.counted)


def counted_tests(control: Mapping[str, Result], parts: Parts) -> list[str]:
    """Tests that the control passes and that use none of the `parts`."""
    return [
        test
        for test, result in control.items()
        if result.outcome == "passed" and not parts(result.requests, result.options)
    ]


def control_table(control: Mapping[str, Result], parts: Parts) -> Iterator[str]:
    """A line for each file: its tests, those that the control passes, those of them that count."""
    counted = Counter(map(_file, counted_tests(control, parts)))
    tests = Counter(map(_file, control))
    passed = Counter(_file(test) for test, result in control.items() if result.outcome == "passed")
    yield f"{'file':<32}{'tests':>7}{'control':>9}{'count':>7}"
    for file in [*tests, None]:
        found = (sum(each.values()) if file is None else each[file] for each in (tests, passed, counted))
        yield f"{file or 'all':<32}" + "".join(
            f"{n:>{width}}" for n, width in zip(found, (7, 9, 7), strict=True)
        )


def parts_table(control: Mapping[str, Result], parts: Parts) -> Iterator[str]:
    """A line for each set of parts that do not count: how many tests that the control passes need them."""
    needed: Counter[str] = Counter()
    for result in control.values():
        found = parts(result.requests, result.options)
        if result.outcome == "passed" and found:
            needed[", ".join(found)] += 1
    yield "not counted, since they use other features of llama-server:"
    for named, n in needed.most_common():
        yield f"{n:>5}  {named}"


def report(comparison: Comparison) -> Iterator[str]:
    """A line for each file and for each test that fails here, and the share that passes."""
    counted, passed = Counter(map(_file, comparison.counted)), Counter(map(_file, comparison.passed))
    yield f"{'file':<32}{'counted':>9}{'passed':>8}"
    for file, n in counted.items():
        yield f"{file:<32}{n:>9}{passed[file]:>8}"
    share = len(comparison.passed) / max(1, len(comparison.counted))
    yield f"{'all':<32}{len(comparison.counted):>9}{len(comparison.passed):>8}  ({share:.1%})"
    for test in comparison.passed:
        if reason(test) is not None:
            yield f"{test}\n    passes: its reason can go"
    for test in comparison.failed:
        yield f"{test}\n    {reason(test) or f'NO REASON: {_first_lines(comparison, test)}'}"


def _first_lines(comparison: Comparison, test: str) -> str:
    result = comparison.own.get(test)
    return "it did not run" if result is None else " ".join(result.message.split())[:400] or result.outcome


def _file(test: str) -> str:
    return test.partition("::")[0].rpartition("/")[2]
