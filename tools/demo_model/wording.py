"""Variants of a question, with words added, left out, swapped and mistyped."""

import random
import re

_BEFORE = (
    "please tell me", "tell me", "can you tell me", "could you tell me", "I want to know", "hey,", "hi,",
    "hello,", "so,", "please,", "quick question:", "I wonder", "do you know", "can you explain", "well,",
    "one more question:", "I would like to know", "say,", "and", "ok,", "also", "now", "just curious:",
)  # fmt: skip
_AFTER = (
    "please",
    "thanks",
    "thank you",
    "exactly",
    "in short",
    "for me",
    "then",
    "now",
    "by the way",
    "here",
)
_SAME = {
    "GPU": ("graphics card", "card", "video card"), "GPUs": ("graphics cards", "cards"),
    "card": ("GPU", "graphics card"), "cards": ("GPUs", "graphics cards"),
    "graphics card": ("GPU", "card"), "VRAM": ("video memory", "GPU memory", "vram"),
    "quantisation": ("quantization", "quant"), "quantise": ("quantize",), "quantised": ("quantized",),
    "model": ("LLM", "language model"), "show": ("display", "print"), "use": ("run with", "take"),
    "large": ("big",), "big": ("large",), "fast": ("quick",), "slow": ("sluggish",), "program": ("tool",),
    "How do I": ("how can I", "how to", "how should I", "what is the way to", "is there a way to",
                 "I want to", "how does one", "how would I"),
    "how do I": ("how can I", "how to", "how should I", "what is the way to", "I want to"),
    "What is": ("what's", "what exactly is", "explain", "define", "what do you know about",
                "what is meant by", "can you explain what is", "tell me about", "describe", "meaning of"),
    "what is": ("what's", "explain", "define", "tell me about", "what is meant by", "describe"),
    "What are": ("explain", "what exactly are", "tell me about", "describe", "what is meant by"),
    "what does": ("what will",), "explain": ("describe", "tell me about", "what is", "clarify"),
    "Can I": ("is it possible to", "may I", "am I able to", "could I"), "can I": ("could I", "may I"),
    "Which": ("what",), "which": ("what",), "Why": ("how come", "for what reason"),
    "my": ("the", "our"), "the": ("this", "a"), "start": ("begin", "launch"), "stop": ("end", "halt"),
    "download": ("fetch", "get"), "need": ("require",), "tell me": ("say", "let me know"),
    "processor": ("CPU",), "CPU": ("processor",), "computer": ("machine", "PC"), "machine": ("computer",),
    "memory": ("mem",), "difference between": ("difference of",), "how many": ("what number of",),
    "How much": ("what amount of",), "how much": ("what amount of",), "many": ("lots of",),
    "error": ("message", "fault"), "answer": ("reply", "response"), "set": ("choose", "change"),
    "choose": ("pick", "select"), "see": ("find", "look up"), "better": ("nicer",), "work": ("function",),
}  # fmt: skip
_PATTERNS = {
    phrase: re.compile(rf"(?<![\w-]){re.escape(phrase)}(?![\w-])") for phrase in sorted(_SAME, key=len)
}


def vary(question: str, rng: random.Random) -> str:
    """A variant of `question`; one time in five the question itself."""
    if rng.random() < 0.2:
        return question
    text = question
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        text = _exchange(text, rng)
    if rng.random() < 0.4:
        text = _leave_out(text, rng)
    if rng.random() < 0.1:
        text = _swap_words(text, rng)
    if rng.random() < 0.12:
        text = _mistype(text, rng)
    if rng.random() < 0.25:
        text = f"{rng.choice(_BEFORE)} {text[:1].lower() + text[1:]}"
    if rng.random() < 0.12:
        text = f"{text.rstrip('?.! ')} {rng.choice(_AFTER)}"
    return _punctuate(text, rng)


def _exchange(text: str, rng: random.Random) -> str:
    found = [phrase for phrase, pattern in _PATTERNS.items() if pattern.search(text)]
    if not found:
        return text
    phrase = rng.choice(found)
    return _PATTERNS[phrase].sub(rng.choice(_SAME[phrase]), text, count=1)


def _leave_out(text: str, rng: random.Random) -> str:
    words = text.split()
    if len(words) < 4:
        return text
    for _ in range(rng.choice((1, 1, 2))):
        del words[rng.randrange(len(words))]
    return " ".join(words)


def _swap_words(text: str, rng: random.Random) -> str:
    words = text.split()
    if len(words) < 4:
        return text
    at = rng.randrange(len(words) - 1)
    words[at], words[at + 1] = words[at + 1], words[at]
    return " ".join(words)


def _mistype(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text))
    if rng.random() < 0.5:
        return text[:at] + text[at + 1 :]
    return text[:at] + text[at : at + 2][::-1] + text[at + 2 :]


def _punctuate(text: str, rng: random.Random) -> str:
    bare = text.rstrip("?.! ")
    form = rng.random()
    if form < 0.25:
        bare = bare.lower()
    elif form < 0.5:
        bare = bare[:1].upper() + bare[1:]
    elif form < 0.52:
        bare = bare.upper()
    return bare + rng.choice(("?", "?", "", "", ".", "!", " ?")) or text
