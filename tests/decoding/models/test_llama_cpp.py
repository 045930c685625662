"""llama.cpp's passes over a GGUF file, against torch's over the same weights and llama.cpp's own greedy decoding."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from tests.models.packed import VOCABULARY, gguf_of
from wheels.cli.main import main
from wheels.decoding.methods.method import deferral, speculative, student_only, teacher_only
from wheels.decoding.methods.rules import RULES
from wheels.decoding.models.backends import use_backend
from wheels.decoding.models.cache import BLOCK
from wheels.decoding.models.runner import Runner
from wheels.decoding.params import DecodeParams
from wheels.decoding.streaming import decode
from wheels.errors import WheelsError
from wheels.models.loading import load_model
from wheels.models.pair import Pair

needs_llama = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("llama_cpp", "gguf")), reason="llama.cpp is not installed"
)
SIZES = {"student": (16, 1), "teacher": (32, 2)}
TEXTS = ["a b c", "d", "a a d c b a", "c b", "b"]
TOLERANCE = 0.15
"""Of numbers whose deviation is about 6: llama.cpp keeps keys and values in float16. A wrong position is off by 3."""
PARAMS = DecodeParams(max_new_tokens=24)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A student and a teacher of random weights in float32."""
    pytest.importorskip("gguf")
    folder, made = tmp_path_factory.mktemp("packed"), {}
    for name, (width, layers) in SIZES.items():
        torch.manual_seed(width)
        config = Qwen2Config(
            vocab_size=VOCABULARY, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256, rms_norm_eps=1e-6,
            tie_word_embeddings=False, initializer_range=0.5,
        )  # fmt: skip
        made[name] = folder / f"{name}.gguf"
        gguf_of(Qwen2ForCausalLM(config), made[name])
    return made


@pytest.fixture
def pairs(files: dict[str, Path]) -> Iterator[tuple[Pair, Pair]]:
    """The pair as llama.cpp reads it, and as torch does."""
    use_backend("llama.cpp")
    theirs = Pair.load(files["student"], files["teacher"])
    use_backend("torch")
    yield theirs, Pair.load(files["student"], files["teacher"])
    use_backend("torch")


@needs_llama
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    "method",
    [teacher_only(), student_only(), deferral(RULES["margin"].at(-0.3)), speculative(3)],
    ids=["teacher", "student", "deferral", "speculative"],
)
def test_texts_are_torchs(pairs, method, batch_size):
    theirs, ours = (decode(pair, TEXTS, method, PARAMS, batch_size=batch_size) for pair in pairs)
    assert [each.token_ids for each in theirs] == [each.token_ids for each in ours]
    assert [each.authors for each in theirs] == [each.authors for each in ours]
    assert len({each.token_ids for each in theirs}) > 2


@needs_llama
def test_the_teacher_alone_writes_what_llama_cpp_does_by_itself(pairs, files):
    from llama_cpp import Llama

    pair = pairs[0]
    alone: Any = Llama(str(files["teacher"]), n_ctx=128, verbose=False, logits_all=False)
    for text, trace in zip(TEXTS, decode(pair, TEXTS, teacher_only(), PARAMS, batch_size=2), strict=True):
        alone.reset()
        prompt, written = list(pair.encode([text])[0]), list[int]()
        for token in alone.generate(prompt, temp=0.0, repeat_penalty=1.0):
            written.append(int(token))
            if token in pair.eos_ids or len(written) == PARAMS.max_new_tokens:
                break
        assert list(trace.token_ids) == written


@needs_llama
@pytest.mark.parametrize("hidden", [True, False])
def test_ragged_passes_compute_what_torchs_do_beyond_the_first_block_too(pairs, hidden):
    tokens_BT = torch.randint(3, VOCABULARY, (3, 3 * BLOCK), generator=torch.Generator().manual_seed(0))
    runners = [Runner(pair.teacher, 3, VOCABULARY, hidden=hidden) for pair in pairs]
    for runner in runners:
        runner.admit(range(3), [[1]] * 3)
    steps: list[tuple[list[int], list[int] | None]] = [
        ([5, 1, 9], None), ([6, 2, 10], None), ([9, 9, 12], [2, 4, 1]), ([BLOCK + 3, 20, BLOCK], None),
        ([BLOCK + 4, 3 * BLOCK - 1, BLOCK + 2], [1, 3, 2]),
    ]  # fmt: skip
    for number, (lengths, kept) in enumerate(steps):
        if number == 2:
            for runner in runners:
                runner.rollback(torch.arange(3), torch.tensor([3, 2, 9]))
        keep = None if kept is None else torch.tensor(kept)
        theirs, ours = (runner.read(None, tokens_BT, torch.tensor(lengths), keep) for runner in runners)
        torch.testing.assert_close(theirs.logits_RV, ours.logits_RV, atol=TOLERANCE, rtol=0)
        if hidden:
            torch.testing.assert_close(theirs.hidden_RD, ours.hidden_RD, atol=TOLERANCE, rtol=0)
        else:
            assert theirs.hidden_RD.shape[-1] == 0


@needs_llama
def test_a_row_that_gets_a_new_text_forgets_the_last(pairs):
    tokens_BT = torch.tensor([[4, 5, 6, 7], [7, 6, 5, 4]])
    runner = Runner(pairs[0].teacher, 2, VOCABULARY)
    runner.admit([0, 1], [[1], [1]])
    first = runner.read(None, tokens_BT, torch.tensor([4, 3])).logits_RV
    runner.admit([1], [[1]])
    tokens_BT[1] = tokens_BT[0]
    again = runner.read(torch.tensor([1]), tokens_BT, torch.tensor([4, 4])).logits_RV
    torch.testing.assert_close(again[0], first[0], atol=1e-4, rtol=1e-4)


@needs_llama
def test_what_cannot_be_is_refused(pairs, files, tmp_path):
    model = pairs[0].teacher
    assert Runner(model, 1, VOCABULARY).runs_on == "llama.cpp all F32"
    with pytest.raises(
        WheelsError, match=r"weights of teacher.gguf stay in its file, .* leave --backend llama.cpp out"
    ):
        model(torch.tensor([[1]]))
    with pytest.raises(WheelsError, match=r"weights of teacher.gguf are as its file has them, got weights 'int8'"):
        Runner(model, 1, VOCABULARY, weights="int8")
    runner = Runner(model, 300, VOCABULARY)
    with pytest.raises(WheelsError, match=r"llama.cpp holds 256 texts at a time, got 300"):
        runner.read(None, torch.ones(300, 1, dtype=torch.long), torch.ones(300, dtype=torch.long))
    (tmp_path / "gone.gguf").write_bytes(files["teacher"].read_bytes())
    use_backend("llama.cpp")
    gone = load_model(tmp_path / "gone.gguf")
    (tmp_path / "gone.gguf").unlink()
    with pytest.raises(WheelsError, match=r"llama.cpp cannot load .*gone.gguf"):
        Runner(gone, 1, VOCABULARY)


@needs_llama
def test_the_command_takes_two_files(files, capsys):
    places = ["--student", str(files["student"]), "--teacher", str(files["teacher"])]
    flags = ["--rule", "random", "--teacher-budget", "0.5", "--max-new-tokens", "12", "--format", "json"]
    outputs = []
    for backend in ("llama.cpp", "torch"):
        assert main(["generate", *places, *flags, "--backend", backend, "a b c"]) == 0
        outputs.append(capsys.readouterr().out)
    assert '"llama.cpp all F32"' in outputs[0] and '"torch float32"' in outputs[1]


def test_it_is_asked_for_only_where_it_is_installed(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llama_cpp" else find(name))
    with pytest.raises(WheelsError, match=r"needs llama-cpp-python.*pip install 'training-wheels\[llama\]'"):
        use_backend("llama.cpp")
