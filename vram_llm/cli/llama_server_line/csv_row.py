"""Values that llama-server reads as a row of CSV (parse_csv_row in common/arg.cpp)."""

import csv


def csv_row(text: str) -> list[str]:
    """The fields of a row; quotes hold commas."""
    return next(csv.reader([text]), [])
