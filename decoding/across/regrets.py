"""What a student's token costs a teacher of other tokens: regrets, where the spellings of both meet.

At a state where both have a token's border they have read the same text. A token of the teacher's agrees there with the
student's greedy one where either text begins with the other. The regret is what the teacher's likeliest token has over
all that agree,

    regret = max_v log p(v) - log sum_(v agrees) p(v), at least 0, nats

With one vocabulary, of tokens of which none begins another, it is the regret of `wheels.decoding.step`. At other states
the regret counts as 0: the teacher would go on from a piece of a word that it does not write so, and a call there harms
more than it helps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

from wheels.decoding.across.pair import TextPair
from wheels.decoding.across.spelling import UNFINISHED, Pieces
from wheels.decoding.params import LONGEST_OUTPUT
from wheels.decoding.sampling import argmax
from wheels.decoding.teacher_forcing import Reader, batches_of, read_by, seen_by_head, teacher_force
from wheels.models.devices import device_of
from wheels.models.generation_settings import Constraints
from wheels.models.pair import Pair, logits_size
from wheels.policy.features import LOG_FLOOR


class Spelled:
    """A text in the tokens of both models, and where their spellings meet.

    Args:
        pair: Both models.
        source: The student's tokens of the source.
        teacher_source: The teacher's.
        tokens: The student's tokens of the text.
    """

    def __init__(
        self, pair: TextPair, source: Sequence[int], teacher_source: Sequence[int], tokens: Sequence[int]
    ) -> None:
        self.pair, self.source, self.tokens = pair, source, tokens
        text, teacher = pair.spelling.text(source, tokens), pair.teacher_spelling
        self.teacher_tokens = teacher.tokens(teacher_source, text)
        counts = range(len(self.teacher_tokens) + 1)
        read = [teacher.text(teacher_source, self.teacher_tokens[:count]) for count in counts]
        self.text = text.lstrip()
        same = read[-1].lstrip() == self.text  # what a tokenizer cannot spell is lost
        self.borders: dict[int | None, int] = {}
        """Characters before a border of the teacher's, and its tokens there: the fewest."""
        for count in counts if same else ():
            self.borders.setdefault(self._place(read[count]), count)

    def _place(self, beginning: str) -> int | None:
        """Return the characters of a beginning of the text, the space before it not counted; None where it is none."""
        beginning = beginning.lstrip()
        return len(beginning) if self.text.startswith(beginning) else None

    def met(self, own_T: Sequence[int]) -> Iterator[tuple[int, int, str | None, bool]]:
        """Yield the states where both spellings meet, and what the student would write there.

        Args:
            own_T: Its greedy token at each state.

        Yields:
            The student's tokens before it; the teacher's; the text of the student's next token, None for an end; and
            whether nothing was written before.
        """
        pair = self.pair
        for state, own in enumerate(own_T[: len(self.tokens)]):
            before = pair.spelling.text(self.source, self.tokens[:state])
            place = self._place(before)
            if place is None or place not in self.borders or (state == 0 and pair.first is not None):
                continue
            if own in pair.eos_ids:
                yield state, self.borders[place], None, place == 0
                continue
            said = pair.spelling.text(self.source, [*self.tokens[:state], own])[len(before) :].rstrip(UNFINISHED)
            if said := said if place else said.lstrip():
                yield state, self.borders[place], said, place == 0


def seen_regrets(
    pair: Pair, sources: Sequence[str], texts: Sequence[Sequence[int]], batch_size: int | None = None
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return what the head sees `[T, F]` and the regret `[T]`, nats, at the states before the T tokens of each text.

    Args:
        pair: Both models.
        sources: The sources.
        texts: The student's tokens of the outputs, each at least one.
        batch_size: Texts of a forward pass at most; None: as many as memory allows.
    """
    if isinstance(pair, TextPair):
        return text_regrets(pair, sources, texts, batch_size)
    scored = teacher_force(pair, pair.encode(list(sources)), texts, batch_size)
    return [(text.features_TF, text.regret_T) for text in scored]


@torch.no_grad()
def text_regrets(
    pair: TextPair, sources: Sequence[str], texts: Sequence[Sequence[int]], batch_size: int | None = None
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Compute as `seen_regrets` for a pair of two tokenizers."""
    writer, pieces = pair.writer, pair.teacher_pieces
    teacher = Reader(writer, tuple(pair.teacher_start), pair.teacher_end, len(pieces.texts), device_of(writer))
    readers = Reader.of(pair, pair.student), teacher
    asked = pair.encode(list(sources)), [pair.encode_for_teacher(source) for source in sources]
    spelled = [Spelled(pair, *three) for three in zip(*asked, texts, strict=True)]
    said = texts, [each.teacher_tokens for each in spelled]
    longest = [max(two, key=len) for two in zip(*said, strict=True)]
    sizes = max(map(logits_size, pair.models)), batch_size or len(texts)
    found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for indices in batches_of(asked[0], longest, *sizes):
        lots = [[[lot[index] for index in indices] for lot in both] for both in zip(asked, said, strict=True)]
        (q, hidden), (p, _) = (read_by(reader, *lot) for reader, lot in zip(readers, lots, strict=True))
        for row, index in enumerate(indices):
            seen_WF = seen_by_head(hidden[row], q[row].log_softmax(-1), asked[0][index], texts[index]).cpu()
            met = list(spelled[index].met(argmax(_allowed(pair.student, q[row])).tolist()))
            log_p_WV = _allowed(writer, p[row]).log_softmax(-1).cpu()
            regret_T = torch.zeros(len(texts[index]))
            for state, place, text, first in met:
                regret_T[state] = _regret(pair, pieces, log_p_WV[place], text, first)
            found[index] = seen_WF[:-1], regret_T
    return [found[index] for index in range(len(texts))]


def _allowed(model: PreTrainedModel, logits_WV: torch.Tensor) -> torch.Tensor:
    """Return the logits of one text as decoding reads them: without the tokens that a model's settings suppress."""
    position_W = torch.arange(len(logits_WV), device=logits_WV.device)
    return Constraints.of(model).apply(logits_WV, position_W, torch.full_like(position_W, LONGEST_OUTPUT))


def _regret(pair: TextPair, pieces: Pieces, log_p_V: torch.Tensor, text: str | None, first: bool) -> float:
    """Compute the regret at one state; see the module."""
    if text is None:
        agrees = float(log_p_V[sorted(pair.teacher_ends)].logsumexp(0).clamp(min=LOG_FLOOR))
    else:
        agrees = pieces.log_agreeing(log_p_V, text, first=first)
    return max(float(log_p_V.max()) - agrees, 0.0)
