"""Small tokenizers with a chat template each: the five forms that templates have."""

from __future__ import annotations

from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from wheels.models.build import train_tokenizer
from wheels.models.loading import Tokenizer

TEXTS = ["You are a helpful assistant. What is two and three? Five is it! user system <think> </think> [INST] ok"] * 3
SPECIAL = ("<s>", "<|start|>", "<|end|>", "<|head|>", "<|body|>")

BEGINS = (
    "{{ bos_token }}{% for m in messages %}<|head|>{{ m.role }}<|body|>\n\n{{ m.content | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant<|body|>\n\n{% endif %}"
)
"""The begin token stands in the template, and the tokenizer adds one too (Llama 3)."""
NO_BEGIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""No special token at all, though the tokenizer adds a begin token: nothing ends an answer (Vicuna)."""
OPENS = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|start|>system\nYou are a helpful assistant"
    "<|end|>\n{% endif %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
"""A generation prompt, and a system's message of its own (SmolLM2)."""
SYSTEM = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set told = messages[0].content + '\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set told = '' %}{% endif %}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('one system message, at the start') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ told if loop.last else '' }}{{ m.content }} [/INST]"
    "{% else %} {{ m.content }}<|end|>{% endif %}{% endfor %}"
)
"""The system's message within the user's, and no generation prompt (Mistral)."""
THINKS = (
    "{% for m in messages %}<|start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last and '</think>' not in m.content %}"
    "<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}"
    "<|start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
"""Thoughts that an argument leaves out (Qwen3)."""

FORMS = {"begins": BEGINS, "no begin": NO_BEGIN, "opens": OPENS, "system": SYSTEM, "thinks": THINKS}
ADDS_BEGIN = ("begins", "no begin", "system")
"""Forms whose tokenizer adds a begin token to plain text."""


def chat_tokenizer(form: str | None, *, eos: str = "<|end|>") -> Tokenizer:
    """Return a tokenizer with the template of a form, or none; all of them have one vocabulary."""
    made = train_tokenizer(TEXTS, vocab_size=330, ends_source=False)
    backend = made.backend_tokenizer
    backend.normalizer = None  # ours strips what templates end in
    backend.add_special_tokens(list(SPECIAL))
    if form in ADDS_BEGIN:
        begin = backend.token_to_id("<s>")
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token=eos, pad_token="<pad>", extra_special_tokens=list(SPECIAL)
    )
    tokenizer.chat_template = None if form is None else FORMS[form]
    return tokenizer
