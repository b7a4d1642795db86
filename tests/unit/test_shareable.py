"""What appliers can't share is refused before anything is opened."""

from __future__ import annotations

import pytest

from cdc.core.errors import ConfigError
from cdc.core.settings import LogSettings, RegistrySettings, Settings, TargetSettings
from consumers.wiring import shared_session


@pytest.mark.parametrize(
    ("target", "log", "what"),
    [
        ({"consistency": "transaction"}, {}, 'consistency = "transaction"'),
        ({"on_error": "dead-letter"}, {}, 'on_error = "dead-letter"'),
        ({}, {"written_by": "debezium"}, r'\[log\] written_by = "debezium"'),
        ({"url": "sqlite:///copy.db"}, {}, "postgresql://"),
        ({}, {"url": "sqlite:///log.db"}, "kafka://"),
    ],
)
def test_refused_by_name(target, log, what):
    common = {"name": "copy", "url": "postgresql://host/db", "consistency": "key"}
    settings = Settings(
        source=None,
        log=LogSettings(**{"url": "kafka://host:1", "prefix": "p"} | log),
        registry=RegistrySettings(),
        targets={"copy": TargetSettings(**common | target)},
    )
    with pytest.raises(ConfigError, match=what), shared_session(settings, "copy", print):
        pass
