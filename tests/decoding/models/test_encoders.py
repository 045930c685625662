"""Fast encoders against the library's, and what a wrong one does."""

from typing import Any

import pytest
import torch

from tests.decoding.models.test_families import SEQ2SEQ_MODELS, TOLERANCE, build, laid_out
from tests.decoding.tiny import VOCABULARY
from wheels.decoding.models import fast
from wheels.decoding.models.registry import fast_decoder_for
from wheels.decoding.models.runner import Runner
from wheels.decoding.models.sources import LibraryEncoder, cross_projections
from wheels.distillation.collate import pad_with_mask

__all__ = ["laid_out"]


def encoded(model: Any, lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the fast encoder makes of sources, and what the library makes of them, where they are no padding."""
    ids_RS, seen_RS = pad_with_mask([torch.randint(2, VOCABULARY, (length,)).tolist() for length in lengths], 0)
    both = fast_decoder_for(model).encoder(ids_RS, seen_RS), LibraryEncoder(model)(ids_RS, seen_RS)  # type: ignore[union-attr, misc]
    assert [len(each) for each in both] == [len(cross_projections(model))] * 2
    own, theirs = (torch.stack([torch.stack(layer) for layer in each]).movedim(-2, 3) for each in both)
    kept = seen_RS.bool()
    return own[:, :, kept], theirs[:, :, kept]


@pytest.mark.parametrize("name", SEQ2SEQ_MODELS)
def test_sources_are_read_as_the_library_reads_them(name, laid_out):
    """Some longer than the furthest distance that a bias tells apart, and than the table of biases made before."""
    model = build(name)
    for lengths in ([1], [4, 4], [3, 9, 5], [50, 7, 33]):
        own, theirs = encoded(model, lengths)
        assert own.shape == theirs.shape and (own - theirs).abs().max() < TOLERANCE * theirs.abs().max()


def all_seen(seen_RS: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros_like(seen_RS[:, None, None], dtype=dtype)


@pytest.mark.parametrize(("name", "wrong"), [("t5-plain", "mask"), ("t5-plain", "distance"), ("bart", "mask")])
def test_a_wrong_mask_or_distance_of_the_sources_is_seen(name, wrong, monkeypatch):
    """The negative control."""
    model = build(name)
    if wrong == "mask":
        monkeypatch.setattr(fast, "padding_mask", all_seen)
    else:
        made: Any = fast_decoder_for(model)
        made.encoder.bias.bias_HT = made.encoder.bias.bias_HT.flip(-1)
    own, theirs = encoded(model, [3, 9, 5])
    assert (own - theirs).abs().max() > 100 * TOLERANCE * theirs.abs().max()


def test_an_encoder_that_is_hooked_is_left_to_the_library():
    model = build("t5-plain")
    assert fast_decoder_for(model) is not None
    model.encoder.block[1].register_forward_hook(lambda *args: None)
    assert fast_decoder_for(model) is None
    assert isinstance(Runner(model, 1, VOCABULARY).backend.encoder, LibraryEncoder)
