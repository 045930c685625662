"""Distillation across tokenizers: where spellings meet, what is compared there, and TRL's GOLD beside it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests.decoding.across.two import STUDENTS, TEACHERS, spelled
from wheels.distillation.alignment import (
    NOWHERE,
    SharedTokens,
    at_places,
    bytes_of_tokens,
    common_places,
    shared_divergence,
    shared_tokens,
)
from wheels.distillation.losses import IGNORED
from wheels.models.build import train_tokenizer

Q_TEXT = [b"", b" ba", b"du", b" ", b"la", b"b", b"a"]
P_TEXT = [b" b", b"ad", b"u", b"", b" la", b"ba", b"du"]


def test_a_token_stands_for_bytes_however_its_tokenizer_writes_them():
    pieces = bytes_of_tokens(spelled(STUDENTS, ends_source=False))
    assert pieces[:3] == [b"", b"", b""] and {b" ba", b"du", b" ", b"a"} <= {*pieces}
    made = train_tokenizer(["über 3 Häuser"] * 9, vocab_size=300, ends_source=True)
    table = bytes_of_tokens(made)
    ids = made("ein Häuschen", add_special_tokens=False)["input_ids"]
    assert b"".join(table[token] for token in ids).decode().strip() == "ein Häuschen"
    assert table[made.eos_token_id] == b""


@pytest.mark.parametrize(
    ("student", "teacher", "places"),
    [
        ([1, 2, 3, 4, 0], [0, 1, 2, 4, 3], [(0, 0), (2, 3), (4, 4)]),  # " ba|du| |la." and " b|ad|u| la."
        ([5, 6, 2, 0], [5, 6, 3], [(0, 0), (2, 1), (3, 2)]),
        ([1, 2, 0], [5, 6, 3], [(0, 0), (1, 1), (2, 2)]),  # one begins with a space
        ([1, 2, 0], [5, 3], [(0, 0), (1, 1)][:1]),  # a text that lacks its end: the ends mean two things
        ([2, 0], [5, 3], [(0, 0)]),
    ],
)
def test_spellings_meet_where_both_have_a_border(student, teacher, places):
    assert common_places(student, teacher, (Q_TEXT, P_TEXT)) == places


def test_tokens_of_the_same_bytes_are_shared_and_the_ends():
    shared = shared_tokens(Q_TEXT, P_TEXT, ends=(0, 3))
    assert [*zip(shared.student_M.tolist(), shared.teacher_M.tolist(), strict=True)] == [(0, 3), (2, 6)]
    assert shared_tokens([b"x", b"x"], [b"", b"x"], ends=(0, 0)).student_M.tolist() == [0, 0]


def test_logits_are_taken_at_the_places_of_each_row():
    logits = torch.arange(5.0).view(5, 1)
    targets = torch.tensor([[False, True, True, True], [True, True, False, False]])
    taken = at_places(logits, targets, torch.tensor([[0, 2], [1, NOWHERE]]))
    assert taken[:, 0].tolist() == [0.0, 2.0, 4.0]
    assert at_places(logits, targets, torch.zeros(2, 0, dtype=torch.long)).shape == (0, 1)


@pytest.mark.parametrize("objective", ["kl", "rkl", "jsd"])
def test_the_divergence_is_of_what_both_have_by_the_teachers_mass_on_it(objective):
    torch.manual_seed(0)
    q, p = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    shared = SharedTokens(torch.tensor([4, 0]), torch.tensor([1, 3]))
    found = shared_divergence(objective, q, p, shared, temperature=2.0, beta=0.3)
    for row in range(3):
        mine, theirs = (x[row].div(2).softmax(-1)[ids] for x, ids in ((q, [4, 0]), (p, [1, 3])))
        mass, mine, theirs = theirs.sum(), mine / mine.sum(), theirs / theirs.sum()
        middle = 0.3 * theirs + 0.7 * mine
        kinds = {
            "kl": (theirs * (theirs / mine).log()).sum(),
            "rkl": (mine * (mine / theirs).log()).sum(),
            "jsd": 0.3 * (theirs * (theirs / middle).log()).sum() + 0.7 * (mine * (mine / middle).log()).sum(),
        }
        torch.testing.assert_close(found[row], mass * kinds[objective])


def gold(student_ids, teacher_ids, vocabularies, logits, beta):
    """TRL's loss of one text whose spellings have the same borders, and its part of matched tokens."""
    trainer = pytest.importorskip("trl.experimental.gold.gold_trainer")
    settings = {
        "uld_crossentropy_weight": 0.0, "uld_distillation_weight": 1.0, "uld_student_temperature": 1.0,
        "uld_teacher_temperature": 1.0, "uld_skip_student_eos": False, "uld_skip_teacher_eos": False,
        "use_extended_uld": True, "uld_token_merge_strategy": "bayesian", "uld_use_hybrid_loss": True,
        "uld_hybrid_matched_weight": 1.0, "uld_hybrid_unmatched_weight": 0.0, "beta": beta,
    }  # fmt: skip
    tokenizers = [SimpleNamespace(get_vocab=lambda words=words: words) for words in vocabularies]
    loss = trainer.ULDLoss(SimpleNamespace(**settings), *tokenizers)
    ids = [torch.tensor([[0, *each]]) for each in (student_ids, teacher_ids)]  # a prompt of one token
    labels = [torch.cat([torch.full((1, 1), IGNORED), each[:, 1:]], 1) for each in ids]
    borders = torch.tensor([[[0, 0], *([number, number + 1] for number in range(len(student_ids)))]])
    total = loss(*logits, *labels, *ids, student_byte_offsets=borders, teacher_byte_offsets=borders)
    return float(total), float(loss.last_matched_loss)


@pytest.mark.parametrize(("objective", "beta"), [("kl", 0.0), ("jsd", 0.5), ("rkl", 1.0)])
def test_over_one_vocabulary_it_is_trls_gold(objective, beta):
    torch.manual_seed(1)
    order = torch.randperm(6)
    words = {f"w{number}": number for number in range(6)}
    q, p = torch.randn(1, 5, 6), torch.randn(1, 5, 6)
    theirs, _ = gold(
        [1, 2, 3, 4], order[[1, 2, 3, 4]].tolist(), (words, {f"w{n}": int(order[n]) for n in range(6)}), (q, p), beta
    )
    found = shared_divergence(objective, q[0, :-1], p[0, :-1], SharedTokens(torch.arange(6), order), beta=beta)
    assert float(found.mean()) == pytest.approx(theirs, rel=1e-5)


def test_over_two_gold_adds_what_it_leaves_unnormalised():
    torch.manual_seed(2)
    vocabularies = {"a": 0, "b": 1, "c": 2, "x": 3}, {"b": 0, "y": 1, "a": 2, "c": 3, "z": 4}
    q, p = torch.randn(1, 4, 4), torch.randn(1, 4, 5)
    _, matched = gold([0, 1, 2], [2, 0, 3], vocabularies, (q, p), 0.0)
    shared = SharedTokens(torch.tensor([0, 1, 2]), torch.tensor([2, 0, 3]))
    q_N, p_N = (
        logits[0, :-1].softmax(-1)[:, ids].sum(-1) for logits, ids in ((q, shared.student_M), (p, shared.teacher_M))
    )
    found = shared_divergence("kl", q[0, :-1], p[0, :-1], shared) + p_N * (p_N / q_N).log()
    assert float(found.mean()) == pytest.approx(matched, rel=1e-5)


@pytest.mark.parametrize("text", ["ba du la badu.", "badu la", "ba alu dub"])
def test_the_places_are_where_golds_groups_begin(text):
    trainer = pytest.importorskip("trl.experimental.gold.gold_trainer")
    tokenizers = [spelled(pieces, ends_source=False) for pieces in (STUDENTS, TEACHERS)]
    tables = [bytes_of_tokens(tokenizer) for tokenizer in tokenizers]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for tokenizer in tokenizers]
    offsets = []
    for table, tokens in zip(tables, ids, strict=True):
        ends = [len(b"".join(table[token] for token in tokens[: count + 1])) for count in range(len(tokens))]
        offsets.append([(0, end) for end in ends])
    groups = trainer.ULDLoss._align_by_byte_offsets(*offsets)
    ended = ([*tokens, 1] for tokens in ids)
    places = common_places(*ended, tuple(tables))
    assert places[1:-1] == [(q[0], p[0]) for q, p in zip(*groups, strict=True)][1:]
    assert places[-1] == tuple(map(len, ids))
