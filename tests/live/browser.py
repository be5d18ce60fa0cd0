"""Runs a script of tests/browser under Node. Modules resolve beside a script: it is run where node_modules is (TIDEGATE_NPM)."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

BROWSER = Path(__file__).parent.parent / "browser"
# The browsers in which every page is looked at.
KINDS = ("chromium", "firefox")


def node(script, env, **options):
    folder = Path(os.environ.get("TIDEGATE_NPM", BROWSER))
    if folder != BROWSER:
        for module in BROWSER.glob("*.mjs"):
            shutil.copy(module, folder)
    return subprocess.run(["node", str(folder / script)], env={**os.environ, **env}, text=True, **options)


def look(server, pages, kinds=KINDS, behaviour=False, out=None):
    """Holds every page in each browser; with `out` takes screenshots. True when nothing was found."""
    plan = {"admin": f"http://{server.admin}", "gateway": f"http://{server.gateway}", "pages": pages, "behaviour": behaviour}
    good = True
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(plan, file)
        file.flush()
        for kind in kinds:
            env = {"PLAN": file.name, "BROWSER": kind, **({"OUT": str(out)} if out else {})}
            good &= node("pages.mjs", env).returncode == 0
    return good
