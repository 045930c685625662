import pytest

from tests.endpoints.raw_server import completion
from wheels.annotation.answer import Answer, answer_of
from wheels.endpoints.faults import Again, RequestRefused, ServerRefused


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (completion("Paris"), Answer("Paris")),
        (completion("Paris", None), Answer("Paris")),
        (completion("Paris", "eos_token"), Answer("Paris")),
        (completion("Par", "length"), Answer("Par", "cut")),
        (completion("Par", "max_tokens"), Answer("Par", "cut")),
        (completion("Par", "MAX_TOKENS"), Answer("Par", "cut")),
        (completion("Par", "content_filter"), Answer("Par", "filtered")),
        (completion("Par", "error"), Answer("Par", "ended: error")),
        (completion(None, "tool_calls"), Answer("", "ended: tool_calls")),
        (completion(None, "length", reasoning_content="hm"), Answer("", "cut")),
        (completion(None), Answer("", "empty")),
        (completion(" \n"), Answer(" \n", "empty")),
        (completion(None, refusal="I cannot help with that."), Answer("", "declined")),
        (completion([{"type": "thinking", "thinking": []}, {"type": "text", "text": "Paris"}]), Answer("Paris")),
        (completion([{"type": "image_url"}]), Answer("", "empty")),
        (completion({"text": "Paris"}), Answer("", "empty")),
        (completion("half \ud800"), Answer("half ?")),
        (completion("Zürich").decode().encode("utf-16"), Answer("Zürich")),
        (b'{"choices": [{"message": {"content": "Z\xfcrich"}}]}', Answer("Z\ufffdrich", "garbled")),
        (b'{"choices": [{"message": null}]}', Answer("", "empty")),
        (b'{"choices": ["x"]}', Answer("", "empty")),
        (b'{"choices": [], "usage": {"total_tokens": 7}}', Answer("", "empty")),
    ],
)
def test_a_whole_answer_is_paid_for_whatever_it_holds(body, answer):
    assert answer_of(body) == answer


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"", Again, "no JSON"),
        (b"<html>log in</html>", Again, "no JSON"),
        (completion("Paris")[:-9], Again, "no JSON"),
        (b'{"error": {"message": "busy", "code": 503}}', Again, "code 503: busy"),
        (b'{"error": {"message": "busy", "code": "429"}}', Again, "code 429: busy"),
        (b'{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}', Again, "slow down"),
        (b'{"error": {"message": "no credit", "code": 402}}', ServerRefused, "code 402: no credit"),
        (b'{"error": {"message": "bad model", "code": "model_not_found"}}', ServerRefused, "bad model"),
        (b'{"error": "too long"}', RequestRefused, "too long"),
        (b'{"choices": []}', RequestRefused, "no completion"),
        (
            b'{"choices": [{"finish_reason": "content_filter"}], "usage": {"total_tokens": 0}}',
            RequestRefused,
            "filtered.*bills nothing",
        ),
        (b"{}", RequestRefused, "no completion"),
        (b"[]", RequestRefused, "no completion"),
        (b'"ok"', RequestRefused, "no completion: ok"),
        (b"null", RequestRefused, "no completion"),
        (b"[" * 100_000 + b"]" * 100_000, RequestRefused, "cannot be read"),
        (b'{"n": ' + b"9" * 5000 + b"}", RequestRefused, "cannot be read"),
    ],
)
def test_what_is_no_completion_costs_nothing(body, kind, words):
    with pytest.raises(kind, match=words):
        answer_of(body)
