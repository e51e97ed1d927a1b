"""What resolution asks of the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from appview_pipeline.identity.attempt import Questions
from appview_pipeline.identity.dids import resolve_did
from appview_pipeline.identity.handles import check_handle
from appview_pipeline.identity.hosting import ask_status
from appview_pipeline.network.dns import Resolver
from appview_pipeline.network.xrpc import Client
from appview_pipeline.settings import Settings


@contextmanager
def questions(settings: Settings) -> Iterator[tuple[Questions, Client]]:
    """The questions, all asked over one client, which comes with them."""
    with Client(settings) as client:
        yield questions_over(client, settings), client


def questions_over(client: Client, settings: Settings) -> Questions:
    """The questions, all asked over `client`."""
    resolver = Resolver(settings)
    return Questions(
        resolve=lambda did, is_repeated: resolve_did(client, settings, did, is_repeated=is_repeated),
        check=lambda did, handle: check_handle(client, resolver, did, handle),
        status=lambda did, pds, state: ask_status(client, pds, did, state=state),
    )
