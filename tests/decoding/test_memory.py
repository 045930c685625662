"""Rows under a bound of tokens, and the memory that a decode needs."""

import subprocess
import sys

import pytest
import torch

from tests.decoding.tiny import make_pair
from tests.envs.tiny import SOURCES
from wheels.cli.main import main
from wheels.decoding import memory
from wheels.decoding.engine import Engine
from wheels.decoding.memory import Longest, Needs, cache_bytes, longest_of, rows_for
from wheels.decoding.methods.method import deferral
from wheels.decoding.methods.rules import RULES
from wheels.decoding.models import cache
from wheels.decoding.models.cache import BLOCK
from wheels.decoding.models.runner import Runner
from wheels.decoding.params import DecodeParams
from wheels.decoding.sequences import prepare_sequences
from wheels.errors import WheelsError


def test_the_longest_text_by_hand():
    assert longest_of(make_pair("llama"), ["a b c", "", "d"], 8) == Longest(3, 8, 11)
    assert longest_of(make_pair("t5"), ["a b c", "d"], 8) == Longest(4, 8, 12), "with the end of its source"
    assert longest_of(make_pair("llama"), [], 8) == Longest()


@pytest.mark.parametrize(
    ("most", "batch_size", "rows"), [(11, 64, 1), (22, 64, 1), (33, 64, 2), (54, 64, 2), (55, 64, 3), (10**6, 4, 4)]
)
def test_the_texts_in_flight_keep_within_the_bound(most, batch_size, rows):
    pair, texts = make_pair("llama"), ["a b c"] * 20
    assert rows_for(pair, texts, 8, batch_size, most) == rows
    method = deferral(RULES["random"].at(0.5))
    params = DecodeParams(max_new_tokens=8)
    engine = Engine(pair, prepare_sequences(pair, texts, 8), method, params, batch_size=rows)
    assert len(engine.texts.sequences) * 11 <= most and engine.batch_size == rows


def test_states_that_are_kept_and_several_texts_of_one_row_are_said(monkeypatch):
    """At three rows five texts are in flight, if rows have several texts each; states wait beside them."""
    told = []
    monkeypatch.setattr(memory, "LARGE", 0)
    monkeypatch.setattr(memory, "remark", told.append)
    pair = make_pair("llama")
    for more in ({}, {"count": 3}, {"count": 6}, {"count": 6, "kept": 2}):
        assert rows_for(pair, ["a b c", "d"], 8, 3, None, **more) == 3
    assert [int(line.split()[-4]) for line in told] == [2, 3, 5, 15]


def test_a_bound_below_one_text_is_refused():
    with pytest.raises(WheelsError, match="max_tokens_in_flight must be at least 11, what one text may take"):
        rows_for(make_pair("llama"), ["a b c", "d"], 8, 64, 10)
    with pytest.raises(
        WheelsError, match="at least 33, what one text may take with its output and 2 kept states, got 3"
    ):
        rows_for(make_pair("llama"), ["a b c", "d"], 8, 64, 32, kept=2)


def test_kept_states_are_within_the_bound():
    """Each text has three caches of 11 tokens: six in flight are 18 caches, 198 tokens."""
    pair = make_pair("llama")
    sizes = [rows_for(pair, ["a b c"] * 20, 8, 64, most, kept=2) for most in (33, 98, 99, 198, 10**6)]
    assert sizes == [1, 1, 2, 3, 64]


def row_of_both(pair):
    return sum(memory.row_of(model, longest_of(pair, ["a b c"], 8)) for model in pair.models)


@pytest.mark.parametrize(("room", "rows"), [(0, 1), (1, 1), (3, 2), (9, 5), (19, 10), (20, 64)])
def test_without_a_bound_the_texts_in_flight_fit_into_the_free_memory(monkeypatch, room, rows):
    """Of 20 texts; the fast path's copies of the weights are still to be made, and need their place first."""
    told = []
    pair = make_pair("llama")
    copies, there = 10_000, memory.weights_of
    assert all(there(model) == sum(weight.nbytes for weight in model.parameters()) for model in pair.models)
    monkeypatch.setattr(memory, "weights_of", lambda model: there(model) + copies // 2)
    free = (copies + room * row_of_both(pair) / memory.SHARE) + 2  # of rounding
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(free))
    monkeypatch.setattr(memory, "remark", told.append)
    texts = ["d"] * 300 + ["a b c"]  # the longest of all, not of the first
    assert rows_for(pair, texts, 8, 64, None, count=20) == rows
    words = f"memory is free for {room} texts in flight: passes have {rows} rows, not 64"
    assert told == ([words] if rows < 64 else [])


def test_where_free_memory_is_not_known_nothing_is_bounded(monkeypatch):
    monkeypatch.setattr(memory, "memory", dict)
    assert memory.free_bytes(torch.device("cpu")) is None
    pair = make_pair("llama")
    assert memory.room_for(pair, longest_of(pair, ["a b c"], 8)) == memory.NO_BOUND
    assert rows_for(pair, ["a b c"] * 20, 8, 64, None) == 64


@pytest.mark.parametrize("family", ["t5", "llama", "bart", "gpt2", "qwen3"])
def test_the_cache_of_a_text_is_what_a_runner_holds(family):
    """Its stores are wider, for they grow in steps: what they would hold of so many tokens."""
    pair = make_pair(family)
    runner, source = Runner(pair.student, 1, pair.vocab_size), [3, 4, 5, 1]
    tokens = torch.tensor([[0, 3, 4, 5, 6, 7]])
    runner.admit([0], [source])
    runner.read(None, tokens, torch.tensor([6]))
    pairs = [(runner.cache.self_layers, 6)] + ([(runner.cache.cross_layers, 4)] if pair.is_seq2seq else [])
    held = sum(
        store[:, :, :1].numel() * store.element_size() * count
        for layers, count in pairs
        for layer in layers
        for store in layer.stores()
    )
    assert held == cache_bytes(pair.student, Longest(4, 5, 6))


@pytest.mark.parametrize("tokens", [1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 1, 5 * BLOCK])
def test_a_cache_that_grew_by_the_token_has_the_positions_that_are_said(tokens):
    store = torch.zeros(1, 1, 0, 1)
    for needed in range(1, tokens + 1):
        store = cache._ensure_capacity(store, needed)
    assert store.shape[2] == cache.capacity(tokens)


@pytest.mark.slow
def test_the_command_keeps_the_texts_and_says_what_it_needs(tmp_path, monkeypatch, capsys):
    pair = make_pair("t5")
    pair.save_student(tmp_path / "q")
    pair.save_teacher(tmp_path / "p")
    (tmp_path / "texts.txt").write_text("\n".join(SOURCES))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, "LARGE", 0)
    flags = ["generate", "--student", "q", "--teacher", "p", "--rule", "random", "--input", "texts.txt"]
    outputs = []
    for more in ([], ["--max-tokens-in-flight", "60"], ["--max-tokens-in-flight", "60", "--output", "out.txt"]):
        assert main([*flags, "--max-new-tokens", "8", *more]) == 0
        shown = capsys.readouterr()
        outputs.append(shown.out if "--output" not in more else (tmp_path / "out.txt").read_text())
        assert "memory: about " in shown.err and f" for each of {len(SOURCES) if not more else 3}" in shown.err
    assert outputs[0] == outputs[1] == outputs[2]


def test_the_needs_in_words():
    mebi = 1 << 20
    told = "memory: about 1,100 MiB: weights 100 MiB, and 10 MiB for each of 100 texts in flight"
    assert str(Needs(100 * mebi, 100, 10 * mebi)) == told


FACTOR = 1.5
"""What was measured may be so many times what was said, or it that: activations, and stores that grow in steps."""
PEAK = """
import re, sys, torch, wheels
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
from tests.envs.tiny import tokenizer_of
from wheels.decoding.memory import longest_of, needs_of
from wheels.decoding.methods.rules import RULES

rows, tokenizer = int(sys.argv[1]), tokenizer_of(ends_source=False)
tokenizer.model_max_length = 4096
config = LlamaConfig(
    vocab_size=len(tokenizer), hidden_size=128, intermediate_size=128, num_hidden_layers=4, num_attention_heads=8,
    num_key_value_heads=8, head_dim=64, max_position_embeddings=4096, pad_token_id=0, eos_token_id=1, bos_token_id=None,
)
pair = wheels.Pair.of(LlamaForCausalLM(config), LlamaForCausalLM(config), tokenizer)
texts = ["a " * 700] * 16
rule = RULES["random"].at(0.5)
wheels.decode(pair, texts, wheels.deferral(rule), wheels.DecodeParams(max_new_tokens=8), batch_size=rows)
# getrusage would tell the largest of this process and of the one that started it.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
print(peak, needs_of(pair, longest_of(pair, texts, 8), 2 * rows - 1).total)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are counted in kilobytes on Linux")
def test_the_peak_of_a_process_is_what_was_said():
    """Between one row and six, so that what Python and torch take does not count."""
    runs = [subprocess.run([sys.executable, "-c", PEAK, rows], capture_output=True, text=True) for rows in ("1", "6")]
    (peak, said), (more, said_more) = (map(int, run.stdout.split()[-2:]) for run in runs)
    assert (said_more - said) / FACTOR < more - peak < (said_more - said) * FACTOR
