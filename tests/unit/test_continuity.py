"""Whether capture may go on where the log ends: each way in which a gap can come about stops it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdc.capture.continuity import Load, Resume, decide, timeline_began
from cdc.core.errors import CdcError, GapError, SourceError
from cdc.core.source import SlotStatus, SourceIdentity
from cdc.core.state import LogState, Phase, SourceState

HERE = SourceIdentity(system_id="7001", timeline=2, database="shop", flushed_lsn=0x600)
SLOT = SlotStatus(confirmed_lsn=0x400)


def log_state(phase: Phase = "streaming", recorded: int = 0x300) -> LogState:
    return LogState(
        log_id="l",
        source=SourceState(epoch=4, system_id="7001", timeline=2, database="shop", slot="cdc", phase=phase),
        recorded_lsn=recorded,
    )


def decision(
    state: LogState | None = None,
    *,
    identity: SourceIdentity = HERE,
    slot: SlotStatus | None = SLOT,
    slot_name: str = "cdc",
    published: int = 0x500,
    switched: dict[int, int] | None = None,
    start_over: bool = False,
) -> Resume | Load:
    return decide(
        log_state() if state is None else state,
        identity,
        slot,
        slot_name=slot_name,
        published_lsn=published,
        switch_point=(switched or {}).get,
        start_over=start_over,
    )


def refusal(error: type[CdcError] = GapError, **situation: object) -> CdcError:
    with pytest.raises(error) as raised:
        decision(**situation)  # type: ignore[arg-type]
    assert type(raised.value) is error
    assert raised.value.mend, "an error that stops capture says what mends it"
    return raised.value


def test_a_new_log_and_no_slot_load() -> None:
    assert decision(LogState(), slot=None, published=0) == Load(epoch=1, again=False, drop_slot=False)


def test_a_log_and_its_slot_go_on() -> None:
    assert decision() == Resume(epoch=4)


@pytest.mark.parametrize("confirmed", [0x1, 0x4FF, 0x500])
def test_a_slot_at_or_behind_the_last_end_goes_on(confirmed: int) -> None:
    assert decision(slot=SlotStatus(confirmed_lsn=confirmed)) == Resume(epoch=4)


def test_a_slot_ahead_of_the_last_end_but_not_of_what_was_recorded_goes_on() -> None:
    assert decision(log_state(recorded=0x600), slot=SlotStatus(confirmed_lsn=0x600)) == Resume(epoch=4)


def test_a_slot_ahead_of_all_that_the_log_has_is_a_gap() -> None:
    error = refusal(slot=SlotStatus(confirmed_lsn=0x501))
    assert "0/501" in str(error)
    assert "0/500" in str(error)
    refusal(state=log_state(recorded=0x5FF), slot=SlotStatus(confirmed_lsn=0x600))


def test_a_source_that_was_put_back_to_before_what_was_published_is_a_gap() -> None:
    """As by a snapshot of its disk, slot included: all else is as it was then."""
    error = refusal(identity=replace(HERE, flushed_lsn=0x4FF))
    assert "0/4FF" in str(error)
    assert "0/500" in str(error)
    refusal(state=log_state(recorded=0x600), identity=replace(HERE, flushed_lsn=0x5FF))
    assert decision(identity=replace(HERE, flushed_lsn=0x500)) == Resume(epoch=4)


def test_a_missing_slot_is_a_gap() -> None:
    error = refusal(slot=None)
    assert "missing" in str(error)
    assert "0/500" in str(error), "it says from where on changes may be lost"


def test_an_invalidated_slot_is_a_gap() -> None:
    error = refusal(slot=SlotStatus(confirmed_lsn=0x400, lost="WAL was removed"))
    assert "WAL was removed" in str(error)


def test_another_cluster_is_a_gap_even_if_everything_else_fits() -> None:
    error = refusal(identity=replace(HERE, system_id="7002"))
    assert "7002" in str(error)
    assert "7001" in str(error)


def test_another_database_is_a_gap() -> None:
    error = refusal(identity=replace(HERE, database="shop2", flushed_lsn=0))
    assert "'shop2'" in str(error)
    assert "'shop'" in str(error)


def test_another_slot_is_a_gap_that_names_the_right_one() -> None:
    error = refusal(slot_name="cdc2")
    assert "'cdc2'" in str(error)
    assert error.mend is not None
    assert "'cdc'" in error.mend


def test_a_slot_that_the_log_knows_nothing_of_is_not_taken() -> None:
    error = refusal(SourceError, state=LogState())
    assert "knows nothing" in str(error)


@pytest.mark.parametrize("phase", ["creating", "loading"])
@pytest.mark.parametrize("slot", [None, SLOT, SlotStatus(confirmed_lsn=0x999, lost="WAL was removed")])
def test_a_load_that_was_not_finished_begins_again_with_a_new_slot(phase: Phase, slot: SlotStatus | None) -> None:
    assert decision(log_state(phase), slot=slot) == Load(epoch=4, again=True, drop_slot=True)


@pytest.mark.parametrize("phase", ["creating", "loading"])
def test_a_load_is_not_begun_again_at_another_source(phase: Phase) -> None:
    refusal(state=log_state(phase), identity=replace(HERE, system_id="7002"))
    refusal(state=log_state(phase), slot_name="cdc2")


class TestTimelines:
    def test_a_timeline_of_the_same_number_that_began_elsewhere_is_a_gap(self) -> None:
        """Another standby was promoted, which had never followed the one that we know."""
        known = log_state()
        assert known.source is not None
        known = replace(known, source=replace(known.source, began=0x100))
        assert decision(known, switched={1: 0x100}) == Resume(epoch=4)
        error = refusal(state=known, switched={1: 0x200})
        assert "timeline 2" in str(error)
        assert decision(known, identity=replace(HERE, timeline=3), switched={1: 0x100, 2: 0x500}) == Resume(epoch=4)
        refusal(state=known, identity=replace(HERE, timeline=3), switched={1: 0x200, 2: 0x500})

    def test_the_first_timeline_began_at_no_other(self) -> None:
        assert timeline_began(1, {}.get) == 0
        assert timeline_began(4, {1: 0x100, 2: 0x200}.get) == 0x200

    def test_a_failover_after_all_that_was_published_goes_on(self) -> None:
        assert decision(identity=replace(HERE, timeline=3), switched={2: 0x500}) == Resume(epoch=4)

    def test_one_that_took_back_what_was_published_is_a_gap(self) -> None:
        error = refusal(identity=replace(HERE, timeline=3), switched={2: 0x4FF})
        assert "timeline 3" in str(error)
        assert "0/4FF" in str(error)
        assert "0/500" in str(error)

    def test_what_was_only_recorded_counts_as_published(self) -> None:
        refusal(state=log_state(recorded=0x600), identity=replace(HERE, timeline=3), switched={2: 0x5FF})

    def test_several_failovers_are_judged_by_the_one_that_left_our_timeline(self) -> None:
        switched = {1: 0x100, 2: 0x4FF, 3: 0x900}
        refusal(identity=replace(HERE, timeline=4), switched=switched)

    def test_a_history_without_our_timeline_is_a_gap(self) -> None:
        error = refusal(identity=replace(HERE, timeline=3), switched={1: 0x900})
        assert "does not contain timeline 2" in str(error)

    def test_an_older_timeline_is_a_gap_though_the_history_may_name_ours(self) -> None:
        refusal(identity=replace(HERE, timeline=1), switched={2: 0x900})

    def test_the_slot_is_looked_at_after_a_failover_too(self) -> None:
        refusal(identity=replace(HERE, timeline=3), switched={2: 0x500}, slot=None)


class TestStartOver:
    @pytest.mark.parametrize("slot", [None, SLOT])
    @pytest.mark.parametrize("published", [0, 0x500])
    def test_it_mends_every_gap_in_a_new_epoch(self, slot: SlotStatus | None, published: int) -> None:
        for identity in (HERE, SourceIdentity(system_id="7002", timeline=1, database="shop2", flushed_lsn=0)):
            assert decision(
                identity=identity, slot=slot, slot_name="cdc2", published=published, start_over=True
            ) == Load(epoch=5, again=True, drop_slot=True)

    def test_in_a_new_log_there_are_no_rows_to_remove_first(self) -> None:
        assert decision(LogState(), start_over=True) == Load(epoch=1, again=False, drop_slot=True)
