"""Every error a user can meet: what happened and where, and what to do about it.

Adapters translate their drivers' errors into these at their own edge; loops retry only `PassingError`; commands print
`str(error)` and `error.mend`, and exit with `error.exit_code`.
"""

from __future__ import annotations


class CdcError(Exception):
    """What happened (`str`), and in `mend` what mends it: a command, a statement or a setting, or None."""

    exit_code = 1

    def __init__(self, what: str, *, mend: str | None = None) -> None:
        super().__init__(what)
        self.mend = mend


class ConfigError(CdcError):
    """`cdc.toml`, an environment variable or the command line is wrong."""

    exit_code = 2


class PassingError(CdcError):
    """A fault that may pass by itself: a broken connection, a server that restarts. The operation may be tried again
    from the last durable point.
    """


class GapError(CdcError):
    """Something was lost that no retry brings back: going on would leave a hole (promise 4)."""


class FidelityError(CdcError):
    """A value can't be carried exactly: table, column, and the setting that mends it (promise 5)."""


class SourceError(CdcError):
    """The source refuses what capture needs."""


class SlotInUseError(SourceError):
    """Another process reads this replication slot."""


class ProtocolViolationError(CdcError):
    """Bytes that are not what the replication protocol, Avro or the framing allows."""


class LogError(CdcError):
    """The log refuses or lost something."""


class TopicMismatchError(LogError):
    """A topic exists with another number of partitions."""


class RecordTooLargeError(LogError):
    """A record is above the log's size limit."""


class LogGapError(GapError, LogError):
    """The log no longer holds (or never held) the offset that was asked for."""


class RegistryError(CdcError):
    """The schema registry refuses or can't answer."""


class SchemaRefusedError(RegistryError):
    """The registry refuses a schema for its subject."""


class UnknownSchemaError(RegistryError):
    """No schema has that id."""


class TargetError(CdcError):
    """A target database refuses something."""


class TargetSchemaError(TargetError):
    """A target table is not what the events need."""


class UnfollowedError(TargetSchemaError):
    """A table was changed at the source, and it is for people to follow: the target's `schema_changes` leaves it to
    them, or what they made at the table would be lost.
    """


class ConstraintError(TargetError):
    """A constraint or a trigger of a target table refuses a row. `by_others`: for what other rows are, so that changes
    of those may mend it.
    """

    def __init__(self, what: str, *, mend: str | None = None, by_others: bool = False) -> None:
        super().__init__(what, mend=mend)
        self.by_others = by_others


class TargetChangedError(TargetError):
    """What a session found at the target (a table, a column, a key) is not there any more, or not so. A new session
    looks again: it says what is wrong, or goes on.
    """


class StaleApplierError(TargetError):
    """Another applier took over this checkpoint: this one must not write any more."""

    def __init__(self, what: str) -> None:
        super().__init__(
            what,
            mend="leave the work to the other one; if there is none, somebody edited the checkpoint at the target:"
            " start this one again",
        )


class TargetReplacedError(PassingError):
    """A rebuild replaced the target's tables and this applier's checkpoint: a new session goes on from there."""


class AlreadyRunningError(TargetError):
    """Another applier of the same name works on this target now."""
