"""The pair: what belongs together, what does not, and models made from nothing."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import MarianConfig, MarianMTModel

from wheels.data.tasks import Row, Task
from wheels.errors import WheelsError
from wheels.models.build import ModelSize, build_model, train_tokenizer
from wheels.models.devices import check_device
from wheels.models.loading import load_model, model_digest, save_model
from wheels.models.pair import Pair

TINY = ModelSize(width=16, layers=1, heads=2, ff=32)
ROWS = [
    Row("Ein Mann läuft am 3. Mai 2024.", "A man runs on May 3, 2024."),
    Row("Zwei Hunde, 5,99 €", "Two dogs, €5.99"),
]
TASK = Task("tiny", {"train": ROWS})


def build(family: str = "t5", task: Task = TASK, **options) -> Pair:
    return Pair.build(task, family=family, student=TINY, teacher=TINY, vocab_size=300, **options)


@pytest.fixture(scope="module")
def t5() -> Pair:
    return build()


@pytest.fixture(scope="module")
def llama() -> Pair:
    return build("llama")


@pytest.fixture(scope="module")
def saved(t5: Pair, llama: Pair, tmp_path_factory) -> dict[str, str]:
    """Folders of four models."""
    root = tmp_path_factory.mktemp("models")
    return {
        "t5/q": str(t5.save_student(root / "t5" / "q")),
        "t5/p": str(t5.save_teacher(root / "t5" / "p")),
        "llama/q": str(llama.save_student(root / "llama" / "q")),
        "llama/p": str(llama.save_teacher(root / "llama" / "p")),
    }


def test_seq2seq_properties(t5: Pair):
    assert t5.is_seq2seq
    assert (t5.pad_id, t5.eos_ids, t5.start_ids) == (0, (1,), (0,))
    assert t5.vocab_size == len(t5.tokenizer)
    assert (t5.source_limit, t5.target_limit) == (256, 256)
    assert (t5.device, t5.dtype) == (torch.device("cpu"), torch.float32)


def test_causal_properties(llama: Pair):
    assert not llama.is_seq2seq
    assert (llama.pad_id, llama.eos_ids, llama.start_ids) == (0, (1,), ())
    assert llama.source_limit == 256


def test_teacher_is_frozen_and_both_are_in_eval_mode(t5: Pair):
    assert not any(parameter.requires_grad for parameter in t5.teacher.parameters())
    assert all(parameter.requires_grad for parameter in t5.student.parameters())
    assert not t5.teacher.training
    assert not t5.student.training


@pytest.mark.parametrize("text", ["Ein Mann läuft am 3. Mai 2024.", "東京 🙂 — „ja“", "a  b", "x\ty"])
def test_every_text_comes_back(t5: Pair, text: str):
    ids = t5.encode([text])[0]
    assert ids[-1] == 1
    assert ids.count(1) == 1
    assert 2 not in ids, "bytes need no unknown token"
    assert t5.decode([0, *ids, 0]) == text


def test_prompt_of_a_causal_model_is_open_ended(llama: Pair):
    ids = llama.encode(["Zwei Hunde"])[0]
    assert 1 not in ids
    assert llama.decode(ids) == "Zwei Hunde =>"
    assert llama.encode_targets(["Two dogs"])[0].count(1) == 1


def test_a_sequence_to_sequence_model_reads_its_prompt(t5: Pair):
    prompted = Pair(t5.student, t5.teacher, t5.tokenizer, "[label] {source}")
    assert prompted.encode(["ein Hund"]) == t5.encode(["[label] ein Hund"])


def test_causal_prompt_loses_an_end_token_its_tokenizer_adds(t5: Pair, llama: Pair):
    pair = Pair.of(llama.student, llama.teacher, t5.tokenizer, prompt="de: {source} en:")
    assert 1 not in pair.encode(["Hund"])[0]
    assert pair.decode(pair.encode(["Hund"])[0]) == "de: Hund en:"


def test_empty_prompt_of_a_causal_model_is_refused(llama: Pair):
    pair = Pair.of(llama.student, llama.teacher, llama.tokenizer)
    with pytest.raises(WheelsError, match="source 1 gives an empty prompt"):
        pair.encode(["Hund", ""])
    assert pair.encode([]) == []


def test_prompt_needs_a_place_for_the_source(llama: Pair):
    with pytest.raises(WheelsError, match=r"prompt must contain \{source\}"):
        Pair.of(llama.student, llama.teacher, llama.tokenizer, prompt="translate")


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_load_gives_back_what_was_saved(saved, t5, llama, family):
    pair = Pair.load(saved[f"{family}/q"], saved[f"{family}/p"])
    original = {"t5": t5, "llama": llama}[family]
    for mine, theirs in ((pair.student, original.student), (pair.teacher, original.teacher)):
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    assert pair.tokenizer.get_vocab() == original.tokenizer.get_vocab()
    texts = [row.source for row in ROWS]
    assert pair.tokenizer(texts)["input_ids"] == original.tokenizer(texts)["input_ids"]
    assert (pair.eos_ids, pair.pad_id, pair.start_ids) == (original.eos_ids, original.pad_id, original.start_ids)


def test_load_in_half_precision(saved):
    pair = Pair.load(saved["t5/q"], saved["t5/p"], dtype="bfloat16")
    assert pair.dtype == pair.teacher.dtype == torch.bfloat16
    with pytest.raises(WheelsError, match="dtype must be one of float32, bfloat16, float16, auto, got 'bf16'"):
        Pair.load(saved["t5/q"], saved["t5/p"], dtype="bf16")


def test_the_weights_are_said_of_each_model(saved, t5):
    pair = Pair.load(saved["t5/q"], saved["t5/p"], teacher_weights="int8")
    assert (pair.student_weights, pair.teacher_weights) == ("float32", "int8")
    pair = Pair.of(t5.student, t5.teacher, t5.tokenizer, student_weights="auto")
    assert (pair.student_weights, pair.teacher_weights) == ("auto", "float32")
    with pytest.raises(WheelsError, match="student_weights must be one of float32, int8, bfloat16, auto, got 'int4'"):
        Pair.of(t5.student, t5.teacher, t5.tokenizer, student_weights="int4")
    with pytest.raises(WheelsError, match=r"teacher_weights must be one of .*, got 'fp8'"):
        Pair.load(saved["t5/q"], saved["t5/p"], teacher_weights="fp8")


def test_kinds_must_agree(saved, t5, llama, tmp_path):
    teacher = save_model(llama.teacher, t5.tokenizer, tmp_path / "causal")
    kinds = r"t5/q' is a sequence-to-sequence model and teacher '.*causal' a causal one; a pair needs two models of one"
    with pytest.raises(WheelsError, match=kinds):
        Pair.load(saved["t5/q"], teacher)
    with pytest.raises(
        WheelsError, match="student 'llama' is a causal model and teacher 't5' a sequence-to-sequence one"
    ):
        Pair.of(llama.student, t5.teacher, t5.tokenizer)


def test_tokenizers_must_agree_in_content(saved, tmp_path):
    other = build(task=Task("other", {"train": [Row("ganz andere Wörter hier", "wholly other words here")]}))
    teacher = other.save_teacher(tmp_path / "other")
    difference = r"q' and teacher '.*other' have different tokenizers: 300 and \d+ pieces, \d+ differ, first '.*' \(id"
    with pytest.raises(WheelsError, match=difference):
        Pair.load(saved["t5/q"], teacher)


def test_padded_vocabularies_are_cut_to_the_common_range(t5: Pair, caplog):
    wide = build_model(TINY, vocab_size=320)
    with caplog.at_level(logging.INFO, logger="wheels"):
        pair = Pair.of(t5.student, wide, t5.tokenizer)
    assert pair.vocab_size == len(t5.tokenizer) < 320
    assert "student has 300 logits, teacher 320, tokenizer 300 pieces: both cut to the common 300" in caplog.text
    assert Pair.of(wide, t5.teacher, t5.tokenizer).vocab_size == 300


def test_logits_must_cover_the_tokenizer(t5: Pair):
    with pytest.raises(WheelsError, match="ids up to 299, but student 't5' has only 280 logits"):
        Pair.of(build_model(TINY, vocab_size=280), t5.teacher, t5.tokenizer)


def marian(start: int = 299, positions: int = 64) -> MarianMTModel:
    return MarianMTModel(
        MarianConfig(
            vocab_size=300, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=positions,
            pad_token_id=start, eos_token_id=1, decoder_start_token_id=start, forced_eos_token_id=None,
        )
    )  # fmt: skip


def test_marian_positions_limit_the_context(t5: Pair):
    pair = Pair.of(marian(), marian(positions=32), t5.tokenizer)
    assert pair.source_limit == 32
    assert pair.start_ids == (299,)


def test_decoders_must_start_alike(t5: Pair):
    with pytest.raises(WheelsError, match=r"start with different tokens, \(299,\) and \(0,\)"):
        Pair.of(marian(), t5.teacher, t5.tokenizer)


def test_every_end_token_of_both_ends_an_output(t5: Pair):
    teacher = build_model(TINY, vocab_size=300)
    teacher.generation_config.eos_token_id = [1, 7]
    assert Pair.of(t5.student, teacher, t5.tokenizer).eos_ids == (1, 7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/no/such", "no student folder '/no/such'; give a folder made by save_pretrained, or a hub id"),
        ("./x", r"no student folder '\./x'; give a folder made by save_pretrained, or a hub id"),
        ("owner/name", "no student folder 'owner/name', and the Hub is off"),
        ("name", "no student folder 'name', and the Hub is off"),
        ("", "no student folder ''|student folder '' has no config.json"),
    ],
)
def test_missing_model_is_one_line(saved, name, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WheelsError, match=message) as caught:
        Pair.load(name, saved["t5/p"])
    assert "\n" not in str(caught.value)


def test_damaged_folders_are_one_line(saved, t5, tmp_path):
    with pytest.raises(WheelsError, match=r"student folder '.*' has no config.json"):
        Pair.load(tmp_path, saved["t5/p"])
    folder = t5.save_student(tmp_path / "torn")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:500])
    with pytest.raises(WheelsError, match="cannot load the student") as caught:
        load_model(folder, role="student")
    assert "\n" not in str(caught.value)
    (folder / "model.safetensors").unlink()
    with pytest.raises(WheelsError, match="cannot load the student"):
        load_model(folder, role="student")
    (folder / "config.json").write_text('{"model_type": "no-such"}')
    with pytest.raises(WheelsError, match="cannot load the student"):
        load_model(folder, role="student")


def test_missing_tokenizer_is_one_line(saved, t5, tmp_path):
    folder = t5.save_teacher(tmp_path / "bare")
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(WheelsError, match=r"teacher '.*bare' has no tokenizer beside it"):
        Pair.load(saved["t5/q"], folder)


def test_missing_weights_are_not_made_up(t5, tmp_path):
    import safetensors.torch

    folder = t5.save_student(tmp_path / "m")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    gone = sorted(name for name in weights if "SelfAttention.q" in name)[0]
    del weights[gone]
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WheelsError, match=f"lacks 1 weights, such as '{gone}'"):
        load_model(folder)


def test_devices():
    assert check_device("cpu") == torch.device("cpu")
    with pytest.raises(WheelsError, match=r"device must be one of cpu, cuda.*got 'gpu'"):
        check_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(WheelsError, match="'cuda' is not on this machine, which has 0 GPUs; use cpu"):
            check_device("cuda")


def test_saving_leaves_other_files_alone(t5, tmp_path):
    (tmp_path / "m" / "deferral").mkdir(parents=True)
    (tmp_path / "m" / "deferral" / "config.json").write_text("{}")
    t5.save_student(tmp_path / "m")
    assert (tmp_path / "m" / "deferral" / "config.json").read_text() == "{}"
    assert not list((tmp_path / "m").glob(".saving*"))
    (tmp_path / "file").write_text("")
    with pytest.raises(WheelsError, match="cannot write"):
        save_model(t5.student, t5.tokenizer, tmp_path / "file" / "m")


def test_of_the_processes_that_train_one_model_the_first_saves_it(t5, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    for rank in (1, 0):
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        save_model(t5.student, t5.tokenizer, tmp_path / "model")
        assert (tmp_path / "model").exists() is (rank == 0)


def test_digest_names_the_content(saved, t5, tmp_path):
    assert model_digest(saved["t5/q"]) == model_digest(t5.save_student(tmp_path / "copy"))
    assert model_digest(saved["t5/q"]) != model_digest(saved["t5/p"])
    assert model_digest("owner/name") == "owner/name"


def test_build_is_deterministic_in_its_seed():
    state = torch.random.get_rng_state()
    one, same, other = build(seed=3), build(seed=3), build(seed=4)
    assert torch.equal(state, torch.random.get_rng_state()), "building leaves the caller's generator alone"
    assert one.tokenizer.backend_tokenizer.to_str() == same.tokenizer.backend_tokenizer.to_str()
    weights = [pair.student.get_input_embeddings().weight for pair in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], one.teacher.get_input_embeddings().weight)


def test_built_configuration():
    size = ModelSize(width=32, layers=2, heads=4, ff=64, decoder_layers=1, dropout=0.1)
    config = build_model(size, vocab_size=300).config
    assert (config.num_layers, config.num_decoder_layers, config.d_kv, config.dropout_rate) == (2, 1, 8, 0.1)
    assert (config.feed_forward_proj, config.relative_attention_num_buckets) == ("gated-gelu", 16)
    assert config.relative_attention_max_distance == 32
    assert config.tie_word_embeddings


def test_numbers_are_spelled():
    tokenizer = train_tokenizer(["am 2024 2024 2024 2024 2024 2024"] * 5, vocab_size=400)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("2024")["input_ids"])
    assert [piece.replace("Ġ", "") for piece in pieces] == ["2", "0", "2", "4", "</s>"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 15}, "heads must divide width 15, got 2"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"decoder_layers": 0}, "decoder_layers must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_sizes_are_checked(options, message):
    with pytest.raises(WheelsError, match=message):
        ModelSize(**({"width": 16, "layers": 1, "heads": 2, "ff": 32} | options))


def test_build_refuses():
    with pytest.raises(WheelsError, match="family must be one of t5, llama, got 'lama'; did you mean 'llama'"):
        build("lama")
    with pytest.raises(WheelsError, match="vocab_size must be at least 259"):
        train_tokenizer(["a"], vocab_size=100)
    with pytest.raises(WheelsError, match="no training text"):
        train_tokenizer([])


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json", "merges.txt"])
def test_whatever_decides_the_outputs_is_in_a_models_digest(t5, tmp_path, name):
    folder = t5.save_student(tmp_path / "model")
    before = model_digest(folder)
    for other in ("README.md", "metrics.jsonl", "finished.json"):
        (folder / other).write_text("{}")
    assert model_digest(folder) == before
    (folder / name).write_text((folder / name).read_text() + "\n" if (folder / name).exists() else "a b")
    assert model_digest(folder) != before
