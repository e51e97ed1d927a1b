"""A session with the AppView over a database of ours, by the published Python SDK: what is asked, and what is answered.

Usage: python -m appview_pipeline_tests.conformance.reference.session [--keep] [--port 2584]
Starts a small simulated network, a PostgreSQL server, the pipeline that reads the one into the other, and the published
AppView over the result; all of it on this machine, and the same each time. Prints the session. With `--keep` the
AppView goes on serving at the port until Ctrl-C, so that the commands of docs/serve.md can be typed.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appview_pipeline.settings import Settings
from appview_pipeline.store import migrate
from appview_pipeline.store.database import Database
from appview_pipeline.store.embedded.ephemeral import ephemeral
from appview_pipeline_tests.conformance.reference.packages import install
from appview_pipeline_tests.conformance.reference.reader import SERVICE, Reader, serving
from appview_pipeline_tests.conformance.reference.sdk import Account, client
from appview_pipeline_tests.conformance.reference.served_world import ServedNetwork, index, served_network

STATEMENTS = """
appview = asked_by_nobody()
profile = appview.app.bsky.actor.get_profile({"actor": "noor13.simnet.test"})
print(profile.did, profile.display_name)
print(profile.followers_count, profile.follows_count, profile.posts_count)

# What an account writes, and what it repeats of others.
feed = appview.app.bsky.feed.get_author_feed({"actor": profile.did, "filter": "posts_no_replies", "limit": 5})
for item in feed.feed:
    print(item.post.author.handle, item.post.like_count, "repost" if item.reason else "post", item.post.record.langs)

# A thread: a post, its replies, who likes and who quotes it.
uri = "at://did:plc:2mh4iqemvw64x3ywdjganqel/app.bsky.feed.post/3lrnqkcdqkob6"
thread = appview.app.bsky.feed.get_post_thread({"uri": uri}).thread
print(thread.post.reply_count, thread.post.repost_count, thread.post.like_count, thread.post.quote_count)
for reply in thread.replies:
    print(reply.post.author.handle, reply.post.record.text[:50])

print([like.actor.handle for like in appview.app.bsky.feed.get_likes({"uri": uri}).likes])
print([post.author.handle for post in appview.app.bsky.feed.get_quotes({"uri": uri}).posts])

# Labels are shown of the labelers that a request names.
labeler = "did:plc:x3sik7f4dtb4wvdagz2issjl"
accepting = {"atproto-accept-labelers": labeler}
post = appview.app.bsky.feed.get_posts({"uris": [uri]}, headers=accepting).posts[0]
print([(label.src, label.val) for label in post.labels])
service = appview.app.bsky.labeler.get_services({"dids": [labeler], "detailed": True}).views[0]
print(service.creator.handle, service.policies.label_values)

# Lists, starter packs, feed generators, search.
for made in appview.app.bsky.graph.get_lists({"actor": "hiro7.simnet.test"}).lists:
    print(made.name, made.purpose, made.list_item_count)

for pack in appview.app.bsky.graph.get_actor_starter_packs({"actor": "kim10.simnet.test"}).starter_packs:
    print(pack.record.name, pack.joined_all_time_count)

print([it.display_name for it in appview.app.bsky.feed.get_actor_feeds({"actor": "kim10.simnet.test"}).feeds])
print([it.handle for it in appview.app.bsky.actor.search_actors_typeahead({"q": "no"}).actors])
print([it.author.handle for it in appview.app.bsky.feed.search_posts({"q": "reading"}).posts])

# An account asks through its PDS, with a token that its key signs. The answer says how the account stands to others.
carla = asked_by("carla2.simnet.test")
print(carla.app.bsky.notification.get_unread_count().count)
for it in carla.app.bsky.notification.list_notifications({"limit": 6}).notifications:
    print(it.indexed_at, it.reason, it.author.handle)

viewer = carla.app.bsky.actor.get_profile({"actor": "bob1.simnet.test"}).viewer
print(viewer.following, viewer.followed_by, viewer.blocked_by)
known = carla.app.bsky.graph.get_known_followers({"actor": "alice0.simnet.test"})
print(sorted(it.handle for it in known.followers))
timeline = carla.app.bsky.feed.get_timeline({"limit": 8}).feed
print([(item.post.author.handle, item.post.viewer.like is not None) for item in timeline])

# An account that has left is not shown.
try:
    appview.app.bsky.actor.get_profile({"actor": "eve4.simnet.test"})
except Exception as refused:
    print(refused.response.status_code, refused.response.content.error)

"""


@contextmanager
def running(database: Database, packages: Path, log: Path, port: int = 0) -> Iterator[tuple[ServedNetwork, Reader]]:
    """The network, indexed into `database`, and the AppView over it at `port` (0: any free one)."""
    with served_network() as network:
        index(network, database)
        with serving(packages, database.url, log, directory=network.plc_url, BSKY_PORT=str(port)) as reader:
            yield network, reader


def transcript(network: ServedNetwork, port: int) -> str:
    """The session as an interactive Python shows it: each statement with what it prints."""

    def asked_by(handle: str) -> Any:
        author = network.world.by_handle[handle]
        return client(port, Account(author.did, author.account.key), service=SERVICE)

    names: dict[str, Any] = {"asked_by": asked_by, "asked_by_nobody": lambda: client(port, service=SERVICE)}
    lines: list[str] = []
    for paragraph in STATEMENTS.strip().split("\n\n"):
        comments = [line for line in paragraph.splitlines() if line.startswith("#")]
        lines += ["", *comments] if lines else comments
        for statement in ast.parse(paragraph).body:
            source = ast.get_source_segment(paragraph, statement)
            assert source is not None
            lines += [f"{'...' if number else '>>>'} {line}" for number, line in enumerate(source.splitlines())]
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(source, "<session>", "exec"), names)
            lines += printed.getvalue().splitlines()
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="session", description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", action="store_true", help="go on serving until Ctrl-C")
    parser.add_argument("--port", type=int, default=2584, help="port of the AppView; 0 is any free one")
    options = parser.parse_args()
    packages = install()
    with tempfile.TemporaryDirectory() as folder, ephemeral() as server:
        url = server.url("postgres")
        migrate.upgrade(url)
        database = Database(url, Settings(database_url=url))
        with running(database, packages, Path(folder) / "reference.log", options.port) as (network, reader):
            print(transcript(network, reader.port), end="")
            if options.keep:
                address = f"http://127.0.0.1:{reader.port}"
                print(f"\nThe AppView serves at {address}, and its password is admin. Ctrl-C ends it.", file=sys.stderr)
                with contextlib.suppress(KeyboardInterrupt):
                    signal.pause()
        database.close()


if __name__ == "__main__":
    main()
