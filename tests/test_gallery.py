"""Gallery densities are what their names say; the warp is a gradient map with the push-forward it claims."""
import subprocess
import sys

import numpy as np
import pytest

from pmapde import gallery
from pmapde.transfer import average

FILES = {"mri": (256, 256), "grace_hopper": (600, 512), "terrain": (344, 403), "relief": (344, 403),
         "bathymetry": (91, 120)}
FORMULAS = [name for name in gallery.names() if name not in FILES]


@pytest.mark.parametrize("ndim", [2, 3])
def test_formulas_are_positive_finite_and_of_the_shape_asked_for(ndim):
    shape = (18, 12, 14)[:ndim]
    for name in set(FORMULAS) & set(gallery.names(ndim)):
        values = gallery.load(name, shape)
        assert values.shape == shape and values.dtype == np.float64, name
        assert np.isfinite(values).all() and values.min() > 0, name
        assert name == "uniform" or np.ptp(values) > 0.1, name


@pytest.mark.parametrize("name", FILES)
def test_files_load_with_their_own_shape_and_without_negative_values(name):
    values = gallery.load(name)
    assert values.shape == FILES[name] and values.dtype == np.float64 and values.flags.c_contiguous
    assert values.flags.writeable and np.isfinite(values).all()
    assert values.min() == 0 or name == "relief"
    assert values.min() >= 0 and values.max() > 0


@pytest.mark.parametrize("name", FILES)
def test_resampling_a_file_conserves_its_mean(name):
    values, resampled = gallery.load(name), gallery.load(name, (40, 50))
    assert resampled.shape == (40, 50)
    assert np.isclose(resampled.mean(), values.mean(), rtol=1e-13)  # observed 1e-15


def test_mri_is_read_with_the_byte_order_in_which_its_values_are_bytes():
    values = gallery.load("mri")
    assert values.max() == 215  # 55040 = 215 * 256 in the other order
    assert np.abs(np.diff(values, axis=0)).mean() < 0.2 * values.mean()  # an image, observed 3.7 against 38.7


def test_photo_is_the_luminance():
    from matplotlib.cbook import get_sample_data
    from PIL import Image
    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        colours = np.asarray(image, float)
    luminance = colours @ [0.299, 0.587, 0.114]
    assert np.abs(gallery.load("grace_hopper") - luminance).max() <= 1  # rounded to bytes, observed 0.5
    assert np.abs(gallery.load("grace_hopper") - colours.mean(axis=2)).max() > 10  # the plain mean is not it


def test_terrain_and_bathymetry_are_heights_above_their_lowest_cell():
    assert gallery.load("terrain").max() == 1076 - 236
    assert gallery.load("bathymetry").max() == 2205 + 1437


def test_relief_is_the_slope_of_the_terrain_in_metres_per_metre():
    north = 111200 / 1200  # cells of three arc seconds
    east = north * np.cos(np.radians(36.59))
    rows, columns = np.gradient(gallery.load("terrain"))
    slope = np.hypot(rows / north, columns / east)
    assert np.abs(gallery.load("relief") - slope).max() < 1e-4  # observed 3.7e-6: the latitude is rounded here
    assert np.abs(gallery.load("relief") - np.hypot(rows, columns) / north).max() > 1e-2


def test_two_gaussians_is_the_documented_formula():
    x, y = np.meshgrid((np.arange(64) + 0.5) / 64, (np.arange(80) + 0.5) / 80, indexing="ij")
    formula = (0.25 + 2 * np.exp(-((x - 0.3)**2 + (y - 0.35)**2) / (2 * 0.09**2))
               + 1.5 * np.exp(-((x - 0.7)**2 + (y - 0.6)**2) / (2 * 0.12**2)))
    error = np.abs(gallery.load("two_gaussians", (64, 80)) - formula).max()
    assert 1e-4 < error < 2e-2  # averages differ from centre values by O(h^2), observed 4.1e-3


def test_cell_averages_are_of_order_six_and_nest():
    errors = []
    for n in (8, 16, 32):
        edges = np.arange(n + 1) / n
        antiderivative = np.sin(2 * np.pi * edges) / (2 * np.pi) * 0.6 + edges
        exact = np.multiply.outer(np.diff(antiderivative), np.diff(antiderivative)) * n**2
        errors.append(np.abs(gallery.load("cosine", (n, n)) - exact).max())
    assert np.log2(errors[0] / errors[-1]) / 2 > 5.8  # observed 5.92
    coarse = average(gallery.load("two_moons", (64, 64)), (32, 32))
    assert np.abs(coarse - gallery.load("two_moons", (32, 32))).max() < 5e-6  # observed 7e-7


def test_names_list_what_load_accepts():
    assert gallery.names() == sorted(set(gallery.names(2)) | set(gallery.names(3)))
    assert "torus3d" in gallery.names(3) and "torus3d" not in gallery.names(2)
    assert "mri" in gallery.names(2) and "mri" not in gallery.names(3)
    assert gallery.load("torus3d").ndim == 3 and gallery.load("ball").ndim == 2
    assert gallery.load("ball", ndim=3).shape == (64, 64, 64)


def test_unknown_names_are_refused_with_the_closest_and_all_known_names():
    with pytest.raises(ValueError, match="did you mean 'two_gaussians'.*bathymetry.*uniform"):
        gallery.load("two_gausians")
    with pytest.raises(ValueError, match="'xyzzy' is not in the gallery; known names"):
        gallery.load("xyzzy")


def test_dimensions_a_name_does_not_have_are_refused():
    with pytest.raises(ValueError, match="'mri' is 2-dimensional, got ndim 3; .*torus3d"):
        gallery.load("mri", (8, 8, 8))
    with pytest.raises(ValueError, match="'torus3d' is 3-dimensional"):
        gallery.load("torus3d", ndim=2)
    with pytest.raises(ValueError, match="`shape` .* has 2 axes but `ndim` is 3"):
        gallery.load("ball", (8, 8), ndim=3)


def test_a_missing_sample_file_is_one_clear_sentence(monkeypatch, tmp_path):
    import matplotlib.cbook
    monkeypatch.setattr(matplotlib.cbook, "get_sample_data", lambda name, asfileobj: str(tmp_path / name))
    for name in FILES:
        with pytest.raises(ValueError, match=f"'{name}' is read from matplotlib's sample file .* left out"):
            gallery.load(name)


def test_importing_the_gallery_loads_neither_matplotlib_nor_numba():
    code = "import sys, pmapde.gallery; print([m for m in ('matplotlib', 'numba', 'PIL') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("shape", [(96, 64), (24, 32, 28)])
def test_warped_moves_the_moments_of_the_image_as_its_map_says(shape):
    image = gallery.load("two_gaussians" if len(shape) == 2 else "two_balls", shape)
    moved = gallery.warped(image, 0.6)
    points = gallery._cell_points(shape, np.full(len(shape), 0.5))
    for function in (lambda x: x, lambda x: (x - 0.5)**2):
        there = function(points).T @ moved.ravel() / moved.sum()
        expected = function(gallery.warp_map(points, 0.6)).T @ image.ravel() / image.sum()
        unmoved = function(points).T @ image.ravel() / image.sum()
        assert np.abs(there - expected).max() < 2e-4  # observed 2e-5 in 2D, 1e-4 in 3D
        assert np.abs(unmoved - expected).max() > 1e-3  # observed at least 1.07e-3: it did move


def test_warped_conserves_the_mass_and_is_the_identity_at_strength_zero():
    image = gallery.load("mri", (64, 64))
    assert np.isclose(gallery.warped(image, 0.7).sum(), image.sum(), rtol=1e-13)
    assert np.abs(gallery.warped(image, 0.0) - image).max() < 1e-12  # observed 0
    assert gallery.warped(image, 0.7).min() >= 0


def test_warp_is_refused_where_it_would_fold():
    with pytest.raises(ValueError, match="`strength` must be in"):
        gallery.warped(np.ones((8, 8)), 1.0)
    with pytest.raises(ValueError, match="`ndim` must be 2 or 3"):
        gallery.displacement_potential(4, 0.5)
