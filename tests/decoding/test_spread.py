"""A teacher in parts, on disk or on two devices: the texts of the teacher as a whole."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from torch.utils._pytree import tree_map

from tests.decoding.elsewhere import AWAY, SecondDevice, moved
from tests.decoding.tiny import make_pair, save_artefact, write
from wheels.decoding.compatibility.small import small_model, small_texts, small_tokenizer
from wheels.decoding.methods.method import speculative, teacher_only
from wheels.decoding.methods.rules import RULES
from wheels.decoding.models.registry import has_fast_path
from wheels.decoding.teacher_forcing import teacher_choices
from wheels.distillation.generation import outputs_of
from wheels.errors import WheelsError
from wheels.models.artefact import Artefact
from wheels.models.chosen_states import read_at
from wheels.models.devices import device_of
from wheels.models.loading import load_model
from wheels.models.pair import Pair

LONG = {"max_new_tokens": 10}
SOURCES = ["b c", "d e f g", "a"]
WAYS = {
    "teacher": (teacher_only(), {"budget": 1.0}),
    "deferral": (RULES["random"], {"budget": 0.5}),
    "drafts": (speculative(3), {}),
}
ON_DISK = {
    "llama": {"model.embed_tokens": "cpu", "model.layers.0": "disk", "model.norm": "cpu", "lm_head": "disk"},
    "t5": {
        **dict.fromkeys(("shared", "lm_head", "encoder.embed_tokens", "decoder.embed_tokens"), "cpu"),
        **dict.fromkeys(("encoder.final_layer_norm", "decoder.final_layer_norm"), "cpu"),
        **dict.fromkeys(("encoder.block", "decoder.block"), "disk"),
    },
}


def written(pair: Pair, sources=SOURCES) -> dict[str, list[tuple[int, ...]]]:
    return {
        name: [trace.token_ids for trace in write(pair, sources, how, **settings, **LONG)]
        for name, (how, settings) in WAYS.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("family", ON_DISK)
def test_a_teacher_that_lies_on_disk_in_part(tmp_path, family):
    folder = save_artefact(tmp_path / family, family)
    plain = Artefact.load(folder, dtype="float32")
    spread = Artefact.load(folder, dtype="float32", teacher_device=ON_DISK[family])
    teacher = spread.pair.teacher
    assert sum(weight.is_meta for weight in teacher.parameters()) > 5 and device_of(teacher) == torch.device("cpu")
    assert not has_fast_path(teacher) and has_fast_path(plain.pair.teacher)
    assert written(spread.pair) == written(plain.pair)
    assert spread.digest != Artefact.load(folder, teacher=str(folder), teacher_device=ON_DISK[family]).digest
    sources = plain.pair.encode(SOURCES)
    settings = {"max_new_tokens": 6, "batch_size": 2}
    texts = outputs_of(plain.pair, plain.pair.teacher, sources, **settings)
    assert outputs_of(spread.pair, teacher, sources, **settings) == texts
    assert teacher_choices(spread.pair, sources, texts) == teacher_choices(plain.pair, sources, texts)


def test_auto_puts_a_teacher_where_there_is_room(tmp_path):
    folder = save_artefact(tmp_path, "llama")
    pairs = [Pair.load(folder, folder / "teacher", dtype="float32", teacher_device=each) for each in (None, "auto")]
    assert written(pairs[1]) == written(pairs[0])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bart", "gpt2", "bloom", "gemma3_text", "m2m_100", "pegasus_x", "umt5"])
def test_every_way_of_positions_goes_with_parts_on_disk(tmp_path, family):
    model = small_model(family)
    tokenizer = small_tokenizer(ends_source=bool(model.config.is_encoder_decoder))
    plain, sources = Pair.alone(model, tokenizer), small_texts(4)
    expected = written(plain, sources)
    own = {name: "cpu" for name, _ in (*model.named_parameters(recurse=False), *model.named_buffers(recurse=False))}
    parts = own | {name: "disk" for name, _ in model.named_children()}
    teacher = dispatch_model(copy.deepcopy(model), parts, "cpu", offload_dir=str(tmp_path), force_hooks=True)
    assert next(teacher.parameters()).is_meta
    for _ in range(2):
        assert written(Pair.of(model, teacher, tokenizer), sources) == expected


def carried(module: torch.nn.Module, device: torch.device) -> None:
    """Bring what a module reads to its device, as accelerate does; it skips caches too."""

    def move(module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        return tree_map(lambda each: each.to(device) if isinstance(each, torch.Tensor) else each, (args, kwargs))

    module.register_forward_pre_hook(move, with_kwargs=True)


def split(teacher: Any) -> Any:
    """Put the decoder's layers on the second device."""
    decoder, here = teacher.get_decoder(), torch.device("cpu")
    for layer in decoder.block if hasattr(decoder, "block") else decoder.layers:
        carried(moved(layer), AWAY)
        for part in layer.modules():
            if [*part.parameters(recurse=False)]:
                carried(part, AWAY)
    for name in ("norm", "final_layer_norm"):
        if (norm := getattr(decoder, name, None)) is not None:
            carried(norm, here)
    carried(teacher.get_output_embeddings(), here)
    teacher._hf_hook = SimpleNamespace(execution_device="cpu")
    return teacher


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "t5", "bart"])
def test_layers_on_two_devices(family):
    model = small_model(family)
    tokenizer = small_tokenizer(ends_source=bool(model.config.is_encoder_decoder))
    plain, sources = Pair.alone(model, tokenizer), small_texts(6)
    expected = written(plain, sources)
    spread = Pair.of(model, split(copy.deepcopy(model)), tokenizer)
    with SecondDevice():
        assert written(spread, sources) == expected
        pairs = plain.encode(sources)
        texts = [list(tokens) for tokens in expected["teacher"]]
        assert teacher_choices(spread, pairs, texts) == teacher_choices(plain, pairs, texts)


def test_logits_come_back_to_what_was_read():
    pair = make_pair("llama")
    read, chosen = {"input_ids": torch.tensor([[3, 4, 5]])}, torch.tensor([[False, True, True]])
    expected = read_at(pair.teacher, read, chosen).logits_NV
    with SecondDevice():
        found = read_at(moved(copy.deepcopy(pair.teacher)), read, chosen).logits_NV
    assert found.device == torch.device("cpu") and torch.equal(found, expected)


def test_what_cannot_be_in_parts_is_refused(tmp_path):
    folder = save_artefact(tmp_path, "llama")
    with pytest.raises(WheelsError, match="device must be one of cpu, cuda"):
        load_model(folder, device="disk")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": ".."}')
    with pytest.raises(WheelsError, match="is an adapter, which is read as a whole; save the model"):
        load_model(tmp_path / "adapter", device="auto")
