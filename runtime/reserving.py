"""Placement groups of a session: asked for, waited for, given back.

May import nothing of ours but errors, model and runtime modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dagengine.errors import Infeasible, WaitTimeout
from dagengine.model import Failure
from dagengine.runtime.call_options import CallOptions
from dagengine.runtime.handles import Group
from dagengine.runtime.waiters import Waiter

if TYPE_CHECKING:
    from dagengine.runtime.session import Session


class Reservation:
    """What has become of a group: `answer` has one item once that is known, None for well."""

    def __init__(self) -> None:
        self.answer: list[Failure | None] = []
        self.waiters: list[Any] = []

    def told(self, failure: Failure | None) -> None:
        """With the session's lock held."""
        if not self.answer:
            self.answer.append(failure)
            for waiter in self.waiters:
                waiter.one()


class Groups:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._reservations: dict[int, Reservation] = {}

    def __getitem__(self, number: int) -> Reservation:
        return self._reservations[number]

    def reserve(self, number: int, bundles: list[CallOptions], shown: list[dict[str, Any]], strategy: str) -> Group:
        """Raises Infeasible."""
        session = self._session
        reservation = self._reservations[number] = Reservation()

        def told(failure: Failure | None) -> None:
            with session.lock:
                reservation.told(failure)
            session.do_later()

        try:
            session.runtime.reserve((number,), [bundle.demand() for bundle in bundles], strategy, told)
        except BaseException:
            del self._reservations[number]
            raise
        return Group(session, number, shown, strategy)

    def await_ready(self, group: Group, timeout: float | None) -> None:
        reservation = self._reservations[group.id[0]]
        with self._session.lock:
            waiter = None if reservation.answer else Waiter(1)
            if waiter is not None:
                reservation.waiters.append(waiter)
        if waiter is not None and not waiter.wait(timeout):
            raise WaitTimeout(f"{group!r} was not set aside within {timeout:g} s", task="")
        failure = reservation.answer[0]
        if failure is not None:
            raise Infeasible(failure.message)

    def give_back(self, number: int) -> None:
        if self._reservations.pop(number, None) is not None and self._session.over is None:
            self._session.runtime.unreserve((number,))

    def end(self, failure: Failure) -> None:
        """Nothing more will come. With the session's lock held."""
        for reservation in self._reservations.values():
            reservation.told(failure)
