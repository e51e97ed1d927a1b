"""`python -m appview_pipeline_tests.simulated_network`: the simulated network for people, and the maker of corpora."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from pathlib import Path

import click

from appview_pipeline_tests.simulated_network.corpus import read_corpus, write_corpus
from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.simulated_network.world import PASTS, World


@click.command(context_settings={"show_default": True})
@click.option("--rate", default=500.0, help="Frames a second; 0: as fast as this machine makes them.")
@click.option("--accounts", default=3_000, help="Accounts at the start.")
@click.option("--seed", default=1, help="The same seed and --start give the same bytes.")
@click.option("--start", type=float, help="Simulated time of the start, seconds since 1970.  [default: now]")
@click.option("--pasts/--no-pasts", default=True, help="Start with repositories of realistic size.")
@click.option("--relay-port", default=2470, help="0: any free port.")
@click.option("--plc-port", default=2582)
@click.option("--pds-port", default=2583)
@click.option(
    "--replay",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Serve the frames of this corpus from the relay and generate none.",
)
@click.option("--window", default=500, help="MB of frames that the relay keeps.")
@click.option(
    "--write",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write --frames frames to this corpus (`.zst`: compressed) and end.",
)
@click.option("--frames", default=60_000, help="With --write: how many.")
def main(
    rate: float,
    accounts: int,
    seed: int,
    start: float | None,
    pasts: bool,
    relay_port: int,
    plc_port: int,
    pds_port: int,
    replay: Path | None,
    window: int,
    write: Path | None,
    frames: int,
) -> None:
    """A simulated AT Protocol network on this machine: relay, PLC directory and PDS over real sockets."""
    if write:
        # The corpus ends about now: no rev in it is in the future for whoever reads it.
        begin = time.time() - frames / 500 * 1.5 if start is None else start
        began = time.monotonic()
        count = write_corpus(write, World(seed, accounts, start=begin, pasts=PASTS if pasts else ()).frames(frames))
        click.echo(f"{write}: {count:,} frames, {write.stat().st_size:,} bytes, {time.monotonic() - began:.1f} s")
        return
    begin = time.time() if start is None else start
    # Seqs go by the clock, so that a restarted simulation goes on above the seqs of the one before.
    world = World(
        seed,
        10 if replay else accounts,
        start=begin,
        rate=rate or 2_000,
        first_seq=int(begin * 1_000),
        pasts=PASTS if pasts and not replay else (),
    )
    network = SimulatedNetwork(
        world,
        rate=None if replay else rate,
        replay=read_corpus(replay) if replay else (),
        relay_port=relay_port,
        plc_port=plc_port,
        pds_port=pds_port,
        window_bytes=window * 1_000_000,
    )
    with network, contextlib.suppress(KeyboardInterrupt):
        click.echo(f"PDS at {network.pds_url}. In another terminal, in the pipeline's checkout:\n")
        variables = network.environment() | ({"APPVIEW_START_CURSOR": "0"} if replay else {})
        click.echo("  " + " ".join(f"{name}={value}" for name, value in variables.items()) + " dagster dev\n")
        pause = threading.Event()
        published = sent = 0
        while not network.failure:
            pause.wait(10)
            now_published, now_sent = network.published, network.relay.frames_sent
            click.echo(
                f"{time.strftime('%H:%M:%S')}  made {(now_published - published) / 10:,.0f}/s"
                f"  sent {(now_sent - sent) / 10:,.0f}/s  clients {len(network.relay.open)}"
                f"  accounts {len(world.authors):,}  newest seq {network.relay.window.newest_seq}"
            )
            published, sent = now_published, now_sent
        sys.exit(1)


if __name__ == "__main__":
    main()
