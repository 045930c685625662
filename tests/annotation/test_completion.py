import json

import pytest

from tests.annotation.raw_server import completion
from wheels.annotation.answer import Answer
from wheels.annotation.completion import Again, RequestRefused, ServerRefused, answer_of, fault_of, message_of

TOO_LONG = "This model's maximum context length is 4096 tokens. However, your messages resulted in 5000 tokens."


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


@pytest.mark.parametrize(
    ("code", "said", "kind"),
    [
        *[(code, "", Again) for code in (408, 409, 424, 425, 429, 498)],
        *[(code, "", Again) for code in (500, 501, 502, 503, 504, 507, 520, 521, 522, 523, 524, 529, 530, 599)],
        *[(code, "", RequestRefused) for code in (400, 413, 422, 451)],
        *[(code, "", ServerRefused) for code in (301, 307, 401, 402, 403, 404, 405, 406, 410, 415)],
        (400, TOO_LONG, RequestRefused),
        (400, "The response was filtered due to the prompt (content_filter)", RequestRefused),
        (403, "requires moderation, and your input was flagged", RequestRefused),
        (400, "The model `x` does not exist", ServerRefused),
        (400, "Model Not Exist", ServerRefused),
        (400, "x is not a valid model ID (invalid_model)", ServerRefused),
        (400, "Invalid value (invalid_value, invalid_request_error, model)", ServerRefused),
        (400, "API key not valid", ServerRefused),
        (400, "Unsupported parameter: 'messages' (unsupported_parameter)", ServerRefused),
        (429, "You exceeded your current quota (insufficient_quota)", ServerRefused),
    ],
)
def test_a_refusal_is_about_one_request_or_about_all(code, said, kind):
    assert fault_of(code, said) is kind


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "no", "code": "c", "type": "t", "param": "p"}}, "no (c, t, p)"),
        ({"error": {"message": "no", "code": 400, "param": None}}, "no"),
        ({"error": "no"}, "no"),
        ({"message": "no", "type": "t"}, "no (t)"),
        ({"detail": [{"type": "extra_forbidden", "loc": ["body", "x"], "msg": "Extra", "input": "the whole prompt"}]},
         "Extra (extra_forbidden, ['body', 'x'])"),
    ],
)  # fmt: skip
def test_what_a_server_says_of_an_error(body, message):
    assert message_of(json.dumps(body).encode()) == message
    assert message_of(b"<html>no\xff</html>") == "<html>no\ufffd</html>"
