"""The flags of `derper`: names, defaults and usage texts, and nothing about what they do.

The names and defaults are those of the program that this one stands in for. A default that depends on the machine
stands in its text, and `derper.cli.settings` finds it.
"""

import math
from typing import Any, Final

from derper.cli.goflags import Flag, boolean, duration, integer, number, string, strings
from derper.cli.govalues import INT_MAX

DEV = boolean("dev", "run on this machine for development: plain HTTP on :3340 and a new key at each start")
VERSION = boolean("version", "print the version and exit")

LISTEN = string(
    "a",
    ":443",
    "main listen `address`, as :port, ip:port or [ip6]:port;\nHTTPS on port 443 and with -certmode=manual",
)
TLS = string("tls", "", "`on` or off: whether the main listener speaks TLS, whatever its port\n(default as -a says)")
HTTP_PORT = integer("http-port", 80, "`port` for plain HTTP beside HTTPS, on the same address; -1 for none")
STUN_PORT = integer("stun-port", 3478, "UDP `port` for STUN, on the same address; -1 for none")
STUN = boolean("stun", "answer STUN requests", default=True)
STUN_ANY = boolean("stun-any", "answer STUN requests of every client, not only of Tailscale's")
DERP = boolean("derp", "relay packets; without it only STUN, bootstrap DNS and the pages are served", default=True)
CONFIG = string(
    "c",
    "",
    "`file` with this server's private key, made when it is missing; root may leave it out for\n"
    "/var/lib/derper/derper.key",
)
HOME = string("home", "", 'what / shows: empty for a short page, "blank" for nothing, or the URL of another `page`')

CERT_MODE = string("certmode", "letsencrypt", "where certificates come from, the `mode`: manual, letsencrypt or gcp")
CERT_DIR = string(
    "certdir",
    "",
    "`directory` of certificates and of what ACME has to remember\n"
    "(default tailscale/derper-certs in the user's cache directory)",
)
HOSTNAME = string(
    "hostname", "derp.tailscale.com", "`name` that TLS clients ask for; with -certmode=manual also an IP address"
)
ACME_EMAIL = string("acme-email", "", "`address` of the ACME account's owner")
ACME_EAB_KID = string("acme-eab-kid", "", "`ID` of the external account binding that -certmode=gcp needs")
ACME_EAB_KEY = string("acme-eab-key", "", "HMAC `key` of the external account binding, in base64")
ACME_EAB_KEY_FILE = string("acme-eab-key-file", "", "`file` that holds what -acme-eab-key would say")
ACME_DIRECTORY = string(
    "acme-directory",
    "",
    "`URL` of another ACME directory than Let's Encrypt's or Google's, such as a private CA's",
)
ACME_DIRECTORY_CA = string(
    "acme-directory-ca", "", "PEM `file` of the roots that vouch for the ACME directory itself, instead of the system's"
)
ACME_DNS_HOOK = string(
    "acme-dns-hook",
    "",
    "`program` that sets DNS records, to prove names by DNS-01; called as\n"
    "'program present|cleanup _acme-challenge.NAME. VALUE', as lego's exec provider calls it",
)
ACME_IP_CERTS = boolean("acme-ip-certs", "also get certificates for the IP addresses that clients connect to")

ADMIN = string(
    "admin",
    "",
    "where the debug pages are instead of the public ports, with what changes the server:\n"
    "unix:`place` for a socket, unix alone for one in $RUNTIME_DIRECTORY, or an address",
)
ADMIN_TOKEN_FILE = string("admin-token-file", "", "`file` with the token that -admin on an address wants for changes")

MESH_PSK_FILE = string(
    "mesh-psk-file",
    "",
    "`file` with the key that the nodes of one region share, 64 hex digits\n"
    "(default the first of /home/derp/keys/derp-mesh.key and ~/keys/derp-mesh.key that exists)",
)
MESH_WITH = string("mesh-with", "", "comma-separated `hosts` of the region's nodes, each as host or host/dialhost")
SECRETS_URL = string("secrets-url", "", "`URL` of a setec server that holds the mesh key")
SECRETS_PATH_PREFIX = string("secrets-path-prefix", "prod/derp", "`prefix` of the secret's name, before /meshkey")
SECRETS_CACHE_DIR = string(
    "secrets-cache-dir",
    "",
    "`file` that keeps the last secret for when the server is away\n(default ~/.cache/derper-secrets)",
)

BOOTSTRAP_DNS_NAMES = string("bootstrap-dns-names", "", "comma-separated `names` that /bootstrap-dns resolves for all")
UNPUBLISHED_BOOTSTRAP_DNS_NAMES = string(
    "unpublished-bootstrap-dns-names",
    "",
    "comma-separated `names` that /bootstrap-dns resolves for who asks;\n"
    "name/txt-name for a share of the callers alone",
)

VERIFY_CLIENTS = boolean("verify-clients", "admit only clients that the tailscaled on this machine knows")
VERIFY_CLIENT_URL = strings("verify-client-url", "`URL` that decides who is admitted; of several, one has to admit")
VERIFY_CLIENT_URL_FAIL_OPEN = boolean(
    "verify-client-url-fail-open", "admit clients while -verify-client-url cannot be reached", default=True
)
VERIFY_ANY = boolean("verify-any", "admit a client that one kind of check admits, instead of all that are asked for")
VERIFY_CACHE = duration("verify-cache", 0, "how long the last yes about a client stands in while there is no answer")
VERIFY_INTERVAL = duration(
    "verify-interval",
    300,
    "how often connected clients are asked about again; those who are refused are put out; 0: never",
)
ALLOW_KEYS = string(
    "allow-keys", "", "`file` with the node keys that are admitted, one a line; read again when it changes"
)
DISALLOW_APP_NAMES = string("disallow-app-names", "", "comma-separated application `names` that may not log in")
SOCKET = strings(
    "socket",
    "`path` of tailscaled's socket, for -verify-clients; of several, one has to know the client\n"
    "(default /var/run/tailscale/tailscaled.sock)",
)

ACCEPT_CONNECTION_LIMIT = number("accept-connection-limit", math.inf, "how many new connections a second are taken")
ACCEPT_CONNECTION_BURST = integer("accept-connection-burst", INT_MAX, "how many may come at once beyond that")
CONNECTIONS_PER_IP = integer("connections-per-ip", 0, "how many connections one address may have; 0 for any number")
PROXY_PROTOCOL = string(
    "proxy-protocol",
    "",
    "comma-separated `networks` of proxies in front: connections from there, and no others,\n"
    "begin with a PROXY header (version 1 or 2), which names the client",
)
TRUSTED_PROXIES = string(
    "trusted-proxies",
    "",
    "comma-separated `networks` of HTTP proxies in front, whose X-Forwarded-For says who a client is",
)
RATE_CONFIG = string("rate-config", "", "JSON `file` with limits per client, read again on SIGHUP")
ANNOUNCE_LIMITS = boolean("announce-limits", "tell clients of their limits, so that they drop what is over")

TCP_KEEPALIVE_TIME = duration("tcp-keepalive-time", 600, "how long a connection is idle before TCP keep-alives")
TCP_USER_TIMEOUT = duration("tcp-user-timeout", 15, "how long sent data may stay unacknowledged")
TCP_WRITE_TIMEOUT = duration("tcp-write-timeout", 2, "how long a client may take no data; 0 for ever")
SHARDS = integer("shards", 0, "how many threads move packets (default $DERPER_SHARDS, else one a core)")
MAX_QUEUED_BYTES = integer(
    "max-queued-bytes",
    0,
    "how many bytes of memory all that waits for slow clients may take; the largest queues make room\n"
    "(default a quarter of the memory)",
)
ACE = boolean("ace", "be a CONNECT proxy to the control plane")

DRAIN_TIMEOUT = duration(
    "drain-timeout", 10, "how long clients are sent away one after the other, where another server takes them over"
)
SETTINGS = string("settings", "", "TOML `file` that holds anything that a flag can; flags win")
LOG_FORMAT = string(
    "log-format",
    "auto",
    "the `form` of log lines: text for people, logfmt or json for collectors,\nauto for text on a terminal",
)
LOG_LEVEL = string("log-level", "info", "the least `level` that is logged: debug, info, warning or error")

DERPER_FLAGS: Final[tuple[Flag[Any], ...]] = (
    DEV,
    VERSION,
    LISTEN,
    TLS,
    HTTP_PORT,
    STUN_PORT,
    STUN,
    STUN_ANY,
    DERP,
    CONFIG,
    HOME,
    ADMIN,
    ADMIN_TOKEN_FILE,
    CERT_MODE,
    CERT_DIR,
    HOSTNAME,
    ACME_EMAIL,
    ACME_EAB_KID,
    ACME_EAB_KEY,
    ACME_EAB_KEY_FILE,
    ACME_DIRECTORY,
    ACME_DIRECTORY_CA,
    ACME_DNS_HOOK,
    ACME_IP_CERTS,
    MESH_PSK_FILE,
    MESH_WITH,
    SECRETS_URL,
    SECRETS_PATH_PREFIX,
    SECRETS_CACHE_DIR,
    BOOTSTRAP_DNS_NAMES,
    UNPUBLISHED_BOOTSTRAP_DNS_NAMES,
    VERIFY_CLIENTS,
    VERIFY_CLIENT_URL,
    VERIFY_CLIENT_URL_FAIL_OPEN,
    VERIFY_ANY,
    VERIFY_CACHE,
    VERIFY_INTERVAL,
    ALLOW_KEYS,
    DISALLOW_APP_NAMES,
    SOCKET,
    ACCEPT_CONNECTION_LIMIT,
    ACCEPT_CONNECTION_BURST,
    CONNECTIONS_PER_IP,
    PROXY_PROTOCOL,
    TRUSTED_PROXIES,
    RATE_CONFIG,
    ANNOUNCE_LIMITS,
    TCP_KEEPALIVE_TIME,
    TCP_USER_TIMEOUT,
    TCP_WRITE_TIMEOUT,
    SHARDS,
    MAX_QUEUED_BYTES,
    ACE,
    DRAIN_TIMEOUT,
    SETTINGS,
    LOG_FORMAT,
    LOG_LEVEL,
)  # fmt: skip  (a row a topic)
