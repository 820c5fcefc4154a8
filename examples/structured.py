"""An answer that is an object of a class, through the OpenAI SDK: the server holds the model to its schema.

python examples/structured.py [--base-url http://127.0.0.1:8080/v1]
"""

import argparse
from typing import Annotated, Literal

from openai import OpenAI
from pydantic import BaseModel, Field


class Review(BaseModel):
    """What is asked for."""

    verdict: Literal["buy", "wait"]
    memory_gib: Annotated[int, Field(ge=1, le=512)]
    reason: Annotated[str, Field(max_length=100)]


def main() -> None:
    """Ask, and print the fields of the answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", default="http://127.0.0.1:8080/v1")
    args = parser.parse_args()
    with OpenAI(base_url=args.base_url, api_key="none") as client:
        reply = client.chat.completions.parse(
            model=client.models.list().data[0].id,
            messages=[{"role": "user", "content": "Should I buy an RTX 3090 for language models?"}],
            response_format=Review,
            temperature=0,
            max_tokens=300,
        )
    review = reply.choices[0].message.parsed
    assert review is not None
    print(f"{review.verdict}, {review.memory_gib} GiB: {review.reason}")


if __name__ == "__main__":
    main()
