"""Passes where only the student's logits are at hand: the teacher writes spans, which are put into the texts."""

from __future__ import annotations

import torch

from wheels.decoding.passes import Passes


class StudentPasses(Passes):
    """What two ways of asking a teacher have in common: over HTTP, and by text."""

    def unread_prompt(self, model: str, slot: int) -> int:
        """Return how much of the tokens before an output a model has not read; the teacher reads them at once."""
        return 0 if model == "teacher" else super().unread_prompt(model, slot)

    def cut(self, slot: int, length: int) -> None:
        """Take a text back to its first `length` tokens."""
        text = self.texts.sequence(slot)
        text.truncate(length)
        self.texts.truncate([slot], torch.tensor([slot], device=self.texts.length_Q.device))
        self.texts.calls_Q[slot] = sum(text.by_teacher)

    def forget(self, slot: int, same: int) -> None:
        """Let the student forget what it read beyond `same` tokens of a text, or its last token: that is read next."""
        slots_R = torch.tensor([slot], device=self.texts.length_Q.device)
        known_R = torch.minimum(self.texts.prefix_Q[slots_R] + same, self.texts.length_Q[slots_R] - 1)
        self.student.rollback(slots_R, known_R)

    def write_instead(self, slot: int, start: int) -> None:
        """Let the student write where the teacher did not: its guess after `start` tokens, if it has one."""
        text, slots_R = self.texts.sequence(slot), torch.tensor([slot], device=self.texts.length_Q.device)
        guess = text.tokens[start : start + 1]
        self.cut(slot, start)
        if not guess:
            self.forget(slot, start)
            guess = self.student_tokens(slots_R, self.read_student([slot], slots_R).logits_RV).tolist()
        self.texts.append_span(slot, guess, by_teacher=False)
        self.forget(slot, start)
        text.degraded += 1
