"""A real PostgreSQL on the loopback, in a directory of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow
from typing_extensions import override

from cdc.core.errors import CdcError
from cdc.embedded import process
from cdc.embedded.account import Account, unprivileged_account
from cdc.embedded.binaries import binaries_for
from cdc.embedded.ports import LOOPBACK
from cdc.embedded.process import Command
from cdc.embedded.server import EmbeddedServer

StopMode = Literal["smart", "fast", "immediate"]
_STOP_SIGNALS: dict[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
_SETTINGS_FILE = "embedded.conf"
_START_SECONDS = 60.0

_PASSWORD_ROLE = "password_required"  # noqa: S105 - a role's name
# Everybody is trusted but members of that role. The first line that matches counts.
_HOST_BASED_AUTHENTICATION = f"""\
host all         +{_PASSWORD_ROLE} {LOOPBACK}/32 scram-sha-256
host replication +{_PASSWORD_ROLE} {LOOPBACK}/32 scram-sha-256
host all         all               {LOOPBACK}/32 trust
host replication all               {LOOPBACK}/32 trust
"""


class EmbeddedPostgres(EmbeddedServer):
    """A PostgreSQL server of major version `version`, ready for logical replication. Its cluster stays in `directory`
    and is used again by the next server there.

    `settings` go to `postgresql.conf`; `ALTER SYSTEM` overrides them. Everything else is PostgreSQL's default, fsync
    too. Connections need no password, except those of users made by `create_user`.

    Started as root, it runs as `postgres` or `nobody`.
    """

    def __init__(self, directory: Path, *, version: int = 18, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(directory)
        self._data = directory / "data"
        self._version = version
        self._settings = dict(settings or {})

    @property
    def version(self) -> int:
        return self._version

    @property
    def data_directory(self) -> Path:
        return self._data

    def bin(self, name: str) -> Path:
        """A program of this version: `pgbench`, `pg_recvlogical` and so on."""
        return binaries_for(self._version, unprivileged_account()) / name

    def url(self, database: str = "postgres", user: str = "postgres", password: str | None = None) -> str:
        """`postgresql://…`, as SQLAlchemy and libpq understand it."""
        secret = "" if password is None else f":{quote(password, safe='')}"
        return f"postgresql://{quote(user, safe='')}{secret}@{LOOPBACK}:{self.port}/{quote(database, safe='')}"

    @override
    def start(self) -> None:
        """Start, making the cluster if there is none; return when it takes connections."""
        assert not self.running, "already started"
        account = unprivileged_account()
        with self._reachable_data(account) as (data, inherited):
            if not (self._data / "PG_VERSION").exists():
                self._initialize(data, account, inherited)
            self._choose_port()
            self._configure(account)
            self._process = process.start(
                Command(
                    name=f"PostgreSQL {self._version}",
                    arguments=[str(self.bin("postgres")), "-D", data],
                    log=self.log,
                    stop_signal=signal.SIGINT,
                    environment=_environment(),
                    directory=Path("/"),
                    user=_switch_to(account),
                    inherited_files=inherited,
                )
            )
        self._process.await_ready(self._accepts_sessions, _START_SECONDS)

    @override
    def stop(self, mode: StopMode = "fast") -> None:
        self._stop(_STOP_SIGNALS[mode])

    @override
    def kill(self) -> None:
        """SIGKILL to all its processes, as a crash of the machine would (less what the disk's cache loses)."""
        if self._process is not None:
            from cdc.embedded.crash import kill_with_children  # noqa: PLC0415 - psutil is optional

            kill_with_children(self._process)
            self._process = None

    @override
    def restart(self, mode: StopMode = "fast") -> None:
        self.stop(mode)
        self.start()

    def create_user(self, name: str, password: str, options: str = "LOGIN") -> str:
        """Make a user who must give this password; return their URL. `options` are CREATE ROLE's."""
        role, member = sql.Identifier(_PASSWORD_ROLE), sql.Identifier(name)
        with self._session() as connection:
            with contextlib.suppress(psycopg.errors.DuplicateObject):
                connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(role))
            connection.execute(
                sql.SQL("CREATE ROLE {} {} PASSWORD {} IN ROLE {}").format(
                    member,
                    sql.SQL(options),
                    sql.Literal(password),
                    role,
                )
            )
        return self.url(user=name, password=password)

    def create_database(self, name: str) -> str:
        """Return its URL."""
        # Copied as files it is made four times as quickly, where nothing has to reach the disk.
        strategy = "file_copy" if self._settings.get("fsync") == "off" else "wal_log"
        with self._session() as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} STRATEGY {}").format(sql.Identifier(name), sql.SQL(strategy))
            )
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop it with all that holds on to it: sessions, replication slots, prepared transactions."""
        self._roll_back_prepared(name)
        with self._session() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s", [name]
            )
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s", [name]
            )
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _roll_back_prepared(self, database: str) -> None:
        with self._session(database) as connection:
            prepared = connection.execute("SELECT gid FROM pg_prepared_xacts WHERE database = %s", [database])
            for (transaction,) in prepared.fetchall():
                connection.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(transaction)))

    def _session(self, database: str = "postgres") -> psycopg.Connection[TupleRow]:
        return psycopg.connect(self.url(database), autocommit=True)

    def _initialize(self, data: str, account: Account, inherited: Sequence[int]) -> None:
        switch = _switch_to(account)
        done = subprocess.run(
            [
                *(str(self.bin("initdb")), "-D", data, "--username=postgres", "--auth=trust"),
                *("--encoding=UTF8", "--no-locale", "--no-sync"),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env=_environment(),
            cwd="/",
            pass_fds=inherited,
            user=switch and switch.uid,
            group=switch and switch.gid,
            extra_groups=switch and [],
        )
        if done.returncode != 0:
            raise CdcError(f"initdb of PostgreSQL {self._version} failed\n{done.stderr}")
        with (self._data / "postgresql.conf").open("a") as configuration:
            configuration.write(f"include '{_SETTINGS_FILE}'\n")

    def _configure(self, account: Account) -> None:
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            "wal_level": "logical",
            **self._settings,
        }
        for name, text in (
            (_SETTINGS_FILE, "".join(_setting_line(name, value) for name, value in settings.items())),
            ("pg_hba.conf", _HOST_BASED_AUTHENTICATION),
        ):
            path = self._data / name
            path.write_text(text)
            os.chown(path, *account)

    @contextlib.contextmanager
    def _reachable_data(self, account: Account) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The data directory as `account` can name it, and the files that it must inherit for that.

        Temporary directories of root are closed to others, and PostgreSQL changes to its data directory by its full
        name. It gets the directory as an open file instead: nobody's permissions need to change.
        """
        self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chown(self._data, *account)
        if account.can_reach(self._data):
            yield str(self._data.resolve()), ()
            return
        opened = os.open(self._data, os.O_RDONLY | os.O_DIRECTORY)
        try:
            by_file = f"/proc/self/fd/{opened}"
            if not Path(by_file).exists():
                raise CdcError(
                    f"{self._data} lies below a directory that PostgreSQL's user can't enter",
                    mend="choose another directory, or run as an ordinary user",
                )
            yield by_file, (opened,)
        finally:
            os.close(opened)

    def _accepts_sessions(self) -> bool:
        try:
            psycopg.connect(self.url(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Fast would wait for clients of replication that no longer read.
        self.stop("fast" if kind is None else "immediate")


def _setting_line(name: str, value: str) -> str:
    quoted = value.replace("'", "''")
    return f"{name} = '{quoted}'\n"


def _environment() -> dict[str, str]:
    """Ours, less what would tell PostgreSQL's programs about another server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def _switch_to(account: Account) -> Account | None:
    return account if os.geteuid() == 0 else None
