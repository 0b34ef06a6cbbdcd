"""The lane's process: a real lane on a real clock with real networks, until a signal ends it."""

import asyncio
import signal
import time

import structlog

from gated import control_socket, logs
from gated.config import Config, ConfigError
from gated.daemon import links as daemon_links
from gated.daemon.app import build
from gated.daemon.clock import SystemClock
from gated.daemon.plan import face_of, finger_of
from gated.daemon.workers import Threads, Workers
from gated.logs import told
from gated.store.sql import StoreError

log = structlog.get_logger()


def real_workers(config: Config) -> Workers:
    """The networks that the manifest names, each on its thread. Raises `ModelError`, `ConfigError`."""
    from gated.biometrics.face import OnnxFaceEngine
    from gated.biometrics.finger import OnnxFingerEngine

    face, finger = face_of(config), finger_of(config)
    engine = OnnxFaceEngine(
        config.models.dir,
        face.threshold,
        config.models.threads,
        near_eye_px_min=face.near_eye_px_min,
        detection_width_px=face.detection_width_px,
        quality_min=face.quality_min,
        weak_name=face.weak or None,
    )
    fingers = None
    if finger is not None:
        fingers = OnnxFingerEngine(config.models.dir, finger.threshold, config.models.threads)
    return Threads(engine, fingers)


async def run(config: Config, links: daemon_links.Links = daemon_links.real) -> None:
    """Run one lane until SIGTERM or SIGINT."""
    began = time.monotonic()
    app = build(config, SystemClock(), links, real_workers(config))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, app.stop)
    log.info("lane built", lane=config.identity.id, boot=app.boot, seconds=round(time.monotonic() - began, 3))
    await app.run()


def main(config: Config, links: daemon_links.Links = daemon_links.real) -> int:
    """Run the lane in the foreground; returns the exit code."""
    from models.manifest import ModelError

    logs.configure(config.log.level, config.log.format)
    try:
        asyncio.run(run(config, links))
    except ConfigError as wrong:
        log.error("configuration cannot be used", what=str(wrong))
        return 78
    except (StoreError, ModelError, control_socket.SocketTaken) as wrong:
        log.error("lane cannot start", what=str(wrong))
        return 69
    except Exception as failed:  # noqa: BLE001  # of our own bugs only the place is logged: words can be personal
        log.critical("lane ends by a fault of its own", what=told(failed))
        return 70
    return 0
