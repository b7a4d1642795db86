"""Each example of docs/python-api.md does what the page says."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from cdc.core.settings import LogSettings
from cdc.log.local import LocalLog
from consumers.changes import Consumer
from consumers.changes.rehearsal import Rehearsal

PAGE = Path(__file__).parents[2] / "docs" / "python-api.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def _shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cdc.toml in this folder, and a log; what an example would wait for never comes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cdc.toml").write_text(
        '[source]\nurl = "postgresql://x"\ntables = ["*.*"]\n[log]\nprefix = "shop"\nurl = "sqlite:///log.db"\n'
    )
    settings = LogSettings(prefix="shop", url="sqlite:///log.db")
    shop = Rehearsal(LocalLog(settings), settings=settings)
    orders = shop.table("public.orders", {"id": "bigint", "email": "text", "total": "numeric"}, key=["id"])
    items = shop.table("public.items", {"id": "bigint"}, key=["id"])
    with shop.transaction() as transaction:
        transaction.insert(orders, {"id": 1, "email": "a@b", "total": "9.90"})
        transaction.insert(items, {"id": 7})
        transaction.insert(orders, {"id": 2, "email": "c@d", "total": "NaN"})
    with shop.transaction() as transaction:
        transaction.update(orders, {"id": 1, "email": "e@f", "total": "19.90"})
        transaction.delete(orders, {"id": 2})
    batches = Consumer.batches
    monkeypatch.setattr(
        Consumer, "batches", lambda self, *, follow=True, commit=True: batches(self, follow=False, commit=commit)
    )


def example(saying: str, **names: Any) -> dict[str, Any]:
    (code,) = [code for code in EXAMPLES if saying in code]
    exec(code, names)
    return names


def test_all_are_run() -> None:
    assert len(EXAMPLES) == 5


@pytest.mark.usefixtures("_shop")
def test_mails() -> None:
    sent: list[tuple[str, str]] = []
    for _ in range(2):  # the second time everything is done already
        example("send_mail", send_mail=lambda *mail: sent.append(mail))
        assert sent == [("a@b", "Your order 1: 9.90 EUR"), ("c@d", "Your order 2: NaN EUR")]


@pytest.mark.usefixtures("_shop")
def test_index(capsys: pytest.CaptureFixture[str]) -> None:
    index = example("index.clear()")["index"]

    assert {key: row["email"] for key, row in index.items()} == {1: "e@f"}
    assert capsys.readouterr().out == "public.orders has ['id', 'email', 'total'] now\n"


@pytest.mark.usefixtures("_shop")
def test_sums() -> None:
    for _ in range(2):
        example("SqlCheckpoints")
        with sqlite3.connect("sums.db") as database:
            assert database.execute("SELECT sum(orders) FROM sums").fetchall() == [(2,)]


@pytest.mark.usefixtures("_shop")
def test_ledger() -> None:
    posted: list[list[str]] = []
    example("post(", post=lambda _, said: posted.append(said))

    assert posted == [
        ["alter public.orders"],
        ["alter public.items"],
        ["insert public.orders", "insert public.items", "insert public.orders"],
        ["update public.orders", "delete public.orders"],
    ]


def test_rehearsal() -> None:
    example("def test_sums")["test_sums"]()
