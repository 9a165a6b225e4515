"Gradient probes: against gradients and optimisers by hand, without a trace in the training, through a resume, over processes, and as scores."
import json, os, subprocess, sys, warnings
from copy import deepcopy

import numpy as np, pandas as pd, pytest, torch
from torch import nn

from its_a_match.affinity.core import SCORES
from its_a_match.affinity.gradients import COLUMNS, GradientProbe, cosines, gradient_similarity, gradient_transference, measure_gradients
from its_a_match.balancing import get_balancing
from its_a_match.batches import MemoryDataset
from its_a_match.models import MultiTaskNet, get_model
from its_a_match.tasks import TASKONOMY, Task
from its_a_match.training import Callback, fit, get_recipe

A, B, C = (Task(n, 'XYZ'[i], channels=c, normalise='none') for i, (n, c) in enumerate((('a', 1), ('b', 3), ('c', 2))))
DEPTH, FLOW = TASKONOMY[1], Task('flow', channels=2, normalise='none')
NUMBER, KIND = Task('count', kind='number', channels=2, normalise='none'), Task('kind', kind='classes', channels=4, per_image=True, normalise='none')


def data(n=16, tasks=(A, B, C), seed=0, lack=(), size=8, same=False):
    "Made-up views; `lack` names tasks without any label, and of tasks that are the `same` all have the first one's labels."
    g = torch.Generator().manual_seed(seed)
    images, targets, masks = torch.rand(n, 3, size, size, generator=g), {}, {}
    for i, t in enumerate(tasks):
        if t.kind == 'classes': targets[t.key] = torch.randint(0, t.channels, (n,) if t.per_image else (n, size, size), generator=g)
        elif t.kind == 'number': targets[t.key] = images.mean((2, 3))[:, :1]*torch.ones(t.channels) + torch.randn(n, t.channels, generator=g)
        else: targets[t.key] = images[:, :1]*(i + 1) + .3*torch.randn(n, t.channels, size, size, generator=g)
        shape = (n,) if t.per_image else (n, 1) if t.kind == 'number' else (n, size, size) if t.kind == 'classes' else (n, 1, size, size)
        masks[t.key] = torch.zeros(shape) > 0 if t.key in lack else torch.rand(shape, generator=g) < .8
    if same: targets, masks = ({t.key: d[tasks[0].key] for t in tasks} for d in (targets, masks))
    return MemoryDataset(tasks, images, targets, masks)


def net(tasks=(A, B, C), seed=0, dropout=.3):
    "With BatchNorm, and dropout in the encoder and the heads."
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(dropout), nn.Conv2d(6, 5, 3, padding=1), nn.Tanh())
    flat = lambda t: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, t.channels))
    return MultiTaskNet(encoder, {t: nn.Sequential(nn.Dropout(dropout), nn.Conv2d(5, t.channels, 1) if t.pixels else flat(t)) for t in tasks})


class Look(Callback):
    "At one step calls a function with the training."
    def __init__(self, f, at=0): self.f, self.at, self.found = f, at, None
    def before_step(self, t):
        if t.step == self.at: self.found = self.f(t)


def look(f, model=None, views=None, at=0, **changes):
    changes = dict(epochs=2, batch=8, optimizer='sgd', schedule='constant', lr=.1) | changes
    given = {k: changes.pop(k) for k in ('terms', 'device', 'statistics') if k in changes}
    views = views or data()
    watch = Look(f, at)
    fit(model or net(), views, data(8) if views.tasks == (A, B, C) else views, get_recipe('quick', **changes), watch, **dict(device='cpu') | given)
    return watch.found


def by_hand(t, key, model=None):
    "A task's loss, all tasks' and the gradient of the shared parameters, as a plain loop would have them; the model is in evaluation mode or without chance."
    model = model or t.net
    losses = t.task_losses(model(t.images), t.targets, t.masks)
    return losses, torch.autograd.grad(losses[key], model.shared_parameters(), allow_unused=True)


# ---- gradients and steps by hand

def test_gs_is_the_cosine_of_gradients_by_hand():
    def compare(t):
        loss, GS, _ = measure_gradients(t)
        copy = deepcopy(t.net)  # whose BatchNorm statistics may move
        found = {k: by_hand(t, k, copy) for k in t.keys}
        g = torch.stack([torch.cat([x.flatten() for x in found[k][1]]) for k in t.keys]).double()
        expected = torch.nn.functional.cosine_similarity(g[:, None], g[None], dim=-1)
        torch.testing.assert_close(GS, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(loss, torch.stack([found[k][0][k] for k in t.keys]).double(), rtol=1e-6, atol=0)
        assert torch.equal(GS, GS.T)
        return True
    assert look(compare, net(dropout=0.)) and look(compare, net(dropout=0.), at=3)
    assert look(compare, get_model('small', 'SDN', seed=0), rooms_like(), batch=4)


def rooms_like(n=8):
    g = torch.Generator().manual_seed(0)
    from its_a_match.tasks import get_tasks
    tasks = get_tasks('SDN')
    images = torch.rand(n, 3, 64, 64, generator=g)
    return MemoryDataset(tasks, images, dict(S=(images[:, 0]*16).long() + 1, D=images[:, :1], N=images.flip(1)))


@pytest.mark.parametrize('way, optimizer', [('sgd', 'sgd'), ('sgd', 'adamw'), ('optimizer', 'sgd'), ('optimizer', 'adamw')])
def test_gt_is_what_a_copied_network_says_after_the_step_of_an_optimiser(way, optimizer):
    def compare(t):
        loss, _, GT = measure_gradients(t, way)
        for i, b in enumerate(t.keys):
            copy = deepcopy(t.net)
            own  = torch.optim.SGD(copy.parameters(), t.optimizer.param_groups[0]['lr']) if way == 'sgd' else type(t.optimizer)(copy.parameters())
            if way == 'optimizer': own.load_state_dict(deepcopy(t.optimizer.state_dict()))
            before, gradient = by_hand(t, b, copy)
            for p, g in zip(copy.shared_parameters(), gradient): p.grad = g
            own.step()
            after = t.task_losses(copy(t.images), t.targets, t.masks)
            for j, a in enumerate(t.keys):
                if a != b: assert GT[i, j].item() == pytest.approx(1 - after[a].item()/before[a].item(), abs=2e-6), (b, a)
        return GT
    for at in (0, 3):
        GT = look(compare, net(dropout=0.), at=at, optimizer=optimizer, lr=.05, weight_decay=.1)
        assert GT.fill_diagonal_(1).abs().min() > 2e-5


def test_first_order_is_the_limit_of_small_steps():
    def compare(t):
        exact, first = (measure_gradients(t, way, 1e-3)[2] for way in ('sgd', 'first-order'))
        large = measure_gradients(t, 'first-order', 1e-2)[2]
        torch.testing.assert_close(large, first*10, equal_nan=True)
        _, GS, _ = measure_gradients(t, None)
        off = ~torch.eye(3, dtype=bool)
        assert (exact.sign() == GS.sign())[off].all() and torch.equal(first.sign()[off], GS.sign()[off])
        return exact[off], first[off]
    exact, first = look(compare, net(dropout=0.), lr=.5)
    torch.testing.assert_close(exact, first, rtol=.05, atol=1e-4)
    found = look(lambda t: measure_gradients(t, None))
    assert found[2].isnan().all() and not found[1].isnan().any()
    assert look(lambda t: measure_gradients(t, 'first-order', 1e6))[2].max() == 1  # a loss cannot lose more than all


# ---- known answers

def twins():
    "A network of two tasks that are the same, and their views."
    two = [Task('a', 'X', normalise='none'), Task('b', 'Y', normalise='none')]
    model = net(two, dropout=0.)
    model.decoders['Y'].load_state_dict(model.decoders['X'].state_dict())
    return model, data(tasks=two, same=True)


def test_two_heads_with_the_same_loss_have_gs_1():
    model, views = twins()
    _, GS, GT = look(lambda t: measure_gradients(t), model, views)
    assert GS[0, 1] == pytest.approx(1, abs=1e-6) and GT[0, 1].item() == pytest.approx(GT[1, 0].item(), abs=1e-6) and GT[0, 1] > 0


def test_a_task_and_its_negation_have_gs_minus_1():
    model, views = twins()
    terms = dict(X=lambda o, y: (o - y)**2, Y=lambda o, y: 100 - (o - y)**2)
    _, GS, GT = look(lambda t: measure_gradients(t), model, views, terms=terms)
    assert GS[0, 1] == pytest.approx(-1, abs=1e-6) and GT[0, 1] < 0 and GT[1, 0] < 0
    _, GS, GT = look(lambda t: measure_gradients(t), *twins(), terms=terms | dict(Y=lambda o, y: -(o - y)**2))
    assert GS[0, 1] == pytest.approx(-1, abs=1e-6) and GT[1, 0] < 0 and GT[0, 1].isnan()  # of a loss below 0 there is no share


def test_a_share_of_a_loss_that_falls_below_0_is_undefined():
    terms, found = dict(X=lambda o, y: o + 1, Y=lambda o, y: o + 1), lambda step: look(lambda t: measure_gradients(t, 'sgd', step), *twins(), terms=terms)[2]
    assert 0 < found(.01)[1, 0] < 1 and found(100)[1, 0].isnan()


@pytest.mark.parametrize('way', ['sgd', 'optimizer', 'first-order'])
def test_a_frozen_encoder_gives_gt_0(way):
    model = net()
    for p in model.encoder.parameters(): p.requires_grad_(False)
    _, GS, GT = look(lambda t: measure_gradients(t, way), model, optimizer='adamw', at=2)
    off = ~torch.eye(3, dtype=bool)
    assert (GT[off] == 0).all() and GS.isnan().all()


def test_a_partner_without_gradient_gives_gt_0_and_nothing_else():
    model = net(dropout=0.)
    with torch.no_grad(): model.decoders['Y'][1].weight.zero_()
    _, GS, GT = look(lambda t: measure_gradients(t), model)
    assert GT[1, 0] == GT[1, 2] == 0 and GT[0, 1] == 0 and GT[0, 2] != 0 and GS[1].isnan().all() and GS[:, 1].isnan().all() and GS[0, 2].isfinite()
    _, _, GT = look(lambda t: measure_gradients(t, 'optimizer'), model, optimizer='adamw', weight_decay=.1)
    assert GT[1, 0] != 0  # AdamW moves by itself


def test_some_frozen_layers_stay_where_they_are():
    model = net(dropout=0.)
    for p in model.encoder[0].parameters(): p.requires_grad_(False)
    def compare(t):
        copy = deepcopy(t.net)
        rows = []
        for k in t.keys:
            l = t.task_losses(copy(t.images), t.targets, t.masks)[k]
            rows.append(torch.cat([x.flatten() for x in torch.autograd.grad(l, [p for p in copy.shared_parameters() if p.requires_grad])]))
        return cosines(torch.stack(rows))[0], measure_gradients(t)[1]
    expected, found = look(compare, model)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


# ---- no trace in the training

class Trace(Callback):
    "All that there is of a training after each step, as bits."
    def __init__(self): self.seen = []
    def before_step(self, t): self.held = [getattr(t, k, None) for k in ('outputs', 'counts', 'losses')]
    def after_backward(self, t): self.seen.append([p.grad.clone() for p in t.net.parameters()])
    def after_step(self, t):
        moments = [x.clone() for s in t.optimizer.state_dict()['state'].values() for x in s.values() if torch.is_tensor(x)]
        self.seen.append([*(x.clone() for x in t.net.state_dict().values()), *moments, torch.random.get_rng_state(), torch.stack(list(t.losses.values())).detach()])

class Same(Callback):
    "Whether what a training holds is the same objects before and after the probe, between this callback and the one made `after` it."
    KEYS = ('outputs', 'counts', 'losses', 'images', 'targets', 'masks')
    def before_step(self, t): self.held = [getattr(t, k, None) for k in self.KEYS], [p.grad for p in t.net.parameters()], [id(p) for p in t.net.parameters()]
class After(Callback):
    def __init__(self, first): self.first = first
    def before_step(self, t):
        held, grads, ids = self.first.held
        assert all(getattr(t, k, None) is x for k, x in zip(Same.KEYS, held)) and all(p.grad is g for p, g in zip(t.net.parameters(), grads))
        assert ids == [id(p) for p in t.net.parameters()] and all(p.requires_grad for p in t.net.parameters()) and all(m.training for m in t.net.modules())
        assert not any(m._forward_hooks or m._backward_hooks for m in t.net.modules())


def trained(probes=(), views=None, **changes):
    given = {k: changes.pop(k) for k in ('folder', 'balancing', 'seed', 'device') if k in changes}
    trace, same, views = Trace(), Same(), views or data(20)
    t = fit(net(), views, data(8, seed=5), get_recipe('quick', **dict(epochs=3, batch=4) | changes), [trace, same, *probes, After(same)], **dict(device='cpu') | given)
    return t, trace.seen


@pytest.mark.parametrize('way', ['sgd', 'optimizer', 'first-order', None])
@pytest.mark.parametrize('changes', [{}, dict(optimizer='sgd', schedule='plateau'), dict(precision='bf16')], ids=str)
def test_networks_with_and_without_the_probe_are_the_same_to_the_last_bit(way, changes):
    t, seen = trained(**changes)
    u, found = trained([GradientProbe(.5, 2, way)], **changes)
    assert len(seen) == len(found) == 30
    for a, b in zip(seen, found): assert len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))
    pd.testing.assert_frame_equal(t.history.drop(columns='seconds'), u.history.drop(columns='seconds'), check_exact=True)
    for (n, x), y in zip(t.net.state_dict().items(), u.net.state_dict().values()): assert torch.equal(x, y), n


@pytest.mark.parametrize('name', ['gradnorm', 'pcgrad'])
def test_balancing_is_not_disturbed(name):
    (_, seen), (_, found) = trained(balancing=get_balancing(name)), trained([GradientProbe(.5, 2)], balancing=get_balancing(name))
    for a, b in zip(seen, found, strict=True): assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_random_layers_draw_the_same_before_and_after_the_step():
    "Dropout of 80% and a tiny step: with other numbers GT would be far from 0."
    GT = look(lambda t: measure_gradients(t, 'sgd', 1e-6)[2], net(dropout=.8))
    assert GT.fill_diagonal_(0).abs().max() < 1e-4
    first, second = look(lambda t: (measure_gradients(t), measure_gradients(t)), net(dropout=.8))
    for a, b in zip(first, second): assert torch.equal(a.nan_to_num(9), b.nan_to_num(9))


# ---- when, and through an interruption

def test_which_steps_are_looked_at():
    at = lambda per_epoch, epochs=4, **k: [GradientProbe(**k).steps(e, per_epoch) for e in range(1, epochs + 1)]
    assert at(62) == [[31]]*4 and at(1) == [[0]]*4 and at(2) == [[1]]*4
    assert at(62, every=2) == [[31], [], [31], []] and at(62, every=99)[0] == [31] and at(62, 100, every=99)[99] == [31]
    assert at(62, every=.25) == [[7, 23, 38, 54]]*4 and at(3, 1, every=.25) == [[0, 1, 2]] and at(1, 1, every=1/3) == [[0]]
    assert at(62, 1, batches=4) == [[29, 30, 31, 32]] and at(5, 1, batches=4) == [[0, 1, 2, 3]] and at(5, 1, batches=9) == [[0, 1, 2, 3, 4]]
    assert at(10, 1, batches=2, every=.5) == [[1, 2, 6, 7]]
    for per_epoch in range(1, 30):
        for n in range(1, 9):
            for m in range(1, 6):
                found = GradientProbe(1/n, m).steps(1, per_epoch)
                assert found and found == sorted(set(found)) and 0 <= found[0] and found[-1] < per_epoch and len(found) <= n*m
                if n*m*2 <= per_epoch: assert len(found) == n*m


def test_the_table():
    t, _ = trained([probe := GradientProbe(.5)])
    table = probe.table()
    assert list(table.columns) == COLUMNS and len(table) == 3*2*6 and table.notna().all(axis=None)
    assert table.step.drop_duplicates().tolist() == [1, 3, 6, 8, 11, 13] and (table.epoch == table.step//5 + 1).all()
    assert table.partner.tolist() == ['X', 'X', 'Y', 'Y', 'Z', 'Z']*6 and table.target.tolist() == ['Y', 'Z', 'X', 'Z', 'X', 'Y']*6
    assert np.allclose(table.forward*6, 4*4) and np.allclose(table.backward*6, 4*3) and (table.seconds > 0).all()
    assert (table.groupby(['step', 'target']).loss.nunique() == 1).all()
    pd.testing.assert_frame_equal(pd.DataFrame(table), probe.table())


class Stop(Callback):
    "Ends the program's work in some epoch."
    def __init__(self, at): self.at = at
    def after_step(self, t):
        if t.step == self.at: raise KeyboardInterrupt


@pytest.mark.parametrize('at', [3, 8, 15])
def test_an_interrupted_training_gives_the_same_table(tmp_path, at):
    _, whole = trained([one := GradientProbe(.5)])
    with pytest.raises(KeyboardInterrupt): trained([GradientProbe(.5), Stop(at)], folder=tmp_path)
    t, _ = trained([two := GradientProbe(.5)], folder=tmp_path)
    pd.testing.assert_frame_equal(one.table().drop(columns=['seconds', 'seconds_GS']), two.table().drop(columns=['seconds', 'seconds_GS']), check_exact=True)
    trained([three := GradientProbe(.5)], folder=tmp_path)  # finished: nothing is trained
    pd.testing.assert_frame_equal(two.table(), three.table(), check_exact=True)


def test_other_arguments_are_not_gone_on_with(tmp_path):
    with pytest.raises(KeyboardInterrupt): trained([GradientProbe(.5), Stop(8)], folder=tmp_path)
    with pytest.raises(ValueError, match='begun with every=0.5, not 1'): trained([GradientProbe()], folder=tmp_path)
    with pytest.raises(ValueError, match='GradientProbe'): trained(folder=tmp_path)


# ---- labels and numbers of every kind

def test_a_task_without_a_label_is_left_out():
    views, known = data(lack='Y'), data().statistics()
    loss, GS, GT = look(lambda t: measure_gradients(t), views=views, statistics=known)
    assert loss.isnan().tolist() == [False, True, False]
    for x in (GS, GT): assert x[1].isnan().all() and x[:, 1].isnan().all() and x[0, 2].isfinite() and x[2, 0].isfinite()
    rest = net(dropout=0.)
    found = look(lambda t: (measure_gradients(t)[1][0, 2], measure_gradients(t)[2][2, 0]), rest, views, statistics=known)
    alone = look(lambda t: (measure_gradients(t)[1][0, 1], measure_gradients(t)[2][1, 0]), net(dropout=0.).only(['X', 'Z']), views)
    for a, b in zip(found, alone): assert a == pytest.approx(b.item(), abs=1e-6)


def test_numbers_and_classes_of_images():
    tasks = (A, NUMBER, KIND)
    _, GS, GT = look(lambda t: measure_gradients(t), net(tasks), data(tasks=tasks))
    off = ~torch.eye(3, dtype=bool)
    assert GS.isfinite().all() and GT[off].isfinite().all() and (GT[off] != 0).all() and GT[off].max() < 1


def test_a_loss_of_zero_and_gradients_that_are_not_finite():
    terms = dict(X=lambda o, y: 0*o, Z=lambda o, y: (o.abs() - o.abs().detach()).mean(1, keepdim=True).expand_as(y)**.5 + 1)  # slope of √0
    loss, GS, GT = look(lambda t: measure_gradients(t), net(dropout=0.), terms=terms)
    off = ~torch.eye(3, dtype=bool)
    assert loss[0] == 0 and loss[2] == 1 and GS[off].isnan().all()
    assert GT[:, 0].isnan().all() and GT[2].isnan().all() and GT[0, 1] == GT[0, 2] == 0 and GT[1, 2].isfinite()
    _, _, first = look(lambda t: measure_gradients(t, 'first-order'), net(dropout=0.), terms=terms)
    assert first[2].isnan().all() and first[1, 2].isnan() and first[0, 1] == 0


def test_bf16_is_near_fp32():
    "Of scores that are far from 0, so that the last digits of bf16 do not hide in the bound."
    fp32, bf16 = (look(lambda t: measure_gradients(t, 'sgd', .3), net(dropout=0.), precision=p, flip=False) for p in ('fp32', 'bf16'))
    off = ~torch.eye(3, dtype=bool)
    assert fp32[1][off].abs().max() > .1 and fp32[2][off].abs().max() > .1
    assert all((x - y)[off].abs().max() < 1e-2 for x, y in zip(fp32[1:], bf16[1:])) and not torch.equal(fp32[1], bf16[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('way', ['sgd', 'optimizer', 'first-order'])
def test_a_gpu_gives_the_same(way):
    cpu, gpu = (look(lambda t: measure_gradients(t, way), net(dropout=0.), device=d, flip=False) for d in ('cpu', 'cuda'))
    for x, y in zip(cpu, gpu): torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-4, equal_nan=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_the_probe_leaves_no_trace_on_a_gpu():
    "Its kernels may differ in the last bit from run to run, so the losses are compared, not the bits."
    (t, _), (u, _) = trained(device='cuda'), trained([GradientProbe(.5, 2)], device='cuda')
    pd.testing.assert_frame_equal(t.history.drop(columns='seconds'), u.history.drop(columns='seconds'), rtol=1e-3)


def test_scaled_losses_of_fp16_are_scaled_back():
    class Scaled(Look): pass
    def compare(t):
        plain = measure_gradients(t), measure_gradients(t, 'first-order')
        t.accelerator.scaler = torch.amp.GradScaler('cpu', init_scale=2.**10)
        try: return plain, (measure_gradients(t), measure_gradients(t, 'first-order'))
        finally: t.accelerator.scaler = None
    plain, scaled = look(compare, net(dropout=0.))
    for a, b in zip(plain, scaled):
        for x, y in zip(a, b): torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-7, equal_nan=True)


# ---- one task, other networks, wrong arguments

def test_a_single_task_has_an_empty_table():
    probe = GradientProbe()
    fit(net([A]), data(tasks=[A]), data(tasks=[A]), get_recipe('quick', epochs=1, batch=8), probe, device='cpu')
    assert list(probe.table().columns) == COLUMNS and probe.table().empty and GradientProbe().table().empty


class Plain(nn.Module):
    "Not a `MultiTaskNet`; its heads draw random numbers one after the other."
    tasks = ['X', 'Y', 'Z']
    def __init__(self, dropout=.7, tasks=(A, B, C)):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.heads = nn.Conv2d(3, 6, 3, padding=1), nn.ModuleDict({t.key: nn.Sequential(nn.Dropout(dropout), nn.Conv2d(6, t.channels, 1)) for t in tasks})
    def forward(self, x): x = self.body(x).tanh(); return {k: h(x) for k, h in self.heads.items()}

class Told(Plain):
    def shared_parameters(self): return list(self.body.parameters())


def test_another_network_has_to_tell_what_is_shared():
    fitted = lambda model, probe: fit(model, data(), data(), get_recipe('quick', epochs=1, batch=8), probe, device='cpu')
    with pytest.raises(ValueError, match='a Plain has no shared_parameters'): fitted(Plain(), GradientProbe())
    fitted(Told(), probe := GradientProbe(step=1e-3))
    assert len(probe.table()) == 6 and probe.table().GT.abs().max() < 1e-2 and (probe.table().GT != 0).all()


def test_the_order_in_which_a_network_names_its_tasks_does_not_matter():
    "Labels of one task are missing, so that a mix-up would be seen."
    tables = []
    for tasks in (['D', 'flow'], ['flow', 'D']):
        views = data(tasks=(DEPTH, FLOW), lack=['D'])
        model = Told(tasks=(DEPTH, FLOW), dropout=0.)
        model.tasks = tasks
        fit(model, views, data(8, tasks=(DEPTH, FLOW)), get_recipe('quick', epochs=1, batch=8), probe := GradientProbe(), device='cpu', statistics=data(tasks=(DEPTH, FLOW)).statistics())
        tables.append(probe.table().drop(columns=['seconds', 'seconds_GS']))
    pd.testing.assert_frame_equal(*tables)
    assert tables[0].set_index('target').loss.isna().to_dict() == dict(D=True, flow=False)


@pytest.mark.parametrize('wrong, words', [(dict(every=0), 'every is 0'), (dict(every=.3), 'every is 0.3'), (dict(every=1.5), 'every is 1.5'), (dict(every='1'), "every is '1'"),
    (dict(batches=0), 'batches is 0'), (dict(batches=1.5), 'batches is 1.5'), (dict(look_ahead='adam'), "look_ahead is 'adam'"), (dict(step=0), 'the step is 0'),
    (dict(look_ahead='optimizer', step=.1), "look_ahead 'optimizer' takes no step"), (dict(look_ahead=None, step=.1), 'takes no step'), (dict(step=float('nan')), 'step is nan')])
def test_wrong_arguments(wrong, words):
    with pytest.raises(ValueError, match=words): GradientProbe(**wrong)


# ---- several processes

def three_ways():
    "{look-ahead: table} of short trainings without BatchNorm or dropout, which differ between processes; the labels are spread unevenly."
    model, found = lambda: Told(0.), {}
    for way in ('sgd', 'optimizer', 'first-order'):
        views = data(16)
        for k in 'XZ': views._masks[k][::3] = False
        fit(model(), views, data(8, seed=5), get_recipe('quick', epochs=2, batch=8), probe := GradientProbe(.5, look_ahead=way), device='cpu')
        found[way] = probe.table().drop(columns=['seconds', 'seconds_GS']).to_dict('list')
    return found


SCRIPT = """
import json, os, sys
sys.path.insert(0, sys.argv[2])
from test_affinity_gradients import three_ways
with open(f"{sys.argv[1]}-{os.environ['RANK']}.json", 'w') as f: json.dump(three_ways(), f)
"""

def test_two_processes_give_what_one_gives(tmp_path):
    (tmp_path/'script.py').write_text(SCRIPT)
    env, here = os.environ | dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES=''), os.path.dirname(__file__)
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    done = subprocess.run([*launcher, tmp_path/'script.py', tmp_path/'two', here], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    one, (two, other) = three_ways(), (json.loads((tmp_path/f'two-{i}.json').read_text()) for i in (0, 1))
    for way in one:
        a, b = pd.DataFrame(one[way]), pd.DataFrame(two[way])
        pd.testing.assert_frame_equal(a, b, rtol=1e-4, atol=1e-6)
        pd.testing.assert_frame_equal(b, pd.DataFrame(other[way]), check_exact=True)
        assert a.notna().all(axis=None) and len(a) == 24


# ---- the scores

def probes(names, rows=((1, .1, .2), (1, .3, .4), (2, .5, .45)), tasks='SDN'):
    "Made-up tables: (epoch, GS, GT); GT is twice as large for a target before its partner in the order of the columns."
    found = []
    for n in names:
        own = [k for k in tasks if k in n.split('@')[0].split('+')[0].split('<')[0]]
        for s, (e, gs, gt) in enumerate(rows):
            found += [dict(network=n, epoch=e, step=s, partner=b, target=a, GS=gs, GT=gt*(2 if tasks.index(a) < tasks.index(b) else 1), loss=1.) for b in own for a in own if a != b]
    return pd.DataFrame(found)


def test_means_are_taken_within_epochs_and_then_over_them():
    table = probes(['SD', 'SN', 'DN', 'SDN', 'SD@0.5', 'SDN+gradnorm', 'S<D'])
    table.loc[table.network.isin(['SDN', 'SD@0.5', 'SDN+gradnorm']), ['GS', 'GT']] = .7, .8
    GS, GT = SCORES['GS'](table), SCORES['GT'](table)
    assert list(GS.index) == list(GS.columns) == list('SDN') and GS.index.name == 'partner' and np.isnan(np.diag(GS)).all()
    assert GS.loc['S', 'D'] == pytest.approx((.2 + .5)/2) and GT.loc['S', 'D'] == pytest.approx((.3 + .45)/2) and GT.loc['D', 'S'] == pytest.approx(.3 + .45)
    assert SCORES['GS'].symmetric and not SCORES['GT'].symmetric and SCORES['GS'].range == (-1, 1) and {s.needs for s in (SCORES['GS'], SCORES['GT'])} == {'joint networks'}
    assert SCORES['GS'](table, joint='all').loc['N', 'S'] == pytest.approx(.7) and SCORES['GT'](table, joint='all').loc['N', 'S'] == pytest.approx(.8)
    shuffled = table.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(SCORES['GS'](shuffled), GS)


def test_networks_that_lack_are_named():
    with pytest.raises(ValueError, match=r'none of the networks SN, DN$'): gradient_similarity(probes(['SD', 'SDN']))
    with pytest.raises(ValueError, match=r'none of the network SDN$'): gradient_transference(probes(['SD', 'SN', 'DN', 'SDN@0.5']), joint='all')
    with pytest.raises(ValueError, match="joint networks 'each'"): gradient_similarity(probes(['SD']), joint='each')
    with pytest.raises(ValueError, match="no column 'network'"): gradient_similarity(probes(['SD']).drop(columns='network'))
    with pytest.raises(ValueError, match='there are none$'): gradient_similarity(probes(['SD'])[:0])
    with pytest.raises(ValueError, match="'SDX'"): gradient_similarity(probes(['SD']).replace('SD', 'SDX'))


def test_own_tasks_of_any_name():
    table = pd.DataFrame([dict(network=n, epoch=1, step=0, partner=b, target=a, GS=.5, GT=.1, loss=1.)
                          for n, own in {'seg+S': ['S', 'seg'], 'S+depth': ['S', 'depth'], 'seg+depth': ['seg', 'depth']}.items() for b in own for a in own if a != b])
    assert gradient_similarity(table).shape == (3, 3) and list(gradient_similarity(table).index) == ['S', 'seg', 'depth']


def test_undefined_probes_are_left_out_and_counted():
    table = probes(['SDN'])
    table.loc[(table.step == 1) & ((table.partner == 'D') | (table.target == 'D')), ['GS', 'GT']] = np.nan
    with pytest.warns(UserWarning, match='network SDN: GS leaves out 1 of 3 probes of D,') as seen: GS = gradient_similarity(table, joint='all')
    assert len(seen) == 1 and GS.loc['S', 'D'] == pytest.approx((.1 + .5)/2) and GS.loc['S', 'N'] == pytest.approx((.2 + .5)/2)
    table.loc[table.partner == 'D', ['GS', 'GT']] = np.nan
    with pytest.warns(UserWarning, match='GT leaves out 3 of 3 probes of D,'): GT = gradient_transference(table, joint='all')
    assert GT.loc['D'].isna().all() and np.isfinite(GT.loc['S', 'D'])
    table = probes(['SDN'])
    table.loc[1, 'GT'] = np.nan
    with pytest.warns(UserWarning, match='GT leaves out 1 of 3 probes of N,'): gradient_transference(table, joint='all')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        gradient_similarity(table, joint='all')


def test_a_campaign_writes_the_table_beside_each_network(tmp_path):
    from its_a_match.campaign import plan, run
    views = dict(train=data(16), val=data(8, seed=1), test=data(8, seed=2))
    small = lambda tasks, size=1, injected=None: net(tasks)
    run(plan((A, B, C), sizes=(1,)), views, tmp_path, model=small, recipe=get_recipe('quick', epochs=2, batch=8), probes={'gradients': GradientProbe}, device='cpu', progress=False, processes=1)
    found = {f.parent: pd.read_csv(f) for f in sorted(tmp_path.rglob('gradients.csv'))}
    assert len(found) == 7 and all(list(t.columns) == COLUMNS for t in found.values()) and sorted(map(len, found.values())) == [0, 0, 0, 4, 4, 4, 12]
