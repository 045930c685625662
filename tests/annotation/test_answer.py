import pytest

from wheels.annotation.answer import Answer, without_thinking


@pytest.mark.parametrize(
    ("said", "kept", "flaw", "thought"),
    [
        (" Paris \n", "Paris", None, False),
        ("", "", "empty", False),
        (" \n", "", "empty", False),
        ("<think>hm, Rome?</think>\n\nParis", "Paris", None, True),
        ("<think></think>Paris", "Paris", None, True),
        ("hm, Rome?\n</think>\n\nParis", "Paris", None, True),
        ("Paris<think>or Rome?</think>", "Paris", None, True),
        ("<THINKING>hm</THINKING> Paris", "Paris", None, True),
        ("<seed:think>hm</seed:think> Paris", "Paris", None, True),
        ("<thought>a</thought><reasoning>b</reasoning> Paris", "Paris", None, True),
        ("[THINK]hm[/THINK]Paris", "Paris", None, True),
        ("\u25c1think\u25b7hm\u25c1/think\u25b7Paris", "Paris", None, True),
        ("<|channel|>analysis<|message|>hm<|end|><|channel|>final<|message|>Paris", "Paris", None, True),
        ("<think>hm, the capital of", "", "thinking", False),
        ("Paris <think>or", "Paris", "thinking", False),
        ("<think>a</think>Paris<think>b", "Paris", "thinking", False),
        ("<think>a <think>b</think> Paris", "Paris", None, True),
        ("<think>hm</think>", "", "empty", False),
        ("I think <b>so</b> [1]", "I think <b>so</b> [1]", None, False),
    ],
)
def test_thinking_is_no_part_of_a_label(said, kept, flaw, thought):
    assert without_thinking(Answer(said)) == Answer(kept, flaw, thought)


def test_a_flaw_that_was_seen_before_stays():
    assert without_thinking(Answer("half", "cut")) == Answer("half", "cut")
    assert without_thinking(Answer("", "cut")).flaw == "cut"
