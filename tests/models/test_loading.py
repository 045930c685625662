"""What a folder may do to whoever loads it: nothing of its own is run, and nothing that is no number is used."""

import io
import json
import logging
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.decoding.tiny import make_pair
from wheels.errors import WheelsError
from wheels.finite import not_finite
from wheels.models.devices import check_device
from wheels.models.loading import load_config, load_model, load_tokenizer
from wheels.models.pair import Pair
from wheels.output.notices import warn_once


@pytest.fixture
def folder(tmp_path) -> Path:
    return make_pair("llama").save_student(tmp_path / "model")


def edit(folder: Path, name: str = "config.json", **changes: object) -> None:
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def foreign(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put code into a model's folder that leaves a mark where it runs, and a `y` on standard input."""
    mark = folder / "ran"
    code = f"open({str(mark)!r}, 'w').close()\nclass Own: pass\nOwnConfig = OwnModel = OwnTokenizer = Own\n"
    (folder / "own.py").write_text(code)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    return mark


@pytest.mark.parametrize("load", [load_config, load_model], ids=["config", "model"])
def test_code_of_a_folder_is_not_run(folder, monkeypatch, load):
    mark = foreign(folder, monkeypatch)
    edit(folder, model_type="own", auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"})
    with pytest.raises(
        WheelsError, match=r"it needs code of its own \(auto_map in its configuration\), which is run only"
    ):
        load(folder)
    assert not mark.exists()


def test_code_of_a_tokenizer_is_not_run(folder, monkeypatch):
    mark = foreign(folder, monkeypatch)
    edit(folder, "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.OwnTokenizer", None]})
    with pytest.raises(WheelsError, match=r"cannot load the tokenizer of the model .* code of its own"):
        load_tokenizer(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
def test_kernels_that_a_configuration_names_are_not_fetched(folder, name):
    edit(folder, **{name: "somebody/kernels"})
    with pytest.raises(WheelsError, match=r"asks for attention 'somebody/kernels'; allowed: sdpa, eager"):
        load_model(folder)


class Bomb:
    """What runs when it is unpickled."""

    def __reduce__(self) -> tuple:
        return pytest.fail, ("a pickle was read",)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "tf_model.h5"])
def test_weights_in_a_pickle_are_refused_before_they_are_read(folder, name):
    (folder / "model.safetensors").unlink()
    for file in (name, "training_args.bin"):
        (folder / file).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(WheelsError, match=rf"holds its weights in {name}, a format that can run code"):
        load_model(folder)


def test_an_index_may_not_name_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "part.bin")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "part.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WheelsError, match=r"holds its weights in part.bin, a format that can run code"):
        load_model(folder)


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(WheelsError, match=r"cannot load the model '.*': no model.safetensors there$"):
        load_model(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_named(folder, value):
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name][-1, -1] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WheelsError, match=rf"no finite numbers \(float32\), first in '{name}'"):
        load_model(folder)


def test_a_number_format_that_is_too_narrow_is_told(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = 1e6
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert load_model(folder)
    with pytest.raises(WheelsError, match=r"no finite numbers \(float16\), first in 'model.norm.weight'"):
        load_model(folder, dtype="float16")


def test_large_weights_are_numbers():
    model = torch.nn.Linear(8, 8)
    with torch.no_grad():
        model.weight.fill_(3e38)  # their sum is none
    assert not_finite(model) is None


@pytest.mark.parametrize("device", ["meta", "hpu", "nonsense", "", None, [1]])
def test_a_device_that_nothing_runs_on_is_refused(device):
    with pytest.raises(WheelsError, match=r"device must be one of cpu, cuda, xpu, mps \(or cuda:1, ...\), got"):
        check_device(device)


@pytest.mark.parametrize("device", ["cuda:99", "xpu:99", "mps:99"])
def test_a_device_that_is_not_here_is_refused(device):
    with pytest.raises(WheelsError, match=rf"device '{device}' is not on this machine, which has \d+ .*; use cpu"):
        check_device(device)


def test_a_teacher_that_is_no_larger_is_spoken_of_once(caplog):
    pair = make_pair("llama")
    warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, "wheels"):
        Pair.of(pair.student, pair.teacher, pair.tokenizer)
        assert not caplog.messages
        for _ in range(2):
            Pair.of(pair.teacher, pair.student, pair.tokenizer)
        Pair.of(pair.student, pair.student, pair.tokenizer)
    assert len(caplog.messages) == 2
    assert all("the teacher should be the larger one" in message for message in caplog.messages)


def test_one_model_in_both_places_is_no_exchange(caplog):
    """What writes by itself, or is asked for its gradients alone, is no student of itself."""
    pair = make_pair("llama")
    warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, "wheels"):
        alone = Pair.alone(pair.teacher, pair.tokenizer)
    assert alone.student is alone.teacher is pair.teacher and not caplog.messages
