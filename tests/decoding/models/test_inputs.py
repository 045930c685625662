"""What a forward pass reads: positions, packed tokens, sources and the logits that are kept, by hand."""

import torch

from wheels.decoding.models.inputs import AttentionInputs, LogitsToKeep


def inputs_of(firsts: list[int], counts: list[int], rows: list[int] | None = None) -> AttentionInputs:
    rows_R = None if rows is None else torch.tensor(rows)
    rows = list(range(len(firsts))) if rows is None else rows
    return AttentionInputs.of(rows, rows_R, firsts, torch.tensor(firsts), counts, [len(firsts) - row for row in rows])


def test_rows_that_read_different_amounts_are_packed():
    inputs = inputs_of([3, 1], [1, 3], rows=[1, 0])
    assert inputs.positions_RK.tolist() == [[3, 3, 3], [1, 2, 3]], "a short row repeats its last position"
    assert inputs.write.positions_RK.tolist() == [[3, 1, 2, 3]]
    assert inputs.write.owner_N is not None and inputs.write.owner_N.tolist() == [1, 0, 0, 0]
    assert (inputs.lengths, inputs.visible, inputs.write.start, inputs.aligned) == ([4, 4], 4, None, False)
    assert inputs.tokens(torch.tensor([[10, 11, 12, 13], [20, 21, 22, 23]])).tolist() == [[23, 11, 12, 13]]
    assert inputs.lookup(torch.arange(9)).tolist() == [3, 1, 2, 3]


def test_rows_at_one_position_share_their_lookup():
    inputs = inputs_of([4, 4], [1, 1])
    assert inputs.aligned and inputs.write.start == 4 and inputs.lookup(torch.arange(9)).tolist() == [4]
    assert inputs.tokens(torch.arange(12).view(2, 6)).tolist() == [[4], [10]]
    apart = inputs_of([4, 2], [1, 1])
    assert not apart.aligned and apart.write.start is None and apart.lookup(torch.arange(9)).tolist() == [4, 2]
    wide = inputs_of([4, 4], [2, 2])
    assert not wide.aligned and wide.write.start == 4 and wide.packing is None


def test_the_padding_of_shorter_sources_is_not_seen():
    seen_RS = inputs_of([0, 0], [1, 1]).source_seen()
    assert seen_RS is not None and seen_RS.tolist() == [[True, True], [True, False]]
    assert inputs_of([0], [1]).source_seen() is None


def test_a_row_that_keeps_fewer_logits_repeats_its_last():
    packed, padded = inputs_of([3, 1], [1, 3]), inputs_of([0, 0], [2, 2])
    packed_1ND, padded_RKD = torch.arange(4).view(1, 4, 1), torch.arange(4).view(2, 2, 1)
    assert LogitsToKeep(packed).select(packed_1ND).flatten(1).tolist() == [[0], [3]]
    assert LogitsToKeep(padded).select(padded_RKD).flatten(1).tolist() == [[1], [3]]
    assert LogitsToKeep(packed, torch.tensor([1, 2])).select(packed_1ND).flatten(1).tolist() == [[0, 0], [2, 3]]
    assert LogitsToKeep(padded, torch.tensor([1, 2])).select(padded_RKD).flatten(1).tolist() == [[1, 1], [2, 3]]
