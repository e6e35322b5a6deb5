"""`lockstep …` that kills itself (SIGKILL) at a given point: ``python killed.py POINT WINDOW ARGUMENTS``.

POINT, and where in its work the program then is:

    before hello, after hello      it has its place, the others do not know its experiment, or do
    before attached                the channels are made, the others wait for it
    writing                        half of the frame of WINDOW is in its ring or temporary file
    written                        all of it is, and it is not published
    published                      its consumer can take it, or has, and this program does nothing more
    taken                          the first frame from WINDOW on is off its channel, and not recorded
    recording                      half of the frame of WINDOW is in the recording
    at the barrier                 it is about to take the first frame from WINDOW on, which is there or soon will be
    saving                         all programs have ended their windows, this one is making the results
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

POINTS = ("before hello", "after hello", "before attached", "writing", "written", "published", "taken", "recording",
          "at the barrier", "saving")  # fmt: skip


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def prepare(point: str, window: int) -> None:
    """Change the classes of this process so that it dies at the point."""
    from tvb_lockstep.bridges import recording, results, session
    from tvb_lockstep.bridges.frame import HEADER, HEADER_BYTES
    from tvb_lockstep.bridges.transports import file, shm

    def wrap(owner: Any, name: str, make: Any) -> None:
        setattr(owner, name, make(getattr(owner, name)))

    def publish(original: Any) -> Any:
        def publish(self: Any, what: str, content: Any) -> Any:
            if point == f"before {what}":
                die()
            found = original(self, what, content)
            if point == f"after {what}":
                die()
            return found

        return publish

    def send_ring(self: Any, header: bytes, body: Any, sequence: int, t0: int, t1: int, check: Any) -> None:
        if sequence >= window and point in ("writing", "written"):
            self._wait(self._free, check)
            whole = (bytes(header) + bytes(body))[: self._slot_bytes]
            part = whole[: len(whole) // 2] if point == "writing" else whole
            self._memory[self._at : self._at + len(part)] = part
            die()
        ring(self, header, body, sequence, t0, t1, check)
        if sequence >= window and point == "published":
            die()

    def send_file(self: Any, header: bytes, body: Any, sequence: int, t0: int, t1: int, check: Any) -> None:
        files(self, header, body, sequence, t0, t1, check)
        if sequence >= window and point == "published":
            die()

    def write_all(fd: int, parts: list[Any]) -> None:
        if point in ("writing", "written") and HEADER.unpack(parts[2])[6] >= window:
            whole = b"".join(map(bytes, parts))
            os.write(fd, whole[: len(whole) // 2] if point == "writing" else whole)
            die()
        written(fd, parts)

    def receive(original: Any) -> Any:
        def receive(self: Any, sequence: int, *arguments: Any) -> Any:
            if point == "at the barrier" and sequence >= window:
                die()
            found = original(self, sequence, *arguments)
            if point == "taken" and sequence >= window:
                die()
            return found

        return receive

    def append(self: Any, header: Any, body: Any) -> None:
        if point == "recording" and self.frames >= max(window, self.kept):
            whole = bytes(header) + bytes(body)
            os.write(self._fd, whole[: HEADER_BYTES + len(body) // 2])
            die()
        appended(self, header, body)

    def leave(original: Any) -> Any:
        def leave(self: Any, *arguments: Any) -> Any:
            while point == "saving" and not all(
                page["now"]["state"] in session.ENDED
                for name, page in session.pages(self.run_dir).items()
                if name != self.peer
            ):
                time.sleep(0.01)
            return original(self, *arguments)

        return leave

    def write_exchange(*_: Any) -> None:
        die()

    ring, files, written = shm.ShmSender.send, file.FileSender.send, file._write_all
    appended = recording.FrameLog.append
    wrap(session.Session, "publish", publish)
    wrap(session.Session, "__exit__", leave)
    for receiver in (shm.ShmReceiver, file.FileReceiver):
        wrap(receiver, "receive", receive)
    shm.ShmSender.send, file.FileSender.send = send_ring, send_file  # type: ignore[method-assign]
    file._write_all = write_all
    recording.FrameLog.append = append  # type: ignore[method-assign]
    if point == "saving":
        results._write_exchange = write_exchange
    assert point in POINTS


if __name__ == "__main__":
    prepare(sys.argv[1], int(sys.argv[2]))
    from tvb_lockstep.scripts.main import main

    sys.exit(main(sys.argv[3:]))
