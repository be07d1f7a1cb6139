"""Closed forms of the flow, of explicit mirror descent and of the divergences between Gaussians."""
from __future__ import annotations

import numpy as np
from scipy.integrate import quad
from scipy.linalg import sqrtm


def _square_root(matrix):
    return np.real(sqrtm(matrix))


class GaussianFlow:
    """The parabolic equation between Gaussians: ``u_t(x) = x' A_t x / 2 + b_t' x + c_t`` on all of R^d.

    ``A' = P - A Q A``, ``b' = -P m_mu - A Q (b - m_nu)`` with the precisions ``P`` of the source ``mu = N(m_mu, S_mu)``
    and ``Q`` of the target ``nu = N(m_nu, S_nu)``: a matrix Riccati equation, solved for covariances that need not
    commute by ``R = (Q^1/2 P Q^1/2)^1/2``, ``Y = cosh(tR) + R^-1 sinh(tR) A~_0``, ``A~_t = Y' Y^-1`` with
    ``A~ = Q^1/2 A Q^1/2``. ``rho_t = N(A^-1 (m_nu - b), A^-1 S_nu A^-1)``. Derived here, tested against the equation.

    Parameters
    ----------
    source_mean, source_covariance, target_mean, target_covariance : array_like
        Of d or d x d entries.
    hessian, slope : array_like, optional
        ``A_0`` and ``b_0``; the identity and zero, ``u_0 = |x|^2 / 2``, if omitted.

    Examples
    --------
    >>> flow = GaussianFlow([1.0], [[4.0]], [0.0], [[1.0]])
    >>> [round(float(value), 10) for value in (flow.hessian(1.0)[0, 0], flow.slope(1.0)[0], flow.kl_reverse(1.0))]
    [0.6397654222, -0.1788969732, 0.116759893]
    """

    def __init__(self, source_mean, source_covariance, target_mean, target_covariance, hessian=None, slope=None):
        self.m_mu, self.m_nu = (np.asarray(mean, float) for mean in (source_mean, target_mean))
        self.s_mu, self.s_nu = (np.asarray(covariance, float) for covariance in (source_covariance, target_covariance))
        d = len(self.m_mu)
        self.a_0 = np.eye(d) if hessian is None else np.asarray(hessian, float)
        self.b_0 = np.zeros(d) if slope is None else np.asarray(slope, float)
        self.p, self.q = np.linalg.inv(self.s_mu), np.linalg.inv(self.s_nu)
        self.root_q = _square_root(self.q)
        self.inverse_root_q = np.linalg.inv(self.root_q)
        self.frequencies, self.modes = np.linalg.eigh(_square_root(self.root_q @ self.p @ self.root_q))

    def _function(self, values):
        return self.modes * values @ self.modes.T

    def _at(self, t):
        """``A_t`` and ``b_t``: in pieces short enough for the hyperbolic functions not to cancel."""
        r, a = self.frequencies, self.root_q @ self.a_0 @ self.root_q
        q = self.root_q @ (self.a_0 @ self.m_mu + self.b_0 - self.m_nu)
        pieces = max(1, int(np.ceil(t * r.max() / 4)))
        cosh, sinh = np.cosh(t / pieces * r), np.sinh(t / pieces * r)
        for _ in range(pieces):
            y = self._function(cosh) + self._function(sinh / r) @ a
            dy = self._function(r * sinh) + self._function(cosh) @ a
            a, q = dy @ np.linalg.inv(y), np.linalg.solve(y.T, q)
            a = 0.5 * (a + a.T)
        hessian = self.inverse_root_q @ a @ self.inverse_root_q
        return hessian, self.m_nu + self.inverse_root_q @ q - hessian @ self.m_mu

    def hessian(self, t):
        """``A_t``."""
        return self._at(t)[0]

    def slope(self, t):
        """``b_t``."""
        return self._at(t)[1]

    def constant(self, t):
        """``c_t``, by quadrature; both densities normalised."""
        def rate(s):
            a, b = self._at(s)
            shift = b - self.m_nu
            logs = [np.linalg.slogdet(matrix)[1] for matrix in (a, self.s_mu, self.s_nu)]
            return (0.5 * self.m_mu @ self.p @ self.m_mu - 0.5 * shift @ self.q @ shift + logs[0] + 0.5 * logs[1]
                    - 0.5 * logs[2])
        return quad(rate, 0, t, epsabs=1e-12, epsrel=1e-12)[0]

    @property
    def limit(self):
        """``A_inf``, the Hessian of the Brenier potential."""
        root = _square_root(self.s_mu)
        inverse = np.linalg.inv(root)
        return inverse @ _square_root(root @ self.s_nu @ root) @ inverse

    def model(self, t):
        """Mean and covariance of ``rho_t``."""
        return self._model(*self._at(t))

    def _model(self, a, b):
        inverse = np.linalg.inv(a)
        return inverse @ (self.m_nu - b), inverse @ self.s_nu @ inverse

    def kl_reverse(self, t):
        """KL(rho_t | mu)."""
        return gaussian_kl(*self.model(t), self.m_mu, self.s_mu)

    def kl_forward(self, t):
        """KL(mu | rho_t)."""
        return gaussian_kl(self.m_mu, self.s_mu, *self.model(t))

    def bregman(self, t):
        """D(mu | rho_t)."""
        return self._bregman(*self._at(t))

    def _bregman(self, a, b):
        difference = np.linalg.inv(self.limit) - np.linalg.inv(a)
        shift = self.m_mu - self._model(a, b)[0]
        return float(0.5 * np.trace(a @ difference @ self.s_nu @ difference) + 0.5 * shift @ a @ shift)

    def explicit(self, etas):
        """Explicit mirror descent with the given steps: one dict per iterate, the start included.

        ``A += eta (P - A Q A)``, ``b += eta (-P m_mu - A Q (b - m_nu))``. Keys: ``hessian, slope, mean, covariance,
        kl_reverse, kl_forward, bregman``, and ``stability``, D(rho_{k-1} | rho_k), of the step that led there.
        """
        a, b, rows = self.a_0, self.b_0, []
        for eta in [None, *etas]:
            stability = 0.0
            if eta is not None:
                mean, covariance = self._model(a, b)
                rate_a, rate_b = self.p - a @ self.q @ a, -self.p @ self.m_mu - a @ self.q @ (b - self.m_nu)
                a, b = a + eta * rate_a, b + eta * rate_b
                moved = eta * (rate_a @ mean + rate_b)  # the mean of the change of the gradient
                inverse = np.linalg.inv(a)
                stability = float(0.5 * eta**2 * np.trace(rate_a @ inverse @ rate_a @ covariance)
                                  + 0.5 * moved @ inverse @ moved)
            mean, covariance = self._model(a, b)
            rows.append({"hessian": a, "slope": b, "mean": mean, "covariance": covariance,
                         "kl_reverse": gaussian_kl(mean, covariance, self.m_mu, self.s_mu),
                         "kl_forward": gaussian_kl(self.m_mu, self.s_mu, mean, covariance),
                         "bregman": self._bregman(a, b), "stability": stability})
        return rows


def gaussian_kl(mean, covariance, other_mean, other_covariance):
    """KL(N(mean, covariance) | N(other_mean, other_covariance)).

    >>> round(gaussian_kl(np.zeros(1), np.eye(1), np.ones(1), 4 * np.eye(1)), 10)
    0.4431471806
    """
    precision, shift = np.linalg.inv(other_covariance), mean - other_mean
    return float(0.5 * (np.trace(precision @ covariance) - len(mean) + shift @ precision @ shift
                        + np.linalg.slogdet(other_covariance)[1] - np.linalg.slogdet(covariance)[1]))
