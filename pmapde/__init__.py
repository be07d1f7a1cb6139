"""Optimal transport in two and three dimensions by the parabolic Monge-Ampère equation."""
import importlib as _importlib

_HOMES = {
    "Grid": "grid", "GridDensity": "density", "LogDensity": "density", "TransportProblem": "problem",
    "solve": "solver", "steps": "solver",
    "flow": "trajectory", "Trajectory": "trajectory", "ImbalanceWarning": "trajectory", "Ledger": "ledger",
    "mirror_descent": "mirror", "MirrorRun": "mirror", "explicit_limit": "mirror",
    "Step": "equation", "memory_estimate": "memory",
    "PseudoTransient": "stepping", "Newton": "newton",
    "BackwardEuler": "integrators", "TRBDF2": "integrators", "ESDIRK3": "integrators",
    "Automatic": "linear.solver", "GeometricMultigrid": "linear.geometric",
    "BlackBoxMultigrid": "linear.black_box", "AlgebraicMultigrid": "linear.algebraic", "Spectral": "linear.spectral",
    "Direct": "linear.direct",
    "Solution": "solution", "StencilWarning": "solution", "Status": "status", "SolverError": "status",
    "Checkpoint": "checkpoint", "resume": "storage",
    "load": "storage", "sinkhorn": "entropic", "half_shift": "entropic", "SinkhornPlan": "plan",
    "BrenierGenerator": "generative", "ResolutionWarning": "samples",
    "DensityRatio": "ratios", "LogisticRatio": "ratios", "ScoreRatio": "ratios",
    "sinkhorn_limit": "limit", "SinkhornLimit": "limit",
    "legendre_conjugate": "legendre", "wasserstein_barycentre": "barycentre", "Barycentre": "barycentre",
    "LinearEmbedding": "embedding", "BrenierPosterior": "variational",
    "save_vti": "export", "to_xarray": "export",
}
_MODULES = ("distributed", "exact", "gallery", "models", "plotting", "schedules", "toys")
__all__ = sorted(_HOMES)


def __getattr__(name):
    # PEP 562: `pmapde --help` must import neither numba nor matplotlib
    if name in _HOMES:
        value = getattr(_importlib.import_module(f".{_HOMES[name]}", __name__), name)
    elif name in _MODULES:
        value = _importlib.import_module(f".{name}", __name__)
    elif name == "__version__":
        from importlib.metadata import version
        value = version("pmapde")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return [*__all__, *_MODULES, "__version__"]
