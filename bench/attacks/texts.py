"""Attacks by the text of requests: prompts, templates, grammars, JSON."""

import asyncio
import gzip
import json
from typing import Any

from bench.attacks.raw import post, send, tally

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
_MIB = 1 << 20
_USER = {"role": "user", "content": "a"}

LOOPS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(9) %}"
    "{% endfor %}{% endfor %}{% endfor %}"
)
REPLACES = (
    "{% set x=range(99999)|list|string %}"
    "{% for i in range(99999) %}{% set y=x.replace('1',x[:99]) %}{% endfor %}"
)
GROWS = (
    "{% set n=namespace(x='a'*99) %}{% for i in range(12) %}{% set n.x=n.x.replace('a','aaaa') %}{% endfor %}"
)
TEMPLATE = (
    f"{{% if messages[0].content == 'loops' %}}{LOOPS}"
    f"{{% elif messages[0].content == 'replaces' %}}{REPLACES}"
    f"{{% elif messages[0].content == 'grows' %}}{GROWS}{{% endif %}}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
)
"""A chat template that runs away if the first message asks for it."""


def _complete(prompt: Any, **fields: Any) -> bytes:
    return post(COMPLETIONS, {"prompt": prompt, "max_tokens": 1, **fields})


def _chat(content: str, **fields: Any) -> bytes:
    return post(CHAT, {"messages": [{"role": "user", "content": content}], "max_tokens": 1, **fields})


async def _all(port: int, *requests: bytes) -> str:
    return tally(await asyncio.gather(*(send(port, request) for request in requests)))


async def newlines(port: int) -> str:
    """1 MiB of newlines as a prompt."""
    return await _all(port, _complete("\n" * _MIB))


async def newlines_to_tokenize(port: int) -> str:
    """1 MiB of newlines to /tokenize, four times at once."""
    return await _all(port, *[post("/tokenize", {"content": "\n" * _MIB})] * 4)


async def spaces(port: int) -> str:
    """1 MiB of spaces, of tabs, of letters as prompts."""
    return await _all(port, *(_complete(sign * _MIB) for sign in " \ta"))


async def special_tokens(port: int) -> str:
    """1 MiB of </s> as a prompt."""
    return await _all(port, _complete("</s>" * (_MIB // 4)))


async def large_prompts(port: int) -> str:
    """Eight prompts of 30 MB at once."""
    return await _all(port, *[_complete("word " * 6_000_000)] * 8)


async def template_loops(port: int) -> str:
    """A chat template of 113 bytes: nested loops, four chats at once."""
    return await _all(port, *[_chat("loops")] * 4)


async def template_replaces(port: int) -> str:
    """A chat template of 108 bytes: string methods in a loop, four chats at once."""
    return await _all(port, *[_chat("replaces")] * 4)


async def template_grows(port: int) -> str:
    """A chat template that takes memory without end."""
    return await _all(port, _chat("grows"))


async def many_messages(port: int) -> str:
    """A chat of 100,000 messages; counts of it and of one of 19,999."""
    large, allowed = ({"messages": [_USER] * n, "max_tokens": 1} for n in (100_000, 19_999))
    count = f"{CHAT}/input_tokens"
    return await _all(port, post(CHAT, large), post(count, large), post(count, allowed))


async def many_values(port: int) -> str:
    """JSON of ten million values; a million ids; 500,000 fields of a message."""
    fields = {"messages": [{**_USER, **{f"f{i}": 1 for i in range(500_000)}}]}
    ids = b'{"prompt":[' + b"1," * 9_999_999 + b"1]}"
    return await _all(port, post(COMPLETIONS, ids), _complete([1] * 900_000), post(CHAT, fields))


async def deep_json(port: int) -> str:
    """Brackets 10 million deep, a schema 190 deep."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(90):
        schema = {"type": "object", "properties": {"a": schema}}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    return await _all(
        port, post(CHAT, b'{"messages":' + b"[" * 10_000_000), _chat("a", response_format=wanted)
    )


async def grammars(port: int) -> str:
    """Grammars and schemas that grow when they are compiled."""
    nested = 'root ::= ((("a"{0,900}){0,900}){0,900}){0,900}'
    doubling = "\n".join(f"r{i} ::= r{i + 1} r{i + 1} | r{i + 1}" for i in range(200)) + '\nr200 ::= "a"'
    enum = {"enum": [f"{'x' * 30}{i}" for i in range(5000)]}
    patterns: dict[str, Any] = {
        "type": "object",
        "properties": {f"p{i}": {"type": "string", "pattern": "^(a{1,90}b{1,90}){1,90}$"} for i in range(50)},
    }
    schemas = [{"type": "json_schema", "json_schema": {"name": "a", "schema": s}} for s in (enum, patterns)]
    return await _all(
        port,
        _complete("a", grammar=nested),
        _complete("a", grammar=f"root ::= r0\n{doubling}"),
        _complete("a", guided_regex="((((a{0,99}){0,99}){0,99}){0,99})"),
        *(_complete("a", response_format=schema) for schema in schemas),
    )


async def gzip_bombs(port: int) -> str:
    """1 GiB of zeros compressed to 1 MiB, and 50,000 empty members."""
    bodies = gzip.compress(bytes(1 << 30), 1), gzip.compress(b"") * 50_000
    return await _all(port, *(post(CHAT, body, "Content-Encoding: gzip") for body in bodies))


async def choices(port: int) -> str:
    """`n` of 128, 100 tokens each."""
    return await _all(port, _complete("a", n=128, max_tokens=100, temperature=1.0, ignore_eos=True))


async def stops_and_biases(port: int) -> str:
    """100,000 stop strings; stop strings of a megabyte; 100,000 biases; 4,096 biases of texts."""
    texts = {f"{'some text ' * 20}{i}": 1 for i in range(4096)}
    return await _all(
        port,
        _complete("a", stop=["a"] * 100_000),
        _complete("a", stop=["a" * 65_536] * 16),
        _complete("a", logit_bias={str(i): 1 for i in range(100_000)}),
        _complete("a", logit_bias=texts),
    )


async def detokenize(port: int) -> str:
    """900,000 tokens to /detokenize."""
    return await _all(port, post("/detokenize", json.dumps({"tokens": [5] * 900_000}).encode()))
