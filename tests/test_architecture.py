"""Imports go one way, heavy packages load late, the library is silent."""
import ast
import json
import subprocess
import sys
from configparser import ConfigParser
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
         for path in sorted((ROOT / "pmapde").rglob("*.py"))}
TREES = {module: ast.parse(path.read_text(), str(path)) for module, path in FILES.items()}


def is_under(module, names):
    """Whether a module is one of the names or inside one. Names are given without ``pmapde.``."""
    return any(module == f"pmapde.{name}" or module.startswith(f"pmapde.{name}.") for name in names)


def inside_functions(tree):
    """Nodes of all function bodies: not the decorators, defaults and annotations, which are evaluated outside."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for statement in node.body:
                yield from ast.walk(statement)
        elif isinstance(node, ast.Lambda):
            yield from ast.walk(node.body)


def imports(module, tree, is_package, modules):
    """Set of ``(imported module, is it inside a function)``; ``from . import a`` is an import of module ``a``."""
    lazy = set(map(id, inside_functions(tree)))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.name, id(node) in lazy) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            parts = parts[:len(parts) - node.level + is_package] if node.level else []
            base = ".".join(parts + ([node.module] if node.module else []))
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= {(name if name in modules else base, id(node) in lazy) for name in names}
    return found


IMPORTS = {module: imports(module, tree, FILES[module].name == "__init__.py", FILES) for module, tree in TREES.items()}


def own_imports(module):
    return {name for name, _ in IMPORTS[module] if name.split(".")[0] == "pmapde"}


def test_imports_are_read_rightly():
    source = """
import numpy.linalg
from . import grid
from .problem import TransportProblem
from ..kernels import stencil_2d
def late(argument):
    from .. import cli, unknown
    import pyamg
"""
    modules = {"pmapde.cli", "pmapde.kernels.stencil_2d", "pmapde.linear.grid", "pmapde.linear.problem"}
    assert imports("pmapde.linear.direct", ast.parse(source), False, modules) == {
        ("numpy.linalg", False), ("pmapde.linear.grid", False), ("pmapde.linear.problem", False),
        ("pmapde.kernels.stencil_2d", False), ("pmapde.cli", True), ("pmapde", True), ("pyamg", True)}
    assert imports("pmapde.linear", ast.parse("from . import grid"), True, modules) == {("pmapde.linear.grid", False)}


ABOVE_THE_OPERATOR = (
    "newton", "stepping", "legendre", "integrators", "equation", "remedies", "solver", "solution", "transport",
    "storage", "exact", "gallery", "ledger", "trajectory", "mirror", "schedules", "gaussian", "rates", "barycentre",
    "embedding", "locate", "importance", "sampler", "variational", "models", "training", "generative", "references",
    "peers", "benchmark", "distributed", "export", "plotting", "console", "options", "commands", "cli")
PETSC = {"petsc4py", "mpi4py"}
ENTROPIC = ("gibbs", "entropic", "plan")
"""Sinkhorn: it shares no numerics with the PDE path, so that their agreement is evidence."""


@pytest.mark.parametrize(("lower", "forbidden"), [
    (("grid", "status", "threads", "ghosts", "transfer"),
     ("density", "problem", "monge_ampere", "linear", *ABOVE_THE_OPERATOR)),
    (("grid", "status", "threads", "ghosts"), ("transfer", "kernels")),
    (("linear",), ("density", "problem", "monge_ampere", *ABOVE_THE_OPERATOR)),
    (("newton",), ("density", "problem", "monge_ampere", "kernels", *ABOVE_THE_OPERATOR[1:])),
    (("density", "problem"), ("monge_ampere", "linear", *ABOVE_THE_OPERATOR)),
    (("monge_ampere",), ABOVE_THE_OPERATOR),
    (("stepping",), ABOVE_THE_OPERATOR[2:]),
    (("legendre",), ("density", "problem", "monge_ampere", "linear", *ABOVE_THE_OPERATOR[3:])),
    (("integrators",), ("legendre", *ABOVE_THE_OPERATOR[4:])),
    (("equation",), ABOVE_THE_OPERATOR[5:]), (("remedies",), ABOVE_THE_OPERATOR[6:]),
    (("equation", "remedies", "solver"),
     ("ledger", "trajectory", "mirror", "schedules", "gaussian", "rates", "exact", "gallery")),
    (("ledger",), ("trajectory", "mirror", "exact", "gallery")),
    (("grid", "density", "problem", "monge_ampere", "linear", "newton", "stepping", "solver", "solution", "transport"),
     ENTROPIC),
    (ENTROPIC, ("monge_ampere", "linear", "transfer", "ghosts", "reductions", "work", "extrapolation",
                *(set(ABOVE_THE_OPERATOR) - {"storage"}))),
    (("toys", "tensor_splines"), ("density", "problem", "monge_ampere", "linear", *ABOVE_THE_OPERATOR)),
    (("ratios", "samples", "whitening"), ("problem", "monge_ampere", "linear", *ABOVE_THE_OPERATOR)),
    (("gibbs",), ("entropic", "plan", "problem", "density")), (("plan",), ("entropic",)),
])
def test_lower_layer_does_not_know_a_higher_one(lower, forbidden):
    modules = [module for module in FILES if is_under(module, lower)]
    assert modules
    for module in modules:
        # The package itself counts too: its lazy names lead everywhere.
        assert not [name for name in own_imports(module) if name == "pmapde" or is_under(name, forbidden)], module


def test_kernels_import_nothing_of_the_package():
    kernels = [module for module in FILES if is_under(module, ("kernels",))]
    assert "pmapde.kernels.stencil_2d" in kernels
    # but for the vectors of four, which know nothing at all
    assert {name for module in kernels for name in own_imports(module)} == {"pmapde.kernels.lanes"}
    assert not own_imports("pmapde.kernels.lanes")


@pytest.mark.parametrize(("used", "users"), [
    (("kernels.monge_ampere_2d", "kernels.monge_ampere_3d"), {"pmapde.monge_ampere"}),
    (("kernels.transfer",), {"pmapde.negative_norm", "pmapde.transfer"}),
    (("negative_norm",), {"pmapde.distributed.operator", "pmapde.monge_ampere"}),
    (("kernels.sinkhorn",), {"pmapde.gibbs", "pmapde.plan"}),
    (("kernels.reductions",), {"pmapde.reductions"}),
    (("kernels.spline", "kernels.legendre"), {"pmapde.legendre"}),
    (("plotting.frames",), {"pmapde.plotting.clouds", "pmapde.plotting.flows", "pmapde.plotting.solutions"}),
    (("console", "options"), {"pmapde.cli", "pmapde.commands"}),
    (("exact",), {"pmapde.commands", "pmapde.rates", "pmapde.references"}),
    (("rates",), {"pmapde.commands"}),
    (("references",), {"pmapde.benchmark"}),
    (("peers",), {"pmapde.benchmark", "pmapde.commands"}),
    (("benchmark",), {"pmapde.commands"}),
    (("locate", "sampler"), {"pmapde.variational"}),
    (("importance",), {"pmapde.sampler"}),
    (("models",), {"pmapde.commands"}),
    (("commands",), {"pmapde.cli"}),
    (("cli",), {"pmapde.__main__"}),
])
def test_module_is_imported_only_by_its_one_user(used, users):
    assert {module for module in FILES if any(is_under(name, used) for name in own_imports(module))} == users


def test_modules_do_not_import_in_a_circle():
    graph = {module: {name for name, lazy in IMPORTS[module] if not lazy and name in FILES} - {module, "pmapde"}
             for module in FILES if module != "pmapde"}
    assert len(list(TopologicalSorter(graph).static_order())) == len(graph)


def test_matplotlib_stays_in_plotting_and_that_in_the_command_line():
    outside = {module for module in FILES if not is_under(module, ("plotting",))}
    assert {module for module in outside if any(is_under(name, ("plotting",)) for name in own_imports(module))} == {
        "pmapde.commands", "pmapde.console"}
    users = {(module, lazy) for module, found in IMPORTS.items() for name, lazy in found
             if name.split(".")[0] == "matplotlib"}
    assert any(is_under(module, ("plotting",)) for module, _ in users)
    assert all(is_under(module, ("plotting", "gallery")) for module, _ in users)
    assert ("pmapde.gallery", False) not in users


def test_petsc_stays_in_the_distributed_engine_and_loads_late():
    outside = {module: found for module, found in IMPORTS.items() if not is_under(module, ("distributed",))}
    assert {(module, lazy) for module, found in outside.items() for name, lazy in found
            if is_under(name, ("distributed",))} == {("pmapde.commands", True)}
    users = {(module, lazy) for module, found in IMPORTS.items() for name, lazy in found if name.split(".")[0] in PETSC}
    assert users
    assert all(is_under(module, ("distributed",)) and lazy for module, lazy in users)
    configuration = ConfigParser()
    configuration.read(ROOT / "setup.cfg")
    assert set(configuration["options.extras_require"]["petsc"].split()) == PETSC


def test_library_never_prints():
    for module in FILES.keys() - {"pmapde.cli", "pmapde.commands", "pmapde.__main__"}:
        calls = [node for node in ast.walk(TREES[module]) if isinstance(node, ast.Call)]
        assert not [call.lineno for call in calls if getattr(call.func, "id", None) == "print"], module


def test_compiled_functions_are_module_level():
    compilers = {"njit", "jit", "vectorize", "guvectorize"}
    compiled = 0
    for module, tree in TREES.items():
        names = [node for node in ast.walk(tree) if getattr(node, "id", getattr(node, "attr", None)) in compilers
                 and getattr(getattr(node, "value", None), "id", None) != "jax"]  # a peer's own compiler
        compiled += len(names)
        top = {id(name) for function in tree.body if isinstance(function, ast.FunctionDef)
               for decorator in function.decorator_list for name in ast.walk(decorator)}
        assert not [name.lineno for name in names if id(name) not in top], module
    assert compiled > 10


PEERS = {"ot", "ott", "jax", "torch", "geomloss", "pykeops"}


def test_peers_are_imported_late_in_one_place_and_declared_as_an_extra():
    users = {(module, lazy) for module, found in IMPORTS.items() for name, lazy in found if name.split(".")[0] in PEERS}
    assert users == {("pmapde.peers", True)}
    from pmapde.peers import DISTRIBUTIONS
    configuration = ConfigParser()
    configuration.read(ROOT / "setup.cfg")
    extra = set(configuration["options.extras_require"]["peers"].split())
    assert set(DISTRIBUTIONS) == PEERS and extra | {"jax"} == set(DISTRIBUTIONS.values())


def test_every_imported_package_is_a_declared_dependency():
    configuration = ConfigParser()
    configuration.read(ROOT / "setup.cfg")
    declared = {line.split(">=")[0] for line in configuration["options"]["install_requires"].split()}
    names = {name.split(".")[0] for found in IMPORTS.values() for name, _ in found} - PEERS
    distributions = packages_distributions()
    used = {distributions[name][0].lower() for name in names - sys.stdlib_module_names - {"pmapde", *PETSC}}
    assert used <= declared


@pytest.mark.parametrize(("code", "heavy"), [
    ("import pmapde", []),
    ("import sys, runpy; sys.argv[:] = ['pmapde', '--help']; runpy.run_module('pmapde', run_name='__main__')", []),
    # The control: what is looked for is found once a kernel is loaded.
    ("import pmapde.kernels.stencil_2d", ["numba"]),
])
def test_heavy_packages_load_late(code, heavy):
    report = ("import sys, json\ntry:\n    {}\nexcept SystemExit as stop:\n    assert not stop.code\n"
              "print(json.dumps([name for name in ('numba', 'matplotlib') if name in sys.modules]))")
    done = subprocess.run([sys.executable, "-c", report.format(code)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == heavy


def test_no_public_function_is_hidden_by_a_module_of_its_name():
    public = set(__import__("pmapde").__all__)
    assert not {module.removeprefix("pmapde.") for module in FILES} & public
