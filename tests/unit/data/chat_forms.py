"""Chat templates in the forms of well-known model families, written for the tests, and the texts that they must give.

Each has what is special about its family: a default system prompt, a date, no system role, several end-of-turn tokens,
no generation prompt, strict alternation, or a thinking block.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from expunge.modeling.load import train_tokenizer

_ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant/user/assistant') }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Form:
    """One form of chat template, with expected texts for the question 'Who?' and the day 2025-03-09."""

    source: str
    special: tuple[str, ...]
    """Control tokens of the vocabulary."""
    eos: str
    """End token of the tokenizer."""
    prompt: str
    """Text before the answer."""
    end: str
    """Token that ends an answer in the template."""
    bos: str = "<s>"
    config_ends: tuple[str, ...] = ()
    """End tokens of the model's generation config."""
    stops: tuple[str, ...] = ()
    """All tokens that must stop a generation."""
    with_system: str = ""
    """Text before the answer with the system message 'Be brief.'; empty if the template has no system role."""
    rejects: str = ""
    """Message with which the template refuses a system message; empty if it leaves it out or writes it."""
    variables: dict[str, Any] = field(default_factory=dict)
    """Template variables for which the template's own generation prompt is the text before an answer."""

    @cached_property
    def _trained(self) -> Any:
        return train_tokenizer([self.prompt, self.with_system, TEXT] * 4, vocab_size=330, max_length=512)

    def tokenizer(self) -> Any:
        """Return a byte-pair tokenizer, with merges of several characters, that has the form's tokens and template."""
        tokenizer = copy.deepcopy(self._trained)
        tokenizer.add_tokens([self.bos, *self.special], special_tokens=True)
        tokenizer.bos_token, tokenizer.eos_token = self.bos, self.eos
        tokenizer.chat_template = self.source
        return tokenizer

    def model(self) -> Any:
        """Return a stand-in for a model, which has a generation config alone."""
        ids = self.tokenizer().convert_tokens_to_ids(list(self.config_ends))
        return SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=ids or None))


TEXT = "Who wrote it? Ana Bell did, in 1981. It is about a lighthouse. Today and tomorrow, who and where?"

_IM = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_IM_TURNS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_ASK = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
_BRIEF = "<|im_start|>system\nBe brief.<|im_end|>\n"

SMOLLM2 = Form(
    source="{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are Smol.<|im_end|>\n' }}{% endif %}"
    + _IM_TURNS,
    special=_IM,
    bos="<|im_start|>",
    eos="<|im_end|>",
    prompt="<|im_start|>system\nYou are Smol.<|im_end|>\n" + _ASK,
    with_system=_BRIEF + _ASK,
    end="<|im_end|>",
    config_ends=("<|im_end|>",),
    stops=("<|im_end|>",),
)

# The end of text is an end token of the generation config, beside the end of turn.
QWEN_2 = Form(
    source="{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are Qw.<|im_end|>\n' }}{% endif %}"
    + _IM_TURNS,
    special=_IM,
    bos="<|endoftext|>",
    eos="<|im_end|>",
    prompt="<|im_start|>system\nYou are Qw.<|im_end|>\n" + _ASK,
    with_system=_BRIEF + _ASK,
    end="<|im_end|>",
    config_ends=("<|im_end|>", "<|endoftext|>"),
    stops=("<|im_end|>", "<|endoftext|>"),
)

# An answer without thoughts gets an empty thinking block; the generation prompt has it only with enable_thinking=false.
QWEN_3 = Form(
    source="{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|im_start|>assistant\n' }}{% if loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}",
    special=(*_IM, "<think>", "</think>"),
    bos="<|endoftext|>",
    eos="<|im_end|>",
    prompt=_ASK + "<think>\n\n</think>\n\n",
    with_system=_BRIEF + _ASK + "<think>\n\n</think>\n\n",
    end="<|im_end|>",
    config_ends=("<|im_end|>", "<|endoftext|>"),
    stops=("<|im_end|>", "<|endoftext|>"),
    variables={"enable_thinking": False},
)

_LLAMA_3_ASK = (
    "<|start_header_id|>user<|end_header_id|>\n\nWho?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)
_LLAMA_3_SYSTEM = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 09 Mar 2025\n\n"

# The tokenizer's end token is the end of text, which the template never writes.
LLAMA_3 = Form(
    source="{{ bos_token }}{% if date_string is not defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}"
    "{% endif %}{% endif %}{% if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' }}"
    "{{ system + '<|eot_id|>' }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    special=(
        *("<|begin_of_text|>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        *("<|start_header_id|>", "<|end_header_id|>"),
    ),
    bos="<|begin_of_text|>",
    eos="<|end_of_text|>",
    prompt=_LLAMA_3_SYSTEM + "<|eot_id|>" + _LLAMA_3_ASK,
    with_system=_LLAMA_3_SYSTEM + "Be brief.<|eot_id|>" + _LLAMA_3_ASK,
    end="<|eot_id|>",
    config_ends=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    stops=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
)

# No generation config: the end of turn is known from the template alone.
GEMMA = Form(
    source="{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + _ALTERNATE + "{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    special=("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
    bos="<bos>",
    eos="<eos>",
    prompt="<bos><start_of_turn>user\nWho?<end_of_turn>\n<start_of_turn>model\n",
    end="<end_of_turn>",
    stops=("<eos>", "<end_of_turn>"),
    rejects="System role not supported",
)

_MISTRAL_TURN = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)

# No generation prompt, no system role, and nothing but user and assistant in turn.
MISTRAL_1 = Form(
    source="{{ bos_token }}" + _ALTERNATE + _MISTRAL_TURN,
    special=("</s>",),
    eos="</s>",
    prompt="<s>[INST] Who? [/INST]",
    end="</s>",
    config_ends=("</s>",),
    stops=("</s>",),
    rejects="roles must alternate",
)

# The system message is written into the last message if that is a question, so no answer ever follows it.
MISTRAL_3 = Form(
    source="{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set messages = messages[1:] %}{% endif %}" + _ALTERNATE + "{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + (system + '\n\n' if loop.last and system is defined else '') + m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
    special=("</s>", "[INST]", "[/INST]"),
    eos="</s>",
    prompt="<s>[INST] Who?[/INST]",
    end="</s>",
    config_ends=("</s>",),
    stops=("</s>",),
)

FORMS = {
    "smollm2": SMOLLM2,
    "qwen-2": QWEN_2,
    "qwen-3": QWEN_3,
    "llama-3": LLAMA_3,
    "gemma": GEMMA,
    "mistral-1": MISTRAL_1,
    "mistral-3": MISTRAL_3,
}
