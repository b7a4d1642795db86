"""Some of the partitions: what concerns others too is told, and not taken."""

from __future__ import annotations

import pytest
from unit.test_inbox import TOPIC, create, delete, event_at, truncate
