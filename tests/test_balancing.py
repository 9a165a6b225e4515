"Balancing: GradNorm and TorchJD's aggregators against their own definitions, in fp16, with missing labels, over processes, and through a resume."
import os, socket, subprocess, sys, warnings
from importlib.util import find_spec
from types import SimpleNamespace

import pytest, torch
from torch import nn
from torchjd import aggregation

from its_a_match.balancing import AGGREGATORS, BALANCING, Aggregated, GradNorm, get_balancing, gradient
from its_a_match.batches import MemoryDataset
from its_a_match.losses import TaskLosses
from its_a_match.models import MultiTaskNet, get_model
from its_a_match.tasks import Task
from its_a_match.training import Callback, EqualWeights, fit, get_recipe

@pytest.fixture(autouse=True)
def solvers(request):
    if 'nash' in request.node.name: request.getfixturevalue('nash')

HERE = [n for n in BALANCING if n != 'nash-mtl' or find_spec('ecos') or sys.version_info < (3, 13)]  # of those that can be had

A, B, C = (Task(n, 'xyz'[i].upper(), channels=c) for i, (n, c) in enumerate((('a', 1), ('b', 3), ('c', 2))))


def data(n=8, tasks=(A, B, C), seed=0, lack=(), size=8):
    "Made-up views; `lack` names tasks without any label."
    g = torch.Generator().manual_seed(seed)
    images = torch.rand(n, 3, size, size, generator=g)
    mixed = {t.key: torch.einsum('bchw,dc->bdhw', images, torch.randn(t.channels, 3, generator=torch.Generator().manual_seed(i))) for i, t in enumerate(tasks)}
    targets = {k: (x + .1*torch.randn(x.shape, generator=g))*10**i for i, (k, x) in enumerate(mixed.items())}
    masks = {t.key: torch.zeros(n, 1, size, size) > 0 if t.key in lack else torch.rand(n, 1, size, size, generator=g) < .8 for t in tasks}
    return MemoryDataset(tasks, images, targets, masks)


def plain(tasks=(A, B, C), seed=0):
    "A network without normalisation."
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5).eval())
    encoder[-1].train = lambda mode=True: encoder[-1]
    return MultiTaskNet(encoder, {t: nn.Conv2d(5, t.channels, 1) for t in tasks})


def training(net, batch, step=1, scaler=None, processes=None, reduce=lambda ls: sum(ls)/len(ls)):
    "What a balancing sees of a step."
    images, targets, masks = batch
    reduced = processes.reduce if processes else None
    accelerator = SimpleNamespace(num_processes=processes.num_processes if processes else 1, scaler=scaler, reduce=reduced,
                                  backward=lambda l: (l if scaler is None else scaler.scale(l)).backward())
    tasks = [t for t in (A, B, C) if t.key in net.tasks]
    kept = {}
    def divisor(counts):
        kept['counts'] = processes.reduce(counts, 'mean') if processes else counts
        return kept['counts']
    losses = TaskLosses(tasks)(net(images), targets, masks, divisor)
    return SimpleNamespace(net=net, losses=losses, counts=kept['counts'], step=step, seed=0, reduce=lambda ls, ws=None: reduce([w*l for w, l in zip(ws or [1]*len(ls), ls)]), accelerator=accelerator,
                           scale=scaler.get_scale() if scaler else 1, recipe=SimpleNamespace(compile=False))


def grads(net, balancing, batch, **kwargs):
    "All gradients after a backward pass, by name."
    net.zero_grad()
    balancing.backward(training(net, batch, **kwargs))
    return {n: p.grad.clone() for n, p in net.named_parameters()}


def jacobian(net, batch):
    t = training(net, batch)
    return torch.stack([gradient(t, k, net.shared_parameters()) for k in t.losses])


def flat(grads, net):
    names = {id(p): n for n, p in net.named_parameters()}
    return torch.cat([grads[names[id(p)]].reshape(-1) for p in net.shared_parameters()])


def close(a, b, rtol=1e-4):
    assert (a - b).norm() <= rtol*b.norm(), ((a - b).norm()/b.norm())


# ---- the aggregators

@pytest.mark.parametrize('name', AGGREGATORS)
def test_a_network_gets_what_torchjd_makes_of_its_jacobian(name):
    net, batch = plain(), data().batch(range(8))
    cls, own, _ = AGGREGATORS[name]
    peer = getattr(aggregation, cls)(**own | (dict(n_tasks=3) if name == 'nash-mtl' else {}))
    J = jacobian(net, batch)
    if name == 'pcgrad':
        found = flat(grads(net, Aggregated(name), batch), net)
        seen = []
        for i in range(60):
            torch.manual_seed(i)
            seen.append(peer(J))
        assert min((found - s).norm()/s.norm() for s in seen) < 1e-4  # one of the orders that there are
        return
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        expected = peer(J)
    close(flat(grads(net, Aggregated(name), batch), net), expected, 2e-3 if name in ('nash-mtl', 'mgda') else 1e-4)


def test_the_mean_of_gradients_is_the_gradient_of_the_mean_and_decoders_have_their_own():
    net, batch = plain(), data().batch(range(8))
    equal, mean = grads(net, EqualWeights(), batch), grads(net, Aggregated(aggregation.Mean()), batch)
    for n in equal: torch.testing.assert_close(mean[n], equal[n]*(3 if n.startswith('decoders') else 1), rtol=1e-4, atol=1e-6)
    equal, total = grads(net, EqualWeights(), batch, reduce=sum), grads(net, Aggregated(aggregation.Sum()), batch, reduce=sum)
    for n in equal: torch.testing.assert_close(total[n], equal[n], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name', AGGREGATORS)
def test_a_task_without_labels_is_left_out(name):
    net, batch, two = plain(), data(lack='Y').batch(range(8)), data(lack='Y').batch(range(8))
    found = grads(net, Aggregated(name), batch)
    rest = net.only(['X', 'Z'])
    images, targets, masks = two
    expected = grads(rest, Aggregated(name), (images, *({k: d[k] for k in 'XZ'} for d in (targets, masks))))
    for n, g in expected.items(): torch.testing.assert_close(found[n], g, rtol=1e-5, atol=1e-7)
    assert all((g == 0).all() for n, g in found.items() if n.startswith('decoders.Y'))
    assert any((g != 0).any() for n, g in found.items() if n.startswith('encoder'))


@pytest.mark.parametrize('name', BALANCING)
def test_a_single_task_has_its_own_gradient(name):
    net, batch = plain([B]), data(tasks=[B]).batch(range(8))
    for n, g in grads(net, EqualWeights(), batch).items(): torch.testing.assert_close(grads(net, get_balancing(name), batch)[n], g, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('name', BALANCING)
def test_no_label_at_all_moves_nothing(name):
    found = grads(plain(), get_balancing(name), data(lack='XYZ').batch(range(8)))
    assert all((g == 0).all() for g in found.values())


@pytest.mark.parametrize('name', BALANCING)
def test_scaled_losses_give_scaled_gradients(name):
    net, batch, scaler = plain(), data().batch(range(8)), torch.amp.GradScaler('cpu', init_scale=2.**14)
    one, other = (get_balancing(name) for _ in range(2))
    for step in (1, 2):
        expected, found = grads(net, one, batch, step=step), grads(net, other, batch, scaler=scaler, step=step)
        for n, g in expected.items(): torch.testing.assert_close(found[n]/2**14, g, rtol=1e-3, atol=1e-5)


def test_a_scaler_skips_a_step_that_is_not_finite():
    for name in HERE:
        net, batch = plain(), data().batch(range(8))
        balancing, scaler, opt = get_balancing(name), torch.amp.GradScaler('cpu'), torch.optim.SGD(net.parameters(), .1)
        before = {n: p.clone() for n, p in net.named_parameters()}
        t = training(net, batch, scaler=scaler)
        t.losses['Y'] = t.losses['Y']*float('inf')
        balancing.backward(t)
        scaler.step(opt); scaler.update()
        assert all(torch.equal(p, before[n]) for n, p in net.named_parameters()), name
        assert scaler.get_scale() < 65536
        if name == 'gradnorm': assert balancing.state()['weights'].isfinite().all()


@pytest.mark.parametrize('name', AGGREGATORS)
def test_gradients_lie_in_memory_as_their_parameters_do(name):
    net = plain().to(memory_format=torch.channels_last)
    grads(net, Aggregated(name), data().batch(range(8)))
    assert all(p.grad.stride() == p.stride() for p in net.parameters())


def test_frozen_weights_are_left_alone():
    net, batch = plain(), data().batch(range(8))
    net.encoder[0].requires_grad_(False)
    net.decoders['X'].requires_grad_(False)
    Aggregated('mgda').backward(training(net, batch))
    assert net.encoder[0].weight.grad is None and net.decoders['X'].weight.grad is None and net.encoder[2].weight.grad is not None
    net.encoder.requires_grad_(False)
    net.zero_grad()
    Aggregated('mgda').backward(training(net, batch))
    assert net.decoders['Y'].weight.grad.any() and net.encoder[2].weight.grad is None


def test_short_gradients_are_no_special_case():
    "TorchJD's CAGrad takes a Jacobian of norm below 0.01 for zero."
    J = torch.tensor([[3., 4], [4., 3]])/1e4
    for name in {*AGGREGATORS} - {'nash-mtl'}:  # whose steps have a greatest length
        close(Aggregated(name).weights(J @ J.T, ('a', 'b')), Aggregated(name).weights(1e8*J @ J.T, ('a', 'b')))
    assert Aggregated('cagrad').weights(J @ J.T, ('a', 'b')).sum() > 1
    assert not aggregation.CAGrad(c=.4)(J).any()  # else the care taken here can go


# ---- GradNorm

def test_gradnorm_follows_the_paper_s_algorithm():
    "Against the loss of the paper's equation 2, differentiated by torch through the norms and stepped by torch's own Adam."
    net, batch = plain(), data().batch(range(8))
    g, w = GradNorm(alpha=1.5, lr=.03), torch.ones(3, dtype=torch.double, requires_grad=True)
    adam, first, W = torch.optim.Adam([w], .03), None, net.encoder[2].weight
    opt = torch.optim.SGD(net.parameters(), 1e-3)
    for step in range(1, 8):
        t = training(net, batch, step=step)
        losses = torch.stack(list(t.losses.values())).detach().double()
        first = losses if first is None else first
        norms = torch.stack([torch.autograd.grad(w[i].float()*l, W, retain_graph=True, create_graph=True)[0].norm() for i, l in enumerate(t.losses.values())])
        r = losses/first
        aim = (norms.mean()*(r/r.mean())**1.5).detach()
        used = w.detach().clone()
        adam.zero_grad()
        (norms - aim).abs().sum().backward(retain_graph=True, inputs=[w])
        net.zero_grad()
        g.backward(training(net, batch, step=step))
        torch.testing.assert_close(net.encoder[0].weight.grad, torch.autograd.grad(sum(u*l for u, l in zip(used.tolist(), t.losses.values()))/3, net.encoder[0].weight)[0])
        adam.step()
        with torch.no_grad(): w.mul_(3/w.sum())
        opt.step()
        torch.testing.assert_close(g.state()['weights'], w.detach(), rtol=1e-4, atol=1e-6)
    assert (g.state()['weights'] - 1).abs().min() > .01 and g.table().index.tolist() == list(range(1, 8)) and (g.table().loc[1] == 1).all()


def test_gradnorm_finds_the_last_layer():
    net = get_model('small', 'SD', seed=0)
    found = GradNorm().parameter(net)
    last = [p for p in net.encoder.parameters() if p.ndim > 1][-1]
    assert found is last
    name = next(n for n, p in net.named_parameters() if p is net.encoder.get_parameter(next(n for n, p in net.encoder.named_parameters())))
    assert GradNorm(layer=name).parameter(net) is dict(net.named_parameters())[name]
    with pytest.raises(ValueError, match='not the name of a trained parameter of the encoder'): GradNorm(layer='decoders.S.0.weight').parameter(net)
    net.encoder.requires_grad_(False)
    with pytest.raises(ValueError, match='the encoder has no layer'): GradNorm().parameter(net)


def test_gradnorm_leaves_the_weight_of_a_missing_task():
    g, net, batch = GradNorm(lr=.1), plain(), data(lack='Y').batch(range(8))
    for step in range(4): grads(net, g, batch, step=step)
    x, y, z = g.state()['weights'].tolist()
    assert y == pytest.approx(1, abs=.02) and abs(x - z) > .1 and x + y + z == pytest.approx(3)
    grads(net, g, data().batch(range(8)), step=5)  # its first loss is that of the first batch with a label
    assert g.state()['first'].isfinite().all()


# ---- in training

class Stop(Callback):
    "Breaks a training off after an epoch."
    def after_save(self, t):
        if t.epoch == 2: raise KeyboardInterrupt


def train(name, folder=None, callbacks=(), tasks=(A, B, C)):
    balancing = get_balancing(name)
    t = fit(get_model('small', tasks, seed=3), data(40, tasks, size=16), data(8, tasks, seed=1, size=16), get_recipe('quick', batch=8, epochs=4), balancing=balancing, callbacks=callbacks, folder=folder, device='cpu')
    return t, balancing


def weights_after_fit(name):
    "All weights of a network without normalisation after three steps."
    t = fit(plain(), data(24), data(8, seed=1), get_recipe('quick', optimizer='sgd', lr=.01, batch=8, epochs=1), balancing=get_balancing(name), device='cpu')
    return torch.cat([p.detach().reshape(-1) for p in t.net.parameters()])


@pytest.mark.parametrize('name', ('gradnorm', 'pcgrad', 'nash-mtl'))
def test_a_resumed_training_ends_with_the_same_bits(name, tmp_path):
    whole, one = train(name)
    with pytest.raises(KeyboardInterrupt): train(name, tmp_path, [Stop()])
    torch.rand(3)
    rest, other = train(name, tmp_path)
    for (n, p), q in zip(whole.net.named_parameters(), rest.net.parameters()): assert torch.equal(p, q), n
    columns = ['epoch', 'step', 'split', 'task', 'loss', 'lr']
    assert whole.history[columns].equals(rest.history[columns])
    if name == 'gradnorm':
        assert one.table().equals(other.table()) and len(one.table()) == 20
        assert (one.table().iloc[-1] - 1).abs().max() > .05


def test_the_same_seed_gives_the_same_bits_and_leaves_the_program_s_random_numbers():
    torch.manual_seed(7); before = torch.get_rng_state()
    (one, _), (two, _) = train('pcgrad'), train('pcgrad')
    assert all(torch.equal(p, q) for p, q in zip(one.net.parameters(), two.net.parameters()))
    assert torch.equal(before, torch.get_rng_state())


# ---- several processes

FITTED = ('gradnorm', 'mgda')  # by way of `fit`, one that leaves the averaging to DDP and one that does not

SCRIPT = '''
import os, sys, torch
sys.path.insert(0, sys.argv[1])
from test_balancing import *
from its_a_match.recipes import get_accelerator
torch.set_num_threads(1)
accelerator, out = get_accelerator('fp32', 'cpu'), {}
rank = accelerator.process_index
images, targets, masks = data().batch(range(8))
masks['Y'][1::2] = False          # the second process has no label of this task
mine = slice(rank, None, 2)
batch = images[mine], {k: x[mine] for k, x in targets.items()}, {k: x[mine] for k, x in masks.items()}
for name in HERE:
    balancing, net = get_balancing(name), plain()
    for step in (1, 2):
        g = grads(net, balancing, batch, step=step, processes=accelerator)
        if not balancing.own_reduction: g = {n: accelerator.reduce(x, 'mean') for n, x in g.items()}  # as DDP does
    out[name] = g
    if name in FITTED: out[name + ' fit'] = weights_after_fit(name)
torch.save(out, f'{sys.argv[2]}/{rank}.pt')
accelerator.end_training()
'''


def test_two_processes_give_the_gradients_of_one(tmp_path):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    (tmp_path/'two.py').write_text(SCRIPT)
    env = os.environ | dict(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), OMP_NUM_THREADS='1')
    here = os.path.dirname(__file__)
    running = [subprocess.Popen([sys.executable, tmp_path/'two.py', here, tmp_path], env=env | dict(RANK=str(r), LOCAL_RANK=str(r))) for r in range(2)]
    assert [p.wait(120) for p in running] == [0, 0]
    zero, one = (torch.load(tmp_path/f'{r}.pt', weights_only=True) for r in range(2))
    images, targets, masks = data().batch(range(8))
    masks['Y'][1::2] = False
    for name in HERE:
        balancing, net = get_balancing(name), plain()
        for step in (1, 2): expected = grads(net, balancing, (images, targets, masks), step=step)
        for n, g in expected.items():
            assert torch.equal(zero[name][n], one[name][n]), (name, n)
            torch.testing.assert_close(zero[name][n], g, rtol=5e-3, atol=1e-5, msg=lambda m: f'{name} {n}: {m}')
    for name in FITTED:
        assert torch.equal(zero[name + ' fit'], one[name + ' fit'])
        torch.testing.assert_close(zero[name + ' fit'], weights_after_fit(name), rtol=1e-3, atol=1e-5)


# ---- names, options and what is missing

@pytest.mark.parametrize('name, extra', [('cagrad', 'cagrad'), ('nash-mtl', 'nash-mtl'), ('upgrad', 'quadprog-projector')])
def test_a_missing_package_is_one_sentence(name, extra, monkeypatch):
    monkeypatch.setattr('torchjd._mixins.find_spec', lambda package: None)
    with pytest.raises(ImportError) as e: get_balancing(name)
    assert str(e.value) == f"the balancing '{name}' needs packages that are not installed: pip install 'torchjd[{extra}]'"


def test_without_torchjd_the_others_still_work(monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchjd', None)
    with pytest.raises(ImportError, match="the balancing 'mgda' needs TorchJD: pip install torchjd"): get_balancing('mgda')
    assert isinstance(get_balancing('gradnorm'), GradNorm) and isinstance(get_balancing('equal'), EqualWeights)


def test_importing_does_not_load_torchjd():
    found = subprocess.run([sys.executable, '-c', "import sys, its_a_match.balancing; print('torchjd' in sys.modules)"], capture_output=True, text=True, check=True)
    assert found.stdout == 'False\n'


def test_what_cannot_be_is_named():
    for bad, says in ((lambda: get_balancing('magic'), "no balancing 'magic'"), (lambda: get_balancing('cagrad', k=1), "'cagrad' has no option 'k', only c, norm_eps"),
                      (lambda: get_balancing('gradnorm', beta=1), "'gradnorm' has no option 'beta'"), (lambda: get_balancing('equal', beta=1), "'equal' has no option 'beta'"),
                      (lambda: GradNorm(alpha=-1), 'alpha is -1'), (lambda: GradNorm(lr=float('nan')), 'lr nan'),
                      (lambda: Aggregated(aggregation.GradVac()), 'keeps no state'), (lambda: Aggregated(aggregation.TrimmedMean(1)), 'not an aggregator')):
        with pytest.raises(ValueError, match=says): bad()


def test_names_are_fit_for_a_network_s_name():
    from its_a_match.tasks import network_name, parse_network
    for name in BALANCING: assert parse_network(network_name('SDNKE', 2, name), 'SDNKE').variant == name


def test_nash_keeps_a_state_for_each_set_of_tasks():
    one, net = Aggregated('nash-mtl'), plain()
    for step, lack in enumerate(['', 'Y', '']): grads(net, one, data(lack=lack).batch(range(8)), step=step)
    assert sorted(one.state()) == ['X+Y+Z', 'X+Z'] and one.state()['X+Y+Z']['step'] == 2
    other = Aggregated('nash-mtl')
    other.load(one.state())
    a, b = (grads(net, x, data(seed=5).batch(range(8))) for x in (one, other))
    assert all(torch.equal(a[n], b[n]) for n in a)
