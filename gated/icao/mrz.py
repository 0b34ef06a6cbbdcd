"""Machine readable zones after ICAO Doc 9303 parts 3-7. No I/O, no clock."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Document:
    """What a machine readable zone says. Two-digit years stay as printed until a day of use is given."""

    format: str
    """TD1, TD2, TD3, MRV-A or MRV-B."""
    code: str
    """Document code without fillers: P, PP, I, V ..."""
    issuer: str
    """Three-letter code as printed, without fillers (D for Germany)."""
    number: str = field(repr=False)
    nationality: str = field(repr=False)
    birth: str = field(repr=False)
    """YYMMDD; unknown parts are '<'."""
    sex: str = field(repr=False)
    """M, F or X."""
    expiry: str = field(repr=False)
    """YYMMDD."""
    surname: str = field(repr=False)
    given_names: str = field(repr=False)
    names_truncated: bool = field(repr=False)
    optional: str = field(repr=False)
    """Optional data without trailing fillers (TD1: both fields joined by a blank)."""
    lines: tuple[str, ...] = field(repr=False)
