"""A chat through LangChain's OpenAI client: pip install langchain-openai.

python examples/langchain_chat.py [--base-url http://127.0.0.1:8080/v1] QUESTION
"""

import argparse

from langchain_openai import ChatOpenAI
from pydantic import SecretStr


def main() -> None:
    """Ask one question and print the answer as it comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question")
    parser.add_argument("--base-url", default="http://127.0.0.1:8080/v1")
    args = parser.parse_args()
    model = ChatOpenAI(model="", base_url=args.base_url, api_key=SecretStr("none"), temperature=0)
    for chunk in model.stream([("system", "Be brief."), ("user", args.question)]):
        print(chunk.text, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
