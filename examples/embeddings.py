"""Texts by how near they are to a question, through the OpenAI SDK, on a server that makes embeddings.

vram-llm serve MODEL.gguf --pooling mean
python examples/embeddings.py [--base-url http://127.0.0.1:8080/v1] QUESTION TEXT TEXT ...
"""

import argparse

from openai import OpenAI


def main() -> None:
    """Print the texts, the nearest first. Embeddings have a length of 1: their product is the cosine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question")
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--base-url", default="http://127.0.0.1:8080/v1")
    args = parser.parse_args()
    with OpenAI(base_url=args.base_url, api_key="none") as client:
        model = client.models.list().data[0].id
        made = client.embeddings.create(model=model, input=[args.question, *args.texts]).data
    question, *others = (one.embedding for one in made)
    near = [sum(a * b for a, b in zip(question, other, strict=True)) for other in others]
    for cosine, text in sorted(zip(near, args.texts, strict=True), reverse=True):
        print(f"{cosine:.3f}  {text}")


if __name__ == "__main__":
    main()
