"""Activations against PyTorch's automatic differentiation, far into both tails, and on strict arrays."""

import array_api_strict
import numpy as np
import pytest
import torch

from bbdfield.errors import InputError
from bbdfield.model import activations
from bbdfield.model.activations import activation_names, erf, get_activation, register_activation

TORCH = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    # Beyond its default threshold of 20, torch's softplus returns x.
    "softplus": lambda x: torch.nn.functional.softplus(x, threshold=800.0),
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "identity": lambda x: 1.0 * x,
}
GRID = np.concatenate([np.linspace(-12.0, 12.0, 241), [-700.0, -40.5, -39.5, 39.5, 40.5, 700.0]])


@pytest.fixture(autouse=True)
def floating_point_errors_raise():
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        yield


@pytest.fixture
def user_names(monkeypatch):
    """Forget at the end of a test what it registered."""
    monkeypatch.setattr(activations, "_REGISTERED", {})


def torch_derivatives(function, x):
    """Return f, f', f'' at x by automatic differentiation."""
    t = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    f = function(t)
    (df,) = torch.autograd.grad(f.sum(), t, create_graph=True)
    d2f = torch.autograd.grad(df.sum(), t, allow_unused=True)[0] if df.requires_grad else None
    return f.detach().numpy(), df.detach().numpy(), np.zeros_like(x) if d2f is None else d2f.numpy()


def test_every_built_in_is_compared():
    assert set(TORCH) == set(activation_names())


@pytest.mark.parametrize("name", TORCH)
def test_values_and_derivatives_match_torch(name):
    activation = get_activation(name)
    f, df, d2f = torch_derivatives(TORCH[name], GRID)
    np.testing.assert_allclose(activation.f(GRID), f, rtol=1e-15, atol=2e-15)
    np.testing.assert_allclose(activation.df(GRID), df, rtol=1e-15, atol=2e-15)
    np.testing.assert_allclose(activation.d2f(GRID), d2f, rtol=1e-15, atol=2e-15)


@pytest.mark.parametrize("name", TORCH)
def test_combined_call_equals_the_two_calls(name):
    activation = get_activation(name)
    value, slope = activation.value_and_slope(GRID)
    np.testing.assert_array_equal(value, activation.f(GRID))
    np.testing.assert_array_equal(slope, activation.df(GRID))


@pytest.mark.parametrize("name", TORCH)
def test_finite_for_every_finite_argument(name):
    x = np.array([-np.finfo(float).max, -1e200, -1e4, 1e4, 1e200, np.finfo(float).max])
    activation = get_activation(name)
    for function in (activation.f, activation.df, activation.d2f):
        assert np.isfinite(function(x)).all()


def test_sigmoid_and_softplus_keep_relative_accuracy_in_the_tail():
    x = np.array([-700.0, -40.0])
    for name in ("sigmoid", "softplus"):
        np.testing.assert_allclose(get_activation(name).f(x), np.exp(x), rtol=1e-15)


def test_relu_slope_at_the_kink_is_zero():
    assert get_activation("relu").df(np.zeros(1))[0] == 0.0


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("module", [array_api_strict, torch])
def test_other_namespaces_agree_with_numpy(name, module):
    activation = get_activation(name)
    x = module.asarray(GRID, dtype=module.float64)
    for function in (activation.f, activation.df, activation.d2f):
        result = function(x)
        assert type(result) is type(x)
        np.testing.assert_allclose(np.from_dlpack(result), function(GRID), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", TORCH)
def test_single_precision_stays_single(name):
    activation = get_activation(name)
    x = np.linspace(-3, 3, 7, dtype=np.float32)
    for function in (activation.f, activation.df, activation.d2f):
        assert function(x).dtype == np.float32


def test_identity_returns_a_copy():
    x = np.ones(3)
    get_activation("identity").f(x)[0] = 5.0
    assert x[0] == 1.0


def test_erf_of_an_unknown_library_takes_the_round_trip():
    x = array_api_strict.asarray([0.0, 1.0])
    np.testing.assert_allclose(np.from_dlpack(erf(x)), [0.0, 0.8427007929497149], rtol=1e-15)


def test_registered_activation_gets_a_fourth_order_second_derivative(user_names):
    register_activation("sine", np.sin, np.cos)
    x = np.linspace(-3, 3, 61)
    np.testing.assert_allclose(get_activation("sine").d2f(x), -np.sin(x), atol=1e-12)
    # A quartic σ' is differentiated without truncation error, which a second-order formula would not do.
    quartic = register_activation("quintic", lambda x: x**5 / 5, lambda x: x**4)
    np.testing.assert_allclose(quartic.d2f(x), 4 * x**3, atol=2e-11)
    assert activation_names()[-2:] == ("sine", "quintic")


def test_registered_activation_uses_the_given_second_derivative(user_names):
    register_activation("sine", np.sin, np.cos, lambda x: 7.0 + 0 * x)
    assert get_activation("sine").d2f(np.zeros(1))[0] == 7.0
    value, slope = get_activation("sine").value_and_slope(np.zeros(1))
    assert (value[0], slope[0]) == (0.0, 1.0)


def test_bad_names_and_functions_are_refused(user_names):
    with pytest.raises(InputError, match="tanh, sigmoid, softplus, relu, gelu, identity"):
        get_activation("tahn")
    with pytest.raises(InputError, match="built in"):
        register_activation("tanh", np.sin, np.cos)
    with pytest.raises(InputError, match="non-empty"):
        register_activation("", np.sin, np.cos)
    with pytest.raises(InputError, match="df of 'sine' must be a function"):
        register_activation("sine", np.sin, None)
    with pytest.raises(InputError, match="d2f of 'sine' must be a function"):
        register_activation("sine", np.sin, np.cos, 3.0)
    assert "sine" not in activation_names()
