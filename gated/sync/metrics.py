"""What the sync measures of itself, for Prometheus."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final

from prometheus_client.core import Metric

from gated.metrics import Label, Meter, common
from gated.sync.refused import ATTACKS, Why
from gated.wire.rows import PARTITIONS

_PARTITION: Final = Label("partition", tuple(PARTITIONS))

CONFIRMED: Final = Meter(
    "gated_sync_confirmed_timestamp_seconds",
    "gauge",
    "When HQ last said that this is all there is, Unix time; 0: never",
    (_PARTITION,),
)
SERIAL: Final = Meter("gated_sync_serial", "gauge", "The last change that is here", (_PARTITION,))
ASKED: Final = Meter(
    "gated_sync_asked_timestamp_seconds", "gauge", "When HQ's server last answered, Unix time; 0: never"
)
EXPIRES: Final = Meter(
    "gated_sync_metadata_expires_timestamp_seconds",
    "gauge",
    "When what HQ signed last is no longer believed, Unix time; 0: nothing yet",
)
TROUBLE: Final = Meter(
    "gated_sync_trouble", "gauge", "1: not as new as it should be", (Label("what", (*PARTITIONS, "metadata", "files")),)
)
REFUSED: Final = Meter(
    "gated_sync_refused_total",
    "counter",
    "What was fetched and not taken",
    (Label("why", tuple(w.value for w in Why)),),
)
ATTACKED: Final = Meter(
    "gated_sync_attacks_total",
    "counter",
    "Of those refused: such as mean that somebody meddles, or that HQ's store is old",
)
ANNOUNCEMENTS: Final = Meter(
    "gated_sync_announcements_total", "counter", "Announcements of HQ that came over the broker"
)

METERS: Final = (*common("sync"), CONFIRMED, SERIAL, ASKED, EXPIRES, TROUBLE, REFUSED, ATTACKED, ANNOUNCEMENTS)


class Measures:
    """`report`: as `Sync.report` gives it."""

    def __init__(self, report: Callable[[], dict[str, Any]]) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        """Every family, as things are now."""
        now = self._report()
        partitions, metadata = now["partitions"], now["metadata"]
        yield CONFIRMED.family({(name,): _unix(each["checked"]) for name, each in partitions.items()})
        yield SERIAL.family({(name,): each["serial"] for name, each in partitions.items()})
        yield ASKED.family(_unix(metadata["asked"]))
        yield EXPIRES.family(_unix(metadata["expires"]))
        troubles = {name: each["trouble"] for name, each in partitions.items()}
        troubles |= {"metadata": metadata["trouble"], "files": now["files"]["trouble"]}
        yield TROUBLE.family({(name,): bool(trouble) for name, trouble in troubles.items()})
        yield REFUSED.family({(why,): count for why, count in now["refused"].items()})
        yield ATTACKED.family(sum(count for why, count in now["refused"].items() if Why(why) in ATTACKS))
        yield ANNOUNCEMENTS.family(now["announcements"])


def _unix(utc: str | None) -> float:
    return datetime.fromisoformat(utc).timestamp() if utc else 0.0
