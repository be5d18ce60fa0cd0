#!/usr/bin/env python3
"""Every page in Chromium and in Firefox, light and dark, with and without JavaScript, 320 px to 4K, over an empty server and over
one that has fetched real content from real Kubos; axe-core, html-validate, no third party, nothing on the console.

    TIDEGATE_BIN=... TIDEGATE_KUBO=... TIDEGATE_NPM=... python3 tests/live/pages.py

Needs Chromium, firefox-esr, Node and tests/browser's packages (TIDEGATE_NPM names the folder that holds node_modules).
"""

import contextlib
import http.client
import json
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).parent))
from browser import KINDS, look  # noqa: E402
from tidegate import Server, request  # noqa: E402
from traffic import LARGE, NOWHERE, Traffic, native_lab, wait_for_peers  # noqa: E402

SIZES = [20_000] * 40 + [900_000] * 12 + [5_000_000] * 6
UNKNOWN_PEER = "12D3KooWGzBXWNvHpLALvTgHZZw3Lr8Yr1AGGrYBkKUq2DUGzHcm"


def page(server, name, path, *want, status=200, gateway=False):
    return {"name": name, "url": f"http://{server.gateway if gateway else server.admin}{path}", "status": status, "want": list(want)}


def pages_of_empty(server):
    """What each page says before anything happened: how to fill it."""
    example = f"curl http://{server.gateway}/ipfs/bafkqabtimvwgy3yk"
    return [
        page(server, "overview", "/", "no data", "Not enough data.", "--compare-share", "offline", example),
        page(server, "retrievals", "/retrievals", "No retrieval is recorded yet.", example),
        page(server, "retrievals-filtered", "/retrievals?outcome=timeout", "No retrieval matches this filter."),
        page(server, "retrieval-unknown", "/retrievals/1", "overview", status=404),
        page(server, "explain", "/explain", "Who has it?", "Nothing is fetched"),
        page(server, "explain-offline", f"/explain/{NOWHERE}", *short(NOWHERE), "offline", "not here"),
        page(server, "explain-wrong", "/explain/not-a-cid", "is not a CID", status=400),
        page(server, "peers", "/peers", "This server is offline", "--peer"),
        page(server, "peer-unknown", f"/peers/{UNKNOWN_PEER}", "overview", status=404),
        page(server, "topology", "/topology", "offline", "--peer"),
        page(server, "content", "/content", "No request needed a block in this window.", "Not enough data.", "Nothing is pinned.", example),
        page(server, "webgpu", "/webgpu", "No browser has been measured yet.", "gpu bench --submit", "Model: CID of a folder"),
        page(server, "reports", "/reports", "no data", "No run is stored yet."),
        page(server, "system", "/system", "Needs attention", "SQLite", server.gateway),
        page(server, "api", "/api", "GET", "/api/v1/retrievals", "OpenAPI 3.1", "Problem"),
        page(server, "not-found", "/no-such-page", "overview", status=404),
    ]


def gateway_of_empty(server):
    """Apart from the others: what is asked of the gateway is on their pages."""
    nowhere = f"/ipfs/{NOWHERE}"
    return [
        page(server, "gateway-home", "/", "An IPFS gateway", "?format=car", gateway=True),
        page(server, "gateway-not-here", nowhere, "404 Not Found", NOWHERE, "Providers found", gateway=True, status=404),
        page(server, "gateway-error", "/ipfs/not-a-cid", "400 Bad Request", gateway=True, status=400),
    ]


class SlowRouter(ThreadingHTTPServer):
    """A delegated router that goes on looking: an empty line now and then, never an end."""

    daemon_threads = True

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "application/x-ndjson")
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"\n")
                    time.sleep(2)

        def log_message(self, *_):
            pass

    def __init__(self):
        super().__init__(("127.0.0.1", 0), self.Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


def pages_of_waiting(server):
    """What a person sees while content is looked for."""
    want = ["Looking for this content", f"/ipfs/{NOWHERE}", "Looking for providers", "Providers found", "Received"]
    return [page(server, "gateway-waiting", f"/ipfs/{NOWHERE}", *want, gateway=True, status=202)]


def short(identifier):
    """As filters::short prints it: the ends are enough to find it by."""
    return identifier[:6], identifier[-5:]


def pages_of_filled(server, traffic, with_gpu):
    """What each page must say about the traffic that was made."""
    last, peer = traffic.large, traffic.peers[0]
    latest = server.api("GET", "retrievals?limit=1")[1]["items"][0]["cid"]
    lab = ["llvmpipe", "software", "verified", "16x16x1", "without a browser", "Shader compilation"] if with_gpu else ["No browser has been measured yet."]
    failed = retrieval_of(server, NOWHERE)
    return [
        page(server, "overview", "/", "Where requests were answered from", "Latest retrievals", "Memory", *short(latest), "/s", "Pairs"),
        page(server, "retrievals", "/retrievals", *short(latest), "optimised", "standard"),
        page(server, "retrievals-filtered", f"/retrievals?cid={NOWHERE}", *short(NOWHERE)),
        page(server, "retrieval", f"/retrievals/{traffic.stalled}", *short(last), *short(peer), "Where the time went", "stalled", "asked elsewhere", "Events"),
        page(server, "retrieval-failed", f"/retrievals/{failed}", *short(NOWHERE), "Where the time went"),
        page(server, "explain", f"/explain/{traffic.large}", *short(traffic.large), *short(peer), "has it", "configured", "bit/s", "What is here"),
        page(server, "explain-nobody", f"/explain/{NOWHERE}", "nobody has it", "has it not", "no data"),
        page(server, "peers", "/peers", "kubo/0.43.0", *short(peer), "connected", "100 %"),
        page(server, "peer", f"/peers/{peer}", "kubo/0.43.0", "Best rate of each attempt", "/ipfs/bitswap/1.2.0", "127.0.0.1", peer),
        page(server, "topology", "/topology", *short(peer), "Connected to 2 peers now", "Betweenness", "RTT cluster"),
        page(server, "content", "/content?window=1h", "By requests", "half of the memory cache", *short(traffic.cids[0]), "Tiers now"),
        page(server, "webgpu", "/webgpu", *lab),
        page(server, "reports", "/reports?type=ipfs", "median", "standard", "optimised"),
        page(server, "reports-p2p", "/reports?type=p2p", *traffic.peers, "peer_count"),
        page(server, "reports-webgpu", "/reports?type=webgpu", *(["wgpu", "software adapter", "attention · 16x16x1"] if with_gpu else ["no data"])),
        page(server, "reports-cross-platform", "/reports?type=cross-platform", "native" if with_gpu else "no data"),
        page(server, "system", "/system", "SQLite", "Needs attention", server.gateway, "db-writer", "Answers since"),
        page(server, "api", "/api", "/api/v1/retrievals", "curl"),
        page(server, "gateway-home", "/", "An IPFS gateway", gateway=True),
        page(server, "gateway-listing", f"/ipfs/{traffic.tree}/", "Index of /ipfs/", "chapter-07.txt", "docs", "Download as TAR", gateway=True),
        page(server, "gateway-dag", f"/ipfs/{traffic.node}", "dag-cbor", "a node", traffic.tree[-8:], gateway=True),
        page(server, "gateway-error", f"/ipfs/{traffic.tree}/no-such-file", "404 Not Found", "no-such-file", gateway=True, status=404),
    ]


def retrieval_of(server, cid):
    for _ in range(100):
        items = server.api("GET", f"retrievals?cid={cid}")[1]["items"]
        if items:
            return items[0]["id"]
        time.sleep(0.1)
    raise AssertionError(f"no retrieval of {cid} is recorded")


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


def figures(server, traffic):
    """What the pages say is what happened."""
    rows = wait_for_peers(server, traffic.peers)
    first = rows[traffic.peers[0]]
    alone = sum(size for n, size in enumerate(traffic.sizes) if n % 3)
    assert first["bytes_in"] >= alone, (first, alone)
    assert first["agent"].startswith("kubo/") and first["rtt_ms"] > 0 and first["success"] > 0.9, first
    assert abs(sum(row["share_of_bytes"] for row in rows.values()) - 1.0) < 1e-6, rows
    status, graph = server.api("GET", "p2p/topology")
    assert status == 200 and {node["id"] for node in graph["nodes"]} >= {*traffic.peers, graph["own"]}, graph
    status, _, dot = request(server.admin, "GET", "/api/v1/p2p/topology?format=dot")
    assert status == 200 and traffic.peers[0] in dot.decode()
    status, _, xml = request(server.admin, "GET", "/api/v1/p2p/topology?format=graphml")
    root = ElementTree.fromstring(xml)
    assert len(root.findall(".//{*}node")) == len(graph["nodes"]) and len(root.findall(".//{*}edge")) == len(graph["edges"])
    item = server.api("GET", f"retrievals/{traffic.stalled}")[1]
    assert item["bytes"] == LARGE, item
    hits = json.loads(request(server.admin, "GET", "/content?window=1h&format=json&table=hits")[2])["rows"]
    assert sum(row["requests_miss"] for row in hits) >= len(traffic.sizes), "each first fetch is a miss"
    assert sum(row["requests_memory"] for row in hits) >= len(traffic.sizes), "the second fetches are hits"
    events = events_of(server, lambda: server.get(f"/ipfs/{traffic.cids[0]}"))
    assert any(name == "finished" and data["cid"] == traffic.cids[0] for name, data in events), events
    assert any(name == "summary" for name, _ in events), events
    return ", ".join(f"{row['bytes_in']} bytes at {row['rate_bps']} bytes/s from {peer[-6:]}" for peer, row in rows.items())


def main():
    passed = 0
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp)
        with Server(root / "empty", "--offline") as server:
            passed += look(server, pages_of_empty(server), behaviour=True) & look(server, gateway_of_empty(server))
            assert server.stop() == 0
        (root / "patient.toml").write_text('[limits]\nretrieval-timeout = "30m"\n')
        with Server(root / "waiting", "--router", SlowRouter().url, "--config", str(root / "patient.toml")) as server:
            passed += look(server, pages_of_waiting(server))
            assert server.stop() == 0
        with Traffic(root, SIZES) as traffic:
            with Server(root / "filled", *traffic.arguments, "--compare-share", "0.5") as server:
                traffic.run(server)
                print(figures(server, traffic), flush=True)
                with_gpu = native_lab(root / "filled")
                # Anew for each browser: its visits to the gateway's pages are retrievals themselves.
                looked = all([look(server, pages_of_filled(server, traffic, with_gpu), [kind], behaviour=True) for kind in KINDS])
                if not looked:
                    print(json.dumps(server.api("GET", f"retrievals/{traffic.stalled}")[1]))
                passed += looked
                assert server.stop() == 0
    print(f"{passed} passed, {3 - passed} failed")
    return 0 if passed == 3 else 1


if __name__ == "__main__":
    sys.exit(main())
