"""The five results that every document check ends in (BSI TR-03135-1, 3.5.2). No I/O, no clock."""

from enum import Enum


class Check(Enum):
    """Result of one check. Values of an ABORTED check never feed a decision (TR-03135-1, 3.5.2)."""

    SUCCESSFUL = "successful"
    FAILED = "failed"
    UNDETERMINED = "undetermined"
    NOT_SUPPORTED = "not_supported"
    ABORTED = "aborted"
