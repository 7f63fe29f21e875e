"""The flags of `derper`: names, defaults and usage texts.

Names and defaults are those of the Go server. If a default depends on the machine, its text says so, and
`derper.cli.settings` resolves it.
"""

import math
from typing import Any, Final

from derper.cli.goflags import Flag, boolean, duration, integer, number, string, strings
from derper.govalues import INT_MAX

DEV = boolean("dev", "development mode: plain HTTP on :3340 and a new key at each start")
VERSION = boolean("version", "print the version and exit")

LISTEN = string(
    "a",
    ":443",
    "main listen `address`, as :port, ip:port or [ip6]:port;\nHTTPS on port 443 and with -certmode=manual",
)
TLS = string("tls", "", "`on` or off: whether the main listener speaks TLS, whatever its port\n(default as -a says)")
HTTP_PORT = integer("http-port", 80, "`port` for plain HTTP beside HTTPS, on the same address; -1 disables it")
STUN_PORT = integer("stun-port", 3478, "UDP `port` for STUN, on the same address; -1 disables it")
STUN = boolean("stun", "answer STUN requests", default=True)
STUN_ANY = boolean("stun-any", "answer STUN requests of any client, not only Tailscale's")
DERP = boolean("derp", "relay packets; if off, serve only STUN, bootstrap DNS and the pages", default=True)
CONFIG = string(
    "c",
    "",
    "`file` with this server's private key, created if missing; default for root:\n/var/lib/derper/derper.key",
)
HOME = string(
    "home",
    "",
    'response to /: empty for a short page, "blank" for an empty one, or a URL to redirect to (the home `page`)',
)

CERT_MODE = string("certmode", "letsencrypt", "certificate `mode`: manual, letsencrypt or gcp")
CERT_DIR = string(
    "certdir",
    "",
    "`directory` of certificates and ACME state\n(default tailscale/derper-certs in the user's cache directory)",
)
HOSTNAME = string(
    "hostname", "derp.tailscale.com", "`name` of this server, for TLS; with -certmode=manual also an IP address"
)
ACME_EMAIL = string("acme-email", "", "`address` of the ACME account's owner")
ACME_EAB_KID = string("acme-eab-kid", "", "`ID` of the external account binding for -certmode=gcp")
ACME_EAB_KEY = string("acme-eab-key", "", "HMAC `key` of the external account binding, in base64")
ACME_EAB_KEY_FILE = string("acme-eab-key-file", "", "`file` with the value of -acme-eab-key")
ACME_DIRECTORY = string(
    "acme-directory",
    "",
    "`URL` of another ACME directory than Let's Encrypt's or Google's, such as a private CA's",
)
ACME_DIRECTORY_CA = string(
    "acme-directory-ca",
    "",
    "PEM `file` of the roots that verify the ACME directory's own certificate, instead of the system's",
)
ACME_DNS_HOOK = string(
    "acme-dns-hook",
    "",
    "`program` that sets DNS records for DNS-01; called as\n"
    "'program present|cleanup _acme-challenge.NAME. VALUE', as by lego's exec provider",
)
ACME_IP_CERTS = boolean("acme-ip-certs", "also order certificates for the IP addresses that clients connect to")

ADMIN = string(
    "admin",
    "",
    "serve the debug pages and admin actions here instead of on the public ports:\n"
    "unix:`place` for a socket, unix alone for one in $RUNTIME_DIRECTORY, or an address",
)
ADMIN_TOKEN_FILE = string(
    "admin-token-file", "", "`file` with the token that admin actions need if -admin is an address"
)

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
    "`file` that caches the last secret, used while the server is unreachable\n(default ~/.cache/derper-secrets)",
)

BOOTSTRAP_DNS_NAMES = string(
    "bootstrap-dns-names", "", "comma-separated `names` that /bootstrap-dns resolves for every caller"
)
UNPUBLISHED_BOOTSTRAP_DNS_NAMES = string(
    "unpublished-bootstrap-dns-names",
    "",
    "comma-separated `names` that /bootstrap-dns resolves if a caller asks for them;\n"
    "name/txt-name limits one to a percentage of callers",
)

VERIFY_CLIENTS = boolean("verify-clients", "admit only clients that the tailscaled on this machine knows")
VERIFY_CLIENT_URL = strings(
    "verify-client-url", "`URL` that is asked whether to admit a client; of several, one must admit it"
)
VERIFY_CLIENT_URL_FAIL_OPEN = boolean(
    "verify-client-url-fail-open", "admit clients while -verify-client-url is unreachable", default=True
)
VERIFY_ANY = boolean("verify-any", "admit a client if one kind of check admits it, instead of all kinds")
VERIFY_CACHE = duration(
    "verify-cache", 0, "how long the last positive answer about a client is used while a check is unreachable"
)
VERIFY_INTERVAL = duration(
    "verify-interval",
    300,
    "how often connected clients are checked again; rejected ones are disconnected; 0 disables it",
)
ALLOW_KEYS = string(
    "allow-keys", "", "`file` with the node keys that are admitted, one a line; read again when it changes"
)
DISALLOW_APP_NAMES = string("disallow-app-names", "", "comma-separated application `names` that may not log in")
SOCKET = strings(
    "socket",
    "`path` of tailscaled's socket, for -verify-clients; of several, one must know the client\n"
    "(default /var/run/tailscale/tailscaled.sock)",
)

ACCEPT_CONNECTION_LIMIT = number("accept-connection-limit", math.inf, "maximum number of new connections per second")
ACCEPT_CONNECTION_BURST = integer("accept-connection-burst", INT_MAX, "burst of new connections beyond that rate")
CONNECTIONS_PER_IP = integer(
    "connections-per-ip", 0, "maximum number of connections per source address; 0 for no limit"
)
PROXY_PROTOCOL = string(
    "proxy-protocol",
    "",
    "comma-separated `networks` of TCP proxies: connections from them, and no others,\n"
    "begin with a PROXY header (version 1 or 2), which names the client",
)
TRUSTED_PROXIES = string(
    "trusted-proxies",
    "",
    "comma-separated `networks` of HTTP proxies whose X-Forwarded-For names the client's address",
)
RATE_CONFIG = string("rate-config", "", "JSON `file` with rate limits of clients, read again on SIGHUP")
ANNOUNCE_LIMITS = boolean("announce-limits", "announce rate limits to clients, which then limit themselves")

TCP_KEEPALIVE_TIME = duration("tcp-keepalive-time", 600, "idle time before TCP keep-alives")
TCP_USER_TIMEOUT = duration("tcp-user-timeout", 15, "maximum time that sent data may stay unacknowledged")
TCP_WRITE_TIMEOUT = duration("tcp-write-timeout", 2, "maximum time that a client may accept no data; 0 for no limit")
SHARDS = integer("shards", 0, "number of threads that move packets (default $DERPER_SHARDS, else one per core)")
MAX_QUEUED_BYTES = integer(
    "max-queued-bytes",
    0,
    "maximum bytes of memory for packets queued for slow clients; the largest queues drop first\n"
    "(default a quarter of the memory)",
)
ACE = boolean("ace", "serve a CONNECT proxy to the control plane")

DRAIN_TIMEOUT = duration(
    "drain-timeout", 10, "time over which a drain disconnects clients one by one, if another server takes them over"
)
SETTINGS = string("settings", "", "TOML `file` with any of these settings; flags take precedence")
LOG_FORMAT = string(
    "log-format",
    "auto",
    "`format` of log lines: text for people, logfmt or json for collectors,\n"
    "auto for text on a terminal and logfmt elsewhere",
)
LOG_LEVEL = string("log-level", "info", "minimum log `level`: debug, info, warning or error")

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
)  # fmt: skip  (one row per topic)
