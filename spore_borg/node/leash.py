"""Run a module as ``python -m`` does, but end with the parent: ``python -m spore_borg.node.leash MODULE ARGUMENT…``.

The parent holds the other end of stdin. When it is gone, however it went, stdin ends, and so does this process; a
node that was killed leaves no pages behind that hold its port and show its directory.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

END_GRACE_S = 5.0


def _watch() -> None:
    while os.read(0, 4_096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_GRACE_S)
    os._exit(1)


def main() -> None:
    """Watch stdin, and run the module."""
    threading.Thread(target=_watch, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
