"""A question about a picture, to a `vram-llm serve MODEL --mmproj PROJECTOR`, through the OpenAI SDK.

python examples/vision.py [--base-url http://127.0.0.1:8080/v1] PICTURE [QUESTION]
"""

import argparse
import base64
import mimetypes
from pathlib import Path

from openai import OpenAI


def main() -> None:
    """Send the picture as a data: URL and print the answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("question", nargs="?", default="What is in this picture?")
    parser.add_argument("--base-url", default="http://127.0.0.1:8080/v1")
    args = parser.parse_args()
    kind = mimetypes.guess_type(args.picture)[0] or "image/png"
    url = f"data:{kind};base64,{base64.b64encode(args.picture.read_bytes()).decode()}"
    with OpenAI(base_url=args.base_url, api_key="none") as client:
        reply = client.chat.completions.create(
            model="",
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": url}},
                        {"type": "text", "text": args.question},
                    ],
                }
            ],
            max_tokens=200,
        )
        print(reply.choices[0].message.content)
        if reply.usage:
            print(f"({reply.usage.prompt_tokens} tokens in, the picture's among them)")


if __name__ == "__main__":
    main()
