"""What needs more of a teacher than its tokens is refused by name."""

import pytest

from tests.decoding.tiny import write
from tests.envs.tiny import SOURCES
from wheels.decoding.methods.method import cascade, prompt_lookup, speculative, take_back, verified
from wheels.decoding.methods.rules import RULES
from wheels.decoding.models.costs import costs_of
from wheels.decoding.remote.pair import RemotePair
from wheels.decoding.teacher_forcing import teacher_logits
from wheels.errors import WheelsError
from wheels.models.pair import Pair

METHODS = {
    "speculative": (speculative(3), {}),
    "speculative, drafts of any length": (speculative(3, adaptive=True), {}),
    "lookup": (prompt_lookup(3), {}),
    "take-back": (take_back(), {}),
    "cascade-opt": (cascade("opt", 0.3), {}),
    "random-verified": (verified(RULES["random"].at(0.5)), {"budget": 0.5}),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_that_verify(server, far, name):
    method, settings = METHODS[name]
    with pytest.raises(
        WheelsError, match=f"method '{method.name}' verifies drafts by the teacher's logits.*big/teacher"
    ):
        write(far(server), SOURCES, method, **settings)


def test_rules_that_read_the_teacher(server, far):
    with pytest.raises(
        WheelsError, match=r"rule 'foresight' reads the teacher's logits before every token.*127\.0\.0\.1"
    ):
        write(far(server), SOURCES, RULES["foresight"].at(0.5))


def test_processors_of_both_models_logits(server, far):
    with pytest.raises(WheelsError, match="logits_processor changes the logits of both models"):
        write(far(server), SOURCES, RULES["maxprob"].at(0.5), logits_processor=lambda logits, *_: logits)


def test_whatever_reads_the_teacher_itself(server, far):
    there = far(server)
    for needs in (
        lambda: costs_of(there, 4),
        lambda: list(teacher_logits(there, [[3]], [[4]])),
        lambda: there.save_teacher("nowhere"),
    ):
        with pytest.raises(
            WheelsError, match=r"'big/teacher' at http://127.* tells the tokens that it writes, and no logits"
        ):
            needs()
    assert not hasattr(there, "nonsense") and "big/teacher" in repr(there)


def test_an_address_where_weights_are_needed():
    with pytest.raises(WheelsError, match="teacher 'http://h/v1' is an address, and this needs a model's weights"):
        Pair.load("student", "http://h/v1")


def test_a_student_and_a_teacher_of_another_kind(pair, server, far):
    for part, given in (("student", 3), ("remote", "http://h"), ("tokenizer", None)):
        parts = {"student": pair.student, "remote": far(server).remote, "tokenizer": pair.tokenizer} | {part: given}
        with pytest.raises(WheelsError, match=f"{part} must be"):
            RemotePair(**parts)
