"""A real MariaDB on the loopback, in a directory of its own, from the programs of Debian's `mariadb-server-core`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from typing_extensions import override

from cdc.core.errors import CdcError
from cdc.embedded import process
from cdc.embedded.account import Account, unprivileged_account
from cdc.embedded.ports import LOOPBACK
from cdc.embedded.process import Command
from cdc.embedded.server import EmbeddedServer

_PLACES: Final = "/usr/sbin:/usr/local/sbin:/usr/libexec:/opt/homebrew/opt/mariadb/bin:/usr/local/opt/mariadb/bin"
_SYSTEM_TABLES: Final = ("mysql_system_tables", "mysql_performance_tables", "mysql_system_tables_data")
_START_SECONDS: Final = 60.0


class EmbeddedMariaDB(EmbeddedServer):
    """A MariaDB server. Its data stays in `directory`, and is used again by the next server there; but where that
    is closed to the account that the server runs as, it is elsewhere, and goes with the context.

    `settings` are options of `mariadbd`, without their dashes; all else is its default, whatever the system's option
    files say. `root` needs no password. Started as root, it runs as `mysql` or `nobody`.
    """

    def __init__(self, directory: Path, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(directory)
        self._data = directory / "data"
        self._settings = dict(settings or {})

    def url(self, database: str, user: str = "root", password: str = "") -> str:
        """`mysql://…`, as SQLAlchemy understands it; names and passwords are taken as they are. There is no TLS: to
        look for the system's certificates alone takes longer than all the rest of a connection.
        """
        return f"mysql://{user}{password and f':{password}'}@{LOOPBACK}:{self.port}/{database}?ssl_disabled=true"

    @override
    def start(self) -> None:
        """Start, making the data directory if there is none; return when it takes connections."""
        assert not self.running, "already started"
        account = unprivileged_account("mysql")
        self._make_place(account)
        if not (self._data / "mysql").exists():
            self._initialize(account)
        self._choose_port()
        self._process = process.start(
            Command(
                name="MariaDB",
                arguments=[*self._server(), *self._options()],
                log=self.log,
                stop_signal=signal.SIGTERM,
                environment=os.environ,
                directory=Path("/"),
                user=_switch_to(account),
            )
        )
        self._process.await_ready(self._accepts_sessions, _START_SECONDS)

    def execute(self, *statements: str) -> None:
        """As root, each for itself."""
        with self._session() as session, session.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def create_database(self, name: str) -> str:
        """Return its URL. `name` is of letters, digits and underscores."""
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop_database(self, name: str) -> None:
        self.execute(f"DROP DATABASE {name}")

    def _session(self) -> Any:
        import pymysql  # noqa: PLC0415 - optional

        return pymysql.connect(
            host=LOOPBACK, port=self.port, user="root", autocommit=True, ssl_disabled=True, connect_timeout=5
        )

    def _make_place(self, account: Account) -> None:
        """MariaDB opens its files by their full names: an open directory, as PostgreSQL gets it, would not do."""
        if not self._data.exists():
            self._directory.mkdir(parents=True, exist_ok=True)
            if account.can_reach(self._directory):
                self._data.mkdir(mode=0o700)
            else:
                self._data.symlink_to(tempfile.mkdtemp(prefix="cdc-mariadb-"))
        os.chown(self._data, *account)

    def _initialize(self, account: Account) -> None:
        """What mariadb-install-db does, less help texts and time zones; Debian's needs the client's package too."""
        switch = _switch_to(account)
        # Without this root would have to be root of the machine, through a socket.
        script = ["SET @auth_root_socket = NULL;", "CREATE DATABASE mysql;", "USE mysql;"]
        script += [(_share() / f"{name}.sql").read_text() for name in _SYSTEM_TABLES]
        done = subprocess.run(
            [*self._server(), "--bootstrap", "--innodb-flush-log-at-trx-commit=0"],
            input="\n".join(script),
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            user=switch and switch.uid,
            group=switch and switch.gid,
            extra_groups=switch and [],
        )
        if done.returncode != 0:
            shutil.rmtree(self._data / "mysql", ignore_errors=True)
            raise CdcError(f"MariaDB could not make its data directory\n{done.stderr[-4000:]}")

    def _server(self) -> list[str]:
        """The server's program, and what it takes first."""
        program = shutil.which("mariadbd") or shutil.which("mariadbd", path=_PLACES)
        if program is None or not _share().is_dir():
            mend = "apt-get install --no-install-recommends mariadb-server-core"
            raise CdcError("MariaDB is not installed", mend=mend)
        data = self._data.resolve()
        return [program, "--no-defaults", f"--datadir={data}", f"--tmpdir={data}"]

    def _options(self) -> list[str]:
        settings = {
            "port": str(self.port),
            "bind-address": LOOPBACK,
            "socket": "socket",  # in the data directory: a full name may be too long
            "pid-file": "pid",
            "skip-name-resolve": "ON",
            **self._settings,
        }
        return [f"--{name}={value}" for name, value in settings.items()]

    def _accepts_sessions(self) -> bool:
        import pymysql  # noqa: PLC0415 - optional

        try:
            self._session().close()
        except pymysql.err.OperationalError:
            return False
        return True

    @override
    def __enter__(self) -> Self:
        try:
            return super().__enter__()
        except BaseException:
            self._remove_place()
            raise

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._remove_place()

    def _remove_place(self) -> None:
        if self._data.is_symlink():
            shutil.rmtree(self._data.resolve())
            self._data.unlink()


def _share() -> Path:
    """Where the scripts are that make the system's tables."""
    places = [Path("/usr/share/mysql"), Path("/usr/share/mariadb"), Path("/usr/local/share/mysql")]
    return next((place for place in places if (place / f"{_SYSTEM_TABLES[0]}.sql").exists()), places[0])


def _switch_to(account: Account) -> Account | None:
    return account if os.geteuid() == 0 else None
