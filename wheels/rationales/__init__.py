"""Rationales: the words of a source that a teacher"s gradients point to."""

from typing import TYPE_CHECKING

from wheels.lazy import lazy

if TYPE_CHECKING:
    from wheels.rationales.attribution import gradient_x_input as gradient_x_input
    from wheels.rationales.attribution import integrated_gradients as integrated_gradients
    from wheels.rationales.attribution import saliency as saliency
    from wheels.rationales.config import RationalesConfig as RationalesConfig
    from wheels.rationales.words import Word as Word
    from wheels.rationales.words import rationale as rationale
    from wheels.rationales.words import top_words as top_words
    from wheels.rationales.words import word_scores as word_scores
    from wheels.rationales.words import words_of as words_of
else:
    __all__, __getattr__, __dir__ = lazy(__name__)
