"""Small chat templates, one for each way in which public ones treat messages."""

_EACH = "{{ '<' ~ m.role ~ '>' ~ m.content }}"
_OPEN = "{% if add_generation_prompt %}<assistant>{% endif %}"

ALL = "{% for m in messages %}" + _EACH + "{% endfor %}" + _OPEN
FIRST_ONLY = (  # as gpt-oss and MiniMax
    "{% if messages[0].role == 'system' %}{{ '<system>' ~ messages[0].content }}{% endif %}"
    "{% for m in messages if m.role != 'system' %}" + _EACH + "{% endfor %}" + _OPEN
)
LAST_WINS = (  # as DeepSeek R1
    "{% set ns = namespace(order='') %}"
    "{% for m in messages if m.role == 'system' %}{% set ns.order = m.content %}{% endfor %}"
    "{{ ns.order }}{% for m in messages if m.role != 'system' %}" + _EACH + "{% endfor %}" + _OPEN
)
MENTIONS_DEVELOPER = (  # as Cohere: the word is there, the message is not shown
    "{# a developer's message is left out #}{% set known = ['system', 'user', 'assistant'] %}"
    "{% for m in messages if m.role in known %}" + _EACH + "{% endfor %}" + _OPEN
)
KNOWS_DEVELOPER = (  # as gpt-oss
    "{% for m in messages %}{% if m.role == 'developer' %}{{ '<orders>' ~ m.content }}"
    "{% else %}" + _EACH + "{% endif %}{% endfor %}" + _OPEN
)
STRICT_FIRST = (  # as Qwen 3.5
    "{% for m in messages %}"
    "{% if m.role == 'system' and not loop.first %}{{ raise_exception('The order comes first') }}{% endif %}"
    + _EACH
    + "{% endfor %}"
    + _OPEN
)
NO_SYSTEM = (  # as Gemma 2: a user's message and the assistant's in turn, and nothing else
    "{% for m in messages %}{% if m.role != ['user', 'assistant'][loop.index0 % 2] %}"
    "{{ raise_exception('A user and the assistant take turns') }}{% endif %}" + _EACH + "{% endfor %}" + _OPEN
)
DROPS_SYSTEM = "{% for m in messages if m.role != 'system' %}" + _EACH + "{% endfor %}" + _OPEN

KINDS = {
    "all": ALL,
    "first only": FIRST_ONLY,
    "last wins": LAST_WINS,
    "mentions developer": MENTIONS_DEVELOPER,
    "knows developer": KNOWS_DEVELOPER,
    "strict first": STRICT_FIRST,
    "no system": NO_SYSTEM,
    "drops system": DROPS_SYSTEM,
}
