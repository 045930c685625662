"""Small models from configurations, and a tokenizer from a task's own text, for training from scratch."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as RawTokenizer
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from wheels.data.prompts import Prompt
from wheels.errors import WheelsError, check_choice
from wheels.models.loading import Tokenizer

if TYPE_CHECKING:
    from wheels.data.tasks import Task

log = logging.getLogger("wheels")

FAMILIES = ("t5", "llama")
PAD_ID, EOS_ID, UNK_ID = 0, 1, 2
SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")
# The longest text, in tokens, that a built pair is for.
CONTEXT = 256
# Words, single digits and signs, each with the space before it. Digits alone: numbers are then spelled, not remembered.
WORDS = r" ?\p{L}[\p{L}\p{M}]*| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
# The 256 bytes and the special tokens: below this there is nothing to learn.
LEAST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


@dataclass(frozen=True)
class ModelSize:
    """The size of a model made from a configuration."""

    width: int
    """D, the width of the hidden state."""
    layers: int
    """Layers of the encoder, or of a causal model."""
    heads: int
    """Attention heads; they divide the width."""
    ff: int
    """Width of the feed-forward layers."""
    decoder_layers: int | None = None
    """Layers of the decoder; None: as many as `layers`."""
    dropout: float = 0.0
    """Share of activations dropped in training (T5 family; attention only in the Llama family)."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("width", "layers", "heads", "ff"):
            if getattr(self, name) < 1:
                raise WheelsError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.decoder_layers is not None and self.decoder_layers < 1:
            raise WheelsError(f"decoder_layers must be at least 1, got {self.decoder_layers}")
        if self.width % self.heads:
            raise WheelsError(f"heads must divide width {self.width}, got {self.heads}")
        if not 0.0 <= self.dropout < 1.0:
            raise WheelsError(f"dropout must be in [0, 1), got {self.dropout}")


STUDENT_SIZE = ModelSize(width=48, layers=1, heads=2, ff=96)
TEACHER_SIZE = ModelSize(width=128, layers=3, heads=4, ff=512, dropout=0.1)


class Parts(NamedTuple):
    """The arguments of `Pair.of`."""

    student: PreTrainedModel
    teacher: PreTrainedModel
    tokenizer: Tokenizer
    prompt: Prompt


def build_pair(
    task: Task,
    *,
    family: str = "t5",
    student: ModelSize | None = None,
    teacher: ModelSize | None = None,
    vocab_size: int = 4000,
    seed: int = 0,
) -> Parts:
    """Return the parts of an untrained pair: a tokenizer of the task's training text, two models of random weights.

    A causal pair whose task gives no prompt of its own (`{source}` alone) reads `{source} =>`, so that the end of the
    source is marked.

    Raises:
        WheelsError: an unknown family, a size that cannot be, a vocabulary below the 256 bytes, or a task without text.
    """
    prompt = causal_prompt(Prompt.of(task.prompt)) if family == "llama" else Prompt.of(task.prompt)
    texts = [text for row in task.train for text in (prompt.filled(row.source), row.target) if text]
    tokenizer = train_tokenizer(texts, vocab_size=vocab_size, ends_source=family == "t5")
    q = build_model(student or STUDENT_SIZE, family=family, vocab_size=len(tokenizer), seed=seed)
    p = build_model(teacher or TEACHER_SIZE, family=family, vocab_size=len(tokenizer), seed=seed + 1)
    return Parts(q, p, tokenizer, prompt)


def causal_prompt(prompt: Prompt) -> Prompt:
    """Add a mark at the end of the source if the prompt has none; a chat template has its own."""
    return prompt if prompt.chat or prompt.text.strip() != "{source}" else Prompt("{source} =>")


def train_tokenizer(texts: Iterable[str], *, vocab_size: int = 4000, ends_source: bool = True) -> Tokenizer:
    """Train a byte-level BPE tokenizer: pad 0, end 1, unknown 2 (never needed: every byte has a piece).

    Text is NFC-normalised and cut into words, single digits and signs. The same texts in the same order give the same
    tokenizer.

    Args:
        texts: what to learn the pieces from.
        vocab_size: the most pieces; fewer where the text is small.
        ends_source: whether a tokenized text ends with `</s>`, as encoders want and causal prompts do not.

    Raises:
        WheelsError: without any text, or for a vocabulary below the 256 bytes and the special tokens.
    """
    texts = list(texts)
    if not texts:
        raise WheelsError("cannot train a tokenizer: the task has no training text")
    if vocab_size < LEAST_VOCABULARY:
        raise WheelsError(f"vocab_size must be at least {LEAST_VOCABULARY} (bytes, special tokens), got {vocab_size}")
    raw = RawTokenizer(models.BPE(unk_token=SPECIAL_TOKENS[UNK_ID]))
    raw.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Strip(), normalizers.Prepend(" ")])
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    if ends_source:
        end = SPECIAL_TOKENS[EOS_ID]
        raw.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, EOS_ID)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=SPECIAL_TOKENS[PAD_ID],
        eos_token=SPECIAL_TOKENS[EOS_ID],
        unk_token=SPECIAL_TOKENS[UNK_ID],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def build_model(
    size: ModelSize, *, family: str = "t5", vocab_size: int, seed: int = 0, pad_id: int = PAD_ID, eos_id: int = EOS_ID
) -> PreTrainedModel:
    """Return a model of a family with random weights, determined by `seed` and the shape.

    Args:
        size: its width, layers, ...
        family: `t5` (sequence-to-sequence) or `llama` (causal).
        vocab_size: V, the tokenizer's highest id + 1.
        seed: of the weights; the generator of the caller is left as it was.
        pad_id: the tokenizer's padding; the decoder of a sequence-to-sequence model starts with it.
        eos_id: the token that ends an output.

    Raises:
        WheelsError: for an unknown family.
    """
    check_choice("family", family, FAMILIES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel
        if family == "t5":
            model = T5ForConditionalGeneration(t5_config(size, vocab_size, pad_id, eos_id))
        else:
            model = LlamaForCausalLM(llama_config(size, vocab_size, pad_id, eos_id))
    return model.eval()


def t5_config(size: ModelSize, vocab_size: int, pad_id: int, eos_id: int) -> T5Config:
    """T5 v1.1: gated GELU, tied embeddings, 16 buckets of relative positions up to 32 apart."""
    others: dict[str, Any] = {"tie_word_embeddings": True, "decoder_start_token_id": pad_id}
    return T5Config(
        vocab_size=vocab_size,
        d_model=size.width,
        d_kv=size.width // size.heads,
        d_ff=size.ff,
        num_layers=size.layers,
        num_decoder_layers=size.decoder_layers or size.layers,
        num_heads=size.heads,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=32,
        dropout_rate=size.dropout,
        feed_forward_proj="gated-gelu",
        pad_token_id=pad_id,
        eos_token_id=eos_id,
        **others,
    )


def llama_config(size: ModelSize, vocab_size: int, pad_id: int, eos_id: int) -> LlamaConfig:
    """Llama: rotary positions, SwiGLU, tied embeddings; `decoder_layers` has no meaning here."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=size.width,
        intermediate_size=size.ff,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=2 * CONTEXT,
        attention_dropout=size.dropout,
        tie_word_embeddings=True,
        pad_token_id=pad_id,
        bos_token_id=None,
        eos_token_id=eos_id,
    )
