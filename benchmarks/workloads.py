"""What changes at the source: each workload makes its tables with their first rows, then a backlog of changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from benchmarks.measuring import execute, run
from cdc.embedded.postgres import EmbeddedPostgres

END: Final = "bench_end"
"""A table that gets its row in the last transaction of every backlog."""


class Workload(Protocol):
    """`tables` have keys; `signs` are queries, the cheapest first, whose answers at source and target are equal when
    all has arrived, and hardly before.
    """

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def changes(self) -> int:
        """In the backlog; all rows that there are, if there is none."""

    @property
    def tables(self) -> Sequence[str]: ...

    @property
    def signs(self) -> Sequence[str]: ...

    def create(self, server: EmbeddedPostgres, url: str) -> None: ...

    def change(self, server: EmbeddedPostgres, url: str) -> None: ...


@dataclass(frozen=True, slots=True)
class TpcB:
    """pgbench's standard workload: 4 changes a transaction, 3 of them updates. Scale 1 has 100,000 accounts."""

    transactions: int
    scale: int
    name: str = "tpcb"
    tables: tuple[str, ...] = ("pgbench_accounts", "pgbench_branches", "pgbench_history", "pgbench_tellers")
    signs: tuple[str, ...] = (
        "SELECT count(*) FROM pgbench_history",
        "SELECT sum(bbalance) FROM pgbench_branches",
        "SELECT sum(tbalance) FROM pgbench_tellers",
        "SELECT sum(abalance) FROM pgbench_accounts",
    )

    @property
    def title(self) -> str:
        return f"pgbench TPC-B, scale {self.scale}, {self.transactions:,} transactions"

    @property
    def changes(self) -> int:
        return 4 * self.transactions

    def create(self, server: EmbeddedPostgres, url: str) -> None:
        run([str(server.bin("pgbench")), "-i", "-q", "-s", str(self.scale), "-d", url])
        execute(url, "ALTER TABLE pgbench_history ADD COLUMN hid bigserial PRIMARY KEY")

    def change(self, server: EmbeddedPostgres, url: str) -> None:
        clients = 8
        assert self.transactions % clients == 0
        each = str(self.transactions // clients)
        run([str(server.bin("pgbench")), "-n", "-c", str(clients), "-j", "2", "-t", each, "-d", url])


_ITEM: Final = """\
CREATE TABLE item (
    id bigint PRIMARY KEY, name text NOT NULL, price numeric(10,2), seen timestamp, sold boolean, note text
)
"""
_ITEMS: Final = """\
INSERT INTO item SELECT g, 'item ' || g, (g % 100000) / 100.0, timestamp '2026-01-01' + g * interval '1.5 s',
    g % 3 = 0, md5(g::text) FROM generate_series({first}, {last}) g
"""


@dataclass(frozen=True, slots=True)
class LargeTransactions:
    """A table of 6 columns, changed in 50 transactions of one size: 20 of inserts, 20 of updates, 10 of deletes. The
    51st says that it was the last.
    """

    changes: int
    name: str = "large"
    tables: tuple[str, ...] = ("item",)
    signs: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.changes:,} changes of a 6-column table in 51 transactions"

    def create(self, server: EmbeddedPostgres, url: str) -> None:
        execute(url, _ITEM)

    def change(self, server: EmbeddedPostgres, url: str) -> None:
        size = self.changes // 50
        parts = [(n * size + 1, (n + 1) * size) for n in range(20)]
        for first, last in parts:
            execute(url, _ITEMS.format(first=first, last=last))
        for first, last in parts:
            execute(url, f"UPDATE item SET price = price + 1, sold = NOT sold WHERE id BETWEEN {first} AND {last}")
        for first, last in parts[::2]:
            execute(url, f"DELETE FROM item WHERE id BETWEEN {first} AND {last}")


@dataclass(frozen=True, slots=True)
class WideRows:
    """50 columns, about 2 kB: inserts, then updates of all, 100 rows in a transaction."""

    changes: int
    name: str = "wide"
    tables: tuple[str, ...] = ("wide",)
    signs: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.changes:,} changes of rows of 50 columns and 2 kB, 100 in a transaction"

    def create(self, server: EmbeddedPostgres, url: str) -> None:
        columns = [f"t{n} text" for n in range(25)]
        columns += [f"n{n} bigint" for n in range(12)]
        columns += [f"d{n} numeric(12,2)" for n in range(6)]
        columns += [f"s{n} timestamp" for n in range(6)]
        execute(url, f"CREATE TABLE wide (id bigint PRIMARY KEY, {', '.join(columns)})")

    def change(self, server: EmbeddedPostgres, url: str) -> None:
        values = [f"repeat(md5((g * 31 + {n})::text), 2)" for n in range(25)]
        values += [f"g * 1000003::bigint + {n}" for n in range(12)]
        values += [f"g / 7.0 + {n}" for n in range(6)]
        values += [f"timestamp '2026-01-01' + g * interval '{n + 1} s'" for n in range(6)]
        row, rows = ", ".join(values), self.changes // 2
        execute(
            url,
            f"""DO $$ BEGIN
            FOR low IN 1..{rows} BY 100 LOOP
                INSERT INTO wide SELECT g, {row} FROM generate_series(low, low + 99) g; COMMIT;
            END LOOP;
            FOR low IN 1..{rows} BY 100 LOOP
                UPDATE wide SET t0 = md5(t0), n0 = n0 + 1, d0 = d0 + 1 WHERE id BETWEEN low AND low + 99; COMMIT;
            END LOOP; END $$""",
        )


@dataclass(frozen=True, slots=True)
class HotKeys:
    """100 rows, updated again and again, 10 updates in a transaction."""

    changes: int
    name: str = "hot"
    tables: tuple[str, ...] = ("hot",)
    signs: tuple[str, ...] = ("SELECT sum(n) FROM hot",)

    @property
    def title(self) -> str:
        return f"{self.changes:,} updates of 100 rows, 10 in a transaction"

    def create(self, server: EmbeddedPostgres, url: str) -> None:
        execute(url, "CREATE TABLE hot (id int PRIMARY KEY, n bigint NOT NULL, seen timestamp, note text)")
        execute(url, "INSERT INTO hot SELECT g, 0, NULL, md5(g::text) FROM generate_series(1, 100) g")

    def change(self, server: EmbeddedPostgres, url: str) -> None:
        execute(
            url,
            f"""DO $$ BEGIN
            FOR number IN 1..{self.changes} LOOP
                UPDATE hot SET n = n + 1, seen = localtimestamp WHERE id = 1 + number * 37 % 100;
                IF number % 10 = 0 THEN COMMIT; END IF;
            END LOOP; END $$""",
        )


@dataclass(frozen=True, slots=True)
class OneChange:
    """Nothing but the row that says that it was the last."""

    name: str = "one"
    title: str = "one waiting transaction"
    changes: int = 0
    tables: tuple[str, ...] = ()
    signs: tuple[str, ...] = ()

    def create(self, server: EmbeddedPostgres, url: str) -> None:
        """No table but the one that all have."""

    def change(self, server: EmbeddedPostgres, url: str) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A table to load: no backlog."""

    changes: int
    name: str = "rows"
    tables: tuple[str, ...] = ("item",)
    signs: tuple[str, ...] = ("SELECT max(id) FROM item", "SELECT count(*) FROM item")

    @property
    def title(self) -> str:
        return f"{self.changes:,} rows of 6 columns"

    def create(self, server: EmbeddedPostgres, url: str) -> None:
        execute(url, _ITEM)
        execute(url, _ITEMS.format(first=1, last=self.changes))

    def change(self, server: EmbeddedPostgres, url: str) -> None:
        """Nothing: the rows are there before any replication is."""


@dataclass(frozen=True, slots=True)
class Pulses:
    """A table for one-row transactions at a steady rate; `client` writes its rows in the order of `n`."""

    name: str = "pulses"
    title: str = "one insert a transaction"
    changes: int = 0
    tables: tuple[str, ...] = ("pulse",)
    signs: tuple[str, ...] = ("SELECT count(*) FROM pulse",)

    def create(self, server: EmbeddedPostgres, url: str) -> None:
        execute(url, "CREATE TABLE pulse (client int, n int, note text, PRIMARY KEY (client, n))")

    def change(self, server: EmbeddedPostgres, url: str) -> None:
        """Nothing: the pulses come while replication runs."""
