"""Attribution: equal to Captum's, complete, the same in any company, and what the formulas say by hand."""

from __future__ import annotations

import math

import pytest
import torch
from captum.attr import IntegratedGradients, LayerGradientXActivation, LayerIntegratedGradients, Saliency

from wheels.distillation.collate import Batch, Collator, Example
from wheels.models.pair import Pair
from wheels.rationales import attribution
from wheels.rationales.attribution import (
    embed,
    embedder,
    gradient_x_input,
    integrated_gradients,
    mean_log_p,
    saliency,
    saliency_per_token,
    source_mask,
    target_log_p,
)

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
METHODS = {
    "saliency": saliency,
    "per token": saliency_per_token,
    "gradient x input": gradient_x_input,
    "integrated": lambda model, batch: integrated_gradients(model, batch, baseline_D=end_of(model), steps=8),
}


def end_of(model) -> torch.Tensor:
    return embedder(model)(torch.tensor([1]))[0].detach()


@pytest.fixture(params=["t5", "llama"])
def pair(request) -> Pair:
    pair: Pair = request.getfixturevalue(request.param)
    # Fresh weights are too wild in one family for a sum of few steps, and too tame in the other to say anything.
    with torch.no_grad():
        for weights in pair.teacher.parameters():
            weights.mul_(0.5 if pair.is_seq2seq else 2.0)
    # So that only a wrong formula is off by more than the tolerance.
    pair.teacher.double()
    return pair


def examples_of(pair: Pair, task, count: int = 5) -> list[Example]:
    rows = task.train[:count]
    sources, targets = pair.encode([row.source for row in rows]), pair.encode_targets([row.target for row in rows])
    return [{"source": source, "target": target} for source, target in zip(sources, targets, strict=True)]


def batch_of(pair: Pair, examples: list[Example]) -> Batch:
    return Collator(pair.is_seq2seq, pair.pad_id, pair.start_ids)(examples)


def forward_of(pair: Pair, batch: Batch):
    """Return f as Captum wants it: of embeddings, [B]; the batch is repeated where Captum repeats the embeddings."""

    def forward(embeddings_BSD: torch.Tensor) -> torch.Tensor:
        times = len(embeddings_BSD) // len(batch["labels"])
        repeated = {name: tensor.repeat(times, 1) for name, tensor in batch.items()}
        return mean_log_p(pair.teacher, repeated, embeddings_BSD)

    return forward


def plain(pair: Pair, batch: Batch):
    """Return f as a function of the ids, without a line of ours: transformers' own loss of each row."""

    def forward(ids: torch.Tensor) -> torch.Tensor:
        reads = {name: tensor for name, tensor in batch.items() if name not in ("labels", "input_ids")}
        logits = pair.teacher(input_ids=ids, **reads).logits
        labels = batch["labels"]
        if not pair.is_seq2seq:
            logits, labels = logits[:, :-1], labels[:, 1:]
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")
        return -loss.sum(dim=1) / (labels != -100).sum(dim=1)

    return forward


def test_log_probabilities_are_the_models_own(pair, task):
    batch = batch_of(pair, examples_of(pair, task))
    with torch.no_grad():
        ours = mean_log_p(pair.teacher, batch, embed(pair.teacher, batch))
        torch.testing.assert_close(ours, plain(pair, batch)(batch["input_ids"]), **CLOSE)
        log_p_BT, target_BT = target_log_p(pair.teacher, batch, embed(pair.teacher, batch))
    assert (log_p_BT[~target_BT] == 0.0).all()
    assert target_BT.sum().item() == (batch["labels"] != -100).sum().item()


def test_saliency_equals_captums(pair, task):
    batch = batch_of(pair, examples_of(pair, task))
    theirs = Saliency(forward_of(pair, batch)).attribute(embed(pair.teacher, batch).requires_grad_(), abs=False)
    mask = source_mask(pair.teacher, batch)
    ours = saliency(pair.teacher, batch)
    torch.testing.assert_close(ours, theirs.norm(dim=-1) * mask, **CLOSE)
    assert (ours[mask] > 0.0).all()
    assert (ours[~mask] == 0.0).all()


def test_gradient_x_input_equals_captums(pair, task):
    """Captum takes it at the layer, inside the model's own forward pass."""
    batch = batch_of(pair, examples_of(pair, task))
    oracle = LayerGradientXActivation(plain(pair, batch), embedder(pair.teacher))
    theirs = oracle.attribute(batch["input_ids"]).sum(dim=-1).detach()
    ours = gradient_x_input(pair.teacher, batch)
    torch.testing.assert_close(ours, theirs * source_mask(pair.teacher, batch), **CLOSE)
    assert ours.min() < 0.0 < ours.max()


def test_integrated_gradients_equal_captums(pair, task):
    batch = batch_of(pair, examples_of(pair, task))
    model, embeddings_BSD = pair.teacher, embed(pair.teacher, batch)
    mask_BS1 = source_mask(model, batch).unsqueeze(-1)
    start_BSD = torch.where(mask_BS1, end_of(model), embeddings_BSD)
    theirs = IntegratedGradients(forward_of(pair, batch)).attribute(embeddings_BSD, start_BSD, n_steps=8)
    torch.testing.assert_close(METHODS["integrated"](model, batch), theirs.sum(dim=-1), **CLOSE)


def test_integrated_gradients_equal_captums_at_the_layer(llama, task):
    llama.teacher.double()
    examples = examples_of(llama, task, 1)
    batch = batch_of(llama, examples)
    base = torch.where(source_mask(llama.teacher, batch), 1, batch["input_ids"])

    def forward(ids: torch.Tensor) -> torch.Tensor:
        repeated = {name: tensor.repeat(len(ids), 1) for name, tensor in batch.items()}
        return plain(llama, repeated)(ids)

    oracle = LayerIntegratedGradients(forward, embedder(llama.teacher))
    theirs = oracle.attribute(batch["input_ids"], base, n_steps=8).sum(dim=-1).detach()
    torch.testing.assert_close(METHODS["integrated"](llama.teacher, batch), theirs, **CLOSE)


@pytest.mark.parametrize("name", METHODS)
def test_rows_do_not_depend_on_their_company(pair, task, name):
    examples = examples_of(pair, task)
    together = METHODS[name](pair.teacher, batch_of(pair, examples))
    assert len({len(example["source"]) for example in examples}) > 1, "ragged"
    for row, example in enumerate(examples):
        alone = METHODS[name](pair.teacher, batch_of(pair, [example]))
        length = len(example["source"])
        torch.testing.assert_close(together[row, :length], alone[0, :length], **CLOSE)
        assert (together[row, length:] == 0.0).all()


@pytest.mark.slow
def test_integrated_gradients_are_complete(pair, task):
    """They sum to what the source adds over the baseline, the better the more steps."""
    batch, model = batch_of(pair, examples_of(pair, task)), pair.teacher
    embeddings_BSD = embed(model, batch)
    start_BSD = torch.where(source_mask(model, batch).unsqueeze(-1), end_of(model), embeddings_BSD)
    with torch.no_grad():
        difference_B = mean_log_p(model, batch, embeddings_BSD) - mean_log_p(model, batch, start_BSD)
    error = {}
    for steps in (1, 48):
        total_B = integrated_gradients(model, batch, baseline_D=end_of(model), steps=steps).sum(dim=1)
        error[steps] = (total_B - difference_B).abs().max().item()
    assert difference_B.abs().max() > 0.02
    assert error[48] < 0.01 * difference_B.abs().max().item(), error
    assert error[1] > 10 * error[48], "one step is no integral"


def test_the_mean_of_norms_is_never_below_the_norm_of_the_mean(pair, task):
    batch = batch_of(pair, examples_of(pair, task))
    ours, per_token = saliency(pair.teacher, batch), saliency_per_token(pair.teacher, batch)
    assert (per_token >= ours - 1e-6).all()
    assert (per_token > 1.05 * ours).any(), "they are two measures"


def test_both_saliencies_are_one_for_a_target_of_one_token(pair, task):
    batch = batch_of(pair, [{**example, "target": example["target"][:1]} for example in examples_of(pair, task)])
    torch.testing.assert_close(saliency(pair.teacher, batch), saliency_per_token(pair.teacher, batch), **CLOSE)


def test_per_token_by_single_targets(t5, task):
    """The gradient of each token's log-probability on its own, one forward pass each."""
    (example,) = examples_of(t5, task, 1)
    batch = batch_of(t5, [example])
    norms = []
    for t in range(len(example["target"])):
        one = batch | {"labels": torch.where(torch.arange(len(example["target"])) == t, batch["labels"], -100)}
        norms.append(saliency(t5.teacher, one))
    expected = torch.stack(norms).mean(dim=0)
    torch.testing.assert_close(saliency_per_token(t5.teacher, batch), expected, **CLOSE)


def test_by_hand(monkeypatch, t5):
    """f = (log p_1 + log p_2) / 2 with gradients (3, 4) and (-3, 4): norms 4 and 5."""
    weights_TD = torch.tensor([[3.0, 4.0], [-3.0, 4.0]])
    embeddings = torch.tensor([[[2.0, 1.0]]])
    batch = {"input_ids": torch.zeros(1, 1, dtype=torch.long), "attention_mask": torch.ones(1, 1)}
    log_p = lambda model, batch, e: (e[:, 0] @ weights_TD.T, torch.ones(1, 2, dtype=torch.bool))  # noqa: E731
    monkeypatch.setattr(attribution, "target_log_p", log_p)
    monkeypatch.setattr(attribution, "embed", lambda model, batch: embeddings.clone())
    assert saliency(t5.teacher, batch).item() == pytest.approx(4.0)
    assert saliency_per_token(t5.teacher, batch).item() == pytest.approx(5.0)
    assert gradient_x_input(t5.teacher, batch).item() == pytest.approx(4.0)
    integrated = integrated_gradients(t5.teacher, batch, baseline_D=torch.tensor([7.0, 0.5]), steps=3)
    assert integrated.item() == pytest.approx(4.0 * 0.5)


def test_the_model_is_left_as_it_was(t5, task):
    t5.student.train()
    learning = [weights.requires_grad for weights in t5.student.parameters()]
    with torch.no_grad():
        saliency(t5.student, batch_of(t5, examples_of(t5, task)))
    assert t5.student.training
    assert [weights.requires_grad for weights in t5.student.parameters()] == learning
    assert all(learning)
    assert all(weights.grad is None for weights in t5.student.parameters())
    assert not embedder(t5.student)._forward_hooks
    assert math.isfinite(saliency(t5.student, batch_of(t5, examples_of(t5, task))).sum())
