"""Requests that a service without a token answers: none that somebody else's web page brought about.

A page may ask any address that its browser reaches, a service on the reader's own machine among them, and name such an
address by a name of its own (DNS rebinding). A browser says whose page asks, in Sec-Fetch-Site and Origin, and by which
name, in Host.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

LOCAL = ("localhost", "127.0.0.1", "::1")
"""Names of this machine for itself."""
EVERYWHERE = ("0.0.0.0", "::", "")
"""Hosts to listen on that are every address of a machine."""
FOREIGN = ("cross-site", "same-site")
"""Words of Sec-Fetch-Site for another's page; a site has many services, as localhost has a port for each."""


@dataclass(frozen=True)
class Visitors:
    """Rules that say which requests are answered.

    hosts: names by which the service may be asked, None for any. addresses: whether it may be by any IP address too,
    which no page can make its own. origins: whose pages may ask, besides its own.
    """

    hosts: frozenset[str] | None = None
    addresses: bool = False
    origins: Sequence[str] = ()

    @classmethod
    def at(cls, listening: str, hosts: Sequence[str], origins: Sequence[str]) -> "Visitors":
        """Rules of a service that listens on a host: it goes by its name, this machine's own, and `hosts`."""
        named = {one.lower() for one in (*LOCAL, listening, *hosts)}
        return cls(frozenset(named), listening in EVERYWHERE, origins)

    def refused_host(self, headers: Mapping[bytes, str]) -> str | None:
        """Return a sentence where the service may not be asked by the name that the request has."""
        host = name_of(headers.get(b"host", ""))
        if self.hosts is None or host in self.hosts or (self.addresses and _is_address(host)):
            return None
        return f"this service does not go by the name {host[:100]!r}; whoever runs it can say --allow-host"

    def refused_origin(self, headers: Mapping[bytes, str], opens: bool) -> str | None:
        """Return a sentence where another's page asks that may not. opens: whether the request is to open our page."""
        origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site", "")
        if origin in self.origins or (opens and headers.get(b"sec-fetch-mode") == "navigate"):
            return None
        if site in FOREIGN or (origin is not None and _host_of(origin) != headers.get(b"host", "").lower()):
            return "pages of other origins may not use this service; whoever runs it can say --allow-origin"
        return None


def is_local(host: str) -> bool:
    """Whether a service that listens there is for this machine alone."""
    return host.lower() == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def name_of(host: str) -> str:
    """The name or address in a Host header, without its port, brackets and case."""
    name, colon, port = host.strip().lower().rpartition(":")
    name = name if colon and (port.isdecimal() or not port) and (name.endswith("]") or ":" not in name) else host
    return name.strip().lower().removeprefix("[").removesuffix("]").removesuffix(".")


def _host_of(origin: str) -> str:
    """Host and port of an origin; nothing of one that is none, "null" among them."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
