"""Prompts at the edges: as long as the context, empty, of padding alone, ended at once; and very many of them."""

import pytest
import torch
import torch.nn.functional as F

from tests.decoding.test_engine import LIMIT, TEXTS, Every, outcome, own_generate
from tests.decoding.tiny import FAMILIES, SEQ2SEQ, make_pair, method_of, with_ends, write
from tests.envs.tiny import EOS, PAD
from wheels.decoding.engine import Engine
from wheels.decoding.methods.method import Method, deferral, prompt_lookup, speculative
from wheels.decoding.models import cache
from wheels.decoding.params import DecodeParams
from wheels.decoding.sampling import Sampling
from wheels.decoding.scheduler import Schedule
from wheels.decoding.sequences import prepare_sequences
from wheels.errors import WheelsError
from wheels.models.pair import Pair

PADDING = "<pad> <pad>"


def of_length(pair: Pair, tokens: int) -> str:
    """Return a text of so many tokens."""
    words = tokens - (1 if pair.is_seq2seq else 0)
    text = " ".join("abcdefghijk"[place * place % 11] for place in range(words))
    assert len(pair.encode([text])[0]) == tokens
    return text


def edges(family: str) -> tuple[Pair, list[str], list[int]]:
    """Return a pair, prompts at all edges among others, and how many tokens each may be given."""
    pair = make_pair(family)
    (ended,) = own_generate(pair, "teacher", ["c c"])
    # BART's first token is forced, and the same for all.
    with_ends(pair, [EOS, ended[1 if family == "bart" else 0]])
    limit = pair.source_limit
    texts = ["a b c", PADDING, "c c", of_length(pair, limit - 1), "k j i h g f", of_length(pair, limit - 5)]
    texts += [of_length(pair, limit)] if pair.is_seq2seq else []
    rooms = [min(LIMIT, limit - (1 if pair.is_seq2seq else len(row))) for row in pair.encode(texts)]
    return pair, texts, rooms


METHODS: list[tuple[Method, float | None, str]] = [
    (deferral(Every(2)), 0.0, "student"),
    (deferral(Every(2)), 1.0, "teacher"),
    (speculative(3), None, "teacher"),
    (prompt_lookup(4), None, "teacher"),
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_at_the_edges_are_answered_as_alone_and_as_by_generate(family):
    pair, texts, rooms = edges(family)
    assert rooms[3] == (LIMIT if family in SEQ2SEQ else 1) and pair.encode([PADDING])[0][:2] == [PAD, PAD]
    alone = {
        name: [own_generate(pair, name, [text], room)[0] for text, room in zip(texts, rooms, strict=True)]
        for name in ("student", "teacher")
    }
    for method, budget, model_name in METHODS:
        expected = alone[model_name]
        for size in (1, 3) if method.lookup else (2, 8):
            traces = write(pair, texts, method, budget=budget, batch_size=size, max_new_tokens=LIMIT)
            assert [trace.token_ids for trace in traces] == expected, (method.name, size)
        assert model_name == "student" or len(expected[2]) == (2 if family == "bart" else 1), "it ends at once"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_of_padding_is_a_prompt(family):
    """Not an empty one, and not the same as one of other tokens."""
    pair = make_pair(family)
    one, three, other = write(
        pair, [PADDING, "<pad> <pad> <pad>", "a a"], speculative(3), budget=None, max_new_tokens=8
    )
    assert [one.prompt_positions, three.prompt_positions] == [
        len(row) for row in pair.encode([PADDING, PADDING + " <pad>"])
    ]
    assert one.token_ids == own_generate(pair, "teacher", [PADDING], 8)[0] and other.token_ids != one.token_ids


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_that_leaves_no_room_is_refused_by_its_number(family):
    pair = make_pair(family)
    limit = pair.source_limit
    tokens = limit + 1 if pair.is_seq2seq else limit
    said = "; shorten" if pair.is_seq2seq else ", output included; shorten"
    with pytest.raises(WheelsError, match=f"input 2 has {tokens} tokens, .* read at most {limit}{said}"):
        write(pair, ["a", of_length(pair, tokens), "b"], speculative(3), budget=None)


@pytest.mark.parametrize("empty", ["", " ", "\n\t "])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_empty_prompt_is_refused_by_its_number(family, empty):
    with pytest.raises(WheelsError, match="input 3 is empty; give it some text"):
        write(make_pair(family), ["a", "b", empty], speculative(3), budget=None)


def test_a_prompt_of_nothing_but_its_end_is_refused_by_its_number():
    with pytest.raises(WheelsError, match="input 2 gives an empty prompt; give it some text"):
        write(make_pair("llama"), ["a", "</s>", "b"], speculative(3), budget=None)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_that_cannot_be_read_are_skipped_and_change_nothing(family):
    """Each budget stays with its own text."""
    pair = make_pair(family)
    texts, budgets = ["a b c", "", "e a e a", "a " * 66, "k j"], [0.0, 0.9, 1.0, 0.9, 0.5]
    traces = write(pair, texts, Every(2), budget=budgets, max_new_tokens=8, on_error="skip")
    good = [0, 2, 4]
    alone = [write(pair, [texts[row]], Every(2), budget=budgets[row], max_new_tokens=8)[0] for row in good]
    assert outcome([traces[row] for row in good]) == outcome(alone)
    assert [trace.budget for trace in traces] == budgets
    assert [bool(trace.error) for trace in traces] == [False, True, False, True, False]
    assert traces[1].error.startswith("input 2 is empty") and traces[3].error.startswith("input 4 has 6")
    assert traces[1].tokens == traces[3].teacher_passes == 0 and not traces[3].finished


def sizes(engine: Engine) -> dict[str, tuple]:
    """Return the size of all that an engine holds."""
    found = {name: tuple(value.shape) for name, value in vars(engine.texts).items() if isinstance(value, torch.Tensor)}
    for name, runner in (("student", engine.passes.student), ("teacher", engine.passes.teacher)):
        for number, layer in enumerate([*runner.cache.self_layers, *runner.cache.cross_layers]):
            stores = (layer._keys if hasattr(layer, "_keys") else layer.keys) if layer.is_initialized else None
            found[f"{name} {number}"] = () if stores is None else tuple(stores.shape)
        found[name] = len(runner._sources), len(runner._encoded), tuple(runner.cursor_B.shape)
    laws = engine.passes.draft_probs_QKV
    found["texts"] = len(engine.texts.sequences), len(engine.since), () if laws is None else tuple(laws.shape)
    return found


COUNT = 300


def is_flat(sizes_after: list[dict[str, tuple]]) -> bool:
    """Tell whether sizes stay the same after a quarter of the prompts."""
    warm = sizes_after[len(sizes_after) // 4 :]
    return all(size == warm[0] for size in warm)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "method", "budget"),
    [("t5", speculative(3), None), ("llama", deferral(Every(3)), 0.4), ("qwen3", prompt_lookup(4), None)],
    ids=["t5", "llama", "qwen3"],
)
def test_memory_is_flat_over_many_prompts(family, method, budget, monkeypatch):
    """Stores grow in steps of 4 here, so that every growth would be seen."""
    monkeypatch.setattr(cache, "BLOCK", 4)
    pair = make_pair(family)
    texts = [TEXTS[number * 7 % len(TEXTS)] for number in range(COUNT)]
    rows = prepare_sequences(pair, texts, 6)
    params = DecodeParams(max_new_tokens=6, sampling=Sampling(2.0))
    engine = Engine(pair, rows, method_of(method, budget), params, batch_size=8, schedule=Schedule(group=3))
    after = [(row.index, sizes(engine)) for row in engine.run()]
    assert is_flat([size for _, size in after])
    assert sorted(index for index, _ in after) == list(range(COUNT)), "every prompt is answered once"
    assert all(row.teacher_passes for row in rows), "both models are at work"
    slots = 8 if method.lookup else 10
    assert len(engine.texts.sequences) == slots, "a batch, and those that wait where two models write"
    assert engine.texts.free() == list(range(slots)) and not engine.running and not engine.calling


def test_a_store_that_grows_for_ever_is_seen(monkeypatch):
    """The negative control of the sizes."""

    def grown(store_BHLE: torch.Tensor, needed: int) -> torch.Tensor:
        pages = max(1, -(-(needed - store_BHLE.shape[2]) // cache.PAGE))
        return F.pad(store_BHLE, (0, 0, 0, pages * cache.PAGE))

    monkeypatch.setattr(cache, "_ensure_capacity", grown)
    pair = make_pair("llama")
    rows = prepare_sequences(pair, TEXTS * 2, 6)
    engine = Engine(pair, rows, deferral(Every(3), 0.4), DecodeParams(), batch_size=4, schedule=Schedule(group=1))
    assert not is_flat([sizes(engine) for _ in engine.run()])


@pytest.mark.slow
def test_many_prompts_are_answered_in_order():
    pair = make_pair("t5")
    texts = [TEXTS[number * 7 % len(TEXTS)] for number in range(COUNT)]
    alone = {text: write(pair, [text], speculative(3), budget=None, max_new_tokens=3)[0].token_ids for text in TEXTS}
    told: list[int] = []
    traces = write(
        pair, texts, speculative(3), budget=None, max_new_tokens=3, batch_size=8, schedule=Schedule(group=4),
        progress=told.append,
    )  # fmt: skip
    assert [trace.token_ids for trace in traces] == [alone[text] for text in texts] and told == [1] * COUNT
    assert len(set(alone.values())) > 6
