"""The peer of a connection, for limits that each peer has to itself."""

from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Any


def peer_of(client: Sequence[Any] | None) -> str:
    """Return the peer of a client's (host, port): its address, or for IPv6 its /64 network, which one host may own.

    Clients without an address, over a Unix socket or in tests, are one peer.
    """
    if not client:
        return ""
    host = str(client[0])
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return host if address.version == 4 else str(ip_network((address, 64), strict=False))
