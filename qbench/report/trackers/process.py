"""A process that sends to one tracker: reads messages as JSON lines, and says what came of them.

It has the lowest priority, so that it takes nothing from what is measured beside it. It says

    {"where": "…"}                   it has begun, and where things go
    {"refused": "…"}                 a person must mend something first; it ends
    {"problem": "…"}                 the first failure; it goes on and tries again
    {"sent": 3, "there": 2, "left": 0}
                                     after each message: records that were sent, or had been by an
                                     earlier process; messages that could not be sent
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import IO, Any

from qbench.core.credentials import without_credentials
from qbench.core.errors import UsageError
from qbench.report.trackers.delivery import (
    Delivery,
    Message,
    Record,
    Report,
    Steps,
    in_words,
)
from qbench.report.trackers.run import TrackedRun
from qbench.report.trackers.trackers import TRACKERS

LAST_S = 600
"""That it may live on after its parent has said the last."""


def main(name: str) -> None:
    """Reads messages until there are no more."""
    os.nice(19)
    # What libraries print must not be taken for what this process says. Processes that they start
    # must not hold the pipes either: whoever is at the other end would not see that this one died.
    messages, out = (
        os.fdopen(os.dup(0), encoding="utf-8"),
        os.fdopen(os.dup(1), "w", encoding="utf-8"),
    )
    with messages, out, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        _serve(name, messages, out)


def _serve(name: str, messages: IO[str], out: IO[str]) -> None:
    def say(**told: Any) -> None:
        out.write(json.dumps(told) + "\n")
        out.flush()

    kind = TRACKERS[name]
    for variable, value in kind.environment.items():
        os.environ.setdefault(variable, value)
    try:
        tracker = kind.make()
        where = tracker.begin()
    except Exception as error:  # noqa: BLE001 - a tracker may raise anything
        say(refused=str(error) if isinstance(error, UsageError) else in_words(error))
        return
    delivery = Delivery(tracker, lambda text: say(problem=text))
    say(where=without_credentials(where))
    try:
        tracker.check()
    except Exception as error:  # noqa: BLE001 - a tracker may raise anything
        delivery.fail(error)
    for line in messages:
        delivery.take(message_of(json.loads(line)))
        say(sent=delivery.sent, there=delivery.there, left=delivery.left)
    signal.alarm(LAST_S)
    delivery.end()
    say(sent=delivery.sent, there=delivery.there, left=delivery.left)


def line_of(message: Message) -> str:
    """A message as a line of JSON."""
    if isinstance(message, Record):
        told: dict[str, Any] = {"record": str(message.path)}
    elif isinstance(message, Steps):
        told = {"steps": message.event, "run": vars(message.run)}
    else:
        told = {
            "report": [str(path) for path in message.paths],
            "pages": [(vars(run), str(page)) for run, page in message.pages],
        }
    return json.dumps(told) + "\n"


def message_of(told: dict[str, Any]) -> Message:
    """The message that a line tells."""
    if "record" in told:
        return Record(Path(told["record"]))
    if "steps" in told:
        return Steps(TrackedRun(**told["run"]), told["steps"])
    pages = ((TrackedRun(**run), Path(page)) for run, page in told["pages"])
    return Report(tuple(map(Path, told["report"])), tuple(pages))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except BrokenPipeError:  # nobody listens any more
        os._exit(1)
