"""The texts in flight: drafts, what is counted of them, and tensors that say the same as the lists."""

import pytest
import torch

from tests.decoding.tiny import make_pair
from wheels.decoding.params import RULE_STREAM
from wheels.decoding.sampling import uniforms
from wheels.decoding.sequences import Sequence, TextBatch, prepare_sequences
from wheels.errors import WheelsError


def batch_of(family: str = "llama") -> tuple[TextBatch, list[Sequence]]:
    """Two texts in the slots 2 and 0 of three."""
    pair = make_pair(family)
    sequences = prepare_sequences(pair, ["a b c", "d"], 6)
    texts = TextBatch(pair, 3, sequences)
    for slot, sequence in zip((2, 0), sequences, strict=True):
        sequence.seed, sequence.budget = 7 + slot, 0.25
        texts.admit(slot, sequence)
    return texts, sequences


def written(texts: TextBatch, slot: int) -> list[int]:
    """What the tensors say that a text has written."""
    start, end = int(texts.prefix_Q[slot]), int(texts.length_Q[slot])
    return texts.tokens_QT[slot, start:end].tolist()


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_tensors_and_lists_say_the_same(family):
    texts, (first, second) = batch_of(family)
    slots_R = torch.tensor([0, 2])
    assert texts.free() == [1] and not texts.is_all([0, 2]) and texts.is_all([0, 1, 2])
    texts.append([0, 2], slots_R, torch.tensor([5, 6]), by_teacher=False)
    texts.append([2], slots_R[1:], torch.tensor([7]), by_teacher=True)
    texts.append_span(0, [8, 9], by_teacher=False)
    texts.append_span(0, [], by_teacher=False)
    assert (second.tokens, first.tokens) == ([5, 8, 9], [6, 7]) == (written(texts, 0), written(texts, 2))
    assert first.by_teacher == [False, True] and second.by_teacher == [False] * 3
    assert texts.position(slots_R).tolist() == [3, 2] and texts.calls_Q[slots_R].tolist() == [0, 1]
    assert texts.budget_Q[slots_R].tolist() == [0.25, 0.25] and texts.index_Q[slots_R].tolist() == [1, 0]


def test_a_draft_is_accepted_up_to_its_first_rejection():
    """Of four tokens, one settled: the draft has three, and one of them is accepted."""
    texts, (_, sequence) = batch_of()
    texts.append_span(0, [4, 5, 6, 7], by_teacher=False)
    sequence.num_settled = 1
    assert sequence.num_draft == 3
    assert sequence.accept_draft(1)
    texts.truncate([0], torch.tensor([0]))
    assert sequence.tokens == [4, 5] == written(texts, 0) and sequence.by_teacher == [False, False]
    assert (sequence.drafted, sequence.accepted, sequence.checked) == (3, 1, 2)
    assert not sequence.accept_draft(1), "the whole draft"
    assert (sequence.drafted, sequence.accepted, sequence.checked) == (4, 2, 3)


def test_a_slot_is_taken_again_without_a_trace_of_the_text_before():
    texts, (first, second) = batch_of()
    texts.append([2], torch.tensor([2]), torch.tensor([6]), by_teacher=True)
    assert texts.leave(2) is first and texts.free() == [1, 2]
    with pytest.raises(AssertionError, match="slot 2 is free"):
        texts.sequence(2)
    texts.admit(2, Sequence(9, second.source, 4, budget=1.0, seed=1))
    assert written(texts, 2) == [] and int(texts.calls_Q[2]) == 0 and int(texts.index_Q[2]) == 9
    assert int(texts.length_Q[2]) == len(second.source) == int(texts.source_Q[2])


def test_draws_belong_to_seed_index_and_position():
    texts, _ = batch_of()
    position_R = torch.tensor([4, 4])
    drawn_R = texts.noise(torch.tensor([2, 0]), RULE_STREAM)(position_R)
    for row, (slot, index) in enumerate(((2, 0), (0, 1))):
        own = uniforms(7 + slot, torch.tensor([index]), torch.tensor([4]), RULE_STREAM)
        assert drawn_R[row] == own[0]
    assert drawn_R[0] != drawn_R[1]


def test_a_source_that_cannot_be_read_is_named():
    pair = make_pair("llama")
    with pytest.raises(WheelsError, match="input 2 is empty"):
        prepare_sequences(pair, ["a", " ", "b"], 4)
    errors = [sequence.error for sequence in prepare_sequences(pair, ["a", " ", "b"], 4, on_error="skip")]
    assert [error is None for error in errors] == [True, False, True]
