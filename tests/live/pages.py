#!/usr/bin/env python3
"""The pages in Chromium over a server that has fetched real content from a real Kubo, and over an empty one.

    TIDEGATE_BIN=... TIDEGATE_KUBO=... python3 tests/live/pages.py [SCREENSHOTS]

Needs Chromium, Node and tests/browser's packages (TIDEGATE_NPM names the folder that holds node_modules).
"""

import http.client
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from kubo import Kubo  # noqa: E402
from tidegate import Server, request  # noqa: E402

BROWSER = Path(__file__).parent.parent / "browser"


def look(server, out, pages=None):
    folder = Path(os.environ.get("TIDEGATE_NPM", BROWSER))
    # Modules resolve beside the script: it runs where node_modules is.
    script = folder / "pages.mjs"
    if folder != BROWSER:
        shutil.copy(BROWSER / "pages.mjs", script)
    env = {**os.environ, "ADMIN": f"http://{server.admin}", "OUT": str(out), **({"PAGES": pages} if pages else {})}
    subprocess.run(["node", str(script)], env=env, check=True)


def events_of(server, act, seconds=3):
    """What /api/v1/events tells while something happens: (name, data) pairs."""
    connection = http.client.HTTPConnection(server.admin, timeout=10)
    connection.request("GET", "/api/v1/events")
    response = connection.getresponse()
    assert response.status == 200 and response.getheader("content-type") == "text/event-stream", response.status
    act()
    found, name, end = [], None, time.monotonic() + seconds
    while time.monotonic() < end:
        line = response.readline().decode().rstrip("\n")
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            found.append((name, json.loads(line[6:])))
    connection.close()
    return found


def main():
    out = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="tidegate-pages-"))
    rng = random.Random(20261123)
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp)
        with Server(root / "empty", "--offline") as server:
            look(server, out / "empty", "/,/content,/system")
        with Kubo(root / "kubo") as kubo:
            sizes = [20_000] * 40 + [900_000] * 12 + [5_000_000] * 6 + [60_000_000]
            cids = []
            for size in sizes:
                (root / "file").write_bytes(rng.randbytes(size))
                cids.append(kubo.add(root / "file"))
            with Server(root / "filled", "--peer", kubo.addresses[0], "--compare-share", "0.5") as server:
                for _ in range(100):
                    if server.api("GET", "p2p/peers")[1]["items"]:
                        break
                    time.sleep(0.1)
                for cid, size in zip(cids, sizes):
                    status, _, body = server.get(f"/ipfs/{cid}")
                    assert status == 200 and len(body) == size
                for cid in cids[:30]:  # again, from memory
                    assert server.get(f"/ipfs/{cid}")[0] == 200
                assert server.get("/ipfs/bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")[0] in (404, 502, 504)
                last = cids[-1]
                for _ in range(50):
                    items = server.api("GET", f"retrievals?cid={last}")[1]["items"]
                    if items:
                        break
                    time.sleep(0.2)
                assert items and items[0]["bytes"] == sizes[-1], items
                page = request(server.admin, "GET", "/retrievals")[2].decode()
                assert last[:8] in page and last[-6:] in page, "the fetch is not on the page"
                content = request(server.admin, "GET", "/content?window=1h")[2].decode()
                assert "half of the memory cache" in content, "the reuse curve is not on the page"
                hits = json.loads(request(server.admin, "GET", "/content?window=1h&format=json&table=hits")[2])["rows"]
                assert sum(row["requests_miss"] for row in hits) >= len(sizes), "each first fetch is a miss"
                assert sum(row["requests_memory"] for row in hits) >= 20, "the second fetches are hits"
                events = events_of(server, lambda: server.get(f"/ipfs/{cids[0]}"))
                assert any(name == "finished" and data["cid"] == cids[0] for name, data in events), events
                assert any(name == "summary" for name, _ in events), events
                overview = request(server.admin, "GET", "/")[2].decode()
                assert "NaN" not in overview and "Infinity" not in overview
                look(server, out / "filled", f"/,/retrievals,/retrievals/{items[0]['id']},/content?window=1h,/system")
                assert server.stop() == 0
    print(f"screenshots in {out}\n2 passed, 0 failed")


if __name__ == "__main__":
    main()
