"""Chat templates in the forms that are about, and conversations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from support.stored import PROSE, write_json

if TYPE_CHECKING:
    from pathlib import Path

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

INST = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system here') }}"
    "{% elif m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)

HEADERS = (
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start|>' + m['role'] + '<|end|>\n\n' + m['content'] | trim + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\n\n' }}{% endif %}"
)

MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

REWRITING = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content if loop.last or m.role == 'user' else 'something' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
"""A template that forgets what was said before: only its last answer is told."""

DATED = """{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set system = 'Knowledge until April 2024. Today is ' + strftime_now('%B %d, %Y') + '.' %}
    {%- if tools and documents %}
        {%- set system = system + ' Use tools and documents.' %}
    {%- elif documents %}
        {%- set system = system + ' Use the documents.' %}
    {%- endif %}
    {%- set rest = messages %}
{%- endif %}
{{- '<|start|>system<|end|>' + system + eos_token + '\n' }}
{%- if tools %}{{- '<|start|>tools<|end|>' + tools | tojson(indent=4) + eos_token + '\n' }}{%- endif %}
{%- for document in documents or [] %}{{- loop.index0 ~ ': ' ~ document['text'] ~ '\n' }}{%- endfor %}
{%- for m in rest %}
    {{- '<|start|>' + m.role + '<|end|>' + (m.content or '') + eos_token + '\n' }}
    {%- if loop.last and add_generation_prompt %}{{- '<|start|>assistant<|end|>' }}{%- endif %}
{%- endfor %}"""
"""Features of Granite 3's template: date, tools and documents in a separate system message."""

TODAY = """{%- set today = strftime_now("%Y-%m-%d") %}
{%- set yesterday = strftime_now("%d.%m.%y") %}
{{- bos_token }}[TODAY]{{ today }} {{ yesterday }}[/TODAY]
{%- for m in messages %}
    {%- if m['role'] == 'user' %}
        {%- if m['content'] is string %}
            {{- '[INST]' + m['content'] + '[/INST]' }}
        {%- else %}
            {{- '[INST]' }}
            {%- for part in m['content'] %}
                {{- part['text'] if part['type'] == 'text' else raise_exception('text only') }}
            {%- endfor %}
            {{- '[/INST]' }}
        {%- endif %}
    {%- elif m['role'] == 'system' %}
        {{- '[SYS]' + (m['content'] if m['content'] is string else m['content'][0]['text']) + '[/SYS]' }}
    {%- elif m['role'] == 'assistant' %}
        {{- (m['content'] if m['content'] is string else m['content'][0]['text']) + eos_token }}
    {%- else %}{{- raise_exception('Only user, system and assistant') }}{%- endif %}
{%- endfor %}"""
"""Features of Mistral Small's template: two dates, and content in parts."""

THINKING = """{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- for tool in tools %}{{- tool | tojson + '\n' }}{%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(asked=messages | length - 1, open=true) %}
{%- for m in messages[::-1] %}
    {%- set at = (messages | length - 1) - loop.index0 %}
    {%- if ns.open and m.role == 'user' %}{%- set ns.open = false %}{%- set ns.asked = at %}{%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- set content = m.content if m.content is string else '' %}
    {%- if m.role == 'assistant' %}
        {%- set thought = m.reasoning_content if m.reasoning_content is string else '' %}
        {%- if not thought and '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.index0 > ns.asked and (loop.last or thought) %}
            {{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}
        {%- endif %}
        {{- content }}
        {%- for call in m.tool_calls or [] %}
            {%- if call.function %}{%- set call = call.function %}{%- endif %}
            {{- '\n<tool_call>{"name": "' + call.name + '", "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}{{- '}</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif m.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\n<tool_response>\n' + content + '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- else %}{{- '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}"""
"""Features of Qwen 3's template: reasoning of the last answer, tool calls and tool responses."""

CALLING = """{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y') %}
    {%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{{- '<|start|>system<|end|>\n\nToday Date: ' + date_string + '\n' }}
{%- if tools is not none %}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- '\n\n' }}{%- endfor %}
{%- endif %}
{{- eos_token }}
{%- for m in messages %}
    {%- if not (m.role == 'ipython' or m.role == 'tool' or 'tool_calls' in m) %}
        {{- '<|start|>' + m['role'] + '<|end|>\n\n' + m['content'] | trim + eos_token }}
    {%- elif 'tool_calls' in m %}
        {%- if not m.tool_calls | length == 1 %}{{- raise_exception('one call at a time') }}{%- endif %}
        {%- set call = m.tool_calls[0].function %}
        {{- '<|start|>assistant<|end|>\n\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}{{- '}' + eos_token }}
    {%- else %}
        {{- '<|start|>ipython<|end|>\n\n' }}
        {%- if m.content is mapping or m.content is iterable %}{{- m.content | tojson }}
        {%- else %}{{- m.content }}{%- endif %}
        {{- eos_token }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant<|end|>\n\n' }}{%- endif %}"""
"""Features of Llama 3.1's template: tools, dates, and keys tested with `in`."""

MARKED_AND_DATED = """{%- set thinks = enable_thinking if enable_thinking is defined else true %}
{{- '<|im_start|>system\nToday Date: ' ~ strftime_now('%d %B %Y') ~ '\nReasoning: ' ~ ('/think' if thinks else '/no') }}
{{- '<|im_end|>\n' }}
{%- for m in messages %}
    {%- set content = m.content if m.content is string else '' %}
    {%- if m.role == 'assistant' %}
        {%- generation %}{{- '<|im_start|>assistant\n' + content.lstrip('\n') + '<|im_end|>\n' }}{%- endgeneration %}
    {%- elif m.role in ['user', 'tool'] %}{{- '<|im_start|>user\n' + content + '<|im_end|>\n' }}
    {%- elif m.role == 'developer' %}{%- continue %}
    {%- else %}{%- break %}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
"""Features of SmolLM3's template: dates, generation tags, loop controls."""

PUBLIC = {
    "chatml": CHATML,
    "inst": INST,
    "headers": HEADERS,
    "marked": MARKED,
    "dated": DATED,
    "today": TODAY,
    "thinking": THINKING,
    "calling": CALLING,
    "marked and dated": MARKED_AND_DATED,
}
"""Templates by name, each with the features of a public one."""

STABLE = {"chatml": CHATML, "inst": INST, "headers": HEADERS}

SPECIALS = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>"]


def talk(*said: str) -> list[dict[str, str]]:
    """A conversation in which user and assistant take turns."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]


TALKS = [
    talk("What is 2 + 3?", "five"),
    talk("seven ships", " sailed away \n", "and then? 🙂", "한국어 was spoken,\n\nonce upon a time"),
    talk("x", "y", "z"),
    talk("once", "upon", "a", "time", "there", "was"),
]


TOOL = {
    "type": "function",
    "function": {"name": "ships", "description": "Zähle <Schiffe> & 'boats'", "parameters": {"type": "object"}},
}

CALL = {
    "type": "function",
    "id": "call00001",
    "function": {"name": "ships", "arguments": {"port": "Ås", "n": [1, None]}},
}

CALLED = [
    {"role": "user", "content": "How many?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "7", "tool_call_id": "call00001", "name": "ships"},
    {"role": "assistant", "content": "Seven."},
]
"""A conversation with a tool call without content."""

PARTS = [
    {"role": "user", "content": [{"type": "text", "text": "How "}, {"type": "text", "text": "many?"}]},
    {"role": "assistant", "content": "Seven."},
]

REASONED = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "How many?"},
    {"role": "assistant", "content": "Seven.", "reasoning_content": "I count."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "<think>\nagain\n</think>\n\nYes.", "thinking": None},
]

ROWS: list[dict[str, Any]] = [
    *({"messages": said} for said in TALKS),
    {"messages": CALLED},
    {"messages": CALLED, "tools": [TOOL]},
    {"messages": CALLED, "tools": []},
    {"messages": PARTS},
    {"messages": REASONED},
    {"messages": TALKS[0], "documents": [{"title": "x", "text": "Seven ships."}]},
    {"messages": TALKS[0], "chat_template_kwargs": {"enable_thinking": False, "date_string": "1 May"}},
]
"""Rows of conversations with tools, documents, template variables and other keys."""


def write_chat_tokenizer(directory: Path, size: int = 320, **config: Any) -> Path:
    """A tokenizer of bytes with merges over all borders of words, so that tokens reach over the edges of answers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=SPECIALS, show_progress=False
    )
    tokenizer.train_from_iterator([PROSE, " sailed\n\nonce upon [/INST] five [INST] "] * 3, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    tokenizer.save(str(directory / "tokenizer.json"))
    ends = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **ends, **config})
    return directory
