"""Signals that end a command: raised at once, held while rows are written, and never twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from grpo_tta.cli.interrupts import Interrupts, Stopped

KINDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _no_nohup() -> Iterator[None]:
    """Under nohup a hang-up is ignored, as it should be; these tests want it to arrive."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)
    signal.getsignal(signum)  # Python calls handlers between two steps of its own


@pytest.mark.parametrize(("signum", "status"), [*zip(KINDS, (130, 143, 129), strict=True)])
def test_a_signal_is_raised_and_names_the_exit_status(signum: int, status: int) -> None:
    before = [signal.getsignal(each) for each in KINDS]
    with pytest.raises(Stopped) as stop, Interrupts():
        send(signum)
    assert stop.value.status == status
    assert [signal.getsignal(each) for each in KINDS] == before


def test_it_is_no_fault_of_an_image() -> None:
    assert not issubclass(Stopped, Exception)


def test_a_held_signal_waits_for_the_release() -> None:
    with Interrupts() as interrupts:
        interrupts.hold()
        send(signal.SIGTERM)
        with pytest.raises(Stopped) as stop:
            interrupts.release()
    assert stop.value.status == 143


def test_a_second_signal_does_not_wait_and_a_third_spoils_no_orderly_end() -> None:
    with Interrupts() as interrupts:
        interrupts.hold()
        send(signal.SIGTERM)
        with pytest.raises(Stopped) as stop:
            send(signal.SIGINT)
        assert stop.value.status == 143  # the first one counts
        send(signal.SIGINT)


def test_one_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            send(signal.SIGHUP)
            interrupts.release()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_release_without_a_signal_does_nothing() -> None:
    with Interrupts() as interrupts:
        interrupts.hold()
        interrupts.release()
