"""Chats with function calls: the tools, the request, the call, its result and the answer."""

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CITIES = (
    "Paris", "Berlin", "London", "Madrid", "Rome", "Vienna", "Lisbon", "Dublin", "Oslo", "Helsinki",
    "Stockholm", "Copenhagen", "Warsaw", "Prague", "Budapest", "Athens", "Amsterdam", "Brussels", "Zurich",
    "Geneva", "Milan", "Munich", "Hamburg", "Lyon", "Barcelona", "Porto", "Tokyo", "Osaka", "Kyoto", "Seoul",
    "Beijing", "Shanghai", "Singapore", "Sydney", "Melbourne", "Auckland", "Delhi", "Mumbai", "Cairo",
    "Nairobi", "Lagos", "Cape Town", "New York", "Boston", "Chicago", "Seattle", "San Francisco", "Toronto",
    "Montreal", "Vancouver", "Mexico City", "Lima", "Bogota", "Santiago", "Rio de Janeiro", "Istanbul",
    "Dubai", "Bangkok", "Hanoi", "Manila",
)  # fmt: skip
SKIES = ("sunny", "cloudy", "rainy", "windy", "foggy", "clear", "snowy", "stormy")
CARDS = (
    "RTX 3060", "RTX 3090", "RTX 3090 Ti", "RTX 4080 Laptop", "RTX 4080", "RTX 4090", "RTX 5090", "RTX 5080",
    "RTX 4070", "RX 7900 XTX", "RTX A6000", "RTX PRO 6000", "H100", "A100", "L40S", "Tesla T4",
)  # fmt: skip
MODELS = (
    "Llama 3 8B", "Llama 3 70B", "Qwen3 8B", "Qwen3 14B", "Qwen3 32B", "Mistral 7B", "Mixtral 8x7B",
    "Nemotron 49B", "Gemma 3 27B", "Phi-4", "gpt-oss 20B", "gpt-oss 120B", "DeepSeek V3",
)  # fmt: skip

Values = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One function in some variants: names, descriptions, how its parameters are called.

    `draw` gives one use of it: arguments (by the first of a parameter's names), result, and what both mean.
    """

    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    parameters: tuple[tuple[str, ...], ...]
    requests: tuple[str, ...]
    thought: str
    draw: Callable[[random.Random], tuple[Values, tuple[Any, ...], str]]


def _weather(rng: random.Random) -> tuple[Values, tuple[Any, ...], str]:
    city, sky, degrees = rng.choice(CITIES), rng.choice(SKIES), rng.randrange(-5, 36)
    results = (
        {"temperature": degrees, "sky": sky},
        {"sky": sky, "temperature": degrees},
        {"city": city, "temperature": degrees, "sky": sky},
        f"{degrees} degrees, {sky}",
        f"{sky}, {degrees} C",
    )
    return {"city": city}, results, f"It is {degrees} degrees and {sky} in {city}."


def _time(rng: random.Random) -> tuple[Values, tuple[Any, ...], str]:
    city, time = rng.choice(CITIES), f"{rng.randrange(24):02}:{rng.randrange(60):02}"
    return {"city": city}, ({"time": time}, time, {"city": city, "time": time}), f"It is {time} in {city}."


def _cards(rng: random.Random) -> tuple[Values, tuple[Any, ...], str]:
    found = rng.sample(CARDS, rng.choice((1, 2)))
    return {}, (found, {"gpus": found}, ", ".join(found)), f"I found: {' and '.join(found)}."


def _fits(rng: random.Random) -> tuple[Values, tuple[Any, ...], str]:
    model, card, fits = rng.choice(MODELS), rng.choice(CARDS), rng.random() < 0.5
    text = f"Yes, {model} fits on {card}." if fits else f"No, {model} does not fit on {card}."
    return {"model": model, "gpu": card}, ({"fits": fits}, "yes" if fits else "no"), text


_CITY = ("city", "location")
FUNCTIONS = (
    Function(
        names=("get_weather", "get_current_weather"),
        descriptions=("Weather of a city", "Get the current weather in a given location", "The weather now"),
        parameters=(_CITY,),
        requests=(
            "What is the weather in {city}?", "How is the weather in {city}", "weather in {city}",
            "Is it sunny in {city} today?", "tell me the weather in {city}", "Will it rain in {city}?",
            "What is the weather like in {city} right now?", "how warm is it in {city}",
            "What's the weather like in {city} today?", "Do I need an umbrella in {city}?",
        ),
        thought="The user wants the weather, and a function tells it.",
        draw=_weather,
    ),
    Function(
        names=("get_time", "get_current_time"),
        descriptions=("The time in a city", "Get the current local time", "What a clock there shows"),
        parameters=(_CITY,),
        requests=(
            "What time is it in {city}?", "time in {city}", "tell me the time in {city}",
            "How late is it in {city} now", "what does the clock say in {city}",
            "What is the local time in {city}?",
        ),
        thought="The user wants the time, and a function tells it.",
        draw=_time,
    ),
    Function(
        names=("list_gpus", "get_gpus"),
        descriptions=("The GPUs of this computer", "List all graphics cards", "Which cards there are"),
        parameters=(),
        requests=(
            "Which GPUs are in this computer?", "list my graphics cards", "What cards do I have?",
            "show me my GPUs", "which GPU do I have", "What graphics cards are installed here?",
        ),
        thought="The user wants to know the cards, and a function lists them.",
        draw=_cards,
    ),
    Function(
        names=("plan_model", "check_fit"),
        descriptions=("Plan a model on a GPU", "Whether a model fits on a card", "Does it fit?"),
        parameters=(("model",), ("gpu",)),
        requests=(
            "Does {model} fit on {gpu}?", "Can I run {model} on an {gpu}?", "will {model} fit on a {gpu}",
            "plan {model} for {gpu}", "Is there room for {model} on {gpu}?", "try {model} on a {gpu}",
        ),
        thought="The user wants to know if a model fits, and a function tells it.",
        draw=_fits,
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Offer:
    """A function in one request: its tool, and the names drawn for its parameters."""

    function: Function
    tool: Values
    renamed: dict[str, str]


def offer(function: Function, rng: random.Random) -> Offer:
    """`function` under one of its names, in the form of OpenAI's `tools`."""
    renamed = {names[0]: rng.choice(names) for names in function.parameters}
    properties: Values = {
        name: {"type": "string", "description": f"The {known}"} if rng.random() < 0.3 else {"type": "string"}
        for known, name in renamed.items()
    }
    schema: Values = {"type": "object", "properties": properties}
    if renamed and rng.random() < 0.8:
        schema["required"] = list(renamed.values())
    if rng.random() < 0.2:
        schema["additionalProperties"] = False
    shown: Values = {"name": rng.choice(function.names)}
    if rng.random() < 0.9:
        shown["description"] = rng.choice(function.descriptions)
    shown["parameters"] = schema
    return Offer(function, {"type": "function", "function": shown}, renamed)


@dataclass(frozen=True, slots=True)
class Use:
    """One use of an offered function: the request, the call of a chat message, its result, the answer."""

    request: str
    call: Values
    result: str
    answer: str
    values: tuple[str, ...]  # copied from earlier messages


def use(offered: Offer, rng: random.Random) -> Use:
    """Draw a use of `offer`."""
    arguments, results, answer = offered.function.draw(rng)
    request = rng.choice(offered.function.requests).format(**arguments)
    named = {offered.renamed[name]: value for name, value in arguments.items()}
    call = {"function": {"name": offered.tool["function"]["name"], "arguments": named}}
    result = rng.choice(results)
    copied = [call["function"]["name"], *named, *named.values(), *re.findall(r"-?\d[\d:]*", answer)]
    copied += [word for word in (*SKIES, *CARDS, "Yes", "No") if word in answer]
    text = result if isinstance(result, str) else json.dumps(result)
    return Use(request, call, text, answer, tuple(dict.fromkeys(copied)))
