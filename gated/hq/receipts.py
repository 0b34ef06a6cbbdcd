"""What HQ tells lanes after a commit: gathered per lane, signed, made into messages. No I/O, no clock."""

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gated.mqtt import Publication
from gated.wire import link
from gated.wire.record import Head

REFUSALS_MAX = 64
"""Refusals in one receipt."""


@dataclass
class Answer:
    """What one lane is told after the commit."""

    heads: dict[str, Head] = field(default_factory=dict)
    again: dict[str, Head] = field(default_factory=dict)
    """The last record of each stream that came once more."""
    resend: set[str] = field(default_factory=set)
    refusals: list[link.Refusal] = field(default_factory=list)
    pong: str = ""
    rebirth: bool = False
    anchor: link.JournalHead | None = None

    def head(self, head: Head) -> None:
        """HQ has the stream up to here. Within one transaction a head only grows."""
        known = self.heads.get(head.stream_id)
        if known is None or known.seq <= head.seq:
            self.heads[head.stream_id] = head

    def had(self, head: Head) -> None:
        """HQ has this record of the stream, and more. A lane whose database went back to an older copy of itself knows
        nothing of more, and learns so how far the two agree."""
        if head.seq >= self.again.get(head.stream_id, head).seq:
            self.again[head.stream_id] = head

    def receipts(self, hq: str) -> Iterator[link.Receipt]:
        """The answer in messages that keep the limits of the contract. The first has the pong and as many heads as a
        birth has spans, the oldest in here first: so `told` must be entered before what a batch adds."""
        heads = [link.Head(s, head.seq, head.hash, s in self.resend) for s, head in self.heads.items()]
        if not self.pong:  # beside it a lower head says that HQ went back
            heads += [link.Head(s, head.seq, head.hash) for s, head in self.again.items()]
        refusals = self.refusals
        first = bool(self.pong or self.rebirth)
        while heads or refusals or first:
            yield link.Receipt(
                hq,
                tuple(heads[: link.STREAMS_MAX]),
                tuple(refusals[:REFUSALS_MAX]),
                self.pong if first else "",
                self.rebirth and first,
                self.anchor if first else None,
            )
            heads, refusals, first = heads[link.STREAMS_MAX :], refusals[REFUSALS_MAX:], False


class Signer:
    """Signs receipts with `receipts.key` (32 bytes, Ed25519 raw)."""

    def __init__(self, private: bytes) -> None:
        """Raises `ValueError` for a key of another length."""
        self._key = Ed25519PrivateKey.from_private_bytes(private)
        self.group = "ingest-" + hashlib.sha256(b"gated ingest group v1\n" + private).hexdigest()[:32]
        """The name of the workers' shared subscription: the same for all that hold the key, and a secret. mosquitto
        asks nobody whether he may subscribe, only whether he may read, and a member of the group who may not read
        still takes his share of the messages: they are lost (tests/test_hq_ingest.py). A lane that knew the name
        could so keep most records from HQ."""

    def publication(self, site: str, lane: str, receipt: link.Receipt) -> Publication:
        """The message that the lane believes."""
        topic, payload = link.topic(site, lane, "ack"), link.encode(receipt)
        signature = base64.b64encode(self._key.sign(link.receipt_signed(topic, payload))).decode()
        return Publication(topic, payload, properties={link.SIGNATURE_PROPERTY: signature})
