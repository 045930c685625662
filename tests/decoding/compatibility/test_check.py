"""Families against their own `generate`, the mistakes that this must see, and the command."""

import json
import re
from contextlib import contextmanager

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING

from tests.decoding.tiny import make_pair
from tests.docs.blocks import ROOT
from wheels.cli.main import main
from wheels.decoding.compatibility import check as checking
from wheels.decoding.compatibility.check import TEXTS, Checked, check_family, check_folder, own_tokens
from wheels.decoding.compatibility.listed import FAMILIES
from wheels.decoding.compatibility.run import as_text
from wheels.decoding.compatibility.small import small_config, small_model, small_texts, small_tokenizer
from wheels.decoding.models import library, positions
from wheels.decoding.models.masks import Windows, routers_of, unlimited
from wheels.errors import WheelsError
from wheels.models.families import refusal
from wheels.models.loading import save_model
from wheels.models.pair import Pair

RESULT = json.loads((ROOT / "benchmarks/results/families/families.json").read_text(encoding="utf-8"))["families"]
FOUND = {each["name"]: each for each in RESULT}
REFUSED = [name for name, each in FOUND.items() if each["refused"] is not None]
EVERY_WAY = ("mistral+window", "bloom")
"""Of the ways in which the library is told positions and masks: a window and a bias."""
OTHERS = [name for name in FOUND if name not in (*REFUSED, *EVERY_WAY)]


def skip_where_unknown(family: str) -> None:
    if family.partition("+")[0] not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {family}")


def holds_what_was_found(family: str) -> None:
    skip_where_unknown(family)
    checked, found = check_family(family), FOUND[family]
    assert (checked.exact, checked.path, checked.window) == (found["exact"], found["path"], found["window"])
    assert checked.exact and checked.equal == {"1": TEXTS, "8": TEXTS}
    assert checked.accepted is not None and 0.02 < checked.accepted < 0.99, "drafts stand, and are taken back"


@pytest.mark.parametrize("family", EVERY_WAY)
def test_a_family_is_exact(family):
    holds_what_was_found(family)


def test_a_model_whose_own_generate_fails_is_one_line(monkeypatch):
    def fail(pair: Pair, ids: list[int]) -> None:
        raise RuntimeError("32 is not 4\nat dimension 3")

    monkeypatch.setattr(checking, "own_tokens", fail)
    with pytest.raises(WheelsError, match=r"^llama: its own generate, .*, ends with RuntimeError: 32 is not 4$"):
        check_family("llama")


@pytest.mark.slow
@pytest.mark.parametrize("family", OTHERS)
def test_every_other_family_of_the_table_is_exact(family):
    holds_what_was_found(family)


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_is_refused_says_why(family):
    skip_where_unknown(family)
    checked = check_family(family)
    # What a recurrent layer is called differs between versions of transformers.
    said = [re.sub(r"layers of \w+", "layers", reason or "") for reason in (checked.refused, FOUND[family]["refused"])]
    assert not checked.exact and said[0] == said[1] != ""


def test_the_committed_result_holds_every_family_of_the_list():
    assert list(FOUND) == list(FAMILIES)


@pytest.mark.slow
def test_the_texts_of_a_small_model_differ():
    """Else a wrong position would be seen in none of them."""
    model = small_model("gemma3_text")
    pair = Pair.alone(model, small_tokenizer(ends_source=False))
    written = {own_tokens(pair, ids) for ids in pair.encode(small_texts(TEXTS))}
    assert len(written) == TEXTS and max(len(set(tokens)) for tokens in written) > 8


def no_window(monkeypatch):
    monkeypatch.setattr(library, "Windows", lambda model: lambda mask_of: Windows.__call__(Bare(), mask_of))


class Bare:
    layers = ()


def narrower(monkeypatch):
    own = Windows.__call__
    monkeypatch.setattr(Windows, "__call__", lambda self, mask_of: own(self, lambda size: mask_of(size - 1)))


def one_further(name):
    def change(monkeypatch):
        own = getattr(positions, name).look_up
        monkeypatch.setattr(getattr(positions, name), "look_up", lambda self, read, at: own(self, read, at + (at > 3)))

    return change


def limited(monkeypatch):
    model, read = small_model("switch_transformers"), {"input_ids": torch.arange(3, 9)[None]}
    with torch.no_grad():
        dropped = model(**read, decoder_input_ids=torch.arange(2, 34)[None]).logits
        with unlimited(routers_of(model)):
            kept = model(**read, decoder_input_ids=torch.arange(2, 34)[None]).logits
    if torch.equal(dropped, kept):
        pytest.skip(f"the experts of transformers {transformers.__version__} drop no token, so there is nothing to see")
    monkeypatch.setattr(library, "routers_of", lambda model: [])


def no_bias(monkeypatch):
    @contextmanager
    def flat(self, inputs):
        shape = (len(inputs.rows) * self.decoder.num_heads, 1, inputs.visible)
        self.decoder.build_alibi_tensor = lambda mask, heads, dtype: torch.zeros(shape)
        yield {}
        del self.decoder.build_alibi_tensor

    monkeypatch.setattr(positions.KeyBias, "__call__", flat)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "mistake"),
    [
        ("mistral+window", no_window),
        ("gemma3_text", no_window),
        ("gemma3_text", narrower),
        ("m2m_100", one_further("PaddedPositions")),
        ("pegasus_x", one_further("ComputedPositions")),
        ("switch_transformers", limited),
        ("bloom", no_bias),
    ],
)
def test_a_mistake_is_seen(family, mistake, monkeypatch):
    """The negative controls; the self-check of first use would refuse some of them, and is left out."""
    monkeypatch.setattr("wheels.decoding.models.self_check.ragged_error", lambda model, vocab_size: 0.0)
    mistake(monkeypatch)
    assert not check_family(family).exact


@pytest.mark.parametrize("family", ["lama", "mistral+wide"])
def test_a_name_that_is_no_family_is_refused(family):
    with pytest.raises(WheelsError, match=f"got '{family}'".replace("+", r"\+") + "; did you mean"):
        check_family(family)


@pytest.mark.slow
def test_a_folder_is_checked_with_its_own_weights(tmp_path):
    pair = make_pair("llama")
    save_model(pair.teacher.float(), pair.tokenizer, tmp_path)
    checked = check_folder(tmp_path)
    assert checked.exact and (checked.path, checked.kind, checked.texts) == ("fast", "causal", len(checking.SENTENCES))


def test_a_recurrent_folder_is_refused_before_its_weights_are_read(tmp_path):
    small_config("mamba").save_pretrained(tmp_path)
    assert check_folder(tmp_path).refused == refusal(small_config("mamba"))


@pytest.mark.slow
def test_the_command_prints_what_it_found_and_writes_it(tmp_path, capsys):
    file = tmp_path / "found.json"
    assert main(["models", "--check", "llama,mamba", "--output", str(file)]) == 0
    head, llama, mamba = capsys.readouterr().out.splitlines()
    assert head.split() == ["model", "kind", "path", "window", "batch", "1", "batch", "8"]
    assert llama.split() == ["llama", "causal", "fast", "8/8", "8/8"]
    assert mamba.startswith("mamba is refused: its layers of linear_attention keep one state")
    names = [each["name"] for each in json.loads(file.read_text())["families"]]
    assert names == ["llama", "mamba"]


def test_the_command_fails_where_a_text_differs(monkeypatch, capsys):
    wrong = Checked("llama", "causal", "fast", None, {"1": 8, "8": 7}, 8, 0.5)
    monkeypatch.setattr("wheels.decoding.compatibility.run.check_family", lambda name, **place: wrong)
    assert main(["models", "--check", "llama"]) != 0
    assert "not the texts of their own generate: llama" in capsys.readouterr().err


def test_a_text_of_what_is_refused_alone():
    assert as_text([Checked("rwkv", "causal", "", None, {}, 8, refused="no")]) == "rwkv is refused: no"
