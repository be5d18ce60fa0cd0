#!/usr/bin/env python3
"""Shows everything once, from nothing: real Kubo providers, hits, misses, failures and a stalled peer, the WebGPU lab in headless
Chromium, in Firefox and natively, all four kinds of report; then a picture of every page, phone and desktop, light and dark, in
each browser, with the checks of pages.py.

    TIDEGATE_BIN=... TIDEGATE_KUBO=... TIDEGATE_NPM=... python3 tests/live/showcase.py FOLDER [--seconds 180] [--browser chromium]

TIDEGATE_BIN is built with --features gpu. Needs what pages.py and webgpu.py need.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import make_model  # noqa: E402
from browser import KINDS, look  # noqa: E402
from pages import figures, page, pages_of_empty, pages_of_filled  # noqa: E402
from tidegate import BIN, QUIET, Server  # noqa: E402
from traffic import Traffic, native_lab  # noqa: E402
from webgpu import lab  # noqa: E402

SIZES = [20_000] * 60 + [300_000] * 20 + [2_000_000] * 48 + [12_000_000] * 8


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=180.0, help="over which the traffic is spread")
    parser.add_argument("--browser", choices=KINDS, action="append")
    asked = parser.parse_args()
    kinds = asked.browser or KINDS
    good = True
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp)
        with Server(root / "empty", "--offline") as server:
            for kind in kinds:
                good &= look(server, pages_of_empty(server), [kind], out=asked.folder / kind / "empty")
            assert server.stop() == 0
        with Traffic(root, SIZES) as traffic, Server(root / "node", *traffic.arguments, "--compare-share", "0.5") as server:
            traffic.run(server, asked.seconds)
            print(figures(server, traffic), flush=True)
            make_model.make(root / "model")
            added = subprocess.run([BIN, "add", "-r", "-q", str(root / "model"), "--data-dir", str(root / "node")],
                                   env={**os.environ, **QUIET}, stdout=subprocess.PIPE, text=True, check=True)
            model = added.stdout.strip().splitlines()[-1]
            for kind in KINDS:
                seen = lab(server, kind, MODEL=model)
                assert seen["state"] == "done", seen
                print(f"the lab in {kind}: {seen['status']}", flush=True)
            assert lab(server, "chromium", GPU="no")["state"] == "failed"
            assert native_lab(root / "node"), "TIDEGATE_BIN has no native lab: build it with --features gpu"
            for kind in kinds:
                pages = [*pages_of_filled(server, traffic, True), page(server, "peers-sorted", "/peers?sort=in", "kubo/0.43.0")]
                good &= look(server, pages, [kind], out=asked.folder / kind / "filled")
            assert server.stop() == 0
    print(f"pictures in {asked.folder}\n{'all passed' if good else 'checks failed'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
