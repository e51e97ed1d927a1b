"""Asks a running Prometheus every query of the dashboard: `python docker/grafana/check_dashboard.py [URL]`.

Says which panels have no data there, which is as it should be where nothing of the kind has happened (no labelers, no
backfill), and ends with 1 where Prometheus refuses a query.
"""

from __future__ import annotations

import json
import sys
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

from make_dashboard import queries


def main(url: str) -> int:
    """Asks the Prometheus at `url`. Returns the exit code."""
    answered, empty, refused = 0, [], []
    for panel, expr in queries():
        try:
            with urlopen(f"{url}/api/v1/query?" + urlencode({"query": expr}), timeout=30) as answer:  # noqa: S310
                found = json.load(answer)["data"]["result"]
        except HTTPError as error:
            refused.append(f"{panel}: {json.load(error)['error']}\n    {expr}")
            continue
        if found:
            answered += 1
        else:
            empty.append(f"{panel}: {expr}")
    print(f"{answered} queries have data, {len(empty)} have none, {len(refused)} are refused.")
    for title, lines in (("No data", empty), ("Refused", refused)):
        for line in lines:
            print(f"{title}: {line}")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:9090"))
