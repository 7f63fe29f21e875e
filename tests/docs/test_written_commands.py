"""The programs accept the command lines in the pages for operators, and do what the page describes."""

import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from authority import Authority
from derpwire import HOST, Client, RelayAddress, Wire
from live import config_of, serving
from probed import ProbedRegion, derpprobe, started
from running import inline
from serving import Server, client_context
from verifier import ALLOW, REFUSE, Question, always, at_a_socket, at_a_url, http, try_login
from written import PAGES, all_commands, commands, here, mentioned_flags, snippets, the_command

from derper.cli import probing
from derper.cli.environment import Environment
from derper.cli.flags import DERPER_FLAGS
from derper.cli.goflags import parse
from derper.cli.probing import DERPPROBE_FLAGS
from derper.cli.settings import config_from
from derper.cli.tools import TOOLS
from derper.client import DerpClient
from derper.protocol.derpmap import DerpMap

NAME: Final = "derp.example.com"


def surroundings(folder: Path) -> Environment:
    return Environment({"HOME": str(folder)}, is_root=True, cores=2)


@pytest.mark.parametrize(
    ("page", "line"), [pytest.param(page, line, id=f"{page}: {' '.join(line)[:60]}") for page, line in all_commands()]
)
def test_every_command_line_is_accepted_by_its_program(page: str, line: tuple[str, ...], tmp_path: Path) -> None:
    program, *words = line
    if program == "derper" and words[0] in TOOLS:
        assert page in {"docs/tools.md", "docs/from-go.md", "docs/running.md", "docs/troubleshooting.md", "README.md"}
        assert len(words) == 1 or line in commands("docs/tools.md"), "a tool's line that no test runs"
        return
    flags = DERPER_FLAGS if program == "derper" else DERPPROBE_FLAGS
    parsed = parse(flags, here(tuple(words), tmp_path))
    assert parsed.rest == ()
    if program == "derper" and not parsed.help_wanted:
        config_from(parsed, surroundings(tmp_path))
    elif program == "derpprobe":
        probing.config_from(parsed, surroundings(tmp_path))


def test_the_expected_pages_have_command_lines() -> None:
    having = {page for page, _ in all_commands()}
    assert having >= {
        f"docs/{name}.md" for name in ("admission", "behind-a-proxy", "certificates", "derpprobe", "running", "tools")
    } | {"README.md"}


def test_every_flag_in_a_page_exists() -> None:
    known = {flag.name for flag in (*DERPER_FLAGS, *DERPPROBE_FLAGS)}
    usage = "".join(f"{done.stdout}{done.stderr}" for done in (inline(name, "-h") for name in TOOLS))
    known |= {word.lstrip("-") for word in re.findall(r"--?[a-z][a-z0-9-]*", usage)} | {"h"}
    named = set(mentioned_flags())
    assert len(named) > 60
    assert sorted((page, word) for page, word in named if word.lstrip("-") not in known) == []


def as_a_server(page: str, *having: str, folder: Path, more: tuple[str, ...] = ()) -> Server:
    """Return the server of a page's command line; only its listening address is added."""
    words = here(the_command(page, *having), folder, certs=str(folder), **{
        "127_0_0_1_8443": f"{HOST}:0", "127_0_0_1_8080": f"{HOST}:0", "_etc_derper_certs": str(folder),
    })  # fmt: skip
    return Server(folder, *more, *words)


async def test_the_first_relay_with_tls_and_its_map_entry(tmp_path: Path) -> None:
    page = snippets("README.md")
    with as_a_server("README.md", "-certmode", folder=tmp_path) as server:
        logged = server.logged(r'(\{"Name":"900a".*\})')[1]
        own = json.loads(logged)
        pin = own["CertName"]
        # The page's server listens on port 443 and answers STUN.
        usual = {name: value for name, value in own.items() if name not in {"DERPPort", "STUNPort"}}
        assert own["DERPPort"] == server.port

        def with_pin(text: str) -> str:
            return re.sub(r"sha256-raw:\w+…\w+", pin, text)

        (shown,) = (text for text in page if text.lstrip().startswith('{"Name"'))
        assert json.loads(with_pin(shown)) == usual
        (policy,) = (text for text in page if '"derpMap"' in text)
        regions = json.loads("{" + with_pin(policy) + "}")["derpMap"]
        (node,) = regions["Regions"]["900"]["Nodes"]
        assert node == usual
        node |= {"IPv4": HOST, "DERPPort": server.port}
        async with DerpClient(DerpMap.from_json(json.dumps(regions).encode()).regions[900]) as client:
            assert client.connected
        (headscale,) = (text for text in page if "regionid" in text)
        words = here(the_command("README.md", "-certmode"), tmp_path)
        ours = inline("map", *words, "-stun=false", "-for", "headscale").stdout
    assert entries(with_pin(headscale)) == entries(ours) - {("stunport", "-1")}


def entries(yaml: str) -> set[tuple[str, str]]:
    """Return the scalars of a small YAML document, independent of its layout."""
    return {(key, value.strip('"')) for key, value in re.findall(r'(\w+): ("[^"]*"|[^\s{},]+)', yaml)}


async def test_a_relay_for_two_tailnets_with_two_sockets(tmp_path: Path) -> None:
    words = here(the_command("docs/admission.md", "-verify-clients"), tmp_path)
    sockets = [Path(word) for word in words if word.endswith(".sock")]
    answers = http(b"Not Found", "404 Not Found"), http(b'{"Node":{"Name":"ours."}}')
    said = iter((answers[1], answers[0]))

    async def second(_question: Question) -> bytes:
        return next(said)

    async with (
        at_a_socket(sockets[0], always(answers[0])) as first,
        at_a_socket(sockets[1], second),
        serving(config_of(tmp_path, *words)) as server,
    ):
        assert await try_login(server) is None
        assert "does not know it" in (await try_login(server) or "")
        assert len(first.asked) == 2


@pytest.mark.parametrize("answer", [ALLOW, REFUSE])
async def test_a_controllers_url(answer: bytes, tmp_path: Path) -> None:
    async with at_a_url(always(http(answer))) as verifier:
        words = here(the_command("docs/admission.md", "-verify-client-url"), tmp_path,
                     https___headscale_example_com_verify=verifier.url)  # fmt: skip
        async with serving(config_of(tmp_path, *words)) as server:
            assert (await try_login(server) is None) == (answer == ALLOW)
        (question,) = verifier.asked
    asked = re.search(r"`(\{\"NodePublic.*?\})`", PAGES["docs/admission.md"].read_text())
    assert asked is not None
    assert json.loads(question.body).keys() == json.loads(asked[1]).keys()


def test_a_relay_behind_a_tcp_proxy_rejects_connections_without_its_header(tmp_path: Path) -> None:
    Authority(tmp_path).issue(tmp_path, NAME)
    with as_a_server("docs/behind-a-proxy.md", "-proxy-protocol", folder=tmp_path, more=("-tls", "on")) as server:
        with RelayAddress(server.port).connect() as stranger:
            stranger.send(b"\x16\x03\x01")
            assert stranger.rest() == b""
        server.logged("proxy_header")


def test_a_relay_behind_an_http_proxy_serves_plain_http(tmp_path: Path) -> None:
    with (
        as_a_server("docs/behind-a-proxy.md", "-trusted-proxies", folder=tmp_path) as server,
        Client.join(server.door) as client,
    ):
        client.ping()


def test_a_relay_with_an_unreachable_ca_starts_and_logs_it(tmp_path: Path) -> None:
    away = ("-tls", "on", "-http-port", "-1", "-acme-directory", f"https://{HOST}:1/directory")
    with as_a_server("docs/certificates.md", "-c", folder=tmp_path, more=away) as server:
        server.logged(r"cannot.*certificate|certificate.*(again|failed)")
        with pytest.raises(ssl.SSLError, match=r"(?i)alert|unrecognized"):
            RelayAddress(server.port, ssl.create_default_context()).connect()


def test_the_units_command_line_serves_in_an_empty_environment(tmp_path: Path) -> None:
    free = ("-tls", "on", "-http-port", "0", "-acme-directory", f"https://{HOST}:1/directory")
    words = here(the_command("docs/running.md", "-certdir"), tmp_path)
    with Server(tmp_path, *free, *words, before=("env", "-i")) as server:
        assert (tmp_path / "derper" / "derper.key").exists()
        done = inline("ctl", "--admin", f"unix:{tmp_path}/derper/admin.sock", "reload")
        assert done.returncode == 0, done.stderr
        server.logged("reloaded")


def test_a_relay_with_the_operators_certificate_files(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue(tmp_path, NAME)
    with as_a_server("docs/certificates.md", "manual", folder=tmp_path, more=("-tls", "on", "-http-port=-1")) as server:
        tcp = RelayAddress(server.port).tcp()
        with Client(Wire(client_context(authority.file).wrap_socket(tcp, server_hostname=NAME))) as client:
            client.upgrade()
            client.log_in()
            client.ping()


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProbedRegion]:
    with ProbedRegion(tmp_path_factory.mktemp("region"), "ours") as region:
        yield region


def of_region(region: ProbedRegion, words: tuple[str, ...]) -> tuple[str, ...]:
    """Return a page's arguments of a prober, with the region's map and mesh key."""
    return tuple(
        {"file:///etc/derpmap.json": region.flags()[1], "/etc/derp-mesh.key": str(region.mesh_key)}.get(word, word)
        for word in words
    )


def test_the_prober_runs_with_the_command_line_of_its_page(region: ProbedRegion) -> None:
    words = of_region(region, the_command("docs/derpprobe.md", "-mesh-psk-file"))
    with started(*words, "-listen", f"{HOST}:0", roots=region.authority.file) as prober:
        assert "derp/test/900a/tls" in prober.get("/")[2]


def test_the_probers_lines_with_once_run_and_have_the_fields_for_jq(region: ProbedRegion) -> None:
    quick = ("-stun-interval=1s", "-tls-interval=1s", "-mesh-interval=1s", "-spread=false")
    plain, for_scripts = commands("docs/derpprobe.md", "-once")
    for _, *words in (plain, for_scripts):
        done = derpprobe(*words, *region.flags(*quick), roots=region.authority.file)
        assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told["probes"]) == 4
    assert [probe for probe in told["probes"] if not probe["good"]] == []


def test_the_prober_prints_one_key_for_each_probe_and_ends(region: ProbedRegion, tmp_path: Path) -> None:
    words = here(of_region(region, the_command("docs/derpprobe.md", "-probe-keys")), tmp_path)
    done = derpprobe(*words)
    assert done.returncode == 0, done.stderr
    assert "nodekey:" in done.stdout
    assert (tmp_path / "derpprobe/key").exists()
