"""Spore's explorer with so many experiments: ``python spore_pages.py PORT COUNT``."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import uvicorn
from spore.explorer.server import create_app

from tests.bench.peer.spore_mesh import Home, records, room

INSERT_LIMIT_S = 120.0


async def main(port: int, count: int) -> None:
    """Fill, say how many there are, serve."""
    home, began_s, made = Home(room()), time.monotonic(), 0
    for one in records(count):
        home.node.graph.insert(one)
        made += 1
        if time.monotonic() - began_s > INSERT_LIMIT_S:
            break
    print(json.dumps({"runs": made}), flush=True)
    config = uvicorn.Config(create_app(home.node), host="127.0.0.1", port=port, log_level="error")
    await uvicorn.Server(config).serve()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
