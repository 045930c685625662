import json

import pytest

from wheels.endpoints.faults import Again, RequestRefused, ServerRefused, fault_of, message_of

TOO_LONG = "This model's maximum context length is 4096 tokens. However, your messages resulted in 5000 tokens."


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
