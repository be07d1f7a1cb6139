"""Figures. Arrays are shown as pictures: row = first coordinate, downwards. Volumes: central slices."""
from .benchmarks import blurs, save_benchmark, work_precision
from .clouds import (
    posterior_decay,
    posterior_marginals,
    posterior_pairs,
    reference_grid,
    sample_marginals,
    samples,
    save_generator_figures,
    save_posterior_figures,
    training,
)
from .flows import flow_densities, ledger, save_flow_figures, save_study, study
from .solutions import (
    deformed_grid,
    densities,
    displacement,
    interpolation,
    marginal_errors,
    marginals,
    push_forward,
    residual_history,
    save_animation,
    save_figures,
    save_plan_figures,
)

__all__ = ["blurs", "deformed_grid", "densities", "displacement", "flow_densities", "interpolation", "ledger",
           "marginal_errors", "marginals", "posterior_decay", "posterior_marginals", "posterior_pairs", "push_forward",
           "reference_grid", "residual_history", "sample_marginals", "samples", "save_animation", "save_benchmark",
           "save_figures", "save_flow_figures", "save_generator_figures", "save_plan_figures",
           "save_posterior_figures", "save_study", "study", "training", "work_precision"]
