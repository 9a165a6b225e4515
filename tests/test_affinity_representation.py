"RSA and CKA against rsatoolbox, scipy and their definitions; what they do not see; undefined features; that networks stay as they are."
import warnings
from itertools import permutations

import numpy as np, pandas as pd, pytest, torch
from scipy.linalg import hadamard
from scipy.stats import kendalltau, pearsonr, rankdata, spearmanr
from torch import nn

from its_a_match.affinity import representation
from its_a_match.affinity.core import SCORES, Evidence, chosen_views, compute
from its_a_match.affinity.representation import (activations, alignment, centred_kernel_alignment, correlations, dissimilarities, ranks,
                                                 representation_similarity, triangle)
from its_a_match.batches import MemoryDataset
from its_a_match.models import MultiTaskNet, get_model
from its_a_match.tasks import Task

BOTH = pytest.mark.parametrize('score', ['RSA', 'CKA'])


def random(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def coded(n=40, p=60, seed=0, k=8):
    "Features of two networks that have something in common."
    shared = random(n, k, seed=seed)
    return [shared @ random(k, p + 7*i, seed=seed + 2 + i) + 2*random(n, p + 7*i, seed=seed + 5 + i) for i in range(2)]


class Knows(nn.Module):
    "The features of the image whose number is its grey, in thousandths."
    def __init__(self, features):
        super().__init__()
        self.features = nn.Parameter(features.clone())
    def forward(self, images): return self.features[(images[:, 0, 0, 0]*1000).round().long()][:, :, None, None]


def knowing(**features):
    "Networks with given features, and the images for which they give them."
    n = len(next(iter(features.values())))
    nets = {k: MultiTaskNet(Knows(f), {k: nn.Identity()}, mean=0, std=1) for k, f in features.items()}
    return nets, (torch.arange(n)/1000)[:, None, None, None].expand(n, 3, 4, 4)


def trained_alike(keys='SDN', model='small', seed=0):
    "Networks whose BatchNorm has seen images, so that codes are of some size and differ."
    nets = {k: get_model(model, k, seed=seed + i) for i, k in enumerate(keys)}
    for net in nets.values():
        with torch.no_grad():
            for _ in range(20): net.train()(scenes(32, seed=9))
        net.eval()
    return nets


def scenes(n=40, size=32, seed=1):
    "Images with large and small structure."
    x = sum(nn.functional.interpolate(random(n, 3, s, s, seed=seed + s), size, mode='bilinear') for s in (2, 4, 8, 16))
    return torch.sigmoid(x)


# ---- against others

@pytest.mark.parametrize('features', [
    coded(), coded(30, 5), coded(60, 3000), [f + 1e4 for f in coded()], [f + 1000*random(1, f.shape[1], seed=3) for f in coded()],
    [f.relu() for f in coded()], [1e-12*f for f in coded()], [f.double() + 1e6 for f in coded()],
    coded(600, 1100), [f + 1e4 for f in coded(600)], [f + 1000*random(1, f.shape[1], seed=3) for f in coded(600)]],
    ids=['plain', 'few features', 'many features', 'large mean', 'a pattern in common', 'after ReLU', 'tiny', 'float64',
         'many images', 'many images, large mean', 'many images, a pattern in common'])
def test_equals_rsatoolbox(features):
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import calc_rdm, compare
    theirs = calc_rdm([Dataset(f.double().numpy()) for f in features], method='correlation')
    ours = [dissimilarities(f) for f in features]
    for d, t in zip(ours, theirs.dissimilarities): np.testing.assert_allclose(triangle(d).numpy(), t, rtol=1e-5, atol=1e-6*t.max())
    for mine, name in (('spearman', 'spearman'), ('pearson', 'corr'), ('kendall', 'tau-b')):
        np.testing.assert_allclose(correlations(ours, mine), compare(theirs, theirs, method=name), atol=1e-6)


def test_score_equals_rsatoolbox():
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import calc_rdm, compare
    nets, x = trained_alike(), scenes()
    codes = [activations(net, k, x) for k, net in nets.items()]
    with torch.no_grad(): torch.testing.assert_close(codes[0], nets['S'].encode(x).flatten(1), atol=1e-5, rtol=1e-4)
    rdms = calc_rdm([Dataset(c.double().numpy()) for c in codes], method='correlation')
    theirs = compare(rdms, rdms, method='spearman')
    ours = SCORES['RSA'](nets, x)
    np.testing.assert_allclose(ours.to_numpy() - theirs, np.where(np.eye(3), np.nan, 0), atol=1e-6)
    assert list(ours) == list('SDN') and .01 < ours.loc['S', 'D'] < .99


@pytest.mark.parametrize('correlation, function', [('spearman', spearmanr), ('pearson', pearsonr), ('kendall', kendalltau)])
def test_equals_scipy(correlation, function):
    a, b = coded()
    nets, x = knowing(S=a, D=b)
    at = np.triu_indices(40, 1)
    wanted = function(*((1 - np.corrcoef(f.double()))[at] for f in (a, b))).statistic
    table = representation_similarity(nets, x, correlation=correlation)
    assert table.loc['S', 'D'] == table.loc['D', 'S'] == pytest.approx(wanted, abs=1e-6)
    assert table.isna().to_numpy().tolist() == np.eye(2, dtype=bool).tolist()
    assert (table.index.name, table.columns.name) == ('partner', 'target')


@pytest.mark.parametrize('values', [random(500), random(500).mul(3).round(), torch.zeros(9), torch.tensor([2.]), random(400).double(), torch.tensor([0, -0., 1])])
def test_ranks_are_scipys(values): assert np.array_equal(ranks(values).numpy(), rankdata(values))


def test_cka_is_its_formula():
    for n, p, q in ((50, 10, 6), (20, 100, 300), (30, 8, 200)):
        a, b = random(n, p) + 5, random(n, q, seed=1) @ random(q, q, seed=2)
        b[:, :5] += a[:, :5]*10
        X, Y = (f.double() - f.double().mean(0) for f in (a, b))
        wanted = (Y.T @ X).norm()**2/((X.T @ X).norm()*(Y.T @ Y).norm())
        nets, x = knowing(S=a, D=b)
        assert SCORES['CKA'](nets, x).loc['S', 'D'] == pytest.approx(float(wanted), abs=1e-6)


def test_unbiased_cka_is_a_mean_over_four_different_images():
    a, b = (f.double() for f in coded(7, 5))
    K, L = ((f @ f.T).tolist() for f in (a, b))
    def hsic(K, L): return np.mean([K[i][j]*(L[i][j] + L[q][r] - 2*L[i][q]) for i, j, q, r in permutations(range(7), 4)])
    wanted = hsic(K, L)/np.sqrt(hsic(K, K)*hsic(L, L))
    assert float(alignment([a, b], unbiased=True)[0, 1]) == pytest.approx(wanted, abs=1e-9)
    assert float(alignment([a.float(), b.float()], unbiased=True)[1, 0]) == pytest.approx(wanted, abs=1e-5)


# ---- what they see and what they do not

@BOTH
def test_symmetric_and_independent_of_order(score):
    nets, x = trained_alike('SDNKE'), scenes()
    table = SCORES[score](nets, x)
    assert list(table) == list('SDNKE') and (np.diag(table.isna())).all()
    np.testing.assert_allclose(table, table.T, atol=1e-12)
    again = SCORES[score]({k: nets[k] for k in 'ENSKD'}, x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))])
    pd.testing.assert_frame_equal(table, again, atol=1e-6)
    values = table.stack().dropna()
    assert values.between(*SCORES[score].range).all() and values.std() > .001


@BOTH
@pytest.mark.parametrize('change, seen_by', [
    (lambda f: f[:, torch.randperm(f.shape[1], generator=torch.Generator().manual_seed(0))], ()),
    (lambda f: f*300, ()),
    (lambda f: f*(.1 + torch.rand(len(f), 1, generator=torch.Generator().manual_seed(0))), ('CKA',)),
    (lambda f: f + 100*random(len(f), 1), ('CKA',)),
    (lambda f: f + 10*random(1, f.shape[1]), ('RSA',)),
    (lambda f: f @ torch.linalg.qr(random(f.shape[1], f.shape[1]))[0], ('RSA',)),
    (lambda f: f*torch.rand(f.shape[1], generator=torch.Generator().manual_seed(0)), ('RSA', 'CKA'))],
    ids=['permuted', 'scaled', 'scaled by image', 'shifted by image', 'shifted by feature', 'rotated', 'scaled by feature'])
def test_invariances(score, change, seen_by):
    a, b = (f + 1 for f in coded())
    before, after = (SCORES[score](*knowing(S=f, D=b)).loc['S', 'D'] for f in (a, change(a)))
    assert (abs(after - before) > 1e-4) == (score in seen_by) and (score in seen_by or abs(after - before) < 1e-5)


@BOTH
def test_of_the_same_and_the_opposite(score):
    a, b = coded()
    assert SCORES[score](*knowing(S=a, D=a)).loc['S', 'D'] == pytest.approx(1, abs=1e-6)
    if score == 'RSA':
        d = dissimilarities(a)
        for c in representation.CORRELATIONS: assert float(correlations([d, 2 - d], c)[0, 1]) == pytest.approx(-1, abs=1e-6)
        assert float(correlations([d])[0, 0]) == pytest.approx(1)


def test_unrelated_networks_are_near_zero_but_for_the_bias_of_cka():
    nets, x = knowing(S=random(60, 400), D=random(60, 400, seed=1))
    assert abs(SCORES['RSA'](nets, x).loc['S', 'D']) < .1
    assert abs(centred_kernel_alignment(nets, x, unbiased=True).loc['S', 'D']) < .1 < .7 < SCORES['CKA'](nets, x).loc['S', 'D']


# ---- where it is undefined

def warned(score, nets, x, **options):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        table = SCORES[score](nets, x, **options)
    return table, [str(w.message) for w in told]


def without(table, key):
    "The table's other rows and columns, after a look at these."
    assert table.loc[key].isna().all() and table[key].isna().all()
    return table.drop(index=key, columns=key)


@BOTH
@pytest.mark.parametrize('bad, words', [
    (lambda f: f.index_fill(0, torch.tensor([3]), torch.nan), '1 of 40 images are not finite'),
    (lambda f: f.index_fill(0, torch.tensor([3, 5]), torch.inf), '2 of 40 images are not finite'),
    (lambda f: torch.zeros_like(f), '40'),
    (lambda f: f[:1].expand_as(f), '40'),
    (lambda f: f[:1]*(1 + 1e-7*random(*f.shape)), '40')], ids=['nan', 'inf', 'zero', 'the same', 'the same but for rounding'])
def test_undefined_features_give_nan_and_a_warning(score, bad, words):
    a, b = coded()
    for options in ({}, dict(correlation='kendall') if score == 'RSA' else dict(unbiased=True)):
        good = SCORES[score](*knowing(S=a, D=b), **options)
        table, told = warned(score, *knowing(S=a, N=bad(b), D=b), **options)
        assert len(told) == 1 and told[0].startswith(score) and "'N'" in told[0] and words in told[0]
        left = without(table, 'N')
        assert left.loc['S', 'D'] == pytest.approx(good.loc['S', 'D'], abs=1e-9)


def test_constant_features_of_some_images():
    a, b = coded()
    for c in (0., 3., -1e5):
        some = b.index_fill(0, torch.tensor([1, 7, 9]), c)
        table, told = warned('RSA', *knowing(S=a, N=some, D=b))
        assert len(told) == 1 and "'N'" in told[0] and 'features of 3 of 40 images are constant' in told[0]
        assert without(table, 'N').notna().sum().sum() == 2
        d = dissimilarities(some)
        assert d[[1, 7, 9]].isnan().all() and d[0].isnan().sum() == 3
    assert warned('CKA', *knowing(S=a, N=some, D=b))[1] == []
    b[2] = 7*(1 + 1e-7*random(b.shape[1]))
    assert 'features of 1 of 40 images are constant' in warned('RSA', *knowing(S=a, N=b))[1][0]


def test_equally_dissimilar_images_have_no_order():
    a, _ = coded()
    for n in (40, 600):  # products in float64 and in float32
        each = torch.from_numpy(hadamard(1024)[1:n + 1]).float()*torch.linspace(1, 3, n)[:, None] + .1
        table, told = warned('RSA', *knowing(S=coded(n)[0], D=each))
        assert table.isna().all(axis=None) and len(told) == 1 and f"'D': its {n} images are all equally dissimilar" in told[0]
    assert 'all equally unlike' in warned('CKA', *knowing(S=a, D=torch.eye(40)), unbiased=True)[1][0]


@BOTH
def test_all_networks_undefined(score):
    table, told = warned(score, *knowing(S=torch.ones(9, 4), D=torch.ones(9, 5)))
    assert table.isna().all(axis=None) and table.shape == (2, 2) and len(told) == 2


def test_a_dead_encoder_in_both_precisions():
    nets, x = trained_alike(), scenes()
    with torch.no_grad():
        for m in nets['D'].encoder.modules():
            if isinstance(m, nn.Conv2d): m.weight.zero_()
            if isinstance(m, nn.BatchNorm2d): m.bias.copy_(torch.rand(m.bias.shape))
    for precision in ('fp32', 'bf16'):
        for score in ('RSA', 'CKA'):
            table, told = warned(score, nets, x, precision=precision)
            assert len(told) == 1 and "'D'" in told[0] and without(table, 'D').loc['S', 'N'] > 0


def test_small_differences_are_not_taken_for_rounding():
    a, b = coded()
    nets, x = knowing(S=a, D=b)
    wanted = SCORES['RSA'](nets, x).loc['S', 'D']
    close, told = warned('RSA', *knowing(S=1000*random(1, 60) + 1e-1*a, D=b))
    assert not told and np.isfinite(close.loc['S', 'D'])
    far, told = warned('RSA', *knowing(S=a + 3e4, D=b))
    assert not told and far.loc['S', 'D'] == pytest.approx(wanted, abs=1e-3)


# ---- bad input

@BOTH
@pytest.mark.parametrize('change, words', [
    (lambda nets, x, o: (nets, x[:1], o), 'and there is 1'),
    (lambda nets, x, o: (nets, x[:2], o), 'on 3 images or more, and there are 2'),
    (lambda nets, x, o: (nets, x, dict(images=1)), 'and there is 1'),
    (lambda nets, x, o: (nets, x, dict(images=41)), '41 images are wanted, and there are 40'),
    (lambda nets, x, o: (nets, x, dict(layer='encoder.layers.99')), "layer 'encoder.layers.99': the network of task 'S' has no such layer, but encoder.layers.0, encoder.layers.1"),
    (lambda nets, x, o: (nets, x, dict(layer='middle')), 'but encoder, encoder.layers, decoders.S'),
    (lambda nets, x, o: (nets, x, dict(layer='decoders.S.conv6')), "layer 'decoders.S.conv6': the network of task 'D' has no such layer, but decoders.D, decoders.D.conv6"),
    (lambda nets, x, o: (nets, x, dict(layer='')), "layer ''"),
    (lambda nets, x, o: (nets, x, dict(layer='decoders')), "layer 'decoders': the network of task 'S' runs it 0 times"),
    (lambda nets, x, o: (nets, x, dict(precision='fp8')), "precision 'fp8'"),
    (lambda nets, x, o: (nets | dict(K=nets['S']), x, {}), "task 'K': its network has only S"),
    (lambda nets, x, o: (dict(S=nets['S']), x, {}), '2 networks are needed'),
    (lambda nets, x, o: (nets | dict(E=get_model('small', 'E', injected='D', seed=0)), x, {}), "task 'E': its network is given the label of D")])
def test_bad_input(score, change, words):
    nets, x, options = change({k: get_model('small', k, seed=0) for k in 'SD'}, scenes(), {})
    with pytest.raises(ValueError) as e: SCORES[score](nets, x, **options)
    assert words in str(e.value) and '\n' not in str(e.value) and len(str(e.value)) < 400
    for net in nets.values(): assert not any(m._forward_hooks for m in net.modules())


def test_bad_options():
    nets, x = trained_alike('SD'), scenes()
    with pytest.raises(ValueError, match="correlation 'cosine': choose spearman, pearson, kendall"): representation_similarity(nets, x, correlation='cosine')
    with pytest.raises(ValueError, match='4 images or more, and there are 3'): centred_kernel_alignment(nets, x[:3], unbiased=True)
    with pytest.raises(ValueError, match='a row for each image'): dissimilarities([1., 2.])


def test_layers_without_one_output():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.twice, self.lstm, self.never = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.LSTM(4, 4, batch_first=True), nn.ReLU()
        def forward(self, x): return self.lstm(self.twice(self.twice(self.conv(x))).mean(3).transpose(1, 2))[0]
    nets = {k: MultiTaskNet(Odd(), {k: nn.Identity()}) for k in 'SD'}
    for layer, words in (('encoder.twice', 'runs it 2 times'), ('encoder.never', 'runs it 0 times'), ('encoder.lstm', 'does not put out one tensor')):
        with pytest.raises(ValueError, match=words): SCORES['RSA'](nets, scenes(), layer=layer)
        assert not any(m._forward_hooks for m in nets['S'].modules())
    assert -1 <= SCORES['RSA'](nets, scenes(), layer='encoder.conv').loc['S', 'D'] <= 1


# ---- layers, data, devices, precision

def test_layers():
    nets, x = trained_alike('SD'), scenes(10)
    net = nets['S']
    with torch.no_grad():
        inside = net.encoder.layers[:2]((x - .5)/.5).clone()
        torch.testing.assert_close(activations(net, 'S', x, 'encoder.layers.1'), inside.flatten(1), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(activations(net, 'S', x, 'decoders.S.conv10'), net(x)['S'].flatten(1), atol=1e-5, rtol=1e-4)
    assert inside.min() < 0  # the ReLU behind it works in place
    a, b = (SCORES['RSA'](nets, x, layer=l).loc['S', 'D'] for l in ('encoder.layers.14', 'encoder'))
    assert a == b != SCORES['RSA'](nets, x, layer='decoders.{task}.conv6').loc['S', 'D']
    joint = get_model('small', 'SD', seed=0)
    table = SCORES['RSA'](dict(S=joint, D=joint), x, layer='decoders.{task}.conv7')
    assert -1 < table.loc['S', 'D'] < .999 and SCORES['RSA'](dict(S=joint, D=joint), x).loc['S', 'D'] == pytest.approx(1, abs=1e-6)


def test_runs_no_more_than_it_needs():
    joint, x, ran = get_model('small', 'SDN', seed=0), scenes(10), []
    for k, d in joint.decoders.items(): d.register_forward_hook(lambda m, i, o, k=k: ran.append(k))
    activations(joint, 'S', x)
    assert ran == []
    activations(joint, 'D', x, 'decoders.{task}.conv6', batch=10)
    assert ran == ['D']


def test_work_grows_with_networks_not_pairs(monkeypatch):
    calls, true = [], representation.ranks
    monkeypatch.setattr(representation, 'ranks', lambda v: calls.append(len(v)) or true(v))
    tasks = [Task(f'task{i}') for i in range(6)]
    nets, x = {t.key: get_model('small', [t], seed=i) for i, t in enumerate(tasks)}, scenes(30)
    tables, costs = compute(Evidence(networks=nets, data=x), 'RSA,CKA')
    assert calls == [30*29//2]*6 and costs.forward.tolist() == [180, 180] and costs.backward.tolist() == [0, 0]
    assert all(t.shape == (6, 6) for t in tables.values())


def test_registered():
    for s in (SCORES['RSA'], SCORES['CKA']):
        assert (s.symmetric, s.needs, s.range, s.takes) == (True, 'single-task networks', (-1, 1), ['networks', 'data']) and s.paper


@BOTH
def test_data_sets_samples_and_batches(score):
    images = (scenes(60)*255).byte()
    data = MemoryDataset('DN', images, dict(D=torch.rand(60, 1, 32, 32), N=torch.rand(60, 3, 32, 32)))
    nets = {k: get_model('small', k, seed=i) for i, k in enumerate('DN')}
    x = data.batch(range(len(data)))[0]
    found = SCORES[score](nets, data)
    pd.testing.assert_frame_equal(found, SCORES[score](nets, x, batch=7), atol=1e-6)
    few = SCORES[score](nets, data, images=20)
    pd.testing.assert_frame_equal(few, SCORES[score](nets, x[chosen_views(len(data), 20)]), atol=1e-6)
    assert few.loc['D', 'N'] != found.loc['D', 'N'] and few.loc['D', 'N'] != SCORES[score](nets, data, images=20, draw=1).loc['D', 'N']


def test_tasks_of_all_kinds():
    tasks = [Task('scene', kind='classes', channels=4, per_image=True), Task('angle', kind='number', channels=2), Task('depth')]
    nets, x = {t.key: get_model('small', [t], seed=i) for i, t in enumerate(tasks)}, scenes()
    assert SCORES['RSA'](nets, x).notna().sum().sum() == 6
    assert SCORES['CKA'](nets, x, layer='decoders.{task}').notna().sum().sum() == 6


@BOTH
def test_bf16(score):
    nets, x = trained_alike('SDNK'), scenes(100)
    exact, rough = (SCORES[score](nets, x, precision=p) for p in ('fp32', 'bf16'))
    gap = (exact - rough).abs().max().max()
    assert 0 < gap < 1e-2


def test_networks_stay_as_they_are():
    nets, x = trained_alike(), scenes(10)
    nets['D'].train()
    nets['N'].encoder.layers[4].train()
    for p in nets['S'].encoder.parameters(): p.requires_grad_(False)
    def state(): return [(n, m.training, len(m._forward_hooks)) for net in nets.values() for n, m in net.named_modules()], \
                        [(p.requires_grad, p.grad, p.device) for net in nets.values() for p in net.parameters()]
    before, values = state(), {k: {n: t.clone() for n, t in net.state_dict().items()} for k, net in nets.items()}
    stream = torch.get_rng_state()
    for s in ('RSA', 'CKA'): SCORES[s](nets, x, precision='bf16', layer='decoders.{task}.conv6')
    assert state() == before and torch.equal(torch.get_rng_state(), stream) and torch.is_grad_enabled()
    for k, net in nets.items():
        for n, t in net.state_dict().items(): assert torch.equal(t, values[k][n])


def test_dissimilarities_are_a_matrix_of_distances():
    f = random(560, 30)
    f = torch.cat([f, f, -f])[:1000]
    for d in (dissimilarities(f), dissimilarities(f[540:600])):
        assert torch.equal(d, d.T) and d.diag().eq(0).all() and 0 <= d.min() and d.max() <= 2
    assert dissimilarities(f)[0, 560] < 1e-6 and 2 - dissimilarities(torch.stack([f[0], -f[0]]))[0, 1] < 1e-6


def test_matrices_that_are_not_whole():
    a, b = (dissimilarities(f) for f in coded())
    for c in representation.CORRELATIONS:
        gap = a.clone()
        gap[0, 1] = torch.nan
        found = correlations([gap, b, torch.zeros_like(a), a], c)
        assert torch.equal(found.isfinite(), torch.tensor([[0, 1, 0, 1]]).T.bool() & torch.tensor([0, 1, 0, 1]).bool())


def test_a_layer_whose_output_is_overwritten():
    torch.manual_seed(0)
    net = MultiTaskNet(nn.Sequential(nn.Conv2d(3, 8, 32), nn.BatchNorm2d(8), nn.ReLU(inplace=True)), {'S': nn.Identity()})
    assert activations(net, 'S', scenes(5), 'encoder.1').min() < 0 <= activations(net, 'S', scenes(5)).min()


def test_given_features_are_not_changed():
    a = coded()[0]
    before = a.clone()
    dissimilarities(a), alignment([a, a]), correlations([dissimilarities(a)])
    assert torch.equal(a, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='torch finds no CUDA GPU')
@BOTH
def test_on_a_gpu(score):
    nets, x = trained_alike(), scenes()
    on_cpu = SCORES[score](nets, x)
    on_gpu = SCORES[score]({k: net.cuda() for k, net in nets.items()}, x)
    pd.testing.assert_frame_equal(on_cpu, on_gpu, atol=1e-2)
    assert all(p.is_cuda for net in nets.values() for p in net.parameters())
