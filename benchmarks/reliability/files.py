"""R9, R10: damaged and malicious files."""
import io
import json
import os
import pickle
import random
import tempfile
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np

import pmapde
from pmapde import archive

from .setting import smooth


def _refused(read):
    try:
        read()
    except ValueError as error:
        return "is not a " in str(error) and "\n" not in str(error)
    except FileNotFoundError:
        return False
    return False


def damaged(full):
    generator, refused, tried = random.Random(2), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        result, checkpoint, bad = (Path(folder) / name for name in ("result.npz", "run.npz", "bad.npz"))
        pmapde.solve(smooth(16), checkpoint=pmapde.Checkpoint(checkpoint, 0)).save(result)
        for path, read in ((result, pmapde.load), (checkpoint, pmapde.resume)):
            content = path.read_bytes()
            variants = [content[:length] for length in range(0, len(content), 1024)] + [content[:-1], content + b"x"]
            for _ in range(1000 if full else 100):
                flipped = bytearray(content)
                flipped[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
                variants.append(bytes(flipped))
            other = checkpoint if path == result else result
            for variant in [*variants, b"text", other.read_bytes()]:
                bad.write_bytes(variant)
                refused, tried = refused + _refused(lambda read=read: read(bad)), tried + 1
    return refused == tried, f"{refused} of {tried} refused"


def forged(path, members, compress=False):
    """A file with a valid checksum, made by somebody else: ``members`` are (name, content)."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that occur twice
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as file:
            for name, content in members:
                file.writestr(name, content)
            file.comment = b"sha256 " + b"0" * 64
    path.write_bytes(buffer.getvalue())
    with open(path, "r+b") as file:
        digest = archive._digest(file)
        file.seek(-64, os.SEEK_END)
        file.write(digest)


def npy(values, shape=None):
    """An array as .npy, its header claiming another ``shape`` perhaps."""
    buffer, values = io.BytesIO(), np.asarray(values)
    np.lib.format.write_array_header_1_0(buffer, {"descr": np.lib.format.dtype_to_descr(values.dtype),
                                                  "fortran_order": False, "shape": shape or values.shape})
    return buffer.getvalue() + values.tobytes()


class _Exploit:
    def __reduce__(self):
        return os.mkdir, ("exploited",)


def malicious_files(folder):
    """Names of forged files in ``folder``, made from a whole checkpoint."""
    good, names = folder / "good.npz", []
    pmapde.solve(smooth(16), checkpoint=pmapde.Checkpoint(good, 0))
    with zipfile.ZipFile(good) as file:
        members = [(name, file.read(name)) for name in file.namelist()]
    header = json.loads(np.load(io.BytesIO(members[0][1])).tobytes())

    def with_header(change):
        changed = json.loads(json.dumps(header))
        change(changed)
        return [("header.npy", npy(np.frombuffer(json.dumps(changed).encode(), np.uint8))), *members[1:]]

    pickled = io.BytesIO()
    np.save(pickled, np.array([_Exploit()], dtype=object), allow_pickle=True)
    grid = header["problem"]["grid"]
    variants = {
        "object array": [*members[:-1], (members[-1][0], pickled.getvalue())],
        "raw pickle": [*members[:-1], (members[-1][0], pickle.dumps(_Exploit()))],
        "8 TB": [*members[:-1], (members[-1][0], npy(np.zeros(4), (10**12,)))],
        "16 EB": [*members[:-1], (members[-1][0], npy(np.zeros(4), (2**62,)))],
        "path": [*members, ("../../evil.npy", npy(np.zeros(4)))],
        "absolute": [*members, ("/tmp/evil.npy", npy(np.zeros(4)))],
        "twice": [*members, members[-1]],
        "no header": members[1:],
        "wrong shape": [*members[:-1], (members[-1][0], npy(np.zeros((3, 3))))],
        "text": [*members[:-1], (members[-1][0], npy(np.array(["a"])))],
        "deep": [("header.npy", npy(np.frombuffer(b"[" * 100000, np.uint8))), *members[1:]],
        "version": with_header(lambda h: h.update(format="pmapde checkpoint 99")),
        "kind": with_header(lambda h: h.update(kind="eval")),
        "class": with_header(lambda h: h["settings"]["dict"]["method"]["dict"].update({"class": "os.system"})),
        "huge grid": with_header(lambda h: h["problem"].update(grid={**grid, "shape": [10**6, 10**6]})),
        "no state": with_header(lambda h: h.pop("state")),
        "list state": with_header(lambda h: h.update(state=[1, 2])),
        "null": with_header(lambda h: h["problem"].update(floor=None)),
    }
    for name, contents in variants.items():
        names.append(folder / f"{name}.npz")
        forged(names[-1], contents)
    names.append(folder / "bomb.npz")
    forged(names[-1], [*members, ("bomb.npy", npy(np.zeros(2**24)))], compress=True)
    return names


def malicious(full):
    with tempfile.TemporaryDirectory() as folder:
        names, here = malicious_files(Path(folder)), os.getcwd()
        os.chdir(folder)
        try:
            tracemalloc.start()
            taken = [name.stem for name in names if not _refused(lambda name=name: pmapde.resume(name))]
            peak = tracemalloc.get_traced_memory()[1]
            exploited = Path("exploited").exists()
        finally:
            tracemalloc.stop()
            os.chdir(here)
    return not taken and not exploited and peak < 2e8, (
        f"{len(names) - len(taken)} of {len(names)} refused{' (not: ' + ', '.join(taken) + ')' if taken else ''}, "
        f"no code run, {peak / 1e6:.0f} MB at most")
