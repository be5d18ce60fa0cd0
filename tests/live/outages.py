"""The metrics database killed, locked and full while there is traffic: fetches go on, every page answers and says so in words, and
it comes back by itself. Checks of reliability.py."""

import os
import pwd
import random
import signal
import sqlite3
import subprocess
import tempfile
import time
from pathlib import Path

from tidegate import Server, add, request

SEED = int(os.environ.get("TIDEGATE_SEED", "20261124"))
# What a page says of a database that it needs and cannot reach.
WORDS = ("metrics database is not available", "metrics database, which is not available")
FETCH_LIMIT_S = 1.0


class Traffic:
    """A server that fetches from another one, whose rows and peers the pages then know."""

    def __init__(self, server, origin, cached):
        self.server, self.origin, self.cached = server, origin, cached
        self.rng = random.Random(SEED)
        self.slowest = 0.0
        self.cold()
        for _ in range(200):
            items = server.api("GET", "retrievals")[1]["items"]
            peers = request(server.admin, "GET", f"/peers/{self.peer}")[0]
            if items and peers == 200:
                break
            time.sleep(0.1)
        else:
            raise AssertionError("the first rows never came")
        self.id = items[0]["id"]

    @property
    def peer(self):
        return self.origin.peer.rsplit("/p2p/", 1)[1]

    def cold(self):
        """Content that only the other server has; the retrieval's id."""
        data = self.rng.randbytes(200_000)
        return self.timed(add(self.origin, data), data)

    def warm(self):
        self.timed(*self.cached)

    def timed(self, cid, data):
        started = time.monotonic()
        status, headers, body = self.server.get(f"/ipfs/{cid}")
        self.slowest = max(self.slowest, time.monotonic() - started)
        assert status == 200 and body == data, status
        return headers["tidegate-retrieval"]

    def pages(self):
        """Status, seconds and text of every page; an answer of 500 is none."""
        answers = {}
        for path in ("/", "/partials/overview", "/retrievals", f"/retrievals/{self.id}", "/peers", f"/peers/{self.peer}", "/topology",
                     "/content", "/webgpu", "/reports", "/reports?type=p2p", "/reports?type=cross-platform", "/system", "/api"):
            started = time.monotonic()
            status, headers, body = request(self.server.admin, "GET", path, timeout=30)
            seconds = time.monotonic() - started
            assert status in (200, 503) and headers["content-type"].startswith("text/html"), (path, status)
            assert seconds < 6, f"{path} took {seconds:.1f} s"
            answers[path] = status, body.decode()
        return answers

    def said(self, system):
        """Every page that needs the database says that it is not there; System says why."""
        for path, (_, text) in self.pages().items():
            if path == "/system":
                assert any(word in text for word in system), f"/system does not say why"
            elif path != "/api":
                assert any(word in text for word in WORDS), f"{path} does not say it"
        status, _, body = request(self.server.admin, "GET", "/readyz")
        assert b"down" in body.lower(), (status, body)
        # What the API cannot tell it does not make up.
        status, answer = self.server.api("GET", "retrievals")
        assert status == 503 and answer["title"], (status, answer)

    def recovered(self, after):
        """By itself: rows of what was fetched now, no page complains."""
        limit = time.monotonic() + 60
        wanted = self.cold()
        while self.server.api("GET", f"retrievals/{wanted}")[0] != 200:
            assert time.monotonic() < limit, f"no rows again after {after}"
            time.sleep(0.1)
        for path, (status, text) in self.pages().items():
            assert status == 200 and not any(word in text for word in WORDS), (path, status)
        assert self.server.process.poll() is None
        assert self.slowest < FETCH_LIMIT_S, f"a fetch took {self.slowest:.1f} s while the database was away"

    def until(self, condition, what, limit_s=40):
        limit = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < limit, what
            self.warm()
            self.cold()
            time.sleep(0.1)


def system_says(server, word):
    return word in request(server.admin, "GET", "/system")[2].decode()


def start(root, name, origin, database):
    server = Server(f"{root}/{name}", "--peer", origin.peer, "--database", database)
    data = random.Random(SEED + 1).randbytes(300_000)
    return server, (add(server, data), data)


def database_killed():
    """PostgreSQL killed (SIGKILL, all of its processes) in the middle of traffic, and started again."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not folders:
        return "SKIPPED: PostgreSQL is not installed"
    programs = folders[-1].parent
    with tempfile.TemporaryDirectory() as root, tempfile.TemporaryDirectory(prefix="tg-pg") as home:
        user = {}
        if os.geteuid() == 0:  # PostgreSQL refuses root
            account = pwd.getpwnam("postgres")
            os.chown(home, account.pw_uid, account.pw_gid)
            user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": home}
        subprocess.run([programs / "initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale", "--no-sync",
                        "-D", f"{home}/data"], check=True, **user, **quiet)

        def run():
            started = subprocess.Popen([programs / "postgres", "-D", f"{home}/data", "-k", home, "-c", "listen_addresses="],
                                       start_new_session=True, **user, **quiet)
            for _ in range(600):
                if subprocess.run([programs / "pg_isready", "-h", home], **quiet).returncode == 0:
                    return started
                time.sleep(0.05)
            raise AssertionError("PostgreSQL did not start")

        def kill(started):
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()

        postgres = run()
        try:
            subprocess.run([programs / "createdb", "-h", home, "-U", "postgres", "tidegate"], check=True, **quiet)
            with Server(f"{root}/a", "--database", "none") as origin:
                server, cached = start(root, "b", origin, f"postgres://postgres@localhost/tidegate?host={home}")
                with server:
                    traffic = Traffic(server, origin, cached)
                    kill(postgres)
                    traffic.until(lambda: system_says(server, ">down<"), "System does not say that the database is down")
                    traffic.said([">down<"])
                    postgres = run()
                    traffic.recovered("PostgreSQL was started again")
                    assert server.stop() == 0
        finally:
            if postgres.poll() is None:
                kill(postgres)
    return f"said on every page, slowest fetch meanwhile {traffic.slowest * 1e3:.0f} ms, back by itself"


def database_locked():
    """Another process holds SQLite's write lock for longer than anyone waits."""
    with tempfile.TemporaryDirectory() as root, Server(f"{root}/a", "--database", "none") as origin:
        server, cached = start(root, "b", origin, f"sqlite://{root}/metrics.sqlite")
        with server:
            traffic = Traffic(server, origin, cached)
            lock = sqlite3.connect(f"{root}/metrics.sqlite", isolation_level=None, timeout=20)
            lock.execute("BEGIN EXCLUSIVE")
            began = time.monotonic()
            traffic.until(lambda: system_says(server, "database is locked"), "System does not say that the database is locked")
            said_after = time.monotonic() - began
            traffic.said(["database is locked"])
            lock.execute("COMMIT")
            lock.close()
            traffic.recovered("the lock was given up")
            assert server.stop() == 0
    return f"said after {said_after:.0f} s, slowest fetch meanwhile {traffic.slowest * 1e3:.0f} ms, back by itself"


def database_full():
    """The disk of the metrics database is full."""
    with tempfile.TemporaryDirectory() as root, Server(f"{root}/a", "--database", "none") as origin:
        small = Path(root, "small")
        small.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(small)], capture_output=True).returncode:
            return "SKIPPED: mounting needs root"
        try:
            server, cached = start(root, "b", origin, f"sqlite://{small}/metrics.sqlite")
            with server:
                traffic = Traffic(server, origin, cached)
                ballast = small / "ballast"
                with open(ballast, "wb", buffering=0) as file:
                    try:
                        while True:
                            file.write(bytes(4096))
                    except OSError:
                        pass
                traffic.until(lambda: system_says(server, "It is full"), "System does not say that the database is full")
                traffic.said(["It is full"])
                ballast.unlink()
                traffic.recovered("there was room again")
                assert not system_says(server, "It is full"), "System still says that it is full"
                assert server.stop() == 0
        finally:
            subprocess.run(["umount", str(small)], check=False)
    return f"said on every page, slowest fetch meanwhile {traffic.slowest * 1e3:.0f} ms, back by itself"


CHECKS = [database_killed, database_locked, database_full]
