"""Trainings that are killed, and the uninterrupted ones that they are compared with."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # The forked processes import these modules by their names, too.
from fault_comparison import differences  # noqa: E402
from fault_training import Trainings  # noqa: E402


@pytest.fixture(scope="module")
def survives(request, tmp_path_factory) -> Callable:
    """Function (events ...) that kills a training at the first event, its resumption at the second, and so on.

    The last resumption has to end well and to leave what the uninterrupted training left. The module's PACKAGE names
    the training.
    """
    trainings = Trainings(request.module.PACKAGE, tmp_path_factory.mktemp("killed"))
    uninterrupted = trainings.start("whole")
    uninterrupted.join()
    if uninterrupted.exitcode != 0:
        pytest.fail((trainings.folder / "whole.log").read_text(encoding="utf-8")[-3000:], pytrace=False)

    def check(*events: str) -> None:
        name = "_".join(events).replace(" ", "-").replace("#", "")
        log = trainings.folder / f"{name}.log"
        for number, event in enumerate([*events, None]):
            process = trainings.start(name, resume=number > 0, kill_at=event)
            process.join()
            expected = 0 if event is None else -signal.SIGKILL
            if process.exitcode != expected:
                pytest.fail(f"'{event}' gives {process.exitcode}:\n{log.read_text(encoding='utf-8')[-3000:]}", False)
        lines = differences(trainings.folder / "whole", trainings.folder / name)
        if lines:
            pytest.fail("\n".join(lines), pytrace=False)

    return check
