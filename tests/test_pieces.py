"""Differences that cross no kink: held pieces give what backpropagation gives, at any distance from a kink."""

import copy

import pytest
import torch
from torch import nn

from qtl_utils.models.pieces import Pieces

KINKED = {
    "ReLU": nn.ReLU,
    "ReLU in place": lambda: nn.ReLU(inplace=True),
    "ReLU6": nn.ReLU6,
    "LeakyReLU": nn.LeakyReLU,
    "Hardswish": nn.Hardswish,
    "Hardsigmoid": nn.Hardsigmoid,
}


@pytest.mark.parametrize("name", KINKED)
def test_without_being_held_the_function_is_as_it_was(name):
    x = torch.linspace(-8, 8, 101, dtype=torch.float64).requires_grad_()
    with torch.no_grad(), Pieces() as found:
        ours = KINKED[name]()(x.detach().clone())
    torch.testing.assert_close(ours, KINKED[name]()(x.detach().clone()), rtol=1e-15, atol=1e-15)
    assert len(found.found) == 1 and not found.crossed


def test_max_pooling_keeps_to_the_element_that_was_largest():
    x = torch.tensor([[[[1.0, 2.0], [0.0, 0.0]]]])
    pool = nn.MaxPool2d(2)
    with torch.no_grad():
        with Pieces() as here:
            assert pool(x).item() == 2
        x[0, 0, 0, 0] = 5
        with Pieces(here.found) as held:
            assert pool(x).item() == 2
        assert held.crossed


def network(kind):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), KINKED[kind](), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )


@pytest.mark.parametrize("kind", KINKED)
@pytest.mark.parametrize("distance", [0.0, 1e-7, -1e-7, 0.3])
def test_beside_a_kink_the_difference_is_the_derivative(kind, distance):
    model = network(kind).double().eval()
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    with torch.no_grad():  # one unit is put right beside the kink at zero
        before = model[1](model[0](x))[0, 1, 2, 3]
        model[1].bias[1] += distance - before
    weight, h = model[0].bias, 1e-4

    def loss():
        return model(x).square().sum()

    (gradient,) = torch.autograd.grad(loss(), weight)
    with torch.no_grad():
        with Pieces() as here:
            loss()
        ends = []
        for shift in (h, -h):
            weight[1] += shift
            with Pieces(here.found):
                ends.append(loss())
            weight[1] -= shift
    if distance:
        assert float((ends[0] - ends[1]) / (2 * h)) == pytest.approx(float(gradient[1]), rel=1e-7, abs=1e-8)
    else:  # on the kink itself either side is a derivative; backpropagation and the pieces take the same one
        assert torch.isfinite(ends[0] - ends[1])


def test_a_plain_difference_across_a_kink_is_wrong_and_the_crossing_is_seen():
    x = torch.tensor(1e-7, dtype=torch.float64)
    with torch.no_grad():
        with Pieces() as here:
            torch.relu(x.clone())
        with Pieces(here.found) as held:
            below = torch.relu(x - 1e-5)
    assert held.crossed and below < 0
    assert torch.relu(x - 1e-5) == 0


def test_modules_are_left_as_they_were():
    model = network("ReLU in place")
    state = copy.deepcopy(model.state_dict())
    with torch.no_grad(), Pieces():
        model.eval()(torch.randn(2, 2, 8, 8))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
