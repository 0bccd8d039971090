"""Rules for requests to a service without a token: those caused by other sites' web pages are refused.

A web page can send requests to any address that its browser reaches, such as a service on the user's own machine, and
can give such an address a name of its own (DNS rebinding). The browser states the page's origin in Sec-Fetch-Site and
Origin, and the name in Host.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

LOCAL = ("localhost", "127.0.0.1", "::1")
"""Names of this machine on itself."""
EVERYWHERE = ("0.0.0.0", "::", "")
"""Hosts to listen on that stand for every address of a machine."""
FOREIGN = ("cross-site", "same-site")
"""Values of Sec-Fetch-Site for other pages. Even the same site may be another service, such as another port of
localhost."""


@dataclass(frozen=True)
class Visitors:
    """Rules that decide which requests are answered.

    hosts: accepted host names, None for any. addresses: whether any IP address is accepted too; a page cannot rebind
    one. origins: origins of pages that may send requests, besides the service's own.
    """

    hosts: frozenset[str] | None = None
    addresses: bool = False
    origins: Sequence[str] = ()

    @classmethod
    def at(cls, listening: str, hosts: Sequence[str], origins: Sequence[str]) -> "Visitors":
        """Return the rules of a service listening on a host: it accepts that name, this machine's, and `hosts`."""
        named = {one.lower() for one in (*LOCAL, listening, *hosts)}
        return cls(frozenset(named), listening in EVERYWHERE, origins)

    def refused_host(self, headers: Mapping[bytes, str]) -> str | None:
        """Return a sentence where the request's host name is not accepted, or None."""
        host = name_of(headers.get(b"host", ""))
        if self.hosts is None or host in self.hosts or (self.addresses and _is_address(host)):
            return None
        return f"this service does not go by the name {host[:100]!r}; whoever runs it can say --allow-host"

    def refused_origin(self, headers: Mapping[bytes, str], opens: bool) -> str | None:
        """Return a sentence where the request comes from a refused page, or None. opens: whether it opens our page."""
        origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site", "")
        if origin in self.origins or (opens and headers.get(b"sec-fetch-mode") == "navigate"):
            return None
        if site in FOREIGN or (origin is not None and _host_of(origin) != headers.get(b"host", "").lower()):
            return "pages of other origins may not use this service; whoever runs it can say --allow-origin"
        return None


def is_local(host: str) -> bool:
    """Return whether a service that listens on `host` is reachable from this machine alone."""
    return host.lower() == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def name_of(host: str) -> str:
    """Return the name or address in a Host header in lower case, without port and brackets."""
    name, colon, port = host.strip().lower().rpartition(":")
    name = name if colon and (port.isdecimal() or not port) and (name.endswith("]") or ":" not in name) else host
    return name.strip().lower().removeprefix("[").removesuffix("]").removesuffix(".")


def _host_of(origin: str) -> str:
    """Return the host and port of an origin; "" for an invalid one, such as "null"."""
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
