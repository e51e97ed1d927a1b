"""`appview-simulated-network`: the simulated network for people, and the maker of corpora."""

from __future__ import annotations

import contextlib
import errno
import shlex
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from appview_pipeline_tests.simulated_network.broken_labelers import break_some
from appview_pipeline_tests.simulated_network.corpus import read_corpus, write_corpus
from appview_pipeline_tests.simulated_network.faults import AccountFaults
from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.simulated_network.outages import Outages
from appview_pipeline_tests.simulated_network.world import PASTS, World

Command = TypeVar("Command", bound=Callable[..., Any])

REPORT_SECONDS = 10
PORT = click.IntRange(0, 65_535)
SHARE = click.FloatRange(0, 1)
PORTS = {"relay": 2470, "plc": 2582, "pds": 2583, "second-pds": 2584, "dns": 2553}


def _share(name: str, what: str) -> Callable[[Command], Command]:
    return click.option(f"--{name}", type=SHARE, default=0.0, help=f"Share of accounts whose DID {what}.")


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--rate", default=500.0, help="Frames a second. 0: as fast as this machine makes them.")
@click.option("--accounts", default=3_000, help="Accounts at the start; more come as it runs.")
@click.option("--seed", default=1, help="Another seed makes another world. With --start: the same bytes each time.")
@click.option("--start", type=float, help="Simulated time of the start, in seconds since 1970.  [default: now]")
@click.option(
    "--pasts/--no-pasts",
    default=True,
    help="Give the accounts repositories of realistic size to start with. Without them the start takes a moment only.",
)
@click.option("--relay-port", type=PORT, default=PORTS["relay"], help="Port of the relay. 0: any free port.")
@click.option("--plc-port", type=PORT, default=PORTS["plc"], help="Port of the PLC directory.")
@click.option("--pds-port", type=PORT, default=PORTS["pds"], help="Port of the PDS, and of the handles' web server.")
@click.option("--second-pds-port", type=PORT, default=PORTS["second-pds"], help="Port of the other PDS.")
@click.option("--dns-port", type=PORT, default=PORTS["dns"], help="Port of the name server (UDP and TCP).")
@click.option("--txt-share", type=SHARE, default=1.0, help="Share of handles with a TXT record; others: only the web.")
@_share("hang", "gets no answer")
@_share("fail", "gets status 500")
@_share("garbage", "gets nonsense")
@_share("huge", "gets 50 MB")
@_share("missing", "is not known")
@_share("limited", "gets status 429")
@click.option("--homes", default=1, help="PDSes that the accounts are spread over.")
@click.option("--p256-share", type=SHARE, default=0.0, help="Share of accounts that sign with P-256.")
@click.option("--lost", type=SHARE, default=0.0, help="Share of commits that the relay loses, with their number.")
@click.option("--unnumbered", type=SHARE, default=0.0, help="Share that it loses without using a number up.")
@click.option("--tampered", type=SHARE, default=0.0, help="Share that it changes, so that they prove nothing.")
@click.option("--outages", type=float, help="Mean seconds that a PDS works before it fails for some.  [default: never]")
@click.option("--labelers", type=click.IntRange(0), help="Accounts that label.  [default: 3; with --replay: none]")
@click.option("--broken-labelers", type=click.IntRange(0), default=0, help="So many of them are broken, in many ways.")
@click.option("--label-rate", default=5.0, help="Labels a second, of all of them together.")
@click.option("--window", default=500, help="Megabytes of frames that the relay keeps for clients with a cursor.")
@click.option(
    "--replay",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Serve the frames of this corpus, and generate none.",
)
@click.option(
    "--write",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a corpus to this file and end. A name that ends in .zst: compressed.",
)
@click.option("--frames", default=60_000, help="With --write: how many frames.")
def main(
    rate: float,
    accounts: int,
    seed: int,
    start: float | None,
    pasts: bool,
    relay_port: int,
    plc_port: int,
    pds_port: int,
    second_pds_port: int,
    dns_port: int,
    txt_share: float,
    homes: int,
    p256_share: float,
    lost: float,
    unnumbered: float,
    tampered: float,
    outages: float | None,
    labelers: int | None,
    broken_labelers: int,
    label_rate: float,
    window: int,
    replay: Path | None,
    write: Path | None,
    frames: int,
    **faults: float,
) -> None:
    """Start a simulated AT Protocol network on this machine: relay, PLC directory, name server, PDSes and labelers.

    It prints the command that lets the pipeline index it, then a line of numbers every ten seconds. Ctrl-C ends it.
    """
    if write:
        _write(write, frames, seed=seed, accounts=accounts, start=start, pasts=pasts)
        return
    click.echo("Making the simulated network ...", err=True)
    begin = time.time() if start is None else start
    # Sequence numbers go by the clock, so that a restarted simulation goes on above those of the one before.
    world = World(
        seed,
        10 if replay else accounts,
        start=begin,
        rate=rate or 2_000,
        first_seq=int(begin * 1_000),
        pasts=PASTS if pasts and not replay else (),
        homes=homes,
        p256_share=p256_share,
    )
    world.mishaps.lost, world.mishaps.unnumbered, world.mishaps.tampered = lost, unnumbered, tampered
    try:
        network = SimulatedNetwork(
            world,
            rate=None if replay else rate,
            replay=read_corpus(replay) if replay else (),
            relay_port=relay_port,
            plc_port=plc_port,
            pds_port=pds_port,
            second_pds_port=second_pds_port,
            dns_port=dns_port,
            txt_share=txt_share,
            window_bytes=window * 1_000_000,
            labelers=(0 if replay else 3) if labelers is None else labelers,
            label_rate=label_rate,
        )
        network.plc.faults.accounts = AccountFaults(seed=seed, **faults)
        failing = Outages(network.pdses, seed=seed, calm=outages) if outages else contextlib.nullcontext()
        with network, failing, contextlib.suppress(KeyboardInterrupt):
            break_some(network.labelers, min(broken_labelers, len(network.labelers)))
            _say_what_to_type(network, from_the_first_frame=replay is not None)
            _report(network)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        options = ", ".join(f"--{name}-port" for name in PORTS)
        raise click.ClickException(
            f"One of the ports {relay_port}, {plc_port}, {pds_port}, {second_pds_port} and {dns_port} is taken, "
            "perhaps by another simulated network: "
            f"stop it, or choose other ports with {options} (0: any free port)."
        ) from error
    sys.exit(1 if network.failure else 0)


def _write(path: Path, frames: int, *, seed: int, accounts: int, start: float | None, pasts: bool) -> None:
    # By default the corpus ends about now, so that no rev in it is in the future.
    begin = time.time() - frames / 500 * 1.5 if start is None else start
    began = time.monotonic()
    count = write_corpus(path, World(seed, accounts, start=begin, pasts=PASTS if pasts else ()).frames(frames))
    click.echo(f"{path}: {count:,} frames, {path.stat().st_size:,} bytes, {time.monotonic() - began:.1f} s")


def _say_what_to_type(network: SimulatedNetwork, *, from_the_first_frame: bool) -> None:
    variables = network.environment() | ({"APPVIEW_START_CURSOR": "0"} if from_the_first_frame else {})
    click.echo("The simulated network is running. In another terminal, in the pipeline's folder, type:\n")
    click.echo("  " + " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items()) + " dagster dev\n")
    click.echo(f"Relay {network.relay_url}, PLC directory {network.plc_url}, PDS {network.pds_url}. Ctrl-C ends it.\n")


def _report(network: SimulatedNetwork) -> None:
    """Prints a line of numbers again and again, until the network fails."""
    pause = threading.Event()
    before = (0, 0, 0, 0, 0)
    while not network.failure:
        pause.wait(REPORT_SECONDS)
        now = (
            network.published,
            network.relay.frames_sent,
            network.plc.asked,
            network.dns.asked,
            network.labelers.published,
        )
        made, sent, dids, names, labels = ((new - old) / REPORT_SECONDS for new, old in zip(now, before, strict=True))
        click.echo(
            f"{time.strftime('%H:%M:%S')}  made {made:,.0f}/s  sent {sent:,.0f}/s  clients {len(network.relay.open)}"
            f"  DIDs asked {dids:,.0f}/s  names asked {names:,.0f}/s  labels {labels:,.1f}/s"
            f"  accounts {len(network.world.authors):,}  newest seq {network.relay.window.newest_seq}"
        )
        before = now


if __name__ == "__main__":
    main(prog_name="appview-simulated-network")
