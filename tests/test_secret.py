import html
import json
from urllib.parse import quote, quote_plus

import pytest

from wheels.errors import WheelsError
from wheels.secret import MASK, Secret, read_secret

KEYS = ["sk-THESECRET42", "a\"b\\c/d+e&f<g>%h'i", "hf_" + "Qx7" * 30]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "form",
    [
        str,
        repr,
        json.dumps,
        lambda key: json.dumps(json.dumps(key)),
        lambda key: json.dumps({"error": json.dumps({"said": key})}),
        lambda key: json.dumps(key).replace("/", "\\/"),
        lambda key: repr(f"Bearer {key}\n".encode()),
        lambda key: "".join(f"\\u{ord(letter):04X}" for letter in key),
        lambda key: "".join(f"\\x{ord(letter):02x}" for letter in key),
        quote,
        lambda key: quote(key, safe=""),
        quote_plus,
        lambda key: quote(quote(key, safe=""), safe="").lower(),
        lambda key: "".join(f"%{ord(letter):02x}" for letter in key),
        html.escape,
        lambda key: html.escape(html.escape(key)),
        lambda key: "".join(f"&#{ord(letter)};" for letter in key),
        lambda key: "".join(f"&#x{ord(letter):x};" for letter in key),
        str.upper,
    ],
)
def test_every_form_of_a_key_is_masked_and_the_rest_stays(key, form):
    masked = Secret(key).mask(f"before {form(key)} after")
    assert masked.startswith("before ")
    assert masked.endswith(" after")
    assert masked.count(MASK) == 1
    assert len(masked) < len("before  after") + len(MASK) + 30, masked  # braces and quotes of the form
    for length in range(8, len(key)):
        assert key[:length].lower() not in masked.lower()


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("no key here", "no key here"),
        ("provided: sk-THESECR", "provided: [key]"),
        ("provided: sk-THES", "provided: [key]"),
        ('{"said": "sk-THE', '{"said": "[key]'),
        ("sk-THE...", "[key]..."),
        ("sk-THE**********", "[key]**********"),
        ("...HESECRET42 is wrong", "...[key] is wrong"),
        ("sk-THESECRET42sk-THESECRET42", "[key]"),
        ("sk-THESECRET42 sk-THESECRET42", "[key] [key]"),
        ("xsk-THESECRET42x", "x[key]x"),
        ("sk-the answer", "sk-the answer"),
        ("a task of 42 secrets", "a task of 42 secrets"),
    ],
)
def test_a_key_that_was_cut(text, masked):
    assert Secret("sk-THESECRET42").mask(text) == masked


def test_a_short_key_is_masked_where_it_stands_alone():
    assert Secret("abc").mask("Bearer abc, abcd, ABC") == "Bearer [key], abcd, [key]"


def test_no_key_masks_nothing_and_no_key_is_shown():
    assert Secret("").mask("text \\u0041") == "text \\u0041"
    assert "THESECRET" not in repr(Secret("sk-THESECRET42"))


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("sk-THESECRET42\n", "a line end"),
        ("sk-THESECRET42\r\n", "a line end"),
        (" sk-THESECRET42", "a space"),
        ("sk-\x1bTHESECRET42", "a control character"),
        ("sk-THESECRET42\x7f", "a control character"),
        ("sk-THÉSECRET42", "a character outside ASCII"),
        ("sk-THESECRET42\u200b", "a character outside ASCII"),
    ],
)
def test_a_key_that_no_header_can_carry_is_refused_by_the_name_of_its_variable(monkeypatch, value, what):
    monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(WheelsError, match=f"the key in MY_KEY holds {what}") as caught:
        read_secret("MY_KEY", "--teacher-key")
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("given", ["sk-THESECRET42", "hf_THESECRET42", "THESECRET42", "a=b", ""])
def test_a_key_in_the_place_of_a_name_is_not_shown(given):
    with pytest.raises(WheelsError, match="--teacher-key must name an environment variable") as caught:
        read_secret(given, "--teacher-key")
    assert "SECRET" not in str(caught.value)


def test_the_default_variable_may_be_missing(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert read_secret("OPENAI_API_KEY", "--teacher-key") == Secret("")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-THESECRET42")
    assert read_secret("OPENAI_API_KEY", "--teacher-key").value == "sk-THESECRET42"
