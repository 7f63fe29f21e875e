"""This server's entry in a DERP map: a node from the server's own settings, in the forms for pasting.

The certificate is read, never created: a server without its certificate has no pin yet.
"""

import json
from dataclasses import replace
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding

from derper import certname, mapnode
from derper.config import CertMode, Config, Tls
from derper.credentials import pem
from derper.credentials.pairs import pair_of
from derper.errors import ConfigError
from derper.host import files
from derper.protocol.derpmap import Region

_EXAMPLE: Final = "derp.tailscale.com"  # the flag's default, which only Tailscale can use


def entry(config: Config, region: Region, node_name: str) -> Region:
    """Return the region with this server as its node.

    Raises:
        ConfigError: The settings lack something that clients need.
    """
    tls = config.tls
    if tls.hostname in ("", _EXAMPLE):
        raise ConfigError("the server's host name is unknown; set the -hostname that it runs with")
    port = config.listeners.main.port
    if config.serves_tls and port == 0:
        raise ConfigError("-a has port 0, which the kernel chooses; set the port that clients connect to")
    pin = _pin(tls) if config.serves_tls else ""
    node = mapnode.node_of(config, pin, port=port, region_id=region.id, name=node_name)
    return replace(region, nodes=(node,))


def remarks(config: Config) -> list[str]:
    """Return the remarks for an operator about the entry."""
    said = []
    if not config.serves_tls:
        said.append("this server speaks plain HTTP: clients reach it only through a TLS proxy, taken to be on port 443")
    if config.serves_tls and _pin(config.tls):
        said.append("clients trust exactly this certificate: with another one the entry has to change")
    return said


def policy(region: Region) -> str:
    """Return the member for a Tailscale policy file."""
    written = json.dumps({"derpMap": {"Regions": {str(region.id): region.to_json()}}}, indent=2)
    return written.removeprefix("{\n").removesuffix("\n}") + ",\n"


def headscale(region: Region) -> str:
    """Return the file for Headscale's `derp.paths`."""
    lines = ["regions:", f"  {region.id}:"]
    about = {name: value for name, value in region.to_json().items() if name != "Nodes"}
    lines += [f"    {name.lower()}: {_yaml(value)}" for name, value in about.items()]
    lines.append("    nodes:")
    for node in region.nodes:
        first, *others = (f"{name.lower()}: {_yaml(value)}" for name, value in node.to_json().items())
        lines += [f"      - {first}", *(f"        {line}" for line in others)]
    return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:  # noqa: ANN401  any JSON value
    # JSON's scalars are valid YAML, and quoted text is never taken for another type.
    return json.dumps(value)


def _pin(tls: Tls) -> str:
    """Return the pin by which clients trust the certificate; empty if a CA vouches for it."""
    if tls.mode is not CertMode.MANUAL:
        return ""
    path = pair_of(tls).certificate  # the caller may lack permission to read the key
    if not path.exists():
        raise ConfigError(f"there is no certificate {path} yet; start the server once, or put yours there")
    chain = pem.parse_chain(files.read(path, "the certificate"), path)
    pem.check_leaf_is_first(chain, path, lambda certificate: certname.is_for(certificate, pem.host_of(tls)))
    return mapnode.pin_for(tls, [certificate.public_bytes(Encoding.DER) for certificate in chain])
