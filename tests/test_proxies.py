"""The proxy for requests to other servers (docs/behind-a-proxy.md)."""

import pytest

from derper.host.proxies import Proxies

PROXY = "http://proxy.test:3128"


def of(url: str, spared: str = "") -> str | None:
    environ = {"HTTP_PROXY": "http://plain.test", "https_proxy": PROXY, "no_proxy": spared}
    return proxies(environ).of(url)


def proxies(environ: dict[str, str]) -> Proxies:
    found, unusable = Proxies.from_environ(environ)
    assert not unusable
    return found


def test_each_scheme_has_a_variable_in_upper_or_lower_case() -> None:
    assert of("https://a.test/x") == PROXY
    assert of("http://a.test/x") == "http://plain.test:80"
    assert proxies({}).of("https://a.test") is None
    both = {"HTTPS_PROXY": "http://big.test", "https_proxy": "http://small.test"}
    assert proxies(both).of("https://a.test") == "http://big.test:80"


@pytest.mark.parametrize("url", ["https://localhost/", "https://127.0.0.1:1/", "https://127.9.9.9/", "https://[::1]/"])
def test_requests_to_this_machine_use_no_proxy(url: str) -> None:
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
def test_hosts_in_no_proxy_use_no_proxy(spared: str, url: str, *, is_spared: bool) -> None:
    assert (of(url, spared) is None) == is_spared


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("proxy.test:3128", PROXY),
        (":7890", "http://localhost:7890"),
        ("http://a.test", "http://a.test:80"),
        ("https://a.test", "https://a.test:443"),
        ("socks5://a.test", "socks5h://a.test:1080"),
        ("socks5h://me:secret@[2001:db8::1]:9050", "socks5h://me:secret@[2001:db8::1]:9050"),
    ],
)
def test_a_proxy_has_a_scheme_a_host_and_a_port(text: str, url: str) -> None:
    assert proxies({"HTTPS_PROXY": text}).of("https://a.test") == url


@pytest.mark.parametrize(
    "text", ["ftp://a.test", "socks4://a.test", "http://", "http://a.test:x", "http://a.test:99999", "http://a.test:0"]
)
def test_an_unusable_proxy_is_reported_and_not_used(text: str) -> None:
    found, unusable = Proxies.from_environ({"HTTPS_PROXY": text, "HTTP_PROXY": "http://plain.test"})
    assert unusable == ["HTTPS_PROXY"]
    assert found.of("https://a.test") is None
    assert found.of("http://a.test") == "http://plain.test:80"


def test_texts_of_a_proxy_have_no_password() -> None:
    assert "secret" not in repr(proxies({"HTTPS_PROXY": "http://me:secret@a.test"}))
