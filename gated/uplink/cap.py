"""How many bytes of records may go now: a token bucket that holds a second's worth."""


class Cap:
    """`bytes_per_s`: 0 for no cap. One record may overdraw it, and is paid back before the next: else a record larger
    than a second's worth would never go."""

    def __init__(self, bytes_per_s: int, mono: float) -> None:
        self._per_s, self._tokens, self._mono = float(bytes_per_s), float(bytes_per_s), mono
        self.spent = 0
        """Bytes of records since this uplink started."""

    def left(self, mono: float) -> float:
        """Bytes that may go now; infinite without a cap."""
        if not self._per_s:
            return float("inf")
        self._tokens = min(self._per_s, self._tokens + (mono - self._mono) * self._per_s)
        self._mono = mono
        return self._tokens

    def spend(self, size: int) -> None:
        """So many have gone."""
        self.spent += size
        if self._per_s:
            self._tokens -= size
