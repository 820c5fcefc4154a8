"""llama.cpp's names of chat templates (LLM_CHAT_TEMPLATES in src/llama-chat.cpp), and their Jinja sources.

The texts between messages are those that llm_chat_apply_template writes; tests compare them with it.
"""

from functools import partial

from vram_llm.chat.builtin.turns import TRIMMED, Turns

_SYSTEM_JOINS = """\
{{% set held = namespace(system="") %}}{{% for message in messages %}}{{% if message.role == "system" %}}\
{{% set held.system = held.system ~ {system} %}}{{% else %}}{before}\
{{% if held.system and {takes} %}}{{{{ held.system ~ "\\n\\n" }}}}{{% set held.system = "" %}}{{% endif %}}\
{after}{{% endif %}}{{% endfor %}}"""

_GEMMA = (
    _SYSTEM_JOINS.format(
        system=TRIMMED,
        before='{% set role = "model" if message.role == "assistant" else message.role %}'
        '{{ "<start_of_turn>" ~ role ~ "\\n" }}',
        takes='role != "model"',
        after="{{ " + TRIMMED + ' ~ "<end_of_turn>\\n" }}',
    )
    + '{% if add_generation_prompt %}{{ "<start_of_turn>model\\n" }}{% endif %}'
)
_ORION = _SYSTEM_JOINS.format(
    system="message.content",
    before='{% if message.role == "user" %}{{ "Human: " }}{% endif %}',
    takes='message.role == "user"',
    after='{{ message.content ~ ("\\n\\nAssistant: </s>" if message.role == "user" else "</s>") }}',
)

_LLAMA_2 = partial(Turns, opening="[INST] ", later_opening="[INST] ")
_SYS = "<<SYS>>\n{content}\n<</SYS>>\n\n"
_GRANITE_CALL = "<|start_of_role|>assistant<|end_of_role|><|tool_call|>{content}<|end_of_text|>\n"
_GRANITE_4 = Turns(
    roles={"assistant_tool_call": _GRANITE_CALL},
    other="<|start_of_role|>{role}<|end_of_role|>{content}<|end_of_text|>\n",
    answer="<|start_of_role|>assistant<|end_of_role|>",
)
_BAILING = partial(Turns, roles={"user": "<role>HUMAN</role>{content}"}, other="<role>{ROLE}</role>{content}")

_TURNS = {
    "chatml": Turns(
        other="<|im_start|>{role}\n{content}<|im_end|>\n", answer="<|im_start|>assistant\n"
    ),
    "llama2": _LLAMA_2(
        roles={"system": "{content}\n", "user": "{content} [/INST]"}, other="{content}</s>"
    ),
    "llama2-sys": _LLAMA_2(roles={"system": _SYS, "user": "{content} [/INST]"}, other="{content}</s>"),
    "llama2-sys-bos": _LLAMA_2(
        roles={"system": _SYS, "user": "{content} [/INST]"}, other="{content}</s>",
        later_opening="<s>[INST] ",
    ),
    "llama2-sys-strip": _LLAMA_2(
        roles={"system": _SYS.replace("content", "trimmed"), "user": "{trimmed} [/INST]"},
        other="{trimmed}</s>",
    ),
    "mistral-v1": Turns(
        opening=" [INST] ", roles={"system": "{content}\n\n", "user": "{content} [/INST]"},
        other=" {content}</s>",
    ),
    "mistral-v3": Turns(
        opening="[INST] ", roles={"system": "{content}\n\n", "user": "{content}[/INST]"},
        other=" {trimmed}</s>",
    ),
    "mistral-v3-tekken": Turns(
        opening="[INST]", roles={"system": "{content}\n\n", "user": "{content}[/INST]"},
        other="{content}</s>",
    ),
    "mistral-v7": Turns(
        roles={"system": "[SYSTEM_PROMPT] {content}[/SYSTEM_PROMPT]", "user": "[INST] {content}[/INST]"},
        other=" {content}</s>",
    ),
    "mistral-v7-tekken": Turns(
        roles={"system": "[SYSTEM_PROMPT]{content}[/SYSTEM_PROMPT]", "user": "[INST]{content}[/INST]"},
        other="{content}</s>",
    ),
    "phi3": Turns(other="<|{role}|>\n{content}<|end|>\n", answer="<|assistant|>\n"),
    "phi4": Turns(
        other="<|im_start|>{role}<|im_sep|>{content}<|im_end|>", answer="<|im_start|>assistant<|im_sep|>"
    ),
    "falcon3": Turns(other="<|{role}|>\n{content}\n", answer="<|assistant|>\n"),
    "zephyr": Turns(other="<|{role}|>\n{content}<|endoftext|>\n", answer="<|assistant|>\n"),
    "monarch": Turns(other="{role}\n{content}</s>\n", between="<s>", answer="<s>assistant\n"),
    "openchat": Turns(
        roles={"system": "{content}<|end_of_turn|>"}, other="GPT4 Correct {Role}: {content}<|end_of_turn|>",
        answer="GPT4 Correct Assistant:",
    ),
    "vicuna": Turns(
        roles={"system": "{content}\n\n", "user": "USER: {content}\n",
               "assistant": "ASSISTANT: {content}</s>\n"},
        answer="ASSISTANT:",
    ),
    "vicuna-orca": Turns(
        roles={"system": "SYSTEM: {content}\n", "user": "USER: {content}\n",
               "assistant": "ASSISTANT: {content}</s>\n"},
        answer="ASSISTANT:",
    ),
    "deepseek": Turns(
        roles={"system": "{content}", "user": "### Instruction:\n{content}\n",
               "assistant": "### Response:\n{content}\n<|EOT|>\n"},
        answer="### Response:\n",
    ),
    "deepseek2": Turns(
        roles={"system": "{content}\n\n", "user": "User: {content}\n\n",
               "assistant": "Assistant: {content}<｜end▁of▁sentence｜>"},
        answer="Assistant:",
    ),
    "deepseek3": Turns(
        roles={"system": "{content}\n\n", "user": "<｜User｜>{content}",
               "assistant": "<｜Assistant｜>{content}<｜end▁of▁sentence｜>"},
        answer="<｜Assistant｜>",
    ),
    "deepseek-ocr": Turns(other="{content}"),
    "command-r": Turns(
        roles={
            "system": "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{trimmed}<|END_OF_TURN_TOKEN|>",
            "user": "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{trimmed}<|END_OF_TURN_TOKEN|>",
            "assistant": "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{trimmed}<|END_OF_TURN_TOKEN|>",
        },
        answer="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    ),
    "llama3": Turns(
        other="<|start_header_id|>{role}<|end_header_id|>\n\n{trimmed}<|eot_id|>",
        answer="<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "chatglm3": Turns(start="[gMASK]sop", other="<|{role}|>\n {content}", answer="<|assistant|>"),
    "chatglm4": Turns(start="[gMASK]<sop>", other="<|{role}|>\n{content}", answer="<|assistant|>\n"),
    "glmedge": Turns(other="<|{role}|>\n{content}", answer="<|assistant|>"),
    "minicpm": Turns(roles={"user": "<用户>{trimmed}<AI>"}, other="{trimmed}"),
    "exaone3": Turns(
        roles={"system": "[|system|]{trimmed}[|endofturn|]\n", "user": "[|user|]{trimmed}\n",
               "assistant": "[|assistant|]{trimmed}[|endofturn|]\n"},
        answer="[|assistant|]",
    ),
    "exaone4": Turns(
        roles={"system": "[|system|]{trimmed}[|endofturn|]\n", "user": "[|user|]{trimmed}\n",
               "assistant": "[|assistant|]{trimmed}[|endofturn|]\n",
               "tool": "[|tool|]{trimmed}[|endofturn|]\n"},
        answer="[|assistant|]",
    ),
    "exaone-moe": Turns(
        roles=dict.fromkeys(("system", "user", "assistant", "tool"), "<|{role}|>\n{trimmed}<|endofturn|>\n"),
        answer="<|assistant|>\n",
    ),
    "rwkv-world": Turns(
        roles={"system": "System: {trimmed}\n\n", "user": "User: {trimmed}\n\n",
               "assistant": "Assistant: {trimmed}\n\n"},
        after_last_user="Assistant:",
    ),
    "granite": Turns(
        roles={"assistant_tool_call": _GRANITE_CALL.replace(">assistant<", ">{role}<")},
        other="<|start_of_role|>{role}<|end_of_role|>{content}<|end_of_text|>\n",
        answer="<|start_of_role|>assistant<|end_of_role|>",
    ),
    "granite-4.0": _GRANITE_4,
    "granite-4.1": _GRANITE_4,
    "gigachat": Turns(
        start="<s>", first_system="{content}<|message_sep|>",
        roles={
            "user": "user<|role_sep|>{content}<|message_sep|>"
            "available functions<|role_sep|>[]<|message_sep|>",
            "assistant": "assistant<|role_sep|>{content}<|message_sep|>",
        },
        answer="assistant<|role_sep|>",
    ),
    "megrez": Turns(
        other="<|role_start|>{role}<|role_end|>{content}<|turn_end|>",
        answer="<|role_start|>assistant<|role_end|>",
    ),
    "yandex": Turns(
        roles={"user": " Пользователь: {content}\n\n", "assistant": " Ассистент: {content}\n\n"},
        answer=" Ассистент:[SEP]",
    ),
    "bailing": _BAILING(answer="<role>ASSISTANT</role>"),
    "bailing-think": _BAILING(answer="<role>ASSISTANT</role><think>"),
    "bailing2": Turns(
        start_without_system="<role>SYSTEM</role>detailed thinking off<|role_end|>",
        roles={"user": "<role>HUMAN</role>{content}<|role_end|>"},
        other="<role>{ROLE}</role>{content}<|role_end|>", answer="<role>ASSISTANT</role>",
    ),
    "llama4": Turns(
        other="<|header_start|>{role}<|header_end|>\n\n{trimmed}<|eot|>",
        answer="<|header_start|>assistant<|header_end|>\n\n",
    ),
    "smolvlm": Turns(
        start="<|im_start|>",
        roles={"system": "{content}\n\n", "user": "User: {content}<end_of_utterance>\n"},
        other="Assistant: {content}<end_of_utterance>\n", answer="Assistant:",
    ),
    "hunyuan-moe": Turns(
        roles={"system": "<|startoftext|>{content}<|extra_4|>", "assistant": "{content}<|eos|>"},
        other="<|startoftext|>{content}<|extra_0|>",
    ),
    "gpt-oss": Turns(
        roles={"assistant": "<|start|>{role}<|message|>{content}<|return|>"},
        other="<|start|>{role}<|message|>{content}<|end|>", answer="<|start|>assistant",
    ),
    "hunyuan-dense": Turns(
        first_system="{content}<｜hy_place▁holder▁no▁3｜>",
        roles={"assistant": "<｜hy_Assistant｜>{content}<｜hy_place▁holder▁no▁2｜>",
               "user": "<｜hy_User｜>{content}<｜hy_Assistant｜>"},
    ),
    "hunyuan-vl": Turns(
        start="<｜hy_begin▁of▁sentence｜>", first_system="{content}<｜hy_place▁holder▁no▁3｜>",
        roles={"user": "{content}<｜hy_User｜>", "assistant": "{content}<｜hy_Assistant｜>"},
    ),
    "kimi-k2": Turns(
        roles={
            "system": "<|im_system|>system<|im_middle|>{content}<|im_end|>",
            "user": "<|im_user|>user<|im_middle|>{content}<|im_end|>",
            "assistant": "<|im_assistant|>assistant<|im_middle|>{content}<|im_end|>",
            "tool": "<|im_system|>tool<|im_middle|>{content}<|im_end|>",
        },
        other="{content}<|im_end|>", answer="<|im_assistant|>assistant<|im_middle|>",
    ),
    "seed_oss": Turns(
        roles={"assistant": "<seed:bos>{role}\n{trimmed}<seed:eos>"},
        other="<seed:bos>{role}\n{content}<seed:eos>", answer="<seed:bos>assistant\n",
    ),
    "grok-2": Turns(
        roles={"system": "System: {trimmed}<|separator|>\n\n", "user": "Human: {trimmed}<|separator|>\n\n",
               "assistant": "Assistant: {content}<|separator|>\n\n"},
        answer="Assistant:",
    ),
    "pangu-embedded": Turns(
        start_without_system="[unused9]系统\uff1a[unused10]",
        roles={
            role: f"[unused9]{word}\uff1a{{content}}[unused10]"
            for role, word in {
                "system": "系统", "user": "用户", "assistant": "助手", "tool": "工具", "function": "方法"
            }.items()
        },
        answer="[unused9]助手\uff1a",
    ),
    "solar-open": Turns(
        other="<|begin|>{role}<|content|>{content}<|end|>", answer="<|begin|>assistant"
    ),
}  # fmt: skip

BUILTIN_TEMPLATES = {name: turns.source() for name, turns in _TURNS.items()} | {
    "gemma": _GEMMA,
    "orion": _ORION,
}
"""The Jinja source of each name."""
