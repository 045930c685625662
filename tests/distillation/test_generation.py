"""What models write by themselves is the engine's law, and what they are trained on is what they write."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.decoding.tiny import FAMILIES, SEQ2SEQ, make_pair
from tests.decoding.tiny import write as decoded
from tests.envs.tiny import EOS, PAD, SOURCES, UNK, WORDS
from tests.marks import slow
from wheels.decoding.methods.rules import RULES
from wheels.distillation.generation import write
from wheels.models.artefact import Artefact
from wheels.models.generation_settings import Constraints
from wheels.models.pair import Pair

NOT_APPLIED: dict[str, Any] = {
    "repetition_penalty": 3.0, "min_p": 0.2, "no_repeat_ngram_size": 1, "typical_p": 0.2, "epsilon_cutoff": 0.05,
    "temperature": 0.2, "top_k": 2, "top_p": 0.2, "min_new_tokens": 8, "num_beams": 3, "num_return_sequences": 2,
    "max_length": 3, "stop_strings": ["a"], "penalty_alpha": 0.6, "prompt_lookup_num_tokens": 2, "max_time": 1e-9,
    "renormalize_logits": True, "exponential_decay_length_penalty": (1, 3.0), "sequence_bias": [[[5], 9.0]],
}  # fmt: skip
"""What a model's folder may ask `generate` for, and the engine does not apply."""


LONG = "a b c d e f g h i j k a b c d e f g h i"


def pair_of(family: str) -> Pair:
    """A pair that reads 32 tokens."""
    pair = make_pair(family)
    pair.tokenizer.model_max_length = 32
    return pair


def own(pair: Pair, *, batch_size: int = 4, limit: int = 20, **settings: Any) -> list[list[int]]:
    """What the student writes by itself."""
    return write(
        pair.student, pair.encode([*SOURCES, LONG]), pad_id=pair.pad_id, eos_ids=pair.eos_ids, max_new_tokens=limit,
        vocab_size=pair.vocab_size, context=pair.source_limit, batch_size=batch_size, **settings,
    )  # fmt: skip


def engine(pair: Pair, limit: int = 20) -> list[list[int]]:
    """What the engine writes at budget 0."""
    traces = decoded(pair, [*SOURCES, LONG], RULES["random"], budget=0.0, max_new_tokens=limit)
    return [list(trace.token_ids) for trace in traces]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "settings",
    [{}, {"suppress_tokens": [3, 7]}, {"bad_words_ids": [[4], [6]]}, {"forced_eos_token_id": [EOS, 5]}, NOT_APPLIED],
    ids=["as it is", "suppressed", "bad words", "forced end", "not applied"],
)
def test_greedy_is_the_engine_at_budget_0(family: str, settings: dict[str, Any]) -> None:
    """Up to the context's end too, where rows of one batch end at different lengths."""
    pair = pair_of(family)
    for name, value in settings.items():
        setattr(pair.student.generation_config, name, value)
    written = engine(pair)
    assert own(pair) == written
    assert family in SEQ2SEQ or len(written[-1]) <= 12, "the context leaves less room"
    assert own(pair, limit=3) == engine(pair, 3)


def test_settings_are_the_models_own_again_afterwards() -> None:
    pair = pair_of("bart")
    before = pair.student.generation_config
    own(pair)
    assert pair.student.generation_config is before
    with pytest.raises(RuntimeError, match="no such pass"):
        pair.student.forward = lambda **_: (_ for _ in ()).throw(RuntimeError("no such pass"))
        own(pair)
    assert pair.student.generation_config is before


@pytest.mark.parametrize(
    "setting",
    [
        "temperature",
        "top_k",
        *slow(*(name for name in NOT_APPLIED if name not in ("num_beams", "temperature", "top_k"))),
    ],
)
def test_samples_are_the_same_whatever_is_not_applied(setting: str) -> None:
    pair = pair_of("llama")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = own(pair, limit=10, sample=True)
        setattr(pair.student.generation_config, setting, NOT_APPLIED[setting])
        torch.manual_seed(0)
        assert own(pair, limit=10, sample=True) == plain


def test_samples_follow_the_law_without_what_is_suppressed() -> None:
    pair, count = pair_of("t5"), 4000
    pair.student.generation_config.suppress_tokens = [3, 4, 5]
    source = pair.encode(["a b c"])[0]
    begin = {"input_ids": torch.tensor([source]), "decoder_input_ids": torch.tensor([list(pair.start_ids)])}
    scores_V = pair.student(**begin).logits[0, -1].detach()
    scores_V[[3, 4, 5]] = -torch.inf
    law_V = (scores_V / 20).softmax(-1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = write(
            pair.student, [source] * count, pad_id=PAD, eos_ids=[EOS], max_new_tokens=1, sample=True, temperature=20.0,
            batch_size=count,
        )  # fmt: skip
    share_V = torch.bincount(torch.tensor(drawn).flatten(), minlength=len(law_V)) / count
    assert float((share_V - law_V).abs().sum() / 2) < 0.03
    assert float(law_V.max()) < 0.9, "a law of one token would tell nothing"


def test_a_source_that_leaves_no_room_gets_an_empty_output() -> None:
    pair, done = pair_of("gpt2"), []
    sources = [[5] * 31, [5] * 32, [5] * 40, [5]]
    written = write(
        pair.student, sources, pad_id=PAD, eos_ids=[99], max_new_tokens=50, context=32, batch_size=2,
        advance=done.append,
    )  # fmt: skip
    assert [len(output) for output in written] == [1, 0, 0, 31]
    assert sum(done) == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_targets_are_the_tokens_that_the_student_writes(family: str) -> None:
    """Also what a tokenizer would not add by itself: the first token that `generate` forces."""
    pair = pair_of(family)
    for model in (pair.student, pair.teacher):
        model.generation_config.suppress_tokens = [PAD, UNK]
    if family not in SEQ2SEQ:
        pair.student.generation_config.forced_bos_token_id = 6  # without effect: a causal model's `generate` ignores it
    else:
        # A special token, as a begin token or a language is: it stands in no text.
        pair.student.generation_config.forced_bos_token_id = PAD
    for output in engine(pair):
        target = pair.encode_targets([pair.decode(output)])[0]
        assert target == output or target[:-1] == output, "as far as it was written"
        assert target[-1] == EOS
    first = pair.encode_targets([" ".join(WORDS[:2])])[0][0]
    assert first == (PAD if family in SEQ2SEQ else 3)


def test_the_embedded_pair_has_the_targets_that_it_was_trained_on() -> None:
    pair = Artefact.load().pair
    assert Constraints.of(pair.student) == Constraints.of(pair.teacher) == Constraints()
    text = "Two dogs run."
    assert pair.encode_targets([text]) == [[*pair.tokenizer(text, add_special_tokens=False)["input_ids"], 1]]
