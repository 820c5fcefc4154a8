"""A chat with a running `vram-llm serve`, streamed, through the OpenAI SDK.

python examples/chat.py [--base-url http://127.0.0.1:8080/v1] QUESTION
"""

import argparse

from openai import OpenAI


def main() -> None:
    """Ask one question and print the answer as it comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question")
    parser.add_argument("--base-url", default="http://127.0.0.1:8080/v1")
    args = parser.parse_args()
    with OpenAI(base_url=args.base_url, api_key="none") as client:
        model = client.models.list().data[0].id
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": args.question}],
            max_tokens=200,
            stream=True,
            stream_options={"include_usage": True},
        )
        for chunk in stream:
            if chunk.choices:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
            elif chunk.usage:
                print(f"\n({chunk.usage.prompt_tokens} tokens in, {chunk.usage.completion_tokens} out)")


if __name__ == "__main__":
    main()
