"""A replication connection: libpq's own calls, through psycopg's `pq` layer.

psycopg2's replication cursor confirms LSNs by itself, past what we have stored, and can't be told not to; so the stream
is read here, and every status update is built by us. The layer is thin: commands, COPY, the CopyBoth stream.
https://www.postgresql.org/docs/current/protocol-replication.html
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from cdc.core.errors import PassingError
from cdc.sources.postgres.errors import translate
from cdc.sources.postgres.settings import SETTING_SQL

_DONE: Final = -1
_MOST_BYTES: Final = 8 << 20  # of one `receive`: a few thousand messages may be of any size
_MOST_LINES: Final = 1_000  # of a COPY, at once
_MOST_LINE_BYTES: Final = 1 << 20


class ReplicationConnection:
    """A connection in replication mode (`replication=database`), which also answers plain SQL.

    With `replication` off it is an ordinary one, under the same settings, that takes no WAL sender. One thread. Errors
    come out translated; a broken connection is a PassingError.
    """

    def __init__(self, url: str, *, application_name: str, replication: bool = True) -> None:
        self._conninfo = make_conninfo(
            url,
            replication="database" if replication else "false",
            application_name=application_name,
            connect_timeout="10",
            keepalives_idle="20",
            keepalives_interval="5",
            keepalives_count="3",
            tcp_user_timeout="35000",  # ms; keepalives are not sent while something sent is not acknowledged
            client_encoding="UTF8",
        )
        self._connection: pq.abc.PGconn | None = None
        self._poller = select.poll()

    def __enter__(self) -> Self:
        connection = pq.PGconn.connect(self._conninfo.encode())
        if connection.status != pq.ConnStatus.OK:
            message = connection.get_error_message()
            connection.finish()
            raise translate(_reason(message), None, doing="connecting to the source")
        connection.notice_handler = None
        self._connection = connection
        self._poller.register(connection.socket, select.POLLIN)
        try:
            self.execute(SETTING_SQL, doing="preparing the session")
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.finish()
            self._connection = None

    @property
    def server_version(self) -> int:
        """As libpq says it: 150004 is 15.4."""
        return self._open.server_version

    @property
    def _open(self) -> pq.abc.PGconn:
        if self._connection is None:
            raise PassingError("the connection to the source is closed")
        return self._connection

    def execute(self, sql: str, *, doing: str) -> list[tuple[str | None, ...]]:
        """Run one command by the simple protocol and return its rows as text."""
        result = self._open.exec_(sql.encode())
        self._expect(result, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK, doing=doing)
        return [
            tuple(_text(result.get_value(row, column)) for column in range(result.nfields))
            for row in range(result.ntuples)
        ]

    def copy_out(self, sql: str, *, doing: str) -> Iterator[list[bytes]]:
        """The lines of `COPY … TO STDOUT`, each with its line feed, as they come, up to a thousand at once."""
        connection = self._open
        self._expect(connection.exec_(sql.encode()), pq.ExecStatus.COPY_OUT, doing=doing)
        more = True
        try:
            while more:
                lines, more = _lines(connection)
                if lines:
                    yield lines
        except psycopg.Error as error:
            raise translate(str(error), None, doing=doing) from None
        while (result := connection.get_result()) is not None:
            self._expect(result, pq.ExecStatus.COMMAND_OK, doing=doing)

    def start_stream(self, sql: str, *, doing: str) -> None:
        """Run START_REPLICATION; from then on only `receive` and `send` may be called."""
        self._expect(self._open.exec_(sql.encode()), pq.ExecStatus.COPY_BOTH, doing=doing)

    def receive(self, most: int, timeout: float) -> list[bytes]:
        """Up to `most` messages of the stream (fewer if they are large): those that are there; waits up to `timeout`
        seconds for the first.
        """
        get = self._open.get_copy_data
        messages: list[bytes] = []
        add = messages.append
        size = 0
        try:
            while len(messages) < most and size < _MOST_BYTES:
                length, data = get(1)
                if length > 0:
                    add(bytes(data))
                    size += length
                elif length == _DONE:
                    raise self._stream_ended()
                elif not self._take_in(0 if messages else timeout):
                    break
        except psycopg.Error as error:
            raise translate(str(error), None, doing="reading the replication stream") from None
        return messages

    def send(self, message: bytes) -> None:
        """Send one message to the server, now."""
        try:
            self._open.put_copy_data(message)
            self._open.flush()
        except psycopg.Error as error:
            raise translate(str(error), None, doing="confirming to the source") from None

    def _take_in(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for bytes and take them in. False if none came."""
        try:
            if not self._poller.poll(timeout * 1000):
                return False
            self._open.consume_input()
        except (psycopg.Error, OSError) as error:
            raise translate(str(error), None, doing="reading the replication stream") from None
        return True

    def _stream_ended(self) -> Exception:
        doing = "reading the replication stream"
        result = self._open.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            return translate(_reason(result.get_error_message()), _sqlstate(result), doing=doing)
        return PassingError(f"{doing}: the source ended the stream")

    def _expect(self, result: pq.abc.PGresult, *statuses: pq.ExecStatus, doing: str) -> None:
        if result.status not in statuses:
            raise translate(_reason(result.get_error_message()), _sqlstate(result), doing=doing)


def _lines(connection: pq.abc.PGconn) -> tuple[list[bytes], bool]:
    """The next lines of a COPY, fewer than there may be if they are large; and whether there are more."""
    get = connection.get_copy_data
    lines: list[bytes] = []
    add = lines.append
    size = 0
    while len(lines) < _MOST_LINES and size < _MOST_LINE_BYTES:
        length, data = get(0)
        if length == _DONE:
            return lines, False
        add(bytes(data))
        size += length
    return lines, True


def _sqlstate(result: pq.abc.PGresult) -> str | None:
    return _text(result.error_field(pq.DiagnosticField.SQLSTATE))


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")


def _reason(message: str) -> str:
    """What the server said: libpq prefixes it with `connection to server at …, port … failed: FATAL:`."""
    return message.rpartition("FATAL:")[2] if "FATAL:" in message else message
