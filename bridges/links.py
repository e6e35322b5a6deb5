"""The channels between this program and each of the others: made at the start, and anew when either was resumed.

A program that is started again after its death is a new *incarnation* of it, counted in its page. Two incarnations meet
by two pages each: "ready" says for which incarnation of the other the producing ends were made, under which name (the
token), and which frame each consuming end takes next; "attached", that the other's channels were opened. So a program
that holds for another goes through the same steps as one that starts, and a third one is not concerned.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import ContractError, PeerLost
from .peers import alive, read_page, read_summary

if TYPE_CHECKING:
    from .bridge import Inlet, Outlet
    from .session import Session

POLL_S = 0.02


class Link(NamedTuple):
    """incarnation: of the other program; token: names the channels that were made for it."""

    incarnation: int
    token: str


class Links:
    """All ends of this program's channels, and with whom they are connected."""

    def __init__(self, session: Session, inlets: list[Inlet], outlets: list[Outlet]) -> None:
        self._session, self.inlets, self.outlets = session, inlets, outlets
        self.made: dict[str, Link] = {}
        self.details: dict[str, Any] = {}
        self._digest = ""
        self._opened: dict[str, str] = {}
        self._numbers = itertools.count()

    def make(self, digest: str, details: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Connect with all programs that this one has channels with; the details that each program published, by
        name."""
        self._digest, self.details = digest, details
        connected = {inlet.producer for inlet in self.inlets} | {outlet.consumer for outlet in self.outlets}
        done = [name for name in connected if self._done(name)]
        for outlet in self.outlets:
            if outlet.consumer in done:  # it has taken all that it was sent, and what it sent is recorded
                outlet.go_on(outlet.grid.n_windows)
        self._publish()
        found = self.again([name for name in self._session.others if name in connected and name not in done])
        rest = [name for name in self._session.others if name not in found]
        for name in rest:
            theirs = self._session.await_page(name, "ready")
            self._same_contract(name, theirs)
            found[name] = theirs["details"]
        return found

    def again(self, names: list[str]) -> dict[str, dict[str, Any]]:
        """Connect with `names`, whoever of them is new; holds for those that are lost meanwhile."""
        session = self._session
        looks = {name: session.check(name) for name in names}
        stages = dict.fromkeys(names, "ready")
        found: dict[str, dict[str, Any]] = {}
        begun = time.monotonic()
        while stages:
            progressed = False
            for name in list(stages):
                if self._renew(name):
                    stages[name] = "ready"
                theirs = self._answer(name, stages[name])
                if theirs is None:
                    continue
                progressed = True
                if stages[name] == "ready":
                    found[name] = theirs["details"]
                    self._connect(name, theirs)
                    stages[name] = "attached"
                else:
                    del stages[name]
            if progressed:
                continue
            for name in stages:
                try:
                    session.look_for(name, looks[name], time.monotonic() - begun)
                except PeerLost as lost:
                    session.hold(lost)
            time.sleep(POLL_S)
        return found

    def _done(self, name: str) -> bool:
        """Whether program `name` has ended for good: this one, resumed, needs nothing more of it."""
        session = self._session
        summary = read_summary(session.run_dir, name)
        if not session.resumed or summary is None or summary["state"] != "finished" or alive(session.run_dir, name):
            return False
        return all(inlet.position == inlet.grid.n_windows for inlet in self.inlets if inlet.producer == name)

    def _renew(self, name: str) -> bool:
        """Make new producing ends for `name` when it is a new incarnation, or the first."""
        session = self._session
        page = session.page_of(name)
        made = self.made.get(name)
        if page is None or (made is not None and made.incarnation == page["incarnation"]):
            return False
        link = Link(page["incarnation"], f"{session.incarnation}-{next(self._numbers)}")
        for outlet in self.outlets:
            if outlet.consumer == name:
                outlet.open(link.token)
        self.made[name] = link
        self._opened.pop(name, None)
        self._publish()
        return True

    def _publish(self) -> None:
        session = self._session
        session.publish(
            "ready",
            {
                "digest": self._digest, "details": self.details, "incarnation": session.incarnation,
                "links": {name: link._asdict() for name, link in self.made.items()},
                "positions": {str(inlet.channel.number): inlet.position for inlet in self.inlets},
            },
        )  # fmt: skip

    def _answer(self, name: str, what: str) -> dict[str, Any] | None:
        """The page of `name` when it answers to this incarnation and to our latest channels."""
        made = self.made.get(name)
        page = self._session.published(name, what)
        if made is None or page is None or page["incarnation"] != made.incarnation:
            return None
        if what == "ready":
            answers = page["links"].get(self._session.peer, {}).get("incarnation") == self._session.incarnation
        else:
            answers = page["opened"].get(self._session.peer) == made.token
        return page if answers else None

    def _same_contract(self, name: str, theirs: dict[str, Any]) -> None:
        session = self._session
        if theirs["digest"] != self._digest:
            raise ContractError(
                f"{session.peer} and {name} derived different contracts ({self._digest[:12]} and "
                f"{theirs['digest'][:12]}) from the same experiment: their toolkit versions differ. Install the same "
                f"tvb-lockstep on both sides."
            )

    def _connect(self, name: str, theirs: dict[str, Any]) -> None:
        session = self._session
        self._same_contract(name, theirs)
        token = theirs["links"][session.peer]["token"]
        for outlet in self.outlets:
            if outlet.consumer == name:
                outlet.go_on(theirs["positions"][str(outlet.channel.number)])
        for inlet in self.inlets:
            if inlet.producer == name:
                inlet.attach(token)
        self._opened[name] = token
        session.publish("attached", {"incarnation": session.incarnation, "opened": self._opened})

    def linked(self, name: str) -> int | None:
        """The incarnation of `name` that this program is connected with."""
        made = self.made.get(name)
        return None if made is None else made.incarnation

    @property
    def catching_up_to(self) -> int:
        """The first window that this program did not have before it was resumed."""
        reached = [inlet.recorded for inlet in self.inlets] + [outlet.position for outlet in self.outlets]
        return max(reached, default=0) if self._session.resumed else 0


def incarnation_of(run_dir: Any, name: str, run_id: str) -> int:
    """How often program `name` was started in run `run_id` so far."""
    page = read_page(run_dir, name)
    return 0 if page is None or page["run_id"] != run_id else page.get("incarnation", 1)
