"""Compiled passes against the library's, and beside torch's on one KV cache."""

from collections import Counter
from typing import Any

import pytest
import torch

from tests.decoding.models.test_families import (
    BART,
    CAUSAL,
    MODELS,
    SEQ2SEQ,
    SEQ2SEQ_EACH,
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
    """Choose ONNX Runtime, and count the steps and ragged passes that it ran, and the passes that torch ran."""
    from wheels.decoding.models.compiled.decoder import CompiledDecoder

    counts: Counter[str] = Counter()
    ways = (
        (CompiledDecoder, "step", "step"),
        (CompiledDecoder, "_step", "step"),
        (CompiledDecoder, "_ragged_pass", "ragged"),
        (FastDecoder, "forward", "torch"),
    )
    for owner, name, what in ways:
        monkeypatch.setattr(owner, name, counting(getattr(owner, name), counts, what))
    use_backend("onnx")
    return counts


def counting(function: Any, counts: Counter[str], what: str) -> Any:
    def count(*args: Any) -> Any:
        result = function(*args)
        counts[what] += result is not None  # None: left to another way
        return result

    return count


@needs_onnx
@pytest.mark.parametrize("name", MODELS)
def test_a_compiled_pass_equals_the_librarys(name, passes):
    """Rows alone and together, in any order, rolled back, one token and several, as many in each row or not."""
    assert worst_error(build(name)) < TOLERANCE
    assert min(passes["step"], passes["ragged"]) > 10 and not passes["torch"]


@needs_onnx
@pytest.mark.parametrize(("name", "by_torch"), [("llama", True), ("t5-plain", True), ("llama-grouped", False)])
def test_long_texts_of_different_amounts_are_torchs_unless_heads_share_keys(name, by_torch, passes, monkeypatch):
    from wheels.decoding.models.compiled import decoder

    monkeypatch.setattr(decoder, "GATHERED", 0)
    assert worst_error(build(name)) < TOLERANCE
    assert min(passes["step"], passes["ragged"]) > 3
    assert bool(passes["torch"]) == by_torch


@needs_onnx
@pytest.mark.parametrize("name", ["t5-plain", "bart"])
@pytest.mark.parametrize(("weights", "bound"), [("float32", TOLERANCE), ("int8", 0.1)])
def test_heads_of_any_size_are_read(name, weights, bound, passes, monkeypatch):
    """Of 6 and 5 numbers, without and with biases."""
    monkeypatch.setitem(SEQ2SEQ, "d_kv", 6)
    monkeypatch.setitem(BART, "d_model", 20)
    assert worst_error(build(name), weights=weights) < bound
    assert min(passes["step"], passes["ragged"]) > 10


@needs_onnx
@pytest.mark.parametrize("name", ["llama-biased", "t5-plain", "bart"])
@pytest.mark.parametrize(("way", "counts"), [("step", (1, 1, 1, 1)), ("ragged", (1, 2, 1, 3))])
def test_in_int8_a_pass_is_torchs(name, way, counts, passes):
    """Until rounding in float32 moves a state over the middle of two whole numbers, which then stays in the cache."""
    model, (texts_BT, sources) = build(name), texts()
    runners = []
    for backend in ("onnx", "torch"):
        use_backend(backend)
        runners.append(Runner(model, 4, VOCABULARY, weights="int8"))
        runners[-1].admit(range(4), sources)
    errors = []
    for turn in range(1, 14):
        output = [runner.read(None, texts_BT, turn * torch.tensor(counts)).logits_RV for runner in runners]
        errors.append(float((output[0] - output[1]).abs().max() / output[1].abs().max()))
    assert max(errors[:3]) < TOLERANCE
    assert max(errors) < 0.03
    assert passes == {way: 13, "torch": 13}


@needs_onnx
def test_whole_numbers_that_overflow_are_left_to_torch(monkeypatch):
    from wheels.decoding.models.compiled import int8

    use_backend("auto")
    assert type(decoder_for(build("llama"), "int8")) is not FastDecoder
    monkeypatch.setattr(int8, "is_exact", lambda: False)
    assert type(decoder_for(build("llama"), "int8")) is FastDecoder


@needs_onnx
@pytest.mark.parametrize("name", SEQ2SEQ_EACH)
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


def misplaced(told: dict[str, torch.Tensor]) -> None:
    told["position_N"] += (told["position_N"] > 3).long()


def one_short(told: dict[str, torch.Tensor]) -> None:
    told["last_R"] -= (told["last_R"] > 3).int()


def sources_unmasked(told: dict[str, torch.Tensor]) -> None:
    told["source_R"].fill_(12)


def written_elsewhere(told: dict[str, torch.Tensor]) -> None:
    told["write_X2"][:, 1] ^= 1


def of_another_row(told: dict[str, torch.Tensor]) -> None:
    told["page_X"] = told["page_X"].flip(0)


STEP_MISTAKES = [
    *((name, one_short) for name in ("llama-grouped", "t5-plain", "gpt2", "bart")),
    *((name, misplaced) for name in ("gpt2", "t5-plain")),
    *((name, sources_unmasked) for name in ("marian", "t5-plain")),
]
RAGGED_MISTAKES = [
    *((name, misplaced) for name in ("llama-grouped", "gpt2", "t5-plain")),
    *((name, sources_unmasked) for name in ("marian", "t5-plain")),
    *((name, mistake) for name in ("llama", "t5-plain") for mistake in (written_elsewhere, of_another_row)),
]


@needs_onnx
@pytest.mark.parametrize(("name", "mistake"), STEP_MISTAKES)
def test_a_wrong_position_or_mask_of_a_step_is_seen(name, mistake, passes, monkeypatch):
    """The negative control."""
    from wheels.decoding.models.compiled.binding import StepBinding

    run = StepBinding.run

    def mistaken(self: Any) -> Any:
        mistake(vars(self))
        self.rows = []  # or the mistake would last
        return run(self)

    monkeypatch.setattr(StepBinding, "run", mistaken)
    assert worst_error(build(name)) > 100 * TOLERANCE


@needs_onnx
@pytest.mark.parametrize(("name", "mistake"), RAGGED_MISTAKES)
def test_a_wrong_position_or_mask_of_a_ragged_pass_is_seen(name, mistake, passes, monkeypatch):
    from wheels.decoding.models.compiled import decoder

    layout = decoder.layout

    def mistaken(*args: Any) -> Any:
        told = layout(*args)
        told["position_N"] = told["position_N"].clone()
        mistake(told)
        return told

    monkeypatch.setattr(decoder, "layout", mistaken)
    assert worst_error(build(name)) > 100 * TOLERANCE


@needs_onnx
def test_later_positions_that_a_ragged_pass_sees_are_seen(passes, monkeypatch):
    from wheels.decoding.models.compiled.ragged import RaggedWriter

    monkeypatch.setattr(RaggedWriter, "_causal", lambda self, share: "")
    assert worst_error(build("llama")) > 100 * TOLERANCE


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
    assert passes["step"] > 30


@needs_onnx
@pytest.mark.parametrize("name", ["llama", "t5-plain"])
@pytest.mark.parametrize(("way", "counts"), [("step", (1,)), ("ragged", (1, 2))])
def test_positions_beyond_the_first_table_and_store_are_read(name, way, counts, passes):
    model, length = build(name), FIRST_TABLE + 20
    output, texts_BT = [], torch.arange(2 * length).view(2, -1)[: len(counts)] % 9 + 3
    for fast in (True, False):
        runner = Runner(model, len(counts), VOCABULARY, fast=fast)
        runner.admit(range(len(counts)), [[3, 4], [5]][: len(counts)])
        length_B = torch.tensor([FIRST_TABLE - 2, FIRST_TABLE - 25][: len(counts)])
        runner.read(None, texts_BT, length_B)
        while length_B.max() < length:
            length_B = length_B + torch.tensor(counts)
            logits_RV = runner.read(None, texts_BT, length_B).logits_RV
        output.append(logits_RV)
    assert (output[0] - output[1]).abs().max() < TOLERANCE * output[1].abs().max()
    assert passes[way] > 20


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
