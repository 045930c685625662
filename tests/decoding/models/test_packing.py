"""Packing a ragged batch: by hand, and what a model is given."""

import pytest
import torch

from tests.decoding.tiny import FAMILIES, VOCABULARY, make_model
from wheels.decoding.models.packing import ATTENTION, Packing, configs_of, packed_attention
from wheels.decoding.models.runner import Runner


def test_a_packing_by_hand():
    packing = Packing.of([2, 1, 3], torch.device("cpu"))
    assert packing.row_N.tolist() == [0, 0, 1, 2, 2, 2]
    assert packing.column_N.tolist() == [0, 1, 0, 0, 1, 2]
    assert (packing.start_R.tolist(), packing.rows, packing.width) == ([0, 2, 3], 3, 3)
    values_RW = torch.tensor([[1, 2, 0], [3, 0, 0], [4, 5, 6]])
    assert packing.pack(values_RW).tolist() == [[1, 2, 3, 4, 5, 6]]


def test_what_is_unpacked_is_packed_again():
    packing = Packing.of([2, 1, 3], torch.device("cpu"))
    packed_1HND = torch.randn(1, 2, 6, 4)
    unpacked_RHWD = packing.unpack(packed_1HND)
    assert unpacked_RHWD.shape == (3, 2, 3, 4)
    assert unpacked_RHWD[1, :, 0].equal(packed_1HND[0, :, 2]) and not unpacked_RHWD[1, :, 1:].any()
    assert packing.pack(unpacked_RHWD.transpose(1, 2)).equal(packed_1HND.transpose(1, 2))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_padding_goes_through_a_model_and_its_attention_is_its_own_again(family):
    model, seen = make_model(family, 16, seed=1), []
    before = [config._attn_implementation for config in configs_of(model)]
    runner = Runner(model, 4, VOCABULARY, fast=False)
    runner.journal = []
    runner.admit(range(4), [[3, 4], [5], [6, 7, 8], [9]])
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("decoder_input_ids", kwargs.get("input_ids")).shape),
        with_kwargs=True,
    )
    texts_BT = torch.randint(2, VOCABULARY, (4, 12))
    for lengths in ([1, 5, 2, 3], [3, 6, 3, 5], [4, 7, 4, 6]):
        runner.read(None, texts_BT, torch.tensor(lengths))
    assert seen == [(1, 11), (1, 6), (4, 1)], "packed where rows read different amounts"
    assert [each.tokens for each in runner.journal if each.kind == "decode"] == [11, 6, 4]
    assert [config._attn_implementation for config in configs_of(model)] == before != [ATTENTION] * len(before)


def test_an_error_leaves_the_attention_as_it_was():
    model = make_model("t5", 16, seed=1)
    configs = configs_of(model)
    before = [config._attn_implementation for config in configs]
    with pytest.raises(KeyError), packed_attention(configs, Packing.of([1, 2], torch.device("cpu"))):
        assert {config._attn_implementation for config in configs} == {ATTENTION}
        raise KeyError
    assert [config._attn_implementation for config in configs] == before
