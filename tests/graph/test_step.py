"""One step is one static graph, and it computes what the reference's pieces compute, to float64's last digits."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from ssd_graph.compilers.backend import compile_graph
from ssd_graph.config import NO_AUGMENT, RECIPES, AugmentConfig, model_config
from ssd_graph.data.decode import preprocess
from ssd_graph.data.loader import Batch
from ssd_graph.data.shapes import draw_image
from ssd_graph.data.transforms import draw_colour_jitter
from ssd_graph.graph.augment import augment
from ssd_graph.graph.matcher import match
from ssd_graph.graph.model import SSD300
from ssd_graph.graph.step import Predict, TrainStep, device_default_boxes
from tests import reference

CONFIG = model_config("ssd300-nano", 7)
TINY = replace(CONFIG, trunk_blocks=(1, 1, 1), trunk_channels=(8, 8, 8), extra_channels=((8, 8),) * 5)
"""For fp16, in which CPUs take seconds for the smallest preset."""
RECIPE = replace(RECIPES["mlperf-256"], augment=AugmentConfig())
DEFAULTS = device_default_boxes("cpu")


def make_batch(seed, num_images=2, num_boxes=8):
    batch = Batch.empty(num_images, num_boxes)
    for i in range(num_images):
        rng = np.random.default_rng([seed, i])
        picture, objects = draw_image(rng)
        batch.images[i] = preprocess(picture)
        for g, item in enumerate(objects):
            x, y, w, h = item["bbox"]
            batch.boxes[i, g] = np.array([x, y, x + w, y + h]) / np.tile(picture.size, 2)
            batch.labels[i, g] = 1 + g % 6
        batch.flip[i] = i % 2
        batch.blends[i], batch.hue[i] = draw_colour_jitter(rng, AugmentConfig())
    return Batch(*(torch.from_numpy(a) for a in batch))


def new_state(step, dtype=torch.float32):
    torch.manual_seed(0)
    return step.layout.load(SSD300(step.model.config).state_dict(), dtype)


def run(step, function, dtype, num_steps, rate=0.004):
    state = new_state(step, dtype)
    losses = [
        function(state, make_batch(s), DEFAULTS, torch.tensor(rate * (1 + s), dtype=dtype)).loss.item()
        for s in range(num_steps)
    ]
    return state, losses


@pytest.fixture(scope="module")
def captured():
    """A step and its one graph, which refuses a second."""
    step = TrainStep(CONFIG, RECIPE)
    return step, compile_graph(step.__call__, "aot_eager")


@pytest.fixture(scope="module")
def float64_runs(captured):
    step, graph = captured
    return step, run(step, step, torch.float64, 6), run(step, graph, torch.float64, 6)


def test_eager_and_captured_step_agree_to_1e_12_over_six_steps_in_float64(float64_runs):
    _, (eager, eager_losses), (captured, captured_losses) = float64_runs
    np.testing.assert_allclose(captured_losses, eager_losses, rtol=1e-12)
    for name in ("parameters", "momentum", "bn_statistics"):
        torch.testing.assert_close(getattr(captured, name), getattr(eager, name), rtol=1e-12, atol=1e-12)
    assert len(set(eager_losses)) == 6


def test_step_equals_the_reference_trained_by_torch_sgd_to_1e_11_over_six_steps_in_float64(float64_runs):
    step, (ours, our_losses), _ = float64_runs
    initial = new_state(step, torch.float64)
    model = reference.network(CONFIG).double().train()
    named = step.layout.state_dict(initial)
    names = reference.load_ours(model, {name: named[name] for name in SSD300(CONFIG).state_dict()})
    sgd = torch.optim.SGD(model.parameters(), 1.0, momentum=0.9, weight_decay=RECIPE.weight_decay)
    losses = []
    for s in range(6):
        batch = make_batch(s)
        images, boxes = augment(batch, RECIPE.augment, torch.float64)
        found = match(boxes, batch.labels, DEFAULTS, torch.float64)  # the matcher has its own test
        d = DEFAULTS.double().t()
        truth = torch.cat([found.boxes[:, :2] * 0.1 * d[2:] + d[:2], (found.boxes[:, 2:] * 0.2).exp() * d[2:]], 1)
        loss = reference.loss(*model(images), truth, found.labels, DEFAULTS)
        sgd.param_groups[0]["lr"] = 0.004 * (1 + s)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(loss.item())
    np.testing.assert_allclose(our_losses, losses, rtol=1e-11)
    named = step.layout.state_dict(ours)
    for theirs, mine in names.items():
        torch.testing.assert_close(named[mine], model.state_dict()[theirs], rtol=1e-10, atol=1e-11)


def test_another_batch_size_is_refused_instead_of_recompiled(float64_runs, captured):
    step, graph = captured
    for size, outcome in ((2, contextlib.nullcontext()), (3, pytest.raises(RuntimeError, match="recompile"))):
        with outcome:
            graph(new_state(step, torch.float64), make_batch(0, size), DEFAULTS, torch.tensor(0.01).double())


def test_float32_step_is_the_float64_step_within_rounding(float64_runs):
    _, (_, exact_losses), _ = float64_runs
    step = TrainStep(CONFIG, RECIPE)
    # Later steps drift apart by more: float32 training is chaotic, which is why parity is shown in float64.
    _, losses = run(step, step, torch.float32, 2)
    np.testing.assert_allclose(losses, exact_losses[:2], rtol=1e-4)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_follows_float32_and_keeps_the_state_in_it(amp):
    full, low = TrainStep(CONFIG, RECIPE), TrainStep(CONFIG, RECIPE, amp=amp)
    _, expected = run(full, full, torch.float32, 1)
    state, losses = run(low, low, torch.float32, 1)
    assert losses[0] == pytest.approx(expected[0], rel=0.02)
    assert state.parameters.dtype == state.momentum.dtype == state.bn_statistics.dtype == torch.float32


def test_loss_scale_leaves_a_float64_step_unchanged(float64_runs):
    step, _, _ = float64_runs
    states = []
    for scale in (1.0, 1024.0):
        state = new_state(step, torch.float64)._replace(loss_scale=torch.tensor(scale))
        step(state, make_batch(0), DEFAULTS, torch.tensor(0.01))
        states.append(state)
    torch.testing.assert_close(states[0].parameters, states[1].parameters, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_gradient_changes_nothing_and_is_counted(poison):
    step = TrainStep(CONFIG, RECIPE)
    state = new_state(step)._replace(loss_scale=torch.tensor(poison))
    before = [t.clone() for t in state if t is not None]
    for _ in range(2):
        step(state, make_batch(0), DEFAULTS, torch.tensor(0.01))
    for name in ("parameters", "momentum", "bn_statistics"):
        assert torch.equal(getattr(state, name), before[state._fields.index(name)])
    assert (int(state.num_skipped), int(state.skip_streak)) == (2, 2)


def test_a_step_with_rate_zero_moves_only_momentum_and_statistics():
    step = TrainStep(CONFIG, RECIPE)
    state = new_state(step)
    before = [t.clone() for t in state[:3]]
    step(state, make_batch(0), DEFAULTS, torch.tensor(0.0))
    assert torch.equal(state.parameters, before[0])
    assert not torch.equal(state.momentum, before[1])
    assert not torch.equal(state.bn_statistics, before[2])


@pytest.mark.parametrize("decay_bias_bn", [True, False])
def test_weight_decay_reaches_biases_and_norms_or_spares_them(decay_bias_bn):
    recipe = replace(RECIPE, decay_bias_bn=decay_bias_bn, augment=NO_AUGMENT)
    decayed, plain = (TrainStep(CONFIG, replace(recipe, weight_decay=w)) for w in (0.1, 0.0))
    states = [new_state(decayed, torch.float64) for _ in range(2)]
    for step, state in zip((decayed, plain), states, strict=True):
        step(state, make_batch(0), DEFAULTS, torch.tensor(0.01, dtype=torch.float64))
    expected = 0.01 * 0.1 * new_state(plain, torch.float64).parameters
    if not decay_bias_bn:
        expected[decayed.layout.num_weights :] = 0
    torch.testing.assert_close(states[1].parameters - states[0].parameters, expected, rtol=0, atol=1e-12)


def join(*batches):
    return Batch(*(torch.cat(fields) for fields in zip(*batches, strict=True)))


def test_accumulated_gradients_are_the_mean_of_the_parts_and_statistics_follow_one_another():
    single = TrainStep(CONFIG, replace(RECIPE, weight_decay=0.0))
    double = TrainStep(CONFIG, replace(RECIPE, weight_decay=0.0, accumulate=2))
    parts = [make_batch(0), make_batch(1)]
    frozen = new_state(single, torch.float64)
    momenta, losses = [], []
    for part in parts:
        frozen.momentum.zero_()
        losses.append(single(frozen, part, DEFAULTS, torch.tensor(0.0)).loss)
        momenta.append(frozen.momentum.clone())
    state = new_state(double, torch.float64)
    loss = double(state, join(*parts), DEFAULTS, torch.tensor(0.0)).loss
    torch.testing.assert_close(state.momentum, (momenta[0] + momenta[1]) / 2, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(state.bn_statistics, frozen.bn_statistics, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(loss, (losses[0] + losses[1]) / 2)


def test_the_moving_average_follows_the_parameters_and_skips_with_them():
    step = TrainStep(CONFIG, replace(RECIPE, ema_decay=0.75))
    state = new_state(step, torch.float64)
    state = state._replace(ema=state.parameters.clone())
    expected = state.ema.clone()
    for s in range(3):
        step(state, make_batch(s), DEFAULTS, torch.tensor(0.01))
        expected = 0.75 * expected + 0.25 * state.parameters
    torch.testing.assert_close(state.ema, expected, rtol=1e-12, atol=1e-14)
    assert not torch.equal(state.ema, state.parameters)
    poisoned = state._replace(loss_scale=torch.tensor(float("nan")))
    before = state.ema.clone()
    step(poisoned, make_batch(0), DEFAULTS, torch.tensor(0.01))
    assert torch.equal(state.ema, before)


def test_a_dynamic_loss_scale_halves_at_an_overflow_and_doubles_after_a_long_streak(monkeypatch):
    monkeypatch.setattr("ssd_graph.graph.step.GROWTH_INTERVAL", 3)
    step = TrainStep(TINY, replace(RECIPE, dynamic_loss_scale=True), amp="fp16")
    state = new_state(step)._replace(loss_scale=torch.tensor(2.0**127))  # float32 ends at 2**128
    scales, streaks = [], []
    for s in range(6):
        if s == 1:
            state.loss_scale.fill_(1024.0)
        step(state, make_batch(0), DEFAULTS, torch.tensor(1e-4))
        scales.append(float(state.loss_scale))
        streaks.append((int(state.skip_streak), int(state.finite_streak)))
    assert scales == [2.0**126, 1024, 1024, 2048, 2048, 2048]
    assert streaks == [(1, 0), (0, 1), (0, 2), (0, 0), (0, 1), (0, 2)]
    assert int(state.num_skipped) == 1


@pytest.mark.parametrize(("amp", "scale"), [("fp16", 1.0), ("bf16", 2.0), ("off", 2.0)])
def test_a_dynamic_loss_scale_stops_falling_at_one_and_is_of_fp16_alone(amp, scale):
    step = TrainStep(TINY, replace(RECIPE, dynamic_loss_scale=True), amp=amp)
    state = new_state(step)._replace(loss_scale=torch.tensor(2.0))
    state.parameters[0] = float("nan")
    for _ in range(2):
        step(state, make_batch(0), DEFAULTS, torch.tensor(0.01))
    assert (float(state.loss_scale), int(state.skip_streak)) == (scale, 2)


def test_every_option_of_the_recipe_is_still_one_graph():
    recipe = replace(
        RECIPE,
        accumulate=2,
        ema_decay=0.9,
        dynamic_loss_scale=True,
        decay_bias_bn=False,
        loss_scale=1024.0,
        freeze="layer2",
    )
    step = TrainStep(TINY, recipe, amp="fp16")
    state = new_state(step)
    state = state._replace(ema=state.parameters.clone())
    compiled = compile_graph(step.__call__, "aot_eager")
    for s in range(2):
        compiled(state, make_batch(s, num_images=4), DEFAULTS, torch.tensor(0.01 * s))
    assert int(state.finite_streak) == 2


def test_predict_is_the_model_in_evaluation_mode():
    torch.manual_seed(0)
    model = SSD300(CONFIG).eval()
    predict = Predict(CONFIG)
    state = predict.layout.load(model.state_dict())
    images = make_batch(0).images
    mean, std = (torch.tensor(v) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = model(((images / 255 - mean) / std).permute(0, 3, 1, 2))
        found = predict(state.parameters, state.bn_statistics, images)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
