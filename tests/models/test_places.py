"""What a name means, and what is loaded there: number formats, revisions, adapters, GGUF files, code of their own."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.trainer_utils import validate_quantization_for_training

from tests.decoding.tiny import make_pair
from tests.models.packed import VOCABULARY, gguf_of
from wheels.decoding.models.registry import has_fast_path
from wheels.errors import WheelsError
from wheels.models import loading
from wheels.models.loading import load_config, load_model, load_tokenizer, model_digest, save_model, set_loading
from wheels.models.pair import Pair
from wheels.models.places import Place, place_of

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
needs_gguf = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="gguf is not installed")
IDS = torch.tensor([[3, 4, 5, 6, 7]])


@pytest.fixture
def folder(tmp_path) -> Path:
    pair = make_pair("llama")
    pair.student.float()
    return pair.save_student(tmp_path / "model")


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    monkeypatch.setattr(loading, "_settings", loading.Settings())


def stored_in(folder: Path, dtype: torch.dtype) -> None:
    load_model(folder).to(dtype).save_pretrained(folder)


@pytest.mark.parametrize(
    ("stored", "loaded"),
    [
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float32),
        (torch.float64, torch.float32),
    ],
)
def test_auto_is_what_a_model_is_stored_in(folder, stored, loaded):
    stored_in(folder, stored)
    assert load_model(folder, dtype="auto").dtype == loaded
    assert load_model(folder, dtype="bfloat16").dtype == torch.bfloat16


def test_auto_of_a_model_that_does_not_say_is_float32(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({name: config[name] for name in config if name != "dtype"}))
    assert load_model(folder, dtype="auto").dtype == torch.float32


def test_each_model_of_a_pair_has_its_own_format(folder):
    stored_in(folder, torch.bfloat16)
    for told, expected in (
        ({}, (torch.bfloat16, torch.bfloat16)),
        ({"student_dtype": "float32"}, (torch.float32, torch.bfloat16)),
        ({"dtype": "float32", "teacher_dtype": "bfloat16"}, (torch.float32, torch.bfloat16)),
        ({"student_weights": "int8"}, (torch.float32, torch.bfloat16)),
    ):
        pair = Pair.load(folder, folder, **told)
        assert (pair.student.dtype, pair.teacher.dtype) == expected, told


def test_attention_is_chosen_for_all_models(folder):
    set_loading(attn_implementation="eager")
    assert load_model(folder).config._attn_implementation == "eager"
    set_loading()
    assert load_model(folder).config._attn_implementation == "sdpa"
    with pytest.raises(WheelsError, match="attn_implementation must be one of sdpa, eager, got 'flash_attention_2'"):
        set_loading(attn_implementation="flash_attention_2")


def test_code_of_a_folder_is_run_only_when_it_is_trusted(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    (folder / "own.py").write_text("from transformers import LlamaConfig\nclass OwnConfig(LlamaConfig): pass\n")
    config = json.loads((folder / "config.json").read_text())
    changed = config | {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (folder / "config.json").write_text(json.dumps(changed))
    with pytest.raises(WheelsError, match="run only with --trust-remote-code; read it first"):
        load_config(folder)
    set_loading(trust_remote_code=True)
    assert type(load_config(folder)).__name__ == "OwnConfig"


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("gpt2", Place("gpt2")),
        ("owner/name", Place("owner/name")),
        ("owner/name@v1.0", Place("owner/name", "v1.0")),
        ("owner/name/file.Q8_0.gguf", Place("owner/name", None, "file.Q8_0.gguf")),
    ],
)
def test_a_name_is_a_repository_a_revision_or_a_file_in_it(monkeypatch, name, place):
    monkeypatch.setattr("wheels.models.places.offline", lambda: False)
    assert place_of(name) == place


@pytest.mark.parametrize("name", ["a/b/c", "owner/name/deep/file.gguf", "file.gguf", "./name", "@v1", ""])
def test_a_name_that_can_be_none_of_these_is_refused(monkeypatch, name):
    monkeypatch.setattr("wheels.models.places.offline", lambda: False)
    with pytest.raises(WheelsError, match="owner/name@revision"):
        place_of(name)


@pytest.fixture
def hub(folder, tmp_path, monkeypatch) -> Path:
    """A cache of the Hub with a repository of two revisions, and no way to ask for more."""
    repository = tmp_path / "hub" / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    for number, revision in enumerate(("main", "v1")):
        commit = str(number) * 40
        (repository / "refs" / revision).write_text(commit)
        shutil.copytree(folder, repository / "snapshots" / commit)
    first = load_model(repository / "snapshots" / ("0" * 40))
    with torch.no_grad():
        first.lm_head.weight.mul_(2)
    first.save_pretrained(repository / "snapshots" / ("1" * 40))
    for constant in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(f"huggingface_hub.constants.{constant}", str(tmp_path / "hub"), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return repository


def test_a_revision_is_read(hub):
    main, other = load_model("owner/name"), load_model("owner/name@v1")
    torch.testing.assert_close(other.lm_head.weight, 2 * main.lm_head.weight)
    assert len(load_tokenizer("owner/name@v1")) == len(load_tokenizer(hub / "snapshots" / ("0" * 40)))


def test_a_missing_file_of_a_repository_is_named(hub):
    with pytest.raises(WheelsError, match=r"no config.json of 'owner/other' in its cache; give"):
        load_model("owner/other")
    with pytest.raises(WheelsError, match=r"no config.json of 'owner/name' in its cache"):
        load_model("owner/name@v2")
    (hub / "snapshots" / ("0" * 40) / "model.safetensors").unlink()
    with pytest.raises(WheelsError, match=r"model.safetensors of 'owner/name' is not in the Hub's cache"):
        load_model("owner/name")
    assert load_model("owner/name@v1")


def adapter_of(folder: Path, place: Path, named: str | None = None) -> torch.Tensor:
    """Save an adapter of a model, and return the logits of both together."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(load_model(folder), LoraConfig(r=2, target_modules=["q_proj", "up_proj"]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    model.peft_config["default"].base_model_name_or_path = named or str(folder)
    model.eval().save_pretrained(place)
    with torch.no_grad():
        logits: torch.Tensor = model(IDS).logits
    return logits


@needs_peft
def test_an_adapter_is_merged_into_its_model(folder, tmp_path):
    expected = adapter_of(folder, tmp_path / "adapter", "../model")
    model = load_model(tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, expected, rtol=1e-4, atol=1e-4)
        assert (load_model(folder)(IDS).logits - expected).abs().max() > 0.1
    assert type(model) is LlamaForCausalLM and has_fast_path(model) and model.config.name_or_path.endswith("adapter")
    pair = Pair.load(folder, tmp_path / "adapter")
    assert pair.tokenizer.get_vocab() == load_tokenizer(folder).get_vocab(), "the tokenizer is the model's"


@needs_peft
def test_an_adapter_has_the_digest_of_both(folder, tmp_path):
    adapter_of(folder, tmp_path / "adapter")
    before = model_digest(tmp_path / "adapter")
    stored_in(folder, torch.bfloat16)
    assert model_digest(tmp_path / "adapter") != before


@needs_peft
def test_an_adapter_that_does_not_fit_is_refused(folder, tmp_path):
    adapter_of(folder, tmp_path / "adapter")
    make_pair("gpt2").save_student(folder)
    with pytest.raises(WheelsError, match=r"cannot merge model '.*adapter' into '.*model': "):
        load_model(tmp_path / "adapter")


def bare_adapter(place: Path, **settings: str) -> Path:
    place.mkdir()
    (place / "adapter_config.json").write_text(json.dumps(settings))
    return place


def test_an_adapter_that_cannot_be_read_says_why(folder, tmp_path, monkeypatch):
    with pytest.raises(WheelsError, match="does not say its model"):
        load_model(bare_adapter(tmp_path / "nameless"))
    adapter = bare_adapter(tmp_path / "adapter", base_model_name_or_path=str(folder))
    (adapter / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(WheelsError, match=r"is an adapter without adapter_model.safetensors"):
        load_model(adapter)
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    monkeypatch.setattr("wheels.models.adapters.importlib.util.find_spec", lambda name: None)
    with pytest.raises(WheelsError, match=r"needs peft; run pip install 'training-wheels\[peft\]'"):
        load_model(adapter)


@needs_gguf
def test_a_gguf_file_holds_everything(tmp_path):
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, rms_norm_eps=1e-6, tie_word_embeddings=False,
        initializer_range=0.5,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    file = tmp_path / "small.gguf"
    gguf_of(model, file)
    loaded = load_model(file)
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits, rtol=1e-5, atol=1e-5)
    assert load_config(file).model_type == "qwen2" and has_fast_path(loaded)
    assert load_tokenizer(file)("a b")["input_ids"]
    before = model_digest(file)
    file.write_bytes(file.read_bytes() + b" ")
    assert model_digest(file) != before


@needs_gguf
def test_the_model_of_a_gguf_file_can_be_trained_and_saved(tmp_path):
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=False,
    )  # fmt: skip
    (tmp_path / "packed").mkdir()
    gguf_of(Qwen2ForCausalLM(config), tmp_path / "packed" / "small.gguf")
    loaded = load_model(tmp_path / "packed")
    validate_quantization_for_training(loaded)
    saved = save_model(loaded, load_tokenizer(tmp_path / "packed"), tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(load_model(saved)(IDS).logits, loaded(IDS).logits)


def test_the_one_gguf_file_of_a_folder_is_the_model_and_of_several_one_is_to_be_named(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"")
    assert place_of(tmp_path) == Place(str(tmp_path), gguf="a.gguf")
    (tmp_path / "b.gguf").write_bytes(b"")
    with pytest.raises(WheelsError, match=r"has 2 .gguf files; name one of them: a.gguf, b.gguf"):
        place_of(tmp_path)


def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(WheelsError, match=r"is a file; give a folder .*, or a .gguf file"):
        load_model(tmp_path / "weights.bin")
