"""axe-core, fetched from the npm registry once and kept in pytest's cache; it is never part of the repository.

axe-core is under the Mozilla Public License 2.0.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path

from tests.pages.browser import Browser

NPM = shutil.which("npm")
PACKAGE = "axe-core@4.10.3"
TAGS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa")
RUN = """axe.run(document, {runOnly: {type: "tag", values: %s}, resultTypes: ["violations", "passes"]}).then(found => ({
  passes: found.passes.length,
  violations: found.violations.map(v => v.id + ": " + v.help + ": " +
    v.nodes.slice(0, 4).map(n => n.html.slice(0, 160) + " (" + n.any.concat(n.all, n.none).map(c => c.message)[0] + ")")
      .join(" | "))}))"""


class NoNetwork(Exception):
    """The npm registry cannot be reached."""


def source(cache: Path) -> str:
    """The script, from the cache or the registry.

    Raises:
        NoNetwork: it is in neither.
    """
    kept = cache / f"{PACKAGE}.js"
    if not kept.exists():
        command = [str(NPM), "pack", PACKAGE, "--silent", "--pack-destination", str(cache)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise NoNetwork(done.stderr[-400:])
        with tarfile.open(cache / done.stdout.split()[-1]) as archive:
            file = archive.extractfile("package/axe.min.js")
            assert file is not None
            kept.write_bytes(file.read())
    return kept.read_text(encoding="utf-8")


def violations(browser: Browser, script: str) -> list[str]:
    """What axe finds on the page that is open. The scripts go in through DevTools, past the page's policy."""
    browser.cdp("Runtime.evaluate", expression=script)
    answer = browser.cdp(
        "Runtime.evaluate", expression=RUN % json.dumps(TAGS), awaitPromise=True, returnByValue=True
    )
    assert isinstance(answer, dict)
    assert "exceptionDetails" not in answer, answer
    found = answer["result"]["value"]
    assert found["passes"] > 5  # it did look
    return [str(one) for one in found["violations"]]
