"""Which proxy another server is asked through (docs/behind-a-proxy.md)."""

import pytest

from derper.errors import ConfigError
from derper.host.proxies import Proxies

PROXY = "http://proxy.test:3128"


def of(url: str, spared: str = "") -> str | None:
    environ = {"HTTP_PROXY": "http://plain.test", "https_proxy": PROXY, "no_proxy": spared}
    return Proxies.from_environ(environ).of(url)


def test_each_scheme_has_its_own_proxy_in_capitals_or_small_letters() -> None:
    assert of("https://a.test/x") == PROXY
    assert of("http://a.test/x") == "http://plain.test"
    assert Proxies.from_environ({}).of("https://a.test") is None
    both = {"HTTPS_PROXY": "http://big.test", "https_proxy": "http://small.test"}
    assert Proxies.from_environ(both).of("https://a.test") == "http://big.test"


@pytest.mark.parametrize("url", ["https://localhost/", "https://127.0.0.1:1/", "https://127.9.9.9/", "https://[::1]/"])
def test_this_machine_is_asked_directly(url: str) -> None:
    assert of(url) is None


@pytest.mark.parametrize(
    ("spared", "url", "is_spared"),
    [
        ("*", "https://a.test", True),
        ("a.test", "https://a.test", True),
        ("A.test , x", "https://a.test", True),
        ("a.test", "https://b.a.test", True),
        ("a.test", "https://ba.test", False),
        (".a.test", "https://a.test", False),
        (".a.test", "https://b.a.test", True),
        ("*.a.test", "https://b.a.test", True),
        ("*.a.test", "https://a.test", False),
        ("a.test:443", "https://a.test", True),
        ("a.test:8443", "https://a.test", False),
        ("a.test:8443", "https://a.test:8443", True),
        ("192.0.2.0/24", "https://192.0.2.7", True),
        ("192.0.2.0/24", "https://192.0.3.7", False),
        ("192.0.2.7", "https://192.0.2.7", True),
        ("192.0.2.7:443", "https://192.0.2.7", True),
        ("192.0.2.7:444", "https://192.0.2.7", False),
        ("2001:db8::7", "https://[2001:db8::7]", True),
        ("[2001:db8::7]:443", "https://[2001:db8::7]", True),
        ("2001:db8::/32", "https://[2001:db8::7]", True),
        ("nonsense/24,,:", "https://a.test", False),
    ],
)
def test_who_is_spared(spared: str, url: str, *, is_spared: bool) -> None:
    assert (of(url, spared) is None) == is_spared


def test_a_proxy_without_a_scheme_speaks_http() -> None:
    assert Proxies.from_environ({"HTTPS_PROXY": "proxy.test:3128"}).of("https://a.test") == PROXY


@pytest.mark.parametrize("text", ["socks5://a.test", "http://", "http://a.test:x", "http://a.test:99999"])
def test_what_is_no_proxy_is_said_without_its_password(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^the environment variable HTTPS_PROXY is not an http or https URL"
    ) as error:
        Proxies.from_environ({"HTTPS_PROXY": text.replace("//", "//me:secret@")})
    assert "secret" not in str(error.value)


def test_no_password_is_shown() -> None:
    assert "secret" not in repr(Proxies.from_environ({"HTTPS_PROXY": "http://me:secret@a.test"}))
