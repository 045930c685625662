"""The compiled deferral head, and its features, against torch's."""

import pytest
import torch

from wheels.decoding.methods.rules import head_score
from wheels.decoding.models.backends import compiled_head_for, is_installed, use_backend
from wheels.decoding.step import Step
from wheels.policy.copy_features import NAMES
from wheels.policy.features import CANDIDATES, feature_width
from wheels.policy.head import DeferralHead, HeadConfig

ROWS, WIDTH, VOCABULARY = 5, 6, 50

pytestmark = pytest.mark.skipif(not is_installed(), reason="ONNX Runtime is not installed")


def step(vocabulary: int = VOCABULARY) -> Step:
    """States of which one is sure of its token: the other log-probabilities are floored."""
    logits_BV = 3 * torch.randn(ROWS, vocabulary)
    logits_BV[1, 3] += 200
    copies = torch.rand(vocabulary, len(NAMES))
    return Step(
        logits_BV=logits_BV,
        hidden_BD=torch.randn(ROWS, WIDTH),
        position_B=torch.arange(ROWS) * 3,
        source_B=torch.arange(ROWS) + 4,
        calls_B=torch.zeros(ROWS, dtype=torch.long),
        budget_B=torch.linspace(0, 1, ROWS, dtype=torch.float64),
        index_B=torch.arange(ROWS),
        noise=lambda position_B: torch.zeros(ROWS),
        copy_features=lambda token_BK: copies[token_BK.sum(-1) % vocabulary],
    )


def head(shift_reads: str, candidates: int, unread: int = 0) -> DeferralHead:
    features = feature_width(WIDTH) - CANDIDATES - unread
    made = DeferralHead(HeadConfig(features, 16, candidates, VOCABULARY, 8, shift_reads))
    for weight in (*made.parameters(), made.mean_F):
        torch.nn.init.normal_(weight)
    made.scale_F.uniform_(0.5, 2)
    return made


@pytest.mark.parametrize("shift_reads", ["trunk", "numbers"])
@pytest.mark.parametrize(("candidates", "unread"), [(0, len(NAMES)), (CANDIDATES, 0)])
def test_the_compiled_gain_is_torchs(shift_reads, candidates, unread):
    own, told = head(shift_reads, candidates, unread), step()
    expected = own.gain(told.features_BF, told.budget_B).detach()
    use_backend("onnx")
    assert compiled_head_for(own, told.logits_BV) is not None
    torch.testing.assert_close(head_score(own)(told), expected, rtol=1e-5, atol=1e-4)
    assert (expected[:, None] - expected).abs().max() > 1, "states differ"


def test_a_head_is_compiled_once_and_again_for_other_weights():
    own, told = head("numbers", 4), step()
    assert compiled_head_for(own, told.logits_BV) is None, "torch runs it unless chosen"
    use_backend("onnx")
    made = compiled_head_for(own, told.logits_BV)
    assert compiled_head_for(own, told.logits_BV) is made
    own.mean_F.add_(1)
    assert compiled_head_for(own, told.logits_BV) is not made


def test_what_cannot_be_compiled_is_torchs():
    own = head("trunk", 0)
    use_backend("onnx")
    assert compiled_head_for(own, step(5).logits_BV) is None, "fewer tokens than the features read"
    assert compiled_head_for(own.double(), step().logits_BV) is None
    assert compiled_head_for(own, step().logits_BV.double()) is None
