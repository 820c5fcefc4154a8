"""Mutated headers: `python -m bench.headers` reads 200,000 of them; these are some of the same."""

from pathlib import Path

import pytest

from bench.headers import MOST_BYTES, MOST_S, run_case
from tests.model.header_faults import FAULTS, case

N_CASES = 500  # each fault is in nine of them or more


@pytest.mark.process  # computes for seconds
def test_mutated_headers_are_read_or_refused_in_a_sentence() -> None:
    results = [(number, *run_case(number)) for number in range(N_CASES)]
    assert [each for each in results if each[1].startswith("crash")] == []
    assert [each for each in results if each[3] > MOST_BYTES] == []
    assert sum(each[2] for each in results) < N_CASES * MOST_S
    accepted = sum(each[1] == "accepted" for each in results)
    assert N_CASES // 20 < accepted < N_CASES // 2
    assert {fault for each in results for fault in each[4]} == set(FAULTS)


def test_a_case_is_the_same_each_time(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    paths = [case(77).write(tmp_path / folder) for folder in ("a", "b")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
