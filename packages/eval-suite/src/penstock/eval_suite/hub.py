"""The Hugging Face hub, where it cannot be reached: its client says so at once, instead of after six tries in 25 s."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

SECONDS = 3.0
"""How long the hub has to accept a connection."""


@contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Within it, data sets come from the local cache alone if the hub accepts no connection."""
    from datasets import config
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or is_reachable(constants.ENDPOINT):
        yield
        return
    before = config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = False, before


def is_reachable(endpoint: str) -> bool:
    """Whether a server accepts connections; taken for granted where a proxy makes them."""
    address = urlsplit(endpoint)
    if {address.scheme, "all"} & getproxies().keys():
        return True
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=SECONDS).close()
    except OSError:
        return False
    return True
