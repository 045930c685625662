"""Attribution: how much each source token moves the target's log-probability, by gradients at the embeddings.

With `f_b = (1/T_b) sum_t log p(y_t | x, y_<t)`, the mean log-probability of row b's target tokens (its end token among
them), and `e_i` the embedding of source token i:

    saliency               || d f / d e_i ||                       one backward pass for a batch
    saliency per token     (1/T) sum_t || d log p(y_t) / d e_i ||  one backward pass for each target token
    gradient x input       < d f / d e_i, e_i >
    integrated gradients   < e_i - e', integral over a in [0, 1] of d f / d e_i at e' + a (e - e') >

The first is the norm of a mean, the second the mean of norms: never below the first, and equal for a target of one
token. Where two target tokens pull a source token's embedding in opposite directions the first calls it unimportant,
and the second does not. Both are readings of "averaged over target tokens" (Ballout et al. 2024,
https://arxiv.org/abs/2409.12586). Integrated gradients: Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365.

Rows do not see each other: `f` is summed over them, and each has a gradient of its own. Axes: S source positions (those
of `input_ids`), T target positions, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from wheels.distillation.collate import Batch, target_states
from wheels.distillation.generation import evaluating
from wheels.distillation.losses import IGNORED, target_log_probs
from wheels.models.chosen_states import read_at


def saliency(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return `|| d f / d e_i ||`, [B, S], at least 0; 0 at padding."""
    with differentiable(model):
        embeddings_BSD = embed(model, batch).requires_grad_()
        (gradient_BSD,) = torch.autograd.grad(mean_log_p(model, batch, embeddings_BSD).sum(), embeddings_BSD)
    return gradient_BSD.norm(dim=-1) * source_mask(model, batch)


def saliency_per_token(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return `(1/T) sum_t || d log p(y_t) / d e_i ||`, [B, S]: one backward pass for each target position."""
    with differentiable(model):
        embeddings_BSD = embed(model, batch).requires_grad_()
        log_p_BT, target_BT = target_log_p(model, batch, embeddings_BSD)
        total_BS = torch.zeros_like(embeddings_BSD[..., 0])
        columns = target_BT.any(dim=0).nonzero().flatten().tolist()
        for t in columns:
            (gradient_BSD,) = torch.autograd.grad(log_p_BT[:, t].sum(), embeddings_BSD, retain_graph=t != columns[-1])
            total_BS += gradient_BSD.norm(dim=-1)
    return total_BS / target_BT.sum(dim=1, keepdim=True) * source_mask(model, batch)


def gradient_x_input(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return `< d f / d e_i, e_i >`, [B, S], of either sign: above 0 speaks for the target."""
    with differentiable(model):
        embeddings_BSD = embed(model, batch).requires_grad_()
        (gradient_BSD,) = torch.autograd.grad(mean_log_p(model, batch, embeddings_BSD).sum(), embeddings_BSD)
    return (gradient_BSD * embeddings_BSD.detach()).sum(dim=-1) * source_mask(model, batch)


def integrated_gradients(
    model: PreTrainedModel, batch: Batch, *, baseline_D: torch.Tensor, steps: int = 32
) -> torch.Tensor:
    """Return integrated gradients, [B, S], of either sign; they sum to `f(source) - f(baseline)` (completeness).

    Every position of the source moves from the baseline to its own embedding, its end token and the words of a causal
    prompt too; the target's own positions in a causal model stay as they are.

    Args:
        model: sequence-to-sequence or causal.
        batch: of a `Collator`.
        baseline_D: the embedding of "nothing here", [D], such as that of the end token. Zeros (which the
            padding of a Llama is) are a poor one where a model normalises what it reads: all of the change on the way
            then lies beside the baseline, and no number of steps finds it.
        steps: points of the Gauss-Legendre rule, each a forward and a backward pass; the sum misses completeness by
            less the more there are.
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    with differentiable(model):
        embeddings_BSD = embed(model, batch)
        way_BSD = (embeddings_BSD - baseline_D) * source_mask(model, batch).unsqueeze(-1)
        total_BSD = torch.zeros_like(way_BSD)
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
            # The rule is made for [-1, 1].
            at_BSD = (embeddings_BSD - (1.0 - node) / 2.0 * way_BSD).requires_grad_()
            (gradient_BSD,) = torch.autograd.grad(mean_log_p(model, batch, at_BSD).sum(), at_BSD)
            total_BSD += weight / 2.0 * gradient_BSD
    return (total_BSD * way_BSD).sum(dim=-1)


Method = Callable[[PreTrainedModel, Batch], torch.Tensor]
GRADIENTS: Mapping[str, Method] = {
    "saliency": saliency,
    "saliency-per-token": saliency_per_token,
    "gradient-x-input": gradient_x_input,
}
"""The methods that need no baseline."""


def mean_log_p(model: PreTrainedModel, batch: Batch, embeddings_BSD: torch.Tensor) -> torch.Tensor:
    """Return `f`, [B], in nats: the mean log-probability of each row's target tokens, for given embeddings."""
    log_p_BT, target_BT = target_log_p(model, batch, embeddings_BSD)
    return log_p_BT.sum(dim=1) / target_BT.sum(dim=1)


def target_log_p(
    model: PreTrainedModel, batch: Batch, embeddings_BSD: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `log p(y_t)` (0 without a target) and the mask of targets, both [B, T].

    Args:
        model: sequence-to-sequence or causal.
        batch: of a `Collator`; every row has a target.
        embeddings_BSD: what its input embedding gives in place of the embeddings of `input_ids`.
    """
    seq2seq = bool(model.config.is_encoder_decoder)
    chosen_BT, targets_N = target_states(batch["labels"], is_seq2seq=seq2seq)
    reads = {name: value for name, value in batch.items() if name != "labels"}
    with handing(embedder(model), embeddings_BSD):
        if seq2seq:
            ids, mask = reads.pop("input_ids"), reads["attention_mask"]
            encoded = model.get_encoder()(input_ids=ids, attention_mask=mask)
        else:
            logits_NV = read_at(model, reads, chosen_BT).logits_NV
    if seq2seq:
        # A decoder may share its embedding with the encoder, and reads its own tokens by it.
        logits_NV = read_at(model, reads, chosen_BT, encoder_outputs=encoded).logits_NV
    return target_log_probs(logits_NV, targets_N, chosen_BT), chosen_BT


def embed(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return the embeddings of `input_ids`, [B, S, D], as the model's input embedding gives them."""
    embeddings: torch.Tensor = embedder(model)(batch["input_ids"]).detach()
    return embeddings


def embedder(model: PreTrainedModel) -> torch.nn.Module:
    """Return the input embedding: the encoder's, where there is one."""
    reader: Any = model.get_encoder() if model.config.is_encoder_decoder else model
    module: torch.nn.Module = reader.get_input_embeddings()
    return module


def source_mask(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return the mask of source positions in `input_ids`, [B, S]: not padding, not the target of a causal model."""
    read_BS = batch["attention_mask"].bool()
    return read_BS if model.config.is_encoder_decoder else read_BS & (batch["labels"] == IGNORED)


@contextmanager
def handing(module: torch.nn.Module, output: torch.Tensor) -> Iterator[None]:
    """Make a module return `output` for any input, in a block.

    Unlike `inputs_embeds` this asks nothing of the model: some scale embeddings only where they look them up.
    """
    handle = module.register_forward_hook(lambda *_: output)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def differentiable(model: PreTrainedModel) -> Iterator[None]:
    """Enable gradients and disable dropout in a block, without gradients of the weights, to save memory."""
    learning = [weights for weights in model.parameters() if weights.requires_grad]
    try:
        with torch.enable_grad(), evaluating(model):
            for weights in learning:
                weights.requires_grad_(False)
            yield
    finally:
        for weights in learning:
            weights.requires_grad_(True)
