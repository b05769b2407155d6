"""Learning-rate schedule, weight decay groups and the running average."""

from __future__ import annotations

import pytest
import torch

from gen3d.train.optim import OptimConfig, RunningAverage, set_rate


def test_rate_warms_up_and_decays_to_its_final_share() -> None:
    optim = OptimConfig(steps=100, learning_rate=1.0, warmup=0.1, final_rate=0.1)
    rates = [optim.rate_at(step) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10] == pytest.approx(1.0)
    assert max(rates) == rates[10]
    assert rates[100] == pytest.approx(0.1)
    assert rates[55] == pytest.approx(0.55)
    assert OptimConfig(warmup=0.0, learning_rate=0.5).rate_at(0) == 0.5


def test_biases_are_not_decayed() -> None:
    layer = torch.nn.Linear(2, 2)
    decayed, free = OptimConfig(weight_decay=0.3).optimiser(layer).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    assert [p.shape for p in decayed["params"]] == [layer.weight.shape]
    assert [p.shape for p in free["params"]] == [layer.bias.shape]


def test_the_rate_rule_follows_the_batch() -> None:
    rates = {
        rule: OptimConfig(batch_size=16, rate_batch_size=4, learning_rate=0.1, rate_rule=rule).peak_rate
        for rule in ("constant", "sqrt", "linear")
    }
    assert rates == {"constant": 0.1, "sqrt": 0.2, "linear": 0.4}


def test_running_average_follows_its_formula_and_swaps_back() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(0.0)
    average = RunningAverage(dict(layer.named_parameters()), decay=0.5)
    expected = 0.0
    for step in range(20):
        with torch.no_grad():
            layer.weight.fill_(step + 1.0)
        average.update(dict(layer.named_parameters()), step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 1.0)
    assert average.weights["weight"].item() == pytest.approx(expected, rel=1e-5)
    kept = average.weights["weight"].clone()
    average.swap(layer)
    assert torch.equal(layer.weight, kept)
    average.swap(layer)
    assert layer.weight.item() == 20.0
    assert torch.equal(average.weights["weight"], kept)


def test_the_rate_falls_where_the_validation_loss_stays() -> None:
    optim = OptimConfig(plateau=0.5, plateau_patience=1)
    losses = [1.0, 0.9, 0.95, 0.92, 0.91, 0.93, 0.5, 0.6, 0.7]
    shares = [optim.plateau_share(losses[:num]) for num in range(len(losses) + 1)]
    assert shares == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]
    weights = torch.nn.Parameter(torch.zeros(1))
    torch_s = torch.optim.lr_scheduler.ReduceLROnPlateau(
        torch.optim.SGD([weights], 1.0), factor=0.5, patience=1, threshold=0.0
    )
    for num, loss in enumerate(losses, start=1):
        torch_s.step(loss)
        assert torch_s.get_last_lr() == [shares[num]]
    assert OptimConfig().plateau_share(losses) == 1


def test_slow_weights_have_their_own_rate() -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    for method in ("adamw", "sgd"):
        optim = OptimConfig(method=method, learning_rate=0.1)
        optimiser = optim.optimiser(layers, slow=list(layers[0].parameters()))
        set_rate(optimiser, 0.1, 0.25)
        rate_of = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
        assert [rate_of[id(p)] for p in layers.parameters()] == [0.025, 0.025, 0.1, 0.1]
