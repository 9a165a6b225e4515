"IAS: maps against captum's own, the score against cosines pair by pair, its symmetries, undefined maps, and that nothing is disturbed."
import copy, subprocess, sys, warnings

import numpy as np, pytest, torch
from captum import attr
from torch import nn
from torch.nn import functional as F

from its_a_match.affinity.attribution import OF, attribution_map, attribution_similarities, attributions, input_attribution_similarity
from its_a_match.affinity.core import SCORES, Evidence, chosen_views, compute, settling
from its_a_match.memory import MemoryDataset
from its_a_match.models import MultiTaskNet, get_model
from its_a_match.tasks import Task, get_tasks

KIND, PLACE = Task('kind', kind='classes', channels=4, per_image=True), Task('place', kind='number', channels=3)
devices = pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no CUDA GPU'))])


def views(n=6, size=32, seed=0):
    "Images with large and small forms, (n, 3, size, size)."
    g = torch.Generator().manual_seed(seed)
    parts = [F.interpolate(torch.rand(n, 3, size//k, size//k, generator=g), (size, size), mode='nearest') for k in (1, 4, 16)]
    return sum(parts)/3


def labels(x):
    "Targets of S D N K E that can be learned from images."
    dx, dy = F.pad(x.diff(dim=3), (0, 1)).mean(1, keepdim=True), F.pad(x.diff(dim=2), (0, 0, 0, 1)).mean(1, keepdim=True)
    return dict(S=x.argmax(1) + 1, D=F.avg_pool2d(x.mean(1, keepdim=True), 5, 1, 2)*5, N=torch.cat([dx, dy, dx.abs()], 1)*4, K=dx*dy*20, E=(dx**2 + dy**2).sqrt()*5)


def settled(tasks, seed=0, size=32):
    "A network whose normalisation knows the images, so that its outputs are of ordinary size."
    net = get_model('small', tasks, seed=seed)
    with torch.no_grad():
        for i in range(20): net(views(8, size, 100 + i))
    return net.eval()


@pytest.fixture(scope='module')
def trained():
    "Five networks that have learned a little."
    nets = {}
    for i, k in enumerate('SDNKE'):
        nets[k] = net = get_model('small', k, seed=20 + i)
        opt = torch.optim.Adam(net.parameters(), 3e-3)
        for step in range(40):
            x = views(16, 32, step)
            out, y = net(x)[k], labels(x)[k]
            opt.zero_grad()
            (F.cross_entropy(out, y) if k == 'S' else F.mse_loss(out, y)).backward()
            opt.step()
        opt.zero_grad()
        net.eval()
    return nets


@pytest.fixture(scope='module')
def mixed():
    "A network each for classes at every pixel, numbers at every pixel, one class an image and numbers of an image."
    return {getattr(t, 'key', t): settled([t] if isinstance(t, Task) else t, i) for i, t in enumerate(('S', 'N', KIND, PLACE))}


class Weighted(nn.Module):
    def __init__(self, *weights):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))
    def forward(self, images): return (images.mean(1).flatten(1) @ self.weights)[:, None]


def linear(key, *weights): return MultiTaskNet(nn.Identity(), {Task(key, kind='number'): Weighted(*weights)}, mean=0., std=1.)


def numbers(*keys): return [Task(k, kind='number') for k in keys]


def grey(*rows): return torch.tensor(rows)[:, None, None].expand(-1, 3, -1, -1)


def naive(maps):
    "The mean cosine of two networks' maps, one image and one pair at a time, in numpy; an array by key."
    flat = {k: m.numpy().reshape(len(m), -1).astype(float) for k, m in maps.items()}
    cos = lambda a, b: np.mean([u @ v/np.sqrt(u @ u)/np.sqrt(v @ v) for u, v in zip(flat[a], flat[b])])
    return np.array([[np.nan if a == b else cos(a, b) for b in flat] for a in flat])


def state(net): return {k: v.clone() for k, v in net.state_dict().items()}


# ---- by hand

def test_two_pixels():
    nets = dict(a=linear('a', 1., 1.), b=linear('b', 1., 0.), c=linear('c', 0., 3.), d=linear('d', -2., -2.), e=linear('e', 5., 5.))
    table = input_attribution_similarity(nets, grey([.1, .2], [.3, .4]), tasks=numbers(*'abcde'))
    assert table.loc['a', 'e'] == pytest.approx(1, abs=1e-6)
    assert table.loc['a', 'd'] == pytest.approx(-1, abs=1e-6)
    assert table.loc['b', 'c'] == 0
    assert table.loc['a', 'b'] == pytest.approx((1/5**.5 + 3/5)/2, abs=1e-6)
    assert table.loc['d', 'c'] == pytest.approx(-(2/5**.5 + 4/5)/2, abs=1e-6)


def test_it_is_registered():
    s = SCORES['IAS']
    assert (s.symmetric, s.needs, s.range, s.takes) == (True, 'single-task networks', (-1, 1), ['networks', 'data'])
    assert s.compute is input_attribution_similarity and 'equation 1' in s.paper


# ---- against captum

def direct(net, key, reduce, x, name='InputXGradient', options={}, fixed=None):
    "What captum gives when it is called by itself."
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = copy.deepcopy(net).cpu()
        def forward(self, x, *fixed): return reduce(self.net(x)[key], *fixed)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return getattr(attr, name)(Module()).attribute(x.clone().contiguous().requires_grad_(), additional_forward_args=fixed, **options).detach()


def largest(output, ids): return output.gather(1, ids.unsqueeze(1)).flatten(1).sum(1)


def close(a, b, to=1e-5): assert (a - b).abs().max() <= to*b.abs().max() and b.abs().max() > 0


@devices
@pytest.mark.parametrize('key', ['S', 'N', 'kind', 'place'])
@pytest.mark.parametrize('name,options', [('InputXGradient', {}), ('Saliency', {}), ('Saliency', dict(abs=False)), ('GuidedBackprop', {}), ('Deconvolution', {}), ('DeepLift', {}),
                                          ('DeepLift', dict(baselines=.5)), ('IntegratedGradients', dict(n_steps=5)), ('Occlusion', dict(sliding_window_shapes=(3, 16, 16), strides=(3, 16, 16)))])
def test_maps_are_captum_s(mixed, key, name, options, device):
    net, x, task = mixed[key], views(3), dict(kind=KIND, place=PLACE).get(key, key)
    ids = net(x)[key].argmax(1)
    wanted = direct(net, key, largest, x, name, options, ids) if key in ('S', 'kind') else direct(net, key, lambda o: o.flatten(1).sum(1), x, name, options)
    found = attribution_map(copy.deepcopy(net).to(device), x.to(device), task, name, attribution_options=options)
    assert found.shape == x.shape and found.dtype == torch.float32 and found.device.type == device and not found.requires_grad
    close(found.cpu(), wanted, 1e-5 if device == 'cpu' else 5e-3)


@pytest.mark.parametrize('of,reduce', [('sum', lambda o: o.sum((1, 2, 3))), ('centred', lambda o: (o.amax(1) - o.mean(1)).sum((1, 2))), (lambda o: o[:, 3].square().sum((1, 2)),)*2])
def test_what_is_attributed(mixed, of, reduce):
    wanted = direct(mixed['S'], 'S', reduce, views(3))
    close(attribution_map(mixed['S'], views(3), of=of), wanted)
    close(attribution_map(mixed['S'], views(3), of={'S': of}), wanted)
    assert (attribution_map(mixed['S'], views(3)) - wanted).abs().max() > 1e-3*wanted.abs().max()


def test_only_centred_does_not_see_what_cross_entropy_does_not_see(mixed):
    net = copy.deepcopy(mixed['S'])
    class Shifted(nn.Module):
        def __init__(self, decoder): super().__init__(); self.decoder = decoder
        def forward(self, code): return self.decoder(code) + code[:, :1].mean((2, 3), keepdim=True)
    moved = MultiTaskNet(net.encoder, {'S': Shifted(net.decoders['S'])}).eval()
    moved.mean, moved.std = net.mean, net.std
    x = views(3)
    assert F.cross_entropy(net(x)['S'], labels(x)['S']).item() == pytest.approx(F.cross_entropy(moved(x)['S'], labels(x)['S']).item(), abs=1e-5)
    cos = {of: F.cosine_similarity(*(attribution_map(n, x, of=of).flatten(1) for n in (net, moved))).min().item() for of in OF}
    assert cos['centred'] > .9999 and cos['sum'] < .99 and cos['sum'] < cos['predicted']


def test_the_class_stays_the_one_of_the_image(mixed):
    "On the way from black the network predicts other classes; these do not count."
    x, net = views(2), mixed['S']
    assert not torch.equal(net(x)['S'].argmax(1), net(x*.1)['S'].argmax(1))
    free = direct(net, 'S', lambda o: o.max(1).values.sum((1, 2)), x, 'IntegratedGradients', dict(n_steps=5))
    found = attribution_map(net, x, attribution='IntegratedGradients', attribution_options=dict(n_steps=5))
    assert (found - free).abs().max() > 1e-3*free.abs().max()


def test_the_table_is_that_of_captum_s_maps(trained):
    x = views(9, seed=7)
    maps = {k: direct(n, k, lambda o: (o.amax(1) if k == 'S' else o).flatten(1).sum(1), x) for k, n in trained.items()}
    table = input_attribution_similarity(trained, x, batch=4)
    assert list(table.index) == list(table.columns) == list('SDNKE')
    np.testing.assert_allclose(table, naive(maps), atol=1e-5)
    assert table.abs().max(axis=None) > .02


@pytest.mark.parametrize('model', ['small', 'xception17'])
def test_layers_that_overwrite_their_input(model):
    "captum's hooks and ReLU(inplace=True): the maps are those of a network that does not overwrite."
    net = get_model(model, 'D', seed=0).eval()
    plain = copy.deepcopy(net)
    for m in plain.modules():
        if hasattr(m, 'inplace'): m.inplace = False
    for name in ('DeepLift', 'GuidedBackprop', 'Deconvolution'):
        assert torch.equal(*(attribution_map(n, views(2), attribution=name) for n in (net, plain)))


@pytest.mark.filterwarnings('ignore:You are providing multiple inputs for Lime')
def test_every_attribution_by_name(mixed):
    "Those that need options say so; LRP has no rule for some layers of these networks, as captum says."
    four = ((torch.arange(32)//16)[:, None]*2 + torch.arange(32)//16).expand(1, 3, 32, 32).contiguous()
    masked = dict(feature_mask=four)
    options = dict(Occlusion=dict(sliding_window_shapes=(3, 16, 16), strides=(3, 16, 16)), DeepLiftShap=dict(baselines=torch.zeros(2, 3, 32, 32)), GradientShap=dict(baselines=torch.zeros(1, 3, 32, 32)),
                   IntegratedGradients=dict(n_steps=3), ShapleyValueSampling=masked | dict(n_samples=2),
                   **dict.fromkeys(('FeatureAblation', 'FeaturePermutation', 'ShapleyValues', 'Lime', 'KernelShap'), masked))
    assert {'InputXGradient', 'Saliency', 'IntegratedGradients', 'DeepLift', 'GuidedBackprop', *options} <= {*attributions()}
    for name in attributions():
        if name == 'LRP': continue
        two = attribution_map(mixed['S'], views(2).to(memory_format=torch.channels_last), attribution=name, attribution_options=options.get(name))
        assert two.shape == (2, 3, 32, 32) and two.isfinite().all() and two.abs().max() > 0, name
    for name in ('Occlusion', 'DeepLiftShap', 'GradientShap'):
        with pytest.raises(ValueError, match=f'{name!r}: it needs the option'): attribution_map(mixed['S'], views(1), attribution=name)


def test_options_and_makers(mixed):
    net, x = mixed['N'], views(2)
    plain = attribution_map(net, x, attribution='Saliency', attribution_options=dict(abs=False))
    close(attribution_map(net, x), plain*x)
    steps = attribution_map(net, x, attribution='IntegratedGradients', attribution_options=dict(n_steps=4))
    path  = attribution_map(net, x, attribution='IntegratedGradients', attribution_options=dict(n_steps=4, multiply_by_inputs=False))
    close(path*x, steps)
    close(attribution_map(net, x, attribution=attr.InputXGradient), plain*x)
    noisy = lambda net: attr.NoiseTunnel(attr.Saliency(net))
    for key in ('N', 'S'):
        found = [attribution_map(mixed[key], x, attribution=noisy, attribution_options=dict(nt_samples=2, stdevs=.1)) for _ in range(2)]
        assert torch.equal(*found) and found[0].shape == x.shape


# ---- symmetries

def test_symmetric_and_blind_to_the_order_of_networks_and_images(trained):
    x = views(8, seed=3)
    table = SCORES['IAS'](trained, x)
    assert np.isnan(np.diag(table)).all() and table.equals(table.T) and table.notna().sum(axis=None) == 20
    turned = SCORES['IAS']({k: trained[k] for k in 'EKSND'}, x.flip(0))
    np.testing.assert_allclose(turned, table, atol=1e-6)
    assert list(turned) == list('SDNKE')
    fewer = SCORES['IAS']({k: trained[k] for k in 'DK'}, x)
    assert fewer.loc['D', 'K'] == pytest.approx(table.loc['D', 'K'], abs=1e-9)


@pytest.mark.parametrize('factor', [7., 1e-25, 1e25])
def test_units_do_not_matter(trained, factor):
    "Not even those in which the squares of a map are beyond the range of single precision."
    nets, x = {k: copy.deepcopy(trained[k]) for k in 'DKE'}, views(4, seed=4)
    table = input_attribution_similarity(nets, x)
    with torch.no_grad():
        last = nets['D'].decoders['D'].conv10
        last.weight *= factor
        last.bias += 5
    np.testing.assert_allclose(input_attribution_similarity(nets, x), table, atol=1e-5)
    with torch.no_grad(): last.weight *= -1
    turned = input_attribution_similarity(nets, x)
    np.testing.assert_allclose(turned.loc['D', ['K', 'E']], -table.loc['D', ['K', 'E']], atol=1e-5)
    assert turned.loc['K', 'E'] == pytest.approx(table.loc['K', 'E'], abs=1e-6)


@pytest.mark.parametrize('name,options', [('DeepLift', {}), ('IntegratedGradients', dict(n_steps=3)), ('GuidedBackprop', {})])
def test_batches_do_not_matter_to_other_attributions(trained, name, options):
    nets, x = {k: trained[k] for k in 'SK'}, views(5, seed=5)
    one, several = (attribution_similarities(nets, x, attribution=name, attribution_options=options, batch=b) for b in (5, 2))
    np.testing.assert_allclose(several, one, atol=1e-5)


def test_batches_do_not_matter_and_samples_contain_each_other(trained):
    nets, x = {k: trained[k] for k in 'SK'}, views(12, seed=5)
    each = attribution_similarities(nets, x)
    np.testing.assert_allclose(attribution_similarities(nets, x, batch=5), each, atol=1e-6)
    few = attribution_similarities(nets, x, images=4)
    assert few.index.tolist() == chosen_views(12, 4).tolist()
    np.testing.assert_allclose(few, each.loc[few.index], atol=1e-6)
    assert input_attribution_similarity(nets, x, 4).loc['S', 'K'] == pytest.approx(few['S', 'K'].mean(), abs=1e-12)
    other = attribution_similarities(nets, x, images=4, draw=1)
    assert other.index.tolist() == chosen_views(12, 4, 1).tolist() != few.index.tolist()


def test_one_image(trained):
    table = input_attribution_similarity(trained, views(1))
    assert table.notna().sum(axis=None) == 20
    each = attribution_similarities(trained, views(1))
    assert each.shape == (1, 10) and table.loc['D', 'S'] == each['S', 'D'].item()


# ---- data

def test_labels_do_not_matter(trained):
    x = views(5, seed=6).mul(255).round().div(255)
    y, nets = labels(x), {k: trained[k] for k in 'SDE'}
    nowhere = {k: torch.zeros(y[k].shape if k == 'S' else (5, 1, 32, 32), dtype=torch.bool) for k in 'SDE'}
    of_tensor = input_attribution_similarity(nets, x)
    for masks in (None, nowhere):
        data = MemoryDataset('SDE', x, {k: y[k] for k in 'SDE'}, masks)
        np.testing.assert_allclose(input_attribution_similarity(nets, data), of_tensor, atol=1e-6)


def test_tasks_of_all_kinds(mixed):
    table = SCORES['IAS'](mixed, views(4), tasks=[KIND, PLACE])
    assert list(table) == ['S', 'N', 'kind', 'place'] and table.notna().sum(axis=None) == 12
    data = MemoryDataset([*get_tasks('SN'), KIND, PLACE], views(4), dict(S=torch.ones(4, 32, 32, dtype=torch.int64), N=torch.rand(4, 3, 32, 32), kind=torch.ones(4, dtype=torch.int64), place=torch.rand(4, 3)))
    np.testing.assert_allclose(SCORES['IAS'](mixed, data), table, atol=1e-6)
    assert not np.allclose(SCORES['IAS'](mixed, data, of='sum').loc['kind', 'place'], table.loc['kind', 'place'], atol=1e-6)


def test_a_network_of_several_tasks(trained):
    both = settled('SD')
    table = input_attribution_similarity({'S': both, 'D': both, 'K': trained['K']}, views(4))
    one = input_attribution_similarity({'S': both.only('S'), 'D': both.only('D'), 'K': trained['K']}, views(4))
    np.testing.assert_allclose(table, one, atol=1e-6)


# ---- undefined

def test_maps_of_zeros_are_left_out_and_counted():
    nets = dict(a=linear('a', 1., 1.), b=linear('b', 1., 0.), c=linear('c', 2., 1.))
    x = grey([.1, .2], [0., .4], [.3, .3])
    with pytest.warns(UserWarning, match="task 'b': the attribution map is zero for 1 of 3 images") as told: each = attribution_similarities(nets, x, tasks=numbers(*'abc'))
    assert len(told) == 1
    assert each.isna().to_numpy().tolist() == [[False]*3, [True, False, True], [False]*3]
    with pytest.warns(UserWarning): table = input_attribution_similarity(nets, x, tasks=numbers(*'abc'))
    assert table.loc['a', 'b'] == pytest.approx((5**-.5 + 2**-.5)/2, abs=1e-6)
    assert table.loc['a', 'c'] == pytest.approx(each['a', 'c'].mean()) and each['a', 'c'].notna().all()


class Constant(nn.Module):
    "Says the same whatever it sees."
    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.ones(1, 2))
    def forward(self, images): return self.value.expand(len(images), 2)


def test_a_network_that_does_not_look_has_no_affinity():
    nets = dict(a=linear('a', 1., 1.), b=MultiTaskNet(nn.Identity(), {Task('b', kind='number', channels=2): Constant()}), c=linear('c', 2., 1.))
    with pytest.warns(UserWarning, match="task 'b': the attribution map is zero for 2 of 2 images"): table = SCORES['IAS'](nets, grey([.1, .2], [.3, .4]), tasks=numbers(*'abc'))
    assert table['b'].isna().all() and table.loc['a', 'c'] > .9


def test_maps_that_are_not_finite_are_left_out_and_counted():
    class Root(Weighted):
        def forward(self, images): return super().forward(images).sqrt()  # whose slope at black is infinite
    nets = dict(a=linear('a', 1., 1.), b=MultiTaskNet(nn.Identity(), {Task('b', kind='number'): Root(1., 1.)}, mean=0., std=1.), c=linear('c', float('inf'), 1.))
    x = grey([.1, .2], [0., 0.])
    with pytest.warns(UserWarning) as told: table = SCORES['IAS'](nets, x, tasks=numbers(*'abc'))
    said = sorted(str(w.message) for w in told)
    assert [s.split(',')[0] for s in said] == ["task 'a': the attribution map is zero for 1 of 2 images", "task 'b': the attribution map is not finite for 1 of 2 images",
                                               "task 'c': the attribution map is not finite for 2 of 2 images"]
    assert table.loc['a', 'b'] == pytest.approx(1, abs=1e-6) and table['c'].isna().all()


# ---- precision and device

@devices
def test_bf16_agrees(trained, device):
    nets, x = {k: copy.deepcopy(n).to(device) for k, n in trained.items()}, views(32, seed=8)
    full, half = (input_attribution_similarity(nets, x, precision=p) for p in ('fp32', 'bf16'))
    assert 0 < (full - half).abs().max(axis=None) < 1e-2
    np.testing.assert_allclose(full, input_attribution_similarity(trained, x), atol=1e-5 if device == 'cpu' else 5e-3)
    assert all(p.device.type == device and p.dtype == torch.float32 for n in nets.values() for p in n.parameters())
    assert attribution_map(nets['D'], x.to(device), precision='bf16').dtype == torch.float32
    patch = dict(attribution='Occlusion', attribution_options=dict(sliding_window_shapes=(3, 4, 4), strides=(3, 4, 4)))
    full, half = (attribution_map(nets['D'], x[:4].to(device), precision=p, **patch).flatten(1) for p in ('fp32', 'bf16'))
    assert F.cosine_similarity(full, half).min() > .98  # sums over pixels are made in fp32, or their differences would be lost


# ---- nothing is disturbed

@devices
@pytest.mark.parametrize('name,options', [('InputXGradient', {}), ('DeepLift', {}), ('GuidedBackprop', {}), ('GradientShap', dict(baselines=torch.rand(4, 3, 32, 32), stdevs=.2))])
def test_all_is_left_as_it_was(name, options, device):
    nets, x = {k: settled(k, i).to(device) for i, k in enumerate('SD')}, views(3)
    nets['S'].train()
    nets['S'].encoder.layers[1].eval()
    nets['D'].encoder.layers[0].weight.requires_grad_(False)
    nets['D'].zero_grad()
    modes  = lambda: [[m.training for m in n.modules()] for n in nets.values()]
    wants  = lambda: [[p.requires_grad for p in n.parameters()] for n in nets.values()]
    hooks  = lambda: [len(h) for n in nets.values() for m in n.modules() for h in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks)]
    before = modes(), wants(), hooks(), [state(n) for n in nets.values()], x.clone(), torch.get_rng_state(), np.random.get_state()[1].copy()
    options = {k: v.to(device) if torch.is_tensor(v) else v for k, v in options.items()}
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        first = input_attribution_similarity(nets, x, attribution=name, attribution_options=options)
    assert (modes(), wants(), hooks()) == before[:3]
    for n, b in zip(nets.values(), before[3]): assert all(torch.equal(v, b[k]) for k, v in n.state_dict().items())
    assert all(p.grad is None for n in nets.values() for p in n.parameters())
    assert torch.equal(x, before[4]) and not x.requires_grad
    assert torch.equal(torch.get_rng_state(), before[5]) and np.array_equal(np.random.get_state()[1], before[6])
    torch.rand(3), np.random.rand(3)
    with torch.no_grad(): again = input_attribution_similarity(nets, x, attribution=name, attribution_options=options)
    np.testing.assert_allclose(again, first, atol=1e-6)


def test_all_is_left_as_it_was_after_an_error():
    net = settled('D').train()
    def fails(output): raise RuntimeError('no')
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match='no'): attribution_map(net, views(2), of=fails)
    assert net.training and all(p.requires_grad for p in net.parameters()) and torch.equal(torch.get_rng_state(), state)


def test_passes_grow_with_the_networks_and_not_with_the_pairs(trained):
    for keys in ('SD', 'SDNKE'):
        tables, costs = compute(Evidence(networks={k: trained[k] for k in keys}, data=views(7)), 'IAS', dict(IAS=dict(batch=3)))
        assert costs.loc['IAS', ['forward', 'backward']].tolist() == [7*len(keys)]*2
    curve = settling('IAS', Evidence(networks={k: trained[k] for k in 'KE'}, data=views(7)), [1, 7])
    assert curve.query('images == 7').value.tolist() == pytest.approx([tables['IAS'].loc['K', 'E']]*2, abs=1e-6)


def test_importing_does_not_load_captum():
    code = "import sys, its_a_match.affinity.attribution; assert 'captum' not in sys.modules"
    subprocess.run([sys.executable, '-c', code], check=True)


# ---- what cannot be

def test_what_cannot_be_is_named(trained, mixed):
    some, x = {k: trained[k] for k in 'SD'}, views(2)
    def bad(match, **given):
        with pytest.raises(ValueError, match=match): input_attribution_similarity(**dict(networks=some, data=x) | given)
    bad("task 'N': its network has only S", networks={'N': trained['S'], 'D': trained['D']})
    bad('2 networks are needed', networks={'S': trained['S']})
    bad("task 'S': its network is given the label of D", networks={'S': get_model('small', 'S', injected='D', seed=0), 'K': trained['K']})
    bad('3 images are wanted, and there are 2', images=3)
    bad("attribution 'Magic': it is none of .*InputXGradient.*Saliency", attribution='Magic')
    bad("attribution 'LayerGradCam': it is none of", attribution='LayerGradCam')
    bad("attribution 'InputXGradient': it has no option 'n_steps'", attribution_options=dict(n_steps=3))
    bad("the option 'target' is not to be given", attribution_options=dict(target=3))
    bad("task 'S': 'best' cannot be attributed; choose predicted, centred, sum", of='best')
    bad("task 'K': it has an entry in `of` and no network", of=dict(K='sum'))
    bad(r"task 'D': what is attributed has the shape \(2, 1\)", of=dict(D=lambda o: o.sum((2, 3))))
    bad('precision .fp8.', precision='fp8')
    bad("task 'kind': what kind of task it is has to be known", networks={k: mixed[k] for k in ('S', 'kind')})
    bad('it gives no map of the shape', attribution=lambda net: type('Odd', (), dict(attribute=lambda self, inputs, **more: inputs[:1]))())
    with pytest.raises(ValueError, match='images: their type is torch.uint8'): attribution_map(trained['D'], torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match="task 'N': the network has only D"): attribution_map(trained['D'], x, 'N')
    assert input_attribution_similarity({k: mixed[k] for k in ('kind', 'place')}, x, of='sum').notna().sum(axis=None) == 2
