import pytest
import torch

from wheels.annotation.local_model import LocalModel
from wheels.errors import WheelsError


@pytest.fixture(params=["t5", "llama"])
def model(request):
    return LocalModel(request.getfixturevalue(request.param), 6, 2)


def test_the_likelihood_is_that_of_the_models_own_loss(model):
    sources, answers = ["rot Hund", "blau und rot Katze", "Hund"], ["red dog", "blue", "a dog that runs and runs"]
    found = model.log_likelihoods(sources, answers)
    for source, answer, value in zip(sources, answers, found, strict=True):
        read, said = model.pair.encode([source])[0], model.pair.encode_targets([answer])[0]
        if model.pair.is_seq2seq:
            loss = model.model(input_ids=torch.tensor([read]), labels=torch.tensor([said])).loss
        else:
            ids = torch.tensor([read + said])
            loss = model.model(input_ids=ids, labels=torch.tensor([[-100] * len(read) + said])).loss
        assert value == pytest.approx(-loss.item(), abs=1e-5)


def test_samples_are_a_function_of_the_seed(model):
    sources = ["rot Hund", "blau und rot Katze", "Hund"]
    one = model.samples(sources, 3, temperature=1.0, seed=1)
    assert one == model.samples(sources, 3, temperature=1.0, seed=1)
    assert one != model.samples(sources, 3, temperature=1.0, seed=2)
    assert [len(texts) for texts in one] == [3, 3, 3]


def test_a_low_temperature_is_greedy(model):
    sources = ["rot Hund", "blau und rot Katze", "Hund"]
    cold = model.samples(sources, 2, temperature=0.01, seed=1)
    assert cold == [[answer] * 2 for answer in model.answers(sources)]


def test_lists_of_different_lengths_are_refused(model):
    with pytest.raises(WheelsError, match="got 1 sources and 2 answers"):
        model.log_likelihoods(["a"], ["b", "c"])


def test_an_answer_that_reaches_the_longest_without_its_end_is_cut(model, monkeypatch):
    end, some = model.pair.eos_ids[0], model.pair.encode_targets(["red dog"])[0][:1]
    outputs = [[*some, end], some * 6, [*some * 5, end], [end]]
    monkeypatch.setattr("wheels.annotation.local_model.outputs_of", lambda *args, **options: outputs)
    assert [label.flaw for label in model.labels(["a", "b", "c", "d"])] == [None, "cut", None, None]
    assert [label.text for label in model.labels(["a", "b", "c", "d"])] == model.answers(["a", "b", "c", "d"])
