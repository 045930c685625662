"""The deferral head within a compiled student's pass, against torch's features and head."""

from dataclasses import replace

import pytest
import torch

from tests.decoding.tiny import make_pair, write
from wheels.decoding.methods.rule import Rule
from wheels.decoding.methods.rules import HeadScore, RouterScore
from wheels.decoding.models.backends import decoder_for, is_installed, use_backend
from wheels.decoding.models.fast import FastDecoder
from wheels.decoding.models.head_inputs import HeadInputs
from wheels.decoding.step import Step
from wheels.models.pair import Pair
from wheels.policy.copy_features import NAMES, CopyPointer
from wheels.policy.features import CANDIDATES, feature_width, features
from wheels.policy.head import DeferralHead, HeadConfig

WIDTH, VOCABULARY = 6, 90
SOURCE = [3, 5, 3, 7, 9, 5, 2]
TEXTS = [[], [3], [3, 5], [7, 4], [9, 5, 2]]
"""Before the source, within it, past its last 7, and at its end."""
CLOSE = {"rtol": 1e-5, "atol": 1e-4}

pytestmark = pytest.mark.skipif(not is_installed(), reason="ONNX Runtime is not installed")


def head(
    shift_reads: str, candidates: int, unread: int = 0, width: int = WIDTH, vocab_size: int = VOCABULARY
) -> DeferralHead:
    made = DeferralHead(
        HeadConfig(feature_width(width) - CANDIDATES - unread, 16, candidates, vocab_size, 8, shift_reads)
    )
    for weight in (*made.parameters(), made.mean_F):
        torch.nn.init.normal_(weight)
    made.scale_F.uniform_(0.5, 2)
    return made.requires_grad_(False)


def both_gains(own: DeferralHead, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gains of a text's states by torch and in a graph; one is sure of its token, and the logits end in padding."""
    from wheels.decoding.models.compiled.graph import Graph, make_session
    from wheels.decoding.models.compiled.score import HeadWriter

    torch.manual_seed(0)
    rows, pointers, told = len(TEXTS), [CopyPointer(SOURCE) for _ in TEXTS], HeadInputs(len(TEXTS))
    logits_BV, hidden_BD = 3 * torch.randn(rows, VOCABULARY), torch.randn(rows, WIDTH)
    logits_BV[1, 3] += 200
    for row, token in enumerate((9, 5, 7, 2, 5)):  # that copies jump to, or not
        logits_BV[row, token] += 12
    budget_B = torch.linspace(0, 1, rows)
    for row in range(rows):
        told.admit(row, SOURCE)
    states = zip(TEXTS, budget_B.tolist(), pointers, strict=True)
    told.tell(list(range(rows)), [(len(text), len(SOURCE), own, each.follow(text)) for text, own, each in states])

    def copies(token_BK: torch.Tensor) -> torch.Tensor:
        return torch.tensor([pointer.features(best) for pointer, best in zip(pointers, token_BK.tolist(), strict=True)])

    position_B, source_B = torch.tensor([len(text) for text in TEXTS]), torch.full((rows,), len(SOURCE))
    features_BF = features(hidden_BD, logits_BV.log_softmax(-1), position_B, source_B, copies)
    graph = Graph()
    logits_MV = graph.input("logits_MV", torch.float32, ["M", VOCABULARY + padding])
    hidden_MD = graph.input("hidden_MD", torch.float32, ["M", WIDTH])
    HeadWriter(graph, own, VOCABULARY).write(logits_MV, VOCABULARY + padding, hidden_MD, WIDTH)
    padded_BV = torch.nn.functional.pad(logits_BV, (0, padding), value=500.0)
    inputs = {"logits_MV": padded_BV, "hidden_MD": hidden_BD, **told.of(None)}
    session = make_session(graph)
    (gain_B1,) = session.run(None, {each.name: inputs[each.name].numpy() for each in session.get_inputs()})
    return own.gain(features_BF, budget_B), torch.from_numpy(gain_B1)[:, 0]


@pytest.mark.parametrize("blocks", [8, 64])
@pytest.mark.parametrize("shift_reads", ["trunk", "numbers"])
@pytest.mark.parametrize(("candidates", "unread"), [(0, len(NAMES)), (0, 0), (CANDIDATES, 0)])
def test_the_gain_is_torchs(shift_reads, candidates, unread, blocks, monkeypatch):
    from wheels.decoding.models.compiled import score

    monkeypatch.setattr(score, "BLOCKS", blocks)
    for padding in (0, 3):
        expected, found = both_gains(head(shift_reads, candidates, unread), padding)
        torch.testing.assert_close(found, expected, **CLOSE)
        assert (expected[:, None] - expected).abs().max() > 1, "states differ"


class Watching:
    """A score that compares the pass's gain with torch's; a rule reads it as its head's."""

    def __init__(self, kind: type[HeadScore]) -> None:
        self.kind, self.seen = kind, 0

    def __call__(self, own: DeferralHead) -> HeadScore:
        watcher = self

        class Compared(self.kind):  # type: ignore[name-defined, misc]
            def __call__(self, step: Step) -> torch.Tensor:
                assert step.gain_B is not None
                expected = self.head.gain(step.features_BF, step.budget_B)
                torch.testing.assert_close(step.gain_B, expected, **CLOSE)
                watcher.seen += len(expected)
                return super().__call__(replace(step, gain_B=expected))

        return Compared(own)


def single(pair: Pair) -> Pair:
    """The pair in float32."""
    pair.student.float(), pair.teacher.float()
    return pair


@pytest.mark.slow
@pytest.mark.parametrize(("family", "seed"), [("t5", 0), ("gpt2", 2)])
@pytest.mark.parametrize("kind", [HeadScore, RouterScore])
def test_the_student_computes_it_in_its_own_pass(family, seed, kind, monkeypatch):
    """Steps and ragged passes, texts that come and go, rows that call and rows that do not."""
    from wheels.decoding.models.compiled import decoder

    monkeypatch.setattr(decoder, "SPARSE", 1.5)
    torch.manual_seed(seed)  # of a head that calls in some of these texts
    pair, watching = single(make_pair(family)), Watching(kind)
    own = head("numbers", CANDIDATES, width=pair.student.config.hidden_size, vocab_size=pair.vocab_size)
    sources = [" ".join("abcdefgh"[: 3 + number % 5]) for number in range(9)]
    texts = {}
    for backend in ("onnx", "torch"):
        use_backend(backend)
        rule = Rule("learned", (watching if backend == "onnx" else kind)(own)).at(0.0)
        texts[backend] = [write(pair, sources, rule, max_new_tokens=12, batch_size=size) for size in (1, 4)]
    assert watching.seen > 50
    first = [[(trace.token_ids, trace.authors) for trace in traces] for traces in texts["onnx"]]
    assert first == [[(trace.token_ids, trace.authors) for trace in traces] for traces in texts["torch"]]
    assert len({author for _, authors in first[0] for author in authors}) == 2, "some call and some do not"


def test_a_head_is_compiled_once_and_again_for_other_weights():
    pair = single(make_pair("t5"))
    own = head("numbers", CANDIDATES, width=pair.student.config.hidden_size, vocab_size=pair.vocab_size)
    use_backend("onnx")
    made, plain = (decoder_for(pair.student, head=each, vocab_size=pair.vocab_size) for each in (own, None))
    assert made is decoder_for(pair.student, head=own, vocab_size=pair.vocab_size) is not plain
    assert plain is decoder_for(pair.student)
    own.mean_F.add_(1)
    assert decoder_for(pair.student, head=own, vocab_size=pair.vocab_size) is not made


def test_a_head_that_cannot_be_compiled_is_torchs():
    pair = single(make_pair("t5"))
    own = head("trunk", 0, width=pair.student.config.hidden_size)
    assert isinstance(decoder_for(pair.student, head=own, vocab_size=pair.vocab_size), FastDecoder), "unless chosen"
    use_backend("onnx")
    plain = decoder_for(pair.student)
    assert decoder_for(pair.student, head=own, vocab_size=5) is plain, "fewer tokens than the features read"
    assert decoder_for(pair.student, head=own.double(), vocab_size=pair.vocab_size) is plain
