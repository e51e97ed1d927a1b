"""Ways in which a labeler is broken, by name. None of them may hold up the others, or the pipeline."""

from __future__ import annotations

from collections.abc import Callable

from appview_pipeline_tests.simulated_network.accounts import make_key
from appview_pipeline_tests.simulated_network.labelers import Labeler, Labelers
from appview_pipeline_tests.simulated_network.labels import labels_frame
from appview_pipeline_tests.simulated_network.stream_server import error_frame

ANOTHER_DID = "did:plc:anotherlabelerrrrrrrrrrr"

Break = Callable[[Labelers, Labeler], None]


def _no_key(labelers: Labelers, labeler: Labeler) -> None:
    labelers.withdraw(labeler, server=False)


def _no_server(labelers: Labelers, labeler: Labeler) -> None:
    labelers.withdraw(labeler, key=False)


def _hangs(_: Labelers, labeler: Labeler) -> None:
    labeler.hang()


def _silent(_: Labelers, labeler: Labeler) -> None:
    labeler.faults.silent = True
    labeler.disconnect_all()


def _refuses(_: Labelers, labeler: Labeler) -> None:
    labeler.refuse()


def _fails(_: Labelers, labeler: Labeler) -> None:
    labeler.faults.refuse_every = 500
    labeler.disconnect_all()


def _limited(_: Labelers, labeler: Labeler) -> None:
    labeler.faults.refuse_every, labeler.faults.retry_after = 429, 3_600
    labeler.disconnect_all()


def _wrong_key(_: Labelers, labeler: Labeler) -> None:
    labeler.lies["key"] = make_key("the key of nobody")


def _unsigned(_: Labelers, labeler: Labeler) -> None:
    labeler.lies["signed"] = False


def _another_source(_: Labelers, labeler: Labeler) -> None:
    labeler.lies["src"] = ANOTHER_DID


def _future(_: Labelers, labeler: Labeler) -> None:
    labeler.lies["cts"] = "9999-12-31T23:59:59.999Z"


def _bad_syntax(_: Labelers, labeler: Labeler) -> None:
    labeler.lies["val"] = ""


def _garbage(_: Labelers, labeler: Labeler) -> None:
    labeler.faults.flood = [b"\xff\xfe no frame at all", "a text message"]
    labeler.disconnect_all()


def _same_again(_: Labelers, labeler: Labeler) -> None:
    labeler.faults.flood = [labels_frame(7, [labeler.make("did:plc:bbbbbbbbbbbbbbbbbbbbbbbb", "again")])]
    labeler.disconnect_all()


def _always_future(_: Labelers, labeler: Labeler) -> None:
    labeler.faults.flood = [error_frame("FutureCursor", "Cursor in the future.")]
    labeler.disconnect_all()


BREAKS: dict[str, Break] = {
    "no key": _no_key,
    "hangs": _hangs,
    "wrong key": _wrong_key,
    "garbage": _garbage,
    "silent": _silent,
    "another source": _another_source,
    "refuses": _refuses,
    "fails": _fails,
    "unsigned": _unsigned,
    "future": _future,
    "bad syntax": _bad_syntax,
    "limited": _limited,
    "same again": _same_again,
    "always future": _always_future,
    "no server": _no_server,
}
"""What a labeler is from the moment on in which it is broken:

- `no key`, `no server`: its DID document does not name its key, or its server.
- `hangs`, `silent`: no handshake is answered; nothing is ever sent after it.
- `refuses`, `fails`, `limited`: connections are refused, or get status 500, or 429 with `Retry-After`.
- `wrong key`, `unsigned`, `another source`, `future`, `bad syntax`: so are all labels that it makes.
- `garbage`, `same again`, `always future`: messages that are no frames, the same frame, or error frames, without end.
"""


def break_some(labelers: Labelers, count: int) -> dict[str, str]:
    """Breaks the last `count` labelers, each in the next way; returns the way by DID."""
    ways = list(BREAKS)
    broken = {}
    for number, labeler in enumerate(labelers[len(labelers) - count :]):
        way = ways[number % len(ways)]
        BREAKS[way](labelers, labeler)
        broken[labeler.did] = way
    return broken
