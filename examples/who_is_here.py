"""Lists the clients of a region, and their logins and ends: a client with the region's mesh key watches.

    python examples/who_is_here.py derp-map.json 900 mesh.key

The region's nodes are tried in order, and the client reconnects when one restarts; then all clients are listed again.
Ctrl-C ends it.
"""

import asyncio
import signal
import sys
from pathlib import Path

from derper.client import (
    Connected,
    DerpClient,
    DerperError,
    DerpMap,
    Disconnected,
    MeshKey,
    Options,
    PeerGone,
    PeerPresent,
    Region,
)


async def watch(region: Region, mesh_key: MeshKey) -> None:
    """Print a line for each client that is connected, logs in or disconnects.

    Raises:
        DerperError: No node of the region is reachable at the start.
    """
    if task := asyncio.current_task():
        # Unlike KeyboardInterrupt, this wakes a waiting loop, even if SIGINT was ignored at the program's start.
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
    async with DerpClient(region, options=Options(mesh_key=mesh_key, app_name="who_is_here")) as client:
        await client.watch()
        async for message in client:
            match message:
                case Connected(node):
                    print(f"at {node.name}", flush=True)
                case Disconnected(reason, seconds):
                    print(f"lost it ({reason}), back in {seconds:.1f} s", flush=True)
                case PeerPresent(peer, endpoint) if endpoint:
                    print(f"+ {peer} from {endpoint.ip}", flush=True)
                case PeerGone(peer):
                    print(f"- {peer}", flush=True)


def main(words: list[str]) -> int:
    """Run with the arguments of the command line."""
    if len(words) != 3 or not words[1].isdecimal():  # noqa: PLR2004  as the usage says
        print("usage: who_is_here.py DERP-MAP REGION-ID MESH-KEY-FILE", file=sys.stderr)
        return 2
    try:
        region = DerpMap.from_json(Path(words[0]).read_bytes()).regions[int(words[1])]
        asyncio.run(watch(region, MeshKey.from_text(Path(words[2]).read_text())))
    except KeyError:
        print(f"{words[0]} has no region {words[1]}", file=sys.stderr)
    except (DerperError, OSError) as error:
        print(f"cannot watch: {error}", file=sys.stderr)
    except asyncio.CancelledError:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
