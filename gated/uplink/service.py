"""The uplink as a process: its configuration, its start and its end."""

import argparse
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from gated import config, logs
from gated.control import Client
from gated.metrics import textfile
from gated.mqtt import Broker
from gated.store.acks import AckedHeads
from gated.store.flight import Flights
from gated.store.outbox import OutboxReader
from gated.store.sql import StoreError
from gated.store.witness import Witness
from gated.uplink.brokers import Brokers
from gated.uplink.cap import Cap
from gated.uplink.daemon import Daemon
from gated.uplink.line import Pace, Uplink
from gated.uplink.metrics import Measures

log = structlog.get_logger()

CONTROL_S_MAX = 2.0
EX_CONFIG = 78


def build(conf: config.Config) -> Uplink:
    """The uplink of a lane.toml. Raises `config.ConfigError`, `StoreError`."""
    up, store = conf.uplink, conf.store
    receipts = config.signers_of(conf, "receipts_public")
    brokers = _brokers(conf)
    acked = AckedHeads.renewed(store.dir / "uplink.db", mode=0o640)
    flights = Flights(OutboxReader(store.dir / "lane.db"), acked, up.inflight_max)
    kept = {"journal_days": store.journal_days, "journal_rows_max": store.journal_rows_max}
    witness = Witness(store.dir / "lane.db", **kept, acked=acked)
    uplink = Uplink(
        conf.identity.site,
        conf.identity.id,
        Brokers(brokers, up.retry_s_min, up.retry_s_max),
        flights,
        witness,
        receipts,
        Daemon(Client(conf.control.socket, CONTROL_S_MAX)),
        Cap(up.bytes_per_s_max, time.monotonic()),
        Pace(up.heartbeat_s, up.ack_s_max),
        Client(conf.sync.socket, CONTROL_S_MAX) if conf.sync else None,
    )
    measures = Measures(flights, uplink.line, store.outbox_bytes_max, up.certificate)
    uplink.textfile = textfile(conf, "uplink", measures.collect)
    return uplink


def _brokers(conf: config.Config) -> list[Broker]:
    """The first site's and the others, to all of which the lane shows the same certificate."""
    up = conf.uplink
    password = None
    if up.password_file is not None:
        try:
            password = up.password_file.read_text(encoding="utf-8").strip()
        except OSError as bad:
            raise conf.error(("uplink", "password_file"), f"cannot be read: {bad.strerror}") from None
    alike = ("host", "port", "tls", "ca", "certificate", "key", "username", "keep_alive_s", "connect_s_max")
    first = Broker(**{name: getattr(up, name) for name in alike}, password=password)
    try:
        first.context()
    except OSError as bad:
        raise conf.error(("uplink",), f"ca, certificate or key cannot be used: {bad}") from None
    others = [each.rpartition(":") for each in up.fallback]
    return [first, *(replace(first, host=host, port=int(port)) for host, _, port in others)]


def serve(conf: config.Config) -> int:
    """Run the uplink of a configuration until SIGTERM. The process's exit code. Raises `config.ConfigError`."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    logs.configure(conf.log.level, conf.log.format)
    try:
        uplink = build(conf)
    except StoreError as bad:
        log.error("the uplink's database cannot be used", why=str(bad))
        return 1
    uplink.run(stop)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m gated.uplink --config lane.toml`. 0 after SIGTERM, 78 for a configuration that cannot be used."""
    parser = argparse.ArgumentParser(prog="gated uplink", description="Sends a lane's records to HQ over MQTT.")
    parser.add_argument("--config", default="/etc/gated/lane.toml", type=Path)
    try:
        return serve(config.load(parser.parse_args(arguments).config))
    except config.ConfigError as bad:
        print(f"gated uplink: {bad}", file=sys.stderr)  # noqa: T201
        return EX_CONFIG
