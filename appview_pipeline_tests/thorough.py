"""`python -m appview_pipeline_tests.thorough --minutes N`: the random properties for N minutes, and the long tests.

Before something is called resolved, this is run and its counts are given. Each run tries other examples; its first seed
is printed, and `--seed` repeats it. Other arguments go to pytest (`-k`, `-n`, a file). Start it in the checkout.
"""

from __future__ import annotations

import argparse
import time

import pytest


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m appview_pipeline_tests.thorough", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="time that all properties share (default 30)")
    parser.add_argument("--seed", type=int, help="first seed of the properties (default: by the clock)")
    options, more = parser.parse_known_args()
    seed = int(time.time()) if options.seed is None else options.seed
    print(f"thorough: {options.minutes:g} minutes for the random properties, --seed {seed}", flush=True)
    # With "=": pytest takes what follows an option that it doesn't know yet for a path.
    return int(pytest.main(["--thorough", f"--budget={options.minutes}", f"--seed={seed}", *more]))


if __name__ == "__main__":
    raise SystemExit(main())
