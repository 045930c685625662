"""Tiny random models with tokenizers of their own, over words of four syllables."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.decoding.tiny import restless
from wheels.decoding.across.pair import TextPair

SPECIAL = ["<pad>", "</s>", "<unk>"]
LETTERS = list("▁abdlu.")
STUDENTS = ["▁ba", "du", "la", "badu"]
TEACHERS = ["▁b", "ud", "al", "▁la", "ubal", "▁badu"]
SOURCES = ["ba du la", "du", "la badu. ba", "u la la la la ba du", "dub alu"]


def spelled(pieces: list[str], *, ends_source: bool) -> PreTrainedTokenizerFast:
    """A tokenizer of letters and longer pieces, of which it takes as few as it can."""
    vocabulary = [*((piece, 0.0) for piece in SPECIAL), *((piece, -4.0) for piece in LETTERS)]
    raw = Tokenizer(models.Unigram([*vocabulary, *((piece, -3.0) for piece in pieces)], unk_id=2))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    raw.decoder = decoders.Metaspace(prepend_scheme="first")
    if ends_source:
        raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=256
    )


def model(family: str, width: int, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """In float64: large random weights amplify rounding."""
    ids: dict[str, Any] = {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 1}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made: PreTrainedModel
        if family == "t5":
            made = T5ForConditionalGeneration(
                T5Config(
                    d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2, initializer_factor=3.0,
                    tie_word_embeddings=False, decoder_start_token_id=0, **ids,
                )
            )  # fmt: skip
        else:
            made = LlamaForCausalLM(
                LlamaConfig(
                    hidden_size=width, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                    initializer_range=0.6, max_position_embeddings=256, bos_token_id=None, **ids,
                )
            )  # fmt: skip
        made = restless(made)
    made.generation_config.suppress_tokens = [0, 2]
    return made.double().eval()


def text_pair(student: str, teacher: str, span: str = "tokens:1", seed: int = 0) -> TextPair:
    """A pair of two families, `t5` or `llama`."""
    mine, others = (
        spelled(pieces, ends_source=family == "t5") for pieces, family in ((STUDENTS, student), (TEACHERS, teacher))
    )
    q, p = model(student, 16, mine, seed), model(teacher, 24, others, seed + 100)
    return TextPair(q, p, mine, others, span=span)


def taught(pair: TextPair, text: str, steps: int = 200) -> TextPair:
    """A pair of causal models that have both learnt to go on with a text, the student less well."""
    for net, tokenizer, count in (
        (pair.student, pair.tokenizer, steps // 2),
        (pair.writer, pair.teacher_tokenizer, steps),
    ):
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        net.requires_grad_(True)
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.02)
        for _ in range(count):
            loss = net(input_ids=ids, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        net.requires_grad_(False)
    return pair
