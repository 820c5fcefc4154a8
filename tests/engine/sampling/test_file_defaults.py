"""Sampling that a model file recommends."""

import pytest

from vram_llm.engine.sampling.file_defaults import sampling_of_file


@pytest.mark.parametrize(
    ("metadata", "sampling"),
    [
        ({}, {}),
        ({"temp": "0.600000", "top_k": "20", "top_p": "1"}, {"temperature": 0.6, "top_k": 20, "top_p": 1.0}),
        ({"penalty_repeat": "1.1", "penalty_last_n": "-1"}, {"repeat_penalty": 1.1, "repeat_last_n": -1}),
        ({"mirostat": "2", "mirostat_tau": "4", "mirostat_eta": "0.2"},
         {"mirostat": 2, "mirostat_tau": 4.0, "mirostat_eta": 0.2}),
        ({"xtc_probability": "0.5", "xtc_threshold": "0.2", "min_p": "0"},
         {"xtc_probability": 0.5, "xtc_threshold": 0.2, "min_p": 0.0}),
        ({"temp": "warm", "top_k": "-1", "top_p": "nan", "min_p": "inf", "sequence": "k;p"}, {}),
    ],
)  # fmt: skip
def test_of_metadata(metadata: dict[str, str], sampling: dict[str, float]) -> None:
    assert dict(sampling_of_file(lambda key: metadata.get(key.removeprefix("general.sampling.")))) == sampling
