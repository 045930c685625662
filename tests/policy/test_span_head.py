"""The span head: what it reads, and what it may say."""

import pytest
import torch

from wheels.policy.features import CANDIDATES, SCALARS
from wheels.policy.span_head import SpanHead

HIDDEN = 5
WIDTH = HIDDEN + len(SCALARS) + CANDIDATES


@pytest.fixture
def head() -> SpanHead:
    torch.manual_seed(0)
    return SpanHead((2, 4))


def test_neither_the_hidden_state_nor_the_tokens_count(head):
    features_BF = torch.randn(1, WIDTH).repeat(WIDTH, 1) + torch.eye(WIDTH)
    same = head(features_BF[:1] - torch.eye(WIDTH)[:1], torch.tensor([0.2]))
    differs_F = (head(features_BF, torch.full((WIDTH,), 0.2)) - same).abs().amax(-1) > 1e-5
    assert differs_F.tolist() == [False] * HIDDEN + [True] * len(SCALARS) + [False] * CANDIDATES
    assert not torch.allclose(head(features_BF[:1], torch.tensor([0.5])), head(features_BF[:1], torch.tensor([0.2])))


def test_a_span_writes_one_token_at_least_and_no_more_than_it_has(head):
    with torch.no_grad():
        head.net[-1].weight.zero_()
        head.net[-1].bias.copy_(torch.tensor([0.5, -1.5, 0.2, 9.0]))
    more_BK, written_BK = head.expected(torch.randn(3, WIDTH), torch.zeros(3))
    assert more_BK.tolist() == [[0.5, -1.5]] * 3, "a gain may be below that of one token"
    assert written_BK.tolist() == [[1.0, 4.0]] * 3
