"""The compiled decode step against the library's, and beside torch's on one KV cache."""

from collections import Counter
from typing import Any

import pytest
import torch

from tests.decoding.models.test_families import (
    BART,
    CAUSAL,
    MODELS,
    SEQ2SEQ,
    SEQ2SEQ_MODELS,
    TOLERANCE,
    build,
    texts,
    worst_error,
)
from tests.decoding.tiny import VOCABULARY
from wheels.decoding.models import backends
from wheels.decoding.models.backends import decoder_for, is_installed, use_backend
from wheels.decoding.models.cache import BLOCK
from wheels.decoding.models.fast import FastDecoder
from wheels.decoding.models.fast_positions import FIRST_TABLE
from wheels.decoding.models.registry import fast_decoder_for
from wheels.decoding.models.runner import Runner
from wheels.errors import WheelsError

needs_onnx = pytest.mark.skipif(not is_installed(), reason="ONNX Runtime is not installed")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Choose ONNX Runtime, and count the passes that it ran and those that torch ran."""
    from wheels.decoding.models.compiled.binding import Binding

    counts: Counter[str] = Counter()
    for owner, name, what in ((Binding, "run", "onnx"), (FastDecoder, "forward", "torch")):
        monkeypatch.setattr(owner, name, counting(getattr(owner, name), counts, what))
    use_backend("onnx")
    return counts


def counting(function: Any, counts: Counter[str], what: str) -> Any:
    def count(*args: Any) -> Any:
        counts[what] += 1
        return function(*args)

    return count


@needs_onnx
@pytest.mark.parametrize("name", MODELS)
def test_the_compiled_step_equals_the_librarys(name, passes):
    """Rows alone and together, in any order, rolled back, one token and several; other passes are torch's."""
    assert worst_error(build(name)) < TOLERANCE
    assert min(passes["onnx"], passes["torch"]) > 10


@needs_onnx
@pytest.mark.parametrize("name", ["t5-plain", "bart"])
@pytest.mark.parametrize(("weights", "bound"), [("float32", TOLERANCE), ("int8", 0.1)])
def test_heads_of_any_size_are_read(name, weights, bound, passes, monkeypatch):
    """Of 6 and 5 numbers, without and with biases."""
    monkeypatch.setitem(SEQ2SEQ, "d_kv", 6)
    monkeypatch.setitem(BART, "d_model", 20)
    assert worst_error(build(name), weights=weights) < bound
    assert min(passes["onnx"], passes["torch"]) > 10


@needs_onnx
@pytest.mark.parametrize("name", ["llama-biased", "t5-plain", "bart"])
def test_in_int8_a_step_is_torchs(name, passes):
    """Until rounding in float32 moves a state over the middle of two whole numbers, which then stays in the cache."""
    model, (texts_BT, sources) = build(name), texts()
    runners = []
    for backend in ("onnx", "torch"):
        use_backend(backend)
        runners.append(Runner(model, 4, VOCABULARY, weights="int8"))
        runners[-1].admit(range(4), sources)
    errors = []
    for length in range(1, 20):
        output = [runner.read(None, texts_BT, torch.full((4,), length)).logits_RV for runner in runners]
        errors.append(float((output[0] - output[1]).abs().max() / output[1].abs().max()))
    assert max(errors[:3]) < TOLERANCE
    assert max(errors) < 0.03
    assert passes == {"onnx": 19, "torch": 19}


@needs_onnx
def test_whole_numbers_that_overflow_are_left_to_torch(monkeypatch):
    from wheels.decoding.models.compiled import int8

    use_backend("auto")
    assert type(decoder_for(build("llama"), "int8")) is not FastDecoder
    monkeypatch.setattr(int8, "is_exact", lambda: False)
    assert type(decoder_for(build("llama"), "int8")) is FastDecoder


@needs_onnx
@pytest.mark.parametrize("name", SEQ2SEQ_MODELS)
@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_the_compiled_encoder_equals_torchs(name, kind):
    """Of sources of several lengths, whose padding nobody reads."""
    model = build(name)
    fast: Any = fast_decoder_for(model, kind)
    use_backend("onnx")
    made: Any = decoder_for(model, kind)
    lengths = (7, 12, 1)
    ids_RS = torch.randint(2, VOCABULARY, (3, 12))
    seen_RS = (torch.arange(12) < torch.tensor(lengths)[:, None]).long()
    for own, expected in zip(made.encoder(ids_RS, seen_RS), fast.encoder(ids_RS, seen_RS), strict=True):
        for mine, theirs in zip(own, expected, strict=True):
            assert mine.shape == theirs.shape
            errors = [(mine - theirs)[row, :, :length].abs() for row, length in enumerate(lengths)]
            assert max(float(each.max()) for each in errors) < {"float32": TOLERANCE, "int8": 0.03}[kind] * theirs.max()


def misplaced(binding: Any) -> None:
    binding.position_N += (binding.position_N > 3).long()


def one_short(binding: Any) -> None:
    binding.last_R -= (binding.last_R > 3).int()


def sources_unmasked(binding: Any) -> None:
    binding.source_R.fill_(12)


MISTAKES = [
    *((name, one_short) for name in ("llama-grouped", "t5-plain", "gpt2", "bart")),
    *((name, misplaced) for name in ("gpt2", "t5-plain")),
    *((name, sources_unmasked) for name in ("marian", "t5-plain")),
]


@needs_onnx
@pytest.mark.parametrize(("name", "mistake"), MISTAKES)
def test_a_wrong_position_or_mask_is_seen(name, mistake, passes, monkeypatch):
    """The negative control."""
    from wheels.decoding.models.compiled.binding import Binding

    run = Binding.run

    def mistaken(self: Any) -> Any:
        mistake(self)
        self.rows = []  # or the mistake would last
        return run(self)

    monkeypatch.setattr(Binding, "run", mistaken)
    assert worst_error(build(name)) > 100 * TOLERANCE


@needs_onnx
@pytest.mark.parametrize("name", ["llama-grouped", "t5-plain", "gpt2"])
def test_a_row_that_waits_keeps_what_it_read(name, passes):
    """Two of three rows read on, past the end of the stores; the third then reads as if it were alone."""
    model, (texts_BT, sources) = build(name), texts()
    texts_BT = torch.randint(2, VOCABULARY, (3, BLOCK))
    runner, alone = Runner(model, 3, VOCABULARY), Runner(model, 1, VOCABULARY, fast=False)
    runner.admit(range(3), sources[:3])
    runner.read(None, texts_BT, torch.tensor([4, 7, 2]))
    for length in range(8, 40):
        runner.read(torch.tensor([2, 0]), texts_BT, torch.tensor([length - 3, 7, length - 5]))
    alone.admit([0], [sources[1]])
    output = [
        each.read(rows_R, texts_BT[one:], torch.tensor(lengths)).logits_RV
        for each, rows_R, one, lengths in ((runner, torch.tensor([1]), 0, [0, 8, 0]), (alone, None, 1, [8]))
    ]
    assert (output[0] - output[1]).abs().max() < TOLERANCE * output[1].abs().max()
    assert passes["onnx"] > 30


@needs_onnx
@pytest.mark.parametrize("name", ["llama", "t5-plain"])
def test_positions_beyond_the_first_table_and_store_are_read(name, passes):
    model, length = build(name), FIRST_TABLE + 20
    output, text_1T = [], (torch.arange(length) % 9 + 3)[None]
    for way in (True, False):
        runner = Runner(model, 1, VOCABULARY, fast=way)
        runner.admit([0], [[3, 4]])
        runner.read(None, text_1T, torch.tensor([FIRST_TABLE - 2]))
        for each in range(FIRST_TABLE - 1, length + 1):
            logits_RV = runner.read(None, text_1T, torch.tensor([each])).logits_RV
        output.append(logits_RV)
    assert (output[0] - output[1]).abs().max() < TOLERANCE * output[1].abs().max()
    assert passes["onnx"] > 20


@needs_onnx
def test_a_model_that_cannot_be_compiled_is_torchs_or_refused():
    model = build("llama").bfloat16()
    use_backend("auto")
    assert type(decoder_for(model)) is FastDecoder
    assert type(decoder_for(build("llama"))) is not FastDecoder
    use_backend("onnx")
    with pytest.raises(WheelsError, match="backend 'onnx' cannot run LlamaForCausalLM as it is here"):
        decoder_for(model)


@needs_onnx
@pytest.mark.parametrize("head_dim", [12, 24])
def test_rotated_heads_of_an_odd_size_are_torchs(head_dim, monkeypatch):
    """Zeros after them would be rotated too."""
    monkeypatch.setitem(CAUSAL, "head_dim", head_dim)
    use_backend("auto")
    assert type(decoder_for(build("llama"))) is FastDecoder


@needs_onnx
def test_a_decoder_is_compiled_once_and_again_for_other_weights_or_threads(passes):
    model, threads = build("llama"), torch.get_num_threads()
    made = decoder_for(model)
    assert decoder_for(model) is made
    with torch.no_grad():
        next(model.parameters()).add_(1)
    changed = decoder_for(model)
    assert changed is not made
    try:
        torch.set_num_threads(threads + 1)
        assert decoder_for(model) is not changed
    finally:
        torch.set_num_threads(threads)


def test_without_onnx_runtime_torch_runs_and_onnx_is_refused(monkeypatch):
    monkeypatch.setattr(backends, "is_installed", lambda: False)
    use_backend("auto")
    assert type(decoder_for(build("llama"))) is FastDecoder
    with pytest.raises(WheelsError, match=r"pip install 'training-wheels\[onnx\]'"):
        use_backend("onnx")
    with pytest.raises(WheelsError, match="backend must be one of"):
        use_backend("tensorflow")
