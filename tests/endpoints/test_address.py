import pytest

from wheels.endpoints.address import endpoint_url, is_loopback
from wheels.errors import WheelsError

CHAT = "/chat/completions"


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("http://h:1", "http://h:1/v1/chat/completions"),
        ("http://h:1/", "http://h:1/v1/chat/completions"),
        ("http://h:1/v1", "http://h:1/v1/chat/completions"),
        ("http://h:1/v1/", "http://h:1/v1/chat/completions"),
        ("http://h:1/v1/chat/completions", "http://h:1/v1/chat/completions"),
        ("HTTP://h:1/api", "http://h:1/api/v1/chat/completions"),
        ("https://h/v1beta/openai", "https://h/v1beta/openai/chat/completions"),
        ("https://h/api/v3", "https://h/api/v3/chat/completions"),
        ("https://h/x%2Fy/v1", "https://h/x%2Fy/v1/chat/completions"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1/chat/completions"),
        ("https://h/openai/deployments/d?api-version=2024-10-21",
         "https://h/openai/deployments/d/chat/completions?api-version=2024-10-21"),
        ("https://h/openai/deployments/d/chat/completions?api-version=preview",
         "https://h/openai/deployments/d/chat/completions?api-version=preview"),
    ],
)  # fmt: skip
def test_an_address_is_a_server_one_with_a_version_or_whole(url, whole):
    assert str(endpoint_url(url, CHAT)) == whole


@pytest.mark.parametrize(
    "url",
    [
        "h:1", "ftp://h", "http://", "http:///v1", "http://h:abc", "http://h:99999", "http://h:0", "http://[bad]/",
        "http://" + "a" * 70, "http://h..x", "http://h x/", "http://h\n", "http://h\u2028", "http://%zz",
        "http://me:secret@h", "http://secret@h", "ftp://me:secret@h", "http://me:secret@", "http://me:secret@h:abc",
        "http://h/v1?key=secret", "http://h/v1?api-version=1&key=secret", "http://h/v1?api-version=a%20secret",
        "http://h/v1#secret", "h/v1?secret",
    ],
)  # fmt: skip
def test_an_address_with_a_key_in_it_or_none_at_all_is_refused(url):
    with pytest.raises(WheelsError, match="an endpoint must be") as caught:
        endpoint_url(url, CHAT)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("api.localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("127.1", True),
        ("2130706433", True),
        ("0x7f.1", True),
        ("0.0.0.0", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("notlocalhost", False),
        ("localhost.example.com", False),
        ("10.0.0.1", False),
        ("::2", False),
        ("example.com", False),
    ],
)
def test_the_ways_to_write_this_machine(host, here):
    assert is_loopback(host) is here
