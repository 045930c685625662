"""A model in this process: greedy answers, samples, and the likelihood of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from wheels.annotation.answer import CUT, Answer
from wheels.distillation.collate import Collator, Example, target_states
from wheels.distillation.generation import evaluating, outputs_of
from wheels.distillation.losses import target_log_probs
from wheels.errors import WheelsError
from wheels.models.chosen_states import read_at
from wheels.models.loading import load_model, load_tokenizer
from wheels.models.pair import Pair


@dataclass(frozen=True)
class LocalModel:
    """A student, a teacher or an assistant, alone."""

    pair: Pair
    """The model as both sides of a pair, with its tokenizer and its prompt."""
    max_new_tokens: int
    """The longest answer, in tokens."""
    batch_size: int

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        role: str,
        prompt: str = "{source}",
        max_new_tokens: int = 128,
        batch_size: int = 64,
        device: str = "cpu",
    ) -> LocalModel:
        """Load a model from a folder or the Hub; `prompt` is the text that a causal one reads.

        Raises:
            WheelsError: where it cannot be loaded.
        """
        tokenizer = load_tokenizer(folder, role=role)
        model = load_model(folder, device=device, role=role)
        return cls(Pair.alone(model, tokenizer, prompt=prompt), max_new_tokens, batch_size)

    @property
    def model(self) -> PreTrainedModel:
        """The weights."""
        return self.pair.student

    def answers(self, sources: Sequence[str]) -> list[str]:
        """Return the greedy answer to each source, complete or not."""
        return [label.text for label in self.labels(sources)]

    def labels(self, sources: Sequence[str]) -> list[Answer]:
        """Return the greedy answer to each source; one without an end token within the limit is marked as cut."""
        ends = set(self.pair.eos_ids)
        return [
            Answer(self.pair.decode(output), None if output and output[-1] in ends else CUT)
            for output in self._write(sources, sample=False, temperature=1.0)
        ]

    def samples(self, sources: Sequence[str], count: int, *, temperature: float, seed: int) -> list[list[str]]:
        """Return `count` sampled answers to each source, a function of the sources, the seed and the weights alone."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            repeated = [source for source in sources for _ in range(count)]
            texts = [self.pair.decode(one) for one in self._write(repeated, sample=True, temperature=temperature)]
        return [texts[start : start + count] for start in range(0, len(texts), count)]

    def _write(self, sources: Sequence[str], *, sample: bool, temperature: float) -> list[list[int]]:
        """Return what the model writes, as tokens."""
        return outputs_of(
            self.pair,
            self.model,
            self.pair.encode(sources),
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            sample=sample,
            temperature=temperature,
        )

    @torch.no_grad()
    def log_likelihoods(self, sources: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Return for each answer the mean over its tokens, the end token among them, of log p(token), in nats, <= 0.

        Raises:
            WheelsError: for lists of different lengths.
        """
        if len(sources) != len(answers):
            raise WheelsError(f"each source needs one answer, got {len(sources)} sources and {len(answers)} answers")
        read, answer_text = self.pair.encode(sources), self.pair.encode_targets(answers)
        order = sorted(range(len(read)), key=lambda row: len(read[row]) + len(answer_text[row]))
        found = [0.0] * len(read)
        with evaluating(self.model):
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                examples: list[Example] = [{"source": read[row], "target": answer_text[row]} for row in rows]
                for row, value in zip(rows, self._means(examples).tolist(), strict=True):
                    found[row] = value
        return found

    def _means(self, examples: Sequence[Example]) -> torch.Tensor:
        """Return the mean log-probability of each example's target tokens, [B], nats."""
        batch = Collator.of(self.pair)(examples)
        labels_BT = batch.pop("labels").to(self.model.device)  # its results are worked on there
        chosen_BT, targets_N = target_states(labels_BT, is_seq2seq=self.pair.is_seq2seq)
        logits_NV = read_at(self.model, batch, chosen_BT).logits_NV[:, : self.pair.vocab_size]
        return target_log_probs(logits_NV, targets_N, chosen_BT).sum(dim=1) / chosen_BT.sum(dim=1)
