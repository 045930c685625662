"""Chosen states have the logits of a whole pass, and the output layer reads no others."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING

from wheels.decoding.compatibility.listed import FAMILIES
from wheels.decoding.compatibility.small import small_config, small_model
from wheels.models.chosen_states import read_at
from wheels.models.families import refusal

CAUSAL, SEQ2SEQ = ("llama", "gpt2", "gemma2", "cohere"), ("t5", "bart", "marian")
"""Their logits are plain, from shared weights, cut softly, scaled; from scaled states, with a bias."""
EXPERTS = {
    "qwen2_moe",
    "qwen3_moe",
    "gpt_oss",
    "mixtral",
    "olmoe",
    "granitemoe",
    "minimax_m2",
    "deepseek_v2",
    "deepseek_v3",
}
"""Their kernels know no float64."""


def inputs_of(model: transformers.PreTrainedModel) -> dict[str, torch.Tensor]:
    ids_BT = torch.arange(15).view(3, 5) % 11 + 3
    if not model.config.is_encoder_decoder:
        return {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT)}
    return {"input_ids": ids_BT.flip(1), "decoder_input_ids": ids_BT}


def is_read_at(family: str) -> None:
    if family.partition("+")[0] not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    double = family not in EXPERTS
    model = small_model(family).to(torch.float64 if double else torch.float32).eval()
    inputs, chosen_BT = inputs_of(model), torch.zeros(3, 5, dtype=torch.bool)
    chosen_BT[0, 3:] = chosen_BT[2, 1] = True
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    close = {"rtol": 1e-7, "atol": 1e-9} if double else {"rtol": 1e-3, "atol": 1e-5}
    asked: list[int] = []

    def gradient(logits_NV: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(logits_NV.log_softmax(-1)[:, 1].sum(), weights, materialize_grads=True))

    whole_NV = model(**inputs).logits[chosen_BT]
    watch = model.get_output_embeddings().register_forward_hook(
        lambda _, read, out: asked.append(out.shape[:-1].numel())
    )
    read = read_at(model, inputs, chosen_BT)
    watch.remove()
    assert asked == [3] and len(read.states_ND) == 3
    torch.testing.assert_close(read.logits_NV, whole_NV, **close)
    for own, expected in zip(gradient(read.logits_NV), gradient(whole_NV), strict=True):
        torch.testing.assert_close(own, expected, **close)
    assert torch.equal(model(**inputs).logits[chosen_BT], whole_NV), "a pass after it is whole again"


@pytest.mark.parametrize("family", [*CAUSAL, *SEQ2SEQ])
def test_chosen_states_are_read_as_in_a_whole_pass(family):
    is_read_at(family)


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in (*CAUSAL, *SEQ2SEQ)])
def test_so_does_every_family(family):
    if family.partition("+")[0] in CONFIG_MAPPING and refusal(small_config(family)) is not None:
        pytest.skip("it is refused")
    is_read_at(family)


def test_a_pass_that_fails_leaves_no_mark():
    model = small_model("llama")
    chosen_BT = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(IndexError, match="out of range"):
        read_at(model, {"input_ids": torch.full((1, 2), 10**6)}, chosen_BT)
    assert model(input_ids=torch.ones(1, 2, dtype=torch.long)).logits.shape[:2] == (1, 2)
