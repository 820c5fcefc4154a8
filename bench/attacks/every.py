"""All attacks by their names, in a module that a spawned process can import."""

import asyncio

from bench.attacks import sockets, texts

ATTACKS = {
    attack.__name__: attack
    for attack in (
        texts.newlines, texts.newlines_to_tokenize, texts.spaces, texts.special_tokens, texts.large_prompts,
        texts.template_loops, texts.template_replaces, texts.template_grows, texts.many_messages,
        texts.many_values, texts.deep_json, texts.grammars, texts.gzip_bombs, texts.choices,
        texts.stops_and_biases, texts.detokenize, sockets.header_floods, sockets.slow_bodies,
        sockets.large_bodies, sockets.slow_readers, sockets.disconnects, sockets.many_connections,
        sockets.smuggling, sockets.idle_and_streams,
    )
}  # fmt: skip


def attack_in_process(name: str, port: int) -> str:
    """Run an attack; what it got, in a few words."""
    return asyncio.run(ATTACKS[name](port))
