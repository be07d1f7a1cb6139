"""R7, R8, R13: runs that are killed, or asked to end, at random moments."""
import json
import os
import random
import signal
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

import pmapde
from pmapde import archive, schedules

from .setting import child, rough

KILLED = """
from reliability.endings import killed_run
kind, checkpoint, out = sys.argv[1:4]
killed_run(kind, checkpoint).save(out)
"""
KINDS = ("solve", "flow", "mirror_descent")


def killed_run(kind, path=None):
    """A run of a second or so that is long enough to be killed: it waits a little after every step."""
    checkpoint = None if path is None else pmapde.Checkpoint(path, 0)

    def wait(*_):
        time.sleep(0.01)
    warnings.simplefilter("ignore")
    if kind == "solve":  # with corrections, fall-backs and subdivided cells
        return pmapde.solve(rough("microscopy", (24, 24), 1e3, 1), callback=wait, checkpoint=checkpoint)
    if kind == "flow":
        return pmapde.flow(rough("Gaussian, smooth", (24, 24), 10), [1e-3, 1e-2, 0.1, 1.0], tolerance=1e-4,
                           ledger="full", callback=wait, checkpoint=checkpoint)
    return pmapde.mirror_descent(rough("Gaussian, smooth", (24, 24), 10), schedules.geometric(1e-3, 1.1), 60,
                                 scheme="implicit", ledger="full", callback=wait, checkpoint=checkpoint)


def same_results(first, second):
    """Whether two result files hold the same bits, seconds left aside."""
    (one, arrays), (other, others) = (archive.read(path, tuple(_FORMATS), "a result") for path in (first, second))
    for header in (one, other):
        for counters in (header["stats"], *header["stats"].get("attempts", ())):
            counters.pop("seconds")
    return (json.dumps(one) == json.dumps(other) and arrays.keys() == others.keys()
            and all(np.array_equal(arrays[name], others[name], equal_nan=True) for name in arrays))


_FORMATS = ("pmapde solution 6", "pmapde trajectory 2", "pmapde mirror descent 1")


def kill_trial(kind, folder, generator, uninterrupted, most):
    """Kill a run ``most`` times, or until it ends by itself; ``(kills, unreadable checkpoints, same bits)``."""
    folder, kills, unreadable = Path(tempfile.mkdtemp(dir=folder)), 0, 0
    checkpoint, out = folder / "run.npz", folder / "out.npz"
    while True:
        process = child(kind, checkpoint, out, code=KILLED)
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > before):
            time.sleep(0.005)  # until it computes
        try:
            process.wait(generator.uniform(0, 0.5) if kills < most else None)
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        process.communicate()
        if process.returncode not in (0, -signal.SIGKILL):
            return kills, unreadable, False
        if checkpoint.exists():
            try:
                archive.read(checkpoint, ("pmapde checkpoint 1",), "a checkpoint")
            except ValueError:
                unreadable += 1
        if process.returncode == 0:
            return kills, unreadable, same_results(out, uninterrupted)


def killed(full, kinds=KINDS, most=5):
    generator, trials, kills, lost, same = random.Random(1), 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            reference = Path(folder) / f"{kind}.npz"
            killed_run(kind).save(reference)
            for _ in range((1, 3, 67)[full]):
                outcome = kill_trial(kind, folder, generator, reference, most)
                trials, kills, lost, same = trials + 1, kills + outcome[0], lost + outcome[1], same + outcome[2]
    return same == trials and not lost, f"{same} of {trials} runs the same bits; {kills} kills, {lost} files lost"


COMMAND = "from pmapde.cli import main; sys.exit(main(sys.argv[1:]))"


def interrupted(full):
    """Ctrl-C and SIGTERM at random moments of a command: exit status, no output, a checkpoint to go on from."""
    generator, fine, tried = random.Random(4), 0, 0
    with tempfile.TemporaryDirectory() as name:
        reference = Path(name) / "reference"
        command = ["flow", "two_moons", "ring", "--size", "96", "--tolerance", "1e-6", "--no-figures", "--ledger",
                   "densities"]
        child(*command, "--out", reference, code=COMMAND).communicate()
        for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)) * (1, 3, 10)[full]:
            folder = Path(tempfile.mkdtemp(dir=name))
            checkpoint = folder / "run.npz"
            process = child(*command, "--out", folder / "out", "--checkpoint", checkpoint, code=COMMAND)
            while process.poll() is None and not checkpoint.exists():
                time.sleep(0.005)
            time.sleep(generator.uniform(0, 0.4))
            process.send_signal(number)
            errors = process.communicate()[1].strip()
            ended = process.returncode == status and "goes on" in errors and os.listdir(folder) == ["run.npz"]
            child("resume", checkpoint, code=COMMAND).communicate()
            whole = os.listdir(folder) == ["out"] and same_results(folder / "out" / "trajectory.npz",
                                                                   reference / "trajectory.npz")
            fine, tried = fine + bool(ended and whole), tried + 1
    return fine == tried, f"{fine} of {tried}: 130 or 143, nothing half-written, resumed to the same bits"
