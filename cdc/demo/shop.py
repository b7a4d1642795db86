"""A small shop: four tables with 100,000 rows, and people who use it."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import psycopg2

TABLES: Final = ("customers", "products", "orders", "order_lines", "pulse")
ROWS: Final = 100_000

_SCHEMA: Final = """
CREATE TABLE customers (
    id bigint PRIMARY KEY, name text NOT NULL, email text, city text, credit numeric(12, 2) NOT NULL DEFAULT 0,
    active boolean NOT NULL DEFAULT true, since date NOT NULL
);
CREATE TABLE products (
    sku text PRIMARY KEY, title text NOT NULL, price numeric(10, 2) NOT NULL, stock integer NOT NULL,
    attributes jsonb, description text
);
CREATE TABLE orders (
    id bigint PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customers, placed_at timestamptz NOT NULL,
    state text NOT NULL, total numeric(12, 2) NOT NULL
);
CREATE TABLE order_lines (
    order_id bigint NOT NULL REFERENCES orders ON DELETE CASCADE, line smallint NOT NULL,
    sku text NOT NULL REFERENCES products ON UPDATE CASCADE, quantity integer NOT NULL, price numeric(10, 2) NOT NULL,
    PRIMARY KEY (order_id, line)
);
CREATE INDEX ON order_lines (sku);
CREATE TABLE pulse (id bigint PRIMARY KEY, beat_us bigint NOT NULL);
"""

# 20,000 + 5,000 + 30,000 + 45,000 rows. Some descriptions are long and hardly compress: PostgreSQL stores them out of
# line (TOAST) and does not send them again when another column changes.
_ROWS: Final = """
INSERT INTO customers SELECT i, 'Customer ' || i, 'c' || i || '@example.com', 'City ' || i % 500, i % 1000 / 10.0,
    i % 7 <> 0, date '2020-01-01' + i % 2000 FROM generate_series(1, 20000) AS i;
INSERT INTO products SELECT 'SKU-' || i, 'Product ' || i, 1 + i % 500 / 4.0, 100 + i % 50,
    jsonb_build_object('colour', (ARRAY['red', 'green', 'blue'])[1 + i % 3], 'weight', i % 90),
    CASE WHEN i % 10 = 0 THEN (SELECT string_agg(md5(i::text || n::text), '') FROM generate_series(1, 120) AS n) END
    FROM generate_series(1, 5000) AS i;
INSERT INTO orders SELECT i, 1 + i % 20000, timestamptz '2026-01-01' + i * interval '97 seconds', 'paid', i % 300
    FROM generate_series(1, 30000) AS i;
INSERT INTO order_lines SELECT 1 + (i - 1) / 3 * 2, 1 + i % 3, 'SKU-' || 1 + i % 5000, 1 + i % 4, 9.99
    FROM generate_series(1, 45000) AS i;
INSERT INTO pulse VALUES (0, 0);
ANALYZE;
"""


def create_shop(url: str) -> None:
    """Make the tables and their rows in the database at `url`."""
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(_SCHEMA)
        cursor.execute(_ROWS)
    connection.close()


class Shoppers:
    """Threads of customers: inserts, updates, deletes, changed keys, transactions over several tables."""

    def __init__(self, url: str, *, threads: int = 2) -> None:
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._shop, args=(number,), daemon=True) for number in range(threads)]
        self._changes = [0] * threads
        self._stride = threads
        self.failure: Exception | None = None

    @property
    def changes(self) -> int:
        """Rows changed so far, by committed transactions."""
        return sum(self._changes)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each finish its transaction. What went wrong, if anything, is raised."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self.failure is not None:
            raise self.failure

    def shop_for_ever(self) -> None:
        """Until the process is stopped, or the source refuses something."""
        self.start()
        for thread in self._threads:
            thread.join()
        if self.failure is not None:
            raise self.failure

    def _shop(self, number: int) -> None:
        try:
            shopper = _Shopper(self._url, number, self._stride)
            while not self._stop.is_set():
                self._changes[number] += shopper.act()
            shopper.close()
        except psycopg2.Error as error:
            self.failure = error


class _Shopper:
    """One connection. Each shopper makes orders with numbers of its own, so that none waits for another for long."""

    def __init__(self, url: str, number: int, stride: int) -> None:
        self._connection = psycopg2.connect(url)
        self._random = random.Random(number)  # noqa: S311 - a workload that repeats
        self._stride = stride
        self._orders: list[int] = []
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute("SELECT max(id) FROM orders")
            ((newest,),) = cursor.fetchall()
            self._next_order = (newest // stride + 1) * stride + number
            cursor.execute("SELECT split_part(sku, '-', 2)::int, sku FROM products")
            self._skus = {n: sku for n, sku in cursor.fetchall() if n % stride == number}
        actions: list[tuple[int, Callable[[Any], int]]] = [
            (55, self._place_order),
            (20, self._pay),
            (12, self._reprice),
            (8, self._cancel),
            (4, self._rename_product),
            (1, self._audit_customers),
        ]
        self._actions = [action for weight, action in actions for _ in range(weight)]

    def act(self) -> int:
        """One transaction; the number of rows that it changed."""
        try:
            with self._connection, self._connection.cursor() as cursor:
                return self._random.choice(self._actions)(cursor)
        except psycopg2.errors.DeadlockDetected:
            return 0

    def close(self) -> None:
        self._connection.close()

    def _place_order(self, cursor: Any) -> int:
        order, self._next_order = self._next_order, self._next_order + self._stride
        lines = self._random.randint(1, 5)
        customer = self._random.randint(1, 20_000)
        cursor.execute("INSERT INTO orders VALUES (%s, %s, now(), 'new', 0)", (order, customer))
        for line, sku in enumerate(sorted(self._some_skus(lines)), 1):
            cursor.execute(
                "INSERT INTO order_lines SELECT %s, %s, sku, %s, price FROM products WHERE sku = %s",
                (order, line, self._random.randint(1, 3), sku),
            )
            cursor.execute("UPDATE products SET stock = stock - 1 WHERE sku = %s", (sku,))
        cursor.execute(
            "UPDATE orders SET total = (SELECT sum(quantity * price) FROM order_lines WHERE order_id = id)"
            " WHERE id = %s",
            (order,),
        )
        self._orders.append(order)
        return 2 + 2 * lines

    def _pay(self, cursor: Any) -> int:
        if not self._orders:
            return 0
        cursor.execute("UPDATE orders SET state = 'paid' WHERE id = %s", (self._random.choice(self._orders),))
        return int(cursor.rowcount)

    def _reprice(self, cursor: Any) -> int:
        cursor.execute(
            "UPDATE products SET price = price + 0.25, attributes = attributes || '{\"sale\": true}' WHERE sku = %s",
            (self._some_skus(1)[0],),
        )
        return int(cursor.rowcount)

    def _cancel(self, cursor: Any) -> int:
        if not self._orders:
            return 0
        order = self._orders.pop(self._random.randrange(len(self._orders)))
        cursor.execute("DELETE FROM order_lines WHERE order_id = %s", (order,))
        lines = cursor.rowcount
        cursor.execute("DELETE FROM orders WHERE id = %s", (order,))
        return int(lines + cursor.rowcount)

    def _rename_product(self, cursor: Any) -> int:
        """A changed key, that the order lines follow."""
        number = self._random.choice(list(self._skus))
        old, new = self._skus[number], f"SKU-{number}-{time.time_ns()}"
        cursor.execute("SELECT count(*) FROM order_lines WHERE sku = %s", (old,))
        lines = cursor.fetchone()[0]
        cursor.execute("UPDATE products SET sku = %s WHERE sku = %s", (new, old))
        self._skus[number] = new
        return int(1 + lines)

    def _audit_customers(self, cursor: Any) -> int:
        first = self._random.randint(1, 19_950)
        cursor.execute(
            "UPDATE customers SET credit = credit + 1, active = NOT active WHERE id BETWEEN %s AND %s",
            (first, first + 49),
        )
        return int(cursor.rowcount)

    def _some_skus(self, count: int) -> list[str]:
        return self._random.sample(list(self._skus.values()), count)


def _is_ready(url: str) -> bool:
    """Whether the shop's rows are there."""
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('public.pulse') IS NOT NULL")
            return bool(cursor.fetchone()[0])  # type: ignore[index]
    finally:
        connection.close()


def main(arguments: Sequence[str]) -> int:
    """`URL`: make the shop if it is missing, and let people use it until the process is stopped. `--ready URL`: exit
    code 0 if it is there. For docker-compose.yml.
    """
    match arguments:
        case ["--ready", url]:
            return 0 if _is_ready(url) else 1
        case [url]:
            if not _is_ready(url):
                create_shop(url)
            Shoppers(url, threads=1).shop_for_ever()
            return 0
        case _:
            print("usage: python -m cdc.demo.shop [--ready] URL", file=sys.stderr)  # noqa: T201
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
