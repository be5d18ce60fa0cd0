"""Real traffic for the pages: content on real Kubos, fetched cold, warm, in parts, in vain, and from a provider that stalls."""

import http.client
import json
import os
import random
import signal
import subprocess
import time

from kubo import Kubo
from tidegate import BIN, QUIET, request

# What nobody has.
NOWHERE = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"
SEED = 20261124
LARGE = 60_000_000


class Traffic:
    """Two Kubos that share what they have, and a server that fetches from them."""

    def __init__(self, root, sizes):
        self.rng = random.Random(SEED)
        self.kubos = []
        self.root = root
        self.sizes = sizes
        self.cids = []

    def __enter__(self):
        try:
            for name in ("kubo-1", "kubo-2"):
                self.kubos.append(Kubo(self.root / name))
            first, second = self.kubos
            for n, size in enumerate(self.sizes):
                self.cids.append(self.share(self.rng.randbytes(size), [first] if n % 3 else [first, second]))
            tree = self.root / "tree"
            (tree / "docs").mkdir(parents=True)
            for n in range(40):
                (tree / f"chapter-{n:02}.txt").write_text(f"Chapter {n}\n" * (n * 40 + 1))
            (tree / "docs" / "readme.md").write_text("# A folder in a folder\n")
            self.tree = first.add(tree, "-r")
            self.node = first("dag", "put", data=json.dumps({"name": "a node", "numbers": [1, 2, 3], "link": {"/": self.tree}}).encode()).strip()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for kubo in self.kubos:
            kubo.stop()

    def share(self, data, kubos):
        path = self.root / "file"
        path.write_bytes(data)
        (cid,) = {kubo.add(path) for kubo in kubos}
        return cid

    @property
    def peers(self):
        return [kubo.addresses[0].rsplit("/p2p/", 1)[1] for kubo in self.kubos]

    @property
    def arguments(self):
        return [part for kubo in self.kubos for part in ("--peer", kubo.addresses[0])]

    def run(self, server, seconds=0):
        """All of it, in a seeded order, spread over at least `seconds`. The stalled retrieval's row is in `self.stalled`."""
        for _ in range(150):
            if len(server.api("GET", "p2p/peers")[1]["items"]) >= len(self.kubos):
                break
            time.sleep(0.1)
        else:
            raise AssertionError("the Kubos were not connected")
        steps = [(self.cold, n) for n in range(len(self.cids))]
        self.rng.shuffle(steps)
        # What was fetched is asked for again: the popular ones often.
        for n in range(2 * len(self.cids)):
            at = self.rng.randrange(len(steps) // 2, len(steps) + 1)
            steps.insert(at, (self.again, min(int(self.rng.paretovariate(0.8)) - 1, len(self.cids) - 1)))
        started = time.monotonic()
        for n, (step, which) in enumerate(steps):
            step(server, which)
            time.sleep(max(0.0, started + seconds * n / len(steps) - time.monotonic()))
        for path in (f"/ipfs/{self.tree}/", f"/ipfs/{self.tree}/docs/readme.md", f"/ipfs/{self.node}"):
            status, _, body = server.get(path, {"Accept": "text/html"})
            assert status == 200 and body, (path, status)
        assert server.get(f"/ipfs/{self.tree}/no-such-file")[0] == 404
        status = server.get(f"/ipfs/{NOWHERE}", {"Cache-Control": "no-store"})[0]
        assert status in (404, 502, 504), status
        self.stall(server)

    def cold(self, server, n):
        status, _, body = server.get(f"/ipfs/{self.cids[n]}")
        assert status == 200 and len(body) == self.sizes[n], (status, len(body))

    def again(self, server, n):
        assert server.get(f"/ipfs/{self.cids[n]}", {"Range": "bytes=0-1999"})[0] == 206

    def stall(self, server):
        """One of two providers stops in the middle: complete all the same. On loopback one provider is fast enough for
        everything: a transfer in which the stopped one had nothing to do shows nothing and is done again, with fresh content."""
        for _ in range(20):
            self.large = self.share(self.rng.randbytes(LARGE), self.kubos)
            if self.stalled_once(server):
                return
        raise AssertionError("the stopped provider was never in use")

    def stalled_once(self, server):
        connection = http.client.HTTPConnection(server.gateway, timeout=60)
        connection.request("GET", f"/ipfs/{self.large}")
        response = connection.getresponse()
        length, stopped = 0, False
        try:
            while part := response.read(1 << 18):
                length += len(part)
                if not stopped and length > LARGE // 3:
                    self.kubos[1].process.send_signal(signal.SIGSTOP)
                    stopped = True
                time.sleep(0.003)
        finally:
            self.kubos[1].process.send_signal(signal.SIGCONT)
        assert length == LARGE, length
        self.stalled = response.headers["Tidegate-Retrieval"]
        for _ in range(100):
            status, detail = server.api("GET", f"retrievals/{self.stalled}")
            if status == 200:
                return any(attempt["outcome"] == "stalled" and attempt["bytes"] for attempt in detail["attempts"])
            time.sleep(0.1)
        raise AssertionError("the row of the last retrieval never came")


def native_lab(data_dir):
    """The lab without a browser; False when the binary has none."""
    done = subprocess.run([BIN, "gpu", "bench", "--submit", "--json", "--data-dir", str(data_dir)], env={**os.environ, **QUIET},
                          capture_output=True, text=True, timeout=300)
    if done.returncode == 2 and "--features gpu" in done.stderr:
        return False
    assert done.returncode == 0, done.stderr
    return True


def wait_for_peers(server, peers):
    """Peers are written down every 10 s."""
    for _ in range(200):
        rows = {row["peer_id"]: row for row in json.loads(request(server.admin, "GET", "/peers?format=json")[2])["rows"]}
        links = json.loads(request(server.admin, "GET", "/topology?format=json&table=edges")[2])["rows"]
        if all(rows.get(peer, {}).get("agent") for peer in peers) and len(links) >= len(peers):
            return rows
        time.sleep(0.1)
    raise AssertionError(f"the peers were not written down: {rows}, {links}")
