"""The metrics while real clients connect, send and disconnect."""

import asyncio
import json
import os
import re
from pathlib import Path

import pytest
from live import Client, Server, config_of, serving

from derper.metrics import process
from derper.protocol import NodePrivate
from derper.protocol.frames import (
    FrameType,
    NotePreferred,
    Ping,
    SendPacket,
    WatchConns,
)
from derper.protocol.keys import MeshKey
from derper.redaction import conceal
from derper.server.debug.metrics import METRICS

MESH_KEY = "99d33123bb50e4f52a9eeace228d56bdfbd09aebfc68088becdef2be1dcbdd4f"
DISCO = "TS\U0001f4ac".encode() + bytes(32 + 24 + 16)
OKAY = (200, "derp.Server ConsistencyCheck okay")


async def answered(client: Client) -> None:
    """Return when the relay has processed all earlier frames of the client."""
    client.out.write(Ping(bytes(8)).encode())
    while (await client.next_frame()).type != FrameType.PONG:
        pass


async def samples(server: Server, **wanted: float) -> dict[str, float]:
    return {name: await server.sample(f"derp_{name}") for name in wanted}


async def test_received_and_sent_packets_are_counted_by_kind(tmp_path: Path) -> None:
    async with serving(config_of(tmp_path)) as server:
        alice, bob = await Client.log_in(server), await Client.log_in(server)
        alice.out.write(SendPacket(bob.key, DISCO).encode() + SendPacket(bob.key, bytes(100)).encode() * 2)
        for _ in range(3):
            assert (await bob.next_frame()).type == FrameType.RECV_PACKET
        wanted: dict[str, float] = {
            "accepts": 2,
            "packets_received": 3,
            "bytes_received": 200 + len(DISCO),
            'packets_received_kind{kind="disco"}': 1,
            'packets_received_kind{kind="other"}': 2,
            "packets_sent": 3,
            "bytes_sent": 200 + len(DISCO),
        }
        assert await samples(server, **wanted) == wanted
        assert await server.sample("derp_buffered_write_frames_sum") >= 3
        assert await server.sample("derp_average_queue_duration_ms") < 1_000


async def test_a_packet_to_an_absent_key_is_a_drop_and_its_sender_is_notified(tmp_path: Path) -> None:
    async with serving(config_of(tmp_path)) as server:
        alice = await Client.log_in(server)
        alice.out.write(SendPacket(NodePrivate(os.urandom(32)).public(), DISCO).encode())
        await answered(alice)
        wanted: dict[str, float] = {
            'packets_dropped{reason="unknown_dest",kind="disco"}': 1,
            'bytes_dropped{reason="unknown_dest",kind="disco"}': len(DISCO),
            'packets_dropped{reason="unknown_dest",kind="other"}': 0,
            "peer_gone_not_here_frames": 1,
            "got_ping": 1,
            "sent_pong": 1,
        }
        assert await samples(server, **wanted) == wanted


async def test_connection_gauges_follow_connections(tmp_path: Path) -> None:
    async with serving(config_of(tmp_path)) as server:
        client = await Client.log_in(server, ideal_node="elsewhere")
        client.out.write(NotePreferred(True).encode())
        await answered(client)
        gauges = ("current_connections", "clients_local", "clients_total", "current_home_connections",
                  "current_notideal_connections")  # fmt: skip
        there: dict[str, float] = dict.fromkeys(gauges, 1)
        assert await samples(server, **there) == there
        client.out.write(NotePreferred(True).encode() + NotePreferred(False).encode())
        await answered(client)
        assert await server.sample("derp_current_home_connections") == 0
        client.out.write(NotePreferred(True).encode())
        await answered(client)
        client.out.close()
        await server.wait_for("derp_current_connections", 0)
        gone = dict.fromkeys(gauges, 0.0)
        assert await samples(server, **gone) == gone
        assert await server.sample("derp_clients_remote") == 0


@pytest.mark.parametrize("shards", [1, 2])
async def test_two_connections_of_one_key_are_counted_and_consistent(shards: int, tmp_path: Path) -> None:
    async with serving(config_of(tmp_path), shards=shards) as server:
        private = NodePrivate(os.urandom(32))
        clients = [await Client.log_in(server, private=private) for _ in range(2)]
        for client in clients:
            await answered(client)
        wanted: dict[str, float] = {
            "current_connections": 2,
            "clients_local": 1,
            "current_dup_client_keys": 1,
            "current_dup_client_conns": 2,
            "total_dup_client_conns": 1,
        }
        assert await samples(server, **wanted) == wanted
        assert await server.get("/debug/check") == OKAY
        clients[0].out.close()
        await server.wait_for("derp_current_dup_client_keys", 0)
        assert await server.get("/debug/check") == OKAY


async def test_notifications_of_watchers_are_counted_by_batch(tmp_path: Path) -> None:
    config = config_of(tmp_path, "-dev", TAILSCALE_DERPER_MESH_KEY=MESH_KEY)
    async with serving(config) as server:
        watcher = await Client.log_in(server, mesh_key=MeshKey.from_text(MESH_KEY))
        watcher.out.write(WatchConns().encode())
        await answered(watcher)
        await Client.log_in(server)
        while (await watcher.next_frame()).type != FrameType.PEER_PRESENT:
            pass
        assert await server.sample("derp_watchers") == 1
        assert await server.sample("derp_mesh_update_batch_size_count") == 2
        assert await server.sample("derp_mesh_update_batch_size_sum") == 2
        assert await server.sample('derp_mesh_update_loop_count_bucket{le="1"}') == 2
        watcher.out.close()
        await server.wait_for("derp_watchers", 0)


async def test_round_trips_are_sampled_periodically(tmp_path: Path) -> None:
    async with serving(config_of(tmp_path), rtt_interval=0.05) as server:
        await Client.log_in(server)
        await server.wait_for_at_least("derp_tcp_rtt", 3)


async def test_round_trips_are_not_sampled_when_disabled(tmp_path: Path) -> None:
    config = config_of(tmp_path, TS_DERP_DISABLE_RTT_STATS="1")
    async with serving(config, rtt_interval=0.05) as server:
        client = await Client.log_in(server)
        await answered(client)
        await asyncio.sleep(0.4)
        assert "derp_tcp_rtt{" not in (await server.get("/debug/varz"))[1]


async def test_open_tls_connections_are_counted_by_version(tmp_path: Path) -> None:
    config = config_of(tmp_path, "-certmode=manual", "-hostname=127.0.0.1", "-certdir", str(tmp_path))
    async with serving(config) as server:
        client = await Client.log_in(server)
        await answered(client)
        # The relay connection, and the one that requests the page.
        assert await server.sample('derper_tls_active_version{version="1.3"}') == 2
        assert await server.sample('derper_tls_request_version{version="1.3"}') == 3
        assert await server.sample("tls_listener_accepted_connections") == 4
        client.out.close()
        await server.wait_for('derper_tls_active_version{version="1.3"}', 1)


async def test_the_json_has_the_same_numbers(tmp_path: Path) -> None:
    async with serving(config_of(tmp_path)) as server:
        client = await Client.log_in(server)
        await answered(client)
        status, text = await server.get("/debug/vars")
        told = json.loads(text)
        assert status == 200
        assert list(told) == sorted(told)
        assert (told["derp"]["accepts"], told["derp"]["gauge_current_connections"]) == (1, 1)
        assert told["derp_packets_dropped"] == "MultiLabelMap"
        assert told["derp"]["counter_buffered_write_frames"]["count"] >= 1


async def test_the_page_has_exactly_the_documented_families_with_types_and_labels(tmp_path: Path) -> None:
    rates = tmp_path / "rates.json"
    rates.write_text('{"PerClientRateLimitBytesPerSec": 1000000, "PerClientRateBurstBytes": 100000}')
    key = tmp_path / "mesh.key"
    key.write_text(MESH_KEY)
    config = config_of(
        tmp_path, "-certmode=manual", "-hostname=127.0.0.1", "-certdir", str(tmp_path), "-rate-config", str(rates),
        "-mesh-psk-file", str(key), "-mesh-with=127.0.0.1:1",
    )  # fmt: skip
    async with serving(config, rtt_interval=0.05) as server:
        await answered(await Client.log_in(server))
        await server.wait_for_at_least("derp_tcp_rtt", 1)
        text = (await server.get("/debug/varz"))[1]
    wanted = {metric.name: ("" if metric.type is None else str(metric.type), set(metric.labels)) for metric in METRICS}
    assert len(wanted) == len(METRICS)
    assert of_the_text(text) == wanted


def of_the_text(text: str) -> dict[str, tuple[str, set[str]]]:
    """Return the type and labels of each family by name, without the parts of histograms."""
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    found: dict[str, tuple[str, set[str]]] = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        if types.get(family) == "histogram":
            found[family] = ("histogram", set())
        else:
            found[name] = (types.get(name, ""), set(re.findall(r'(\w+)="', labels)))
    return found


def test_the_command_line_is_shown_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "derper",
        "-acme-eab-key=c2VjcmV0",
        "-acme-eab-key",
        "c2VjcmV0",
        "-verify-client-url=https://me:pw@a.test/x?token=t",
    ]
    monkeypatch.setattr("sys.argv", words)
    conceal("c2VjcmV0", "-acme-eab-key")
    assert process.command_line() == [
        "derper",
        "-acme-eab-key=set (from -acme-eab-key)",
        "-acme-eab-key",
        "set (from -acme-eab-key)",
        "-verify-client-url=https://(secret)@a.test/x?(secret)",
    ]
