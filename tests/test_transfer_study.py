"The study of transfers, tiny: what it trains and measures, against other ways; how it goes on; what it refuses."
import json, os, re, shutil
from contextlib import contextmanager
from functools import partial
from itertools import combinations

import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st

from its_a_match import transfer_study
from its_a_match.affinity.tournaments import transfer_affinities
from its_a_match.affinity.transfer import Transfers, represent
from its_a_match.archive import fingerprint, read_statistics
from its_a_match.assignment import load_network
from its_a_match.memory import MemoryDataset
from its_a_match.recipes import get_recipe
from its_a_match.self_supervision import self_supervised
from its_a_match.taskonomy import TaskonomyDataset
from its_a_match.tasks import GEOMETRY, Task
from its_a_match.transfer_results import JUDGES, TransferResults
from its_a_match.transfer_study import (ALTERED, CHAINS, SHARE, SOURCES, TARGETS, constant_losses, drawn_chains, measure_transfers, prepare_views, study_views,
                                        target_losses, task_network, task_networks, train_scratch, train_tasks, train_transfer_study)

# ---- tasks

def test_tasks():
    assert {*SOURCES} == {*TARGETS, *ALTERED} and len(SOURCES) == 16 == len(TARGETS) + 3 and 'autoencoding' in TARGETS and [*'SDNKE'] == [*SOURCES[:5]]

@given(st.sampled_from(TARGETS), st.integers(0, 2**63))
def test_chains_are_of_three_tasks(target, seed):
    chains = drawn_chains(target, seed)
    assert len({*chains}) == len(chains) == CHAINS == 5 and chains == drawn_chains(target, seed)
    for source, by in chains: assert len({source, by, target}) == 3 and source in SOURCES and by in TARGETS

def test_every_chain_can_be_drawn():
    drawn = [drawn_chains('D', seed) for seed in range(500)]
    assert {c for some in drawn for c in some} == {(s, m) for s in SOURCES for m in TARGETS if s != m and 'D' not in (s, m)}
    assert len({*map(tuple, drawn)}) > 490 and len({tuple(drawn_chains(t, 0)) for t in TARGETS}) == len(TARGETS)

# ---- the best constant

GIVEN = Task('a'), Task('b', channels=2), Task('c', kind='classes', channels=4), Task('p', kind='classes', channels=5, term='metric', invalid=0, normalise='none')

def given_views(n, seed):
    "Random labels, many of them missing: of `a` for the whole first image; class 3 of `c` is only in odd images."
    rng = np.random.default_rng(seed)
    targets = dict(a=rng.exponential(2, (n, 1, 16, 16)), b=rng.normal(size=(n, 2, 16, 16))**3, c=rng.choice(3, (n, 16, 16), p=[.6, .3, .1]),
                   p=rng.integers(0, 5, (n, 4, 4)).repeat(4, 1).repeat(4, 2))
    targets['c'][1::2, :, 3] = 3
    masks = {k: rng.random((n, *([1] if k in 'ab' else []), 16, 16)) > .3 for k in 'abcp'}
    masks['a'][0] = False
    return MemoryDataset(GIVEN, np.float32(rng.random((n, 3, 16, 16))), {k: np.float32(t) if k in 'ab' else t for k, t in targets.items()}, masks)

@pytest.fixture(scope='module')
def given_data(): return given_views(6, 0), given_views(4, 1)

def held(data, key):
    "Labels and masks of all views, (N, C, H, W) and (N, H, W)."
    _, labels, masks = data.batch(np.arange(len(data)))
    label, mask = labels[key].numpy(), masks[key].numpy()
    return label.reshape(len(label), -1, 16, 16), mask.reshape(len(mask), 16, 16)

def images_means(terms, mask): return np.array([t[m].mean() if m.any() else np.nan for t, m in zip(terms, mask)])

def alike(label, mask):
    "For each pixel the share of pixels that are of its piece: those beside and below it, next to it and two away."
    found = np.full(mask.shape, np.nan)
    for n, i, j in np.argwhere(mask):
        other = [(i + a, j + b) for a, b in ((0, 1), (1, 0), (0, 2), (2, 0)) if i + a < 16 and j + b < 16 and mask[n, i + a, j + b]]
        if other: found[n, i, j] = np.mean([label[n, i, j] == label[n, *o] for o in other])
    return found

@pytest.mark.parametrize('key', 'ab')
def test_a_constant_of_numbers_is_the_median(given_data, key):
    (train, test), statistics = given_data, given_data[0].statistics()
    (label, known), (other, mask) = held(train, key), held(test, key)
    std    = statistics.loc[key]['std'].to_numpy()
    middle = [np.median(c[known]) for c in label.swapaxes(0, 1)]
    terms  = np.mean([abs(other[:, c] - m)/std[c] for c, m in enumerate(middle)], 0)
    found  = constant_losses(train, test, key, statistics)
    assert found == pytest.approx(images_means(terms, mask), rel=1e-3, nan_ok=True) and np.isnan(found[0]) == (key == 'a') and np.isfinite(found[1:]).all()
    double = statistics.assign(std=2*statistics['std'])
    assert constant_losses(train, test, key, double) == pytest.approx(found/2, rel=1e-4, nan_ok=True)

def over_pixels(losses, mask): return np.nansum(losses*mask.sum((1, 2)))/mask.sum()

@given(st.integers(0, 2**32), st.floats(.01, 3))
@settings(max_examples=30)
def test_no_other_constant_is_better(seed, spread):
    "Over all pixels that it was made from, be it numbers, classes or the probability of being of one piece."
    train, rng = given_views(5, 7), np.random.default_rng(seed)
    statistics = train.statistics()
    for key in 'ab':
        label, mask = held(train, key)
        mean, std   = (statistics.loc[key][c].to_numpy()[:, None, None] for c in ('mean', 'std'))
        other = rng.normal(0, spread, (len(mean), 1, 1))
        assert over_pixels(constant_losses(train, train, key, statistics), mask) <= abs((label - mean)/std - other).mean(1)[mask].mean() + 1e-6
    label, mask = held(train, 'c')
    logits = rng.normal(0, spread, 4)
    terms  = np.log(np.exp(logits).sum()) - logits[label[:, 0]]
    assert over_pixels(constant_losses(train, train, 'c', None), mask) <= terms[mask].mean() + 1e-4
    label, mask = held(train, 'p')
    share, p = alike(label[:, 0], mask), rng.uniform(.01, .99)
    terms = np.nan_to_num(-share*np.log(p) - (1 - share)*np.log(1 - p))
    assert over_pixels(constant_losses(train, train, 'p', None), mask) <= terms[mask].mean() + 1e-6

def test_a_constant_of_classes_is_their_share(given_data):
    (label, known), (other, mask) = (held(d, 'c') for d in given_data)
    share = np.bincount(label[:, 0][known], minlength=4)/known.sum()
    assert constant_losses(*given_data, 'c', None) == pytest.approx(images_means(-np.log(share)[other[:, 0]], mask), rel=1e-4)

def test_a_class_that_was_not_seen(given_data):
    "It costs much, not everything."
    train, test = given_data
    assert 1 < constant_losses(train.some([0, 2, 4]), test.some([1]), 'c', None)[0] < 3 and (held(train.some([0, 2, 4]), 'c')[0] < 3).all()

def test_a_constant_of_pieces_is_a_probability(given_data):
    (label, known), (other, mask) = (held(d, 'p') for d in given_data)
    p, share = np.nanmean(alike(label[:, 0], known)), alike(other[:, 0], mask)
    terms = np.nan_to_num(-share*np.log(p) - (1 - share)*np.log(1 - p))
    assert constant_losses(*given_data, 'p', None) == pytest.approx(images_means(terms, mask), rel=1e-4)

# ---- the study

TASKS = 'S', 'D', 'segment_unsup25d', 'autoencoding'
FEW   = *TASKS, *ALTERED
FAST  = dict(seeds=(0,), model='small', recipe=get_recipe('balanced', epochs=1, batch=8), size=16, device='cpu', processes=1)
NAMES = 6 + 25 + CHAINS + 3  # sources, sets of the best five, chains, judges
HIDDEN = 5                   # number of the test view without depth

@contextmanager
def tiny():
    "Within, there are four targets and three sources more, and readouts see their views twice."
    with pytest.MonkeyPatch.context() as m:
        m.setattr(transfer_study, 'SOURCES', FEW)
        m.setattr(transfer_study, 'TARGETS', TASKS)
        m.setattr(transfer_study, 'Transfers', partial(Transfers, epochs=2))
        m.setattr(os, 'fsync', lambda file: None)  # a fifth of the time
        yield

def train(data, out, **changes):
    "The folder of the results, and what was said."
    said = []
    with tiny(): return train_transfer_study(data, out, **dict(FAST, say=said.append) | changes), said

def measure(data, out, seeds=(0,)):
    said = []
    with tiny(): measure_transfers(out/'small', out/'results', seeds, (str(data), 16, None), 1, said.append)
    return said

@pytest.fixture(scope='module')
def data(tiny_rooms, tmp_path_factory):
    "A copy of Rooms to which labels are added, one test view without depth."
    root = shutil.copytree(tiny_rooms, tmp_path_factory.mktemp('rooms')/'rooms')
    (root/TaskonomyDataset(root, 'test', 'SD').views.depth_zbuffer.iloc[HIDDEN]).unlink()
    return root

@pytest.fixture(scope='module')
def study(data, tmp_path_factory):
    "The folder of a tiny study: read only."
    out = tmp_path_factory.mktemp('study')/'out'
    assert train(data, out, command='its_a_match study taskonomy --train')[0] == out/'results'
    return out

@pytest.fixture(scope='module')
def longer(study, data):
    "The same with a second seed, in another folder; and what was said."
    out = shutil.copytree(study, study.parent/'longer')
    return out, train(data, out, seeds=(0, 1))[1]

@pytest.fixture(scope='module')
def views(study, data): return study_views(data, 16)  # after labels were added

@pytest.fixture
def copied(study, tmp_path): return shutil.copytree(study, tmp_path/'out')

def table(out): return pd.read_csv(out/'results'/'transfers.csv').set_index(['seed', 'target', 'transfer'])
def of(out, target, seed=0): return table(out).query('seed == @seed and target == @target').droplevel([0, 1])  # columns val, test
def times(out): return {str(p.relative_to(out)): p.stat().st_mtime_ns for p in out.rglob('*') if p.name == 'weights.safetensors' or p.parent.parent.name == 'transfers'}
def some(n, seed=0): return np.sort(np.random.default_rng(seed).permutation(n)[:n//8])  # numbers of the few training views

def test_views(views, data):
    assert {s: len(v) for s, v in views.items()} == dict(train=64, val=16, test=16) and {t.key for t in views['val'].tasks} == {*TARGETS}
    images, labels, masks = views['test'].batch(np.arange(16))
    assert torch.equal(labels['autoencoding'], images) and images.shape == (16, 3, 16, 16)
    for t in ('D', 'depth_euclidean', 'segment_unsup25d'): assert [i for i in range(16) if not masks[t][i].any()] == [HIDDEN]
    assert len([*data.rglob('*_principal_curvature.png')]) == 95

def test_what_it_leaves(study):
    r = TransferResults(study/'results')
    assert r.seeds == [0] and tuple(r.targets) == TASKS and tuple(r.sources) == FEW
    assert {p.relative_to(study/'results').as_posix() for p in (study/'results').rglob('*') if p.is_file()} == {
        'transfers.csv', 'ranks.npz', 'networks.csv', 'setup.json', *(f'transfers/seed-0/{t}.{e}' for t in TASKS for e in ('csv', 'npz'))}
    about, campaign = (json.loads((study/f).read_text()) for f in ('results/setup.json', 'small/tasks/campaign.json'))
    assert about['command'] == 'its_a_match study taskonomy --train' and (about['model'], about['seeds'], about['share']) == ('small', [0], SHARE)
    assert about['recipe'] == campaign['recipe'] and about['recipe']['batch'] == 8
    assert about['data'] == campaign['data'] and about['data']['train']['shape'] == [3, 16, 16]
    networks = pd.read_csv(study/'results'/'networks.csv')
    assert (networks.status == 'done').all()
    assert networks.groupby('campaign').network.apply(set).to_dict() == {'tasks': {*TASKS}, 'scratch/seed-0': {*TASKS}} | {k: {k} for k in ALTERED}

def test_no_path_of_this_machine_is_in_it(study):
    for p in (study/'results').rglob('*.[cj]s*'): assert not re.search(r'(^|[\s",=])[\\/]\w', p.read_text(), re.M), p
    assert len([*(study/'results').rglob('*.[cj]s*')]) == 3 + len(TASKS)

@pytest.mark.parametrize('target', TASKS)
def test_one_row_for_each_transfer(study, target):
    names, first = [*of(study, target).index], [k for k in FEW if k != target]
    assert len(names) == len({*names}) == NAMES and names[:6] == first and names[-3:] == [*JUDGES]
    with tiny(): assert names[31:36] == [f'{s}>{by}' for s, by in drawn_chains(target, 0)]
    best = sorted({s for n in names[6:31] for s in n.split('+')}, key=FEW.index)
    assert names[6:31] == ['+'.join(c) for k in (2, 3, 4) for c in combinations(best, k)]
    rates = transfer_affinities(TransferResults(study/'results').ranks(target, 0, 'val')[first])
    assert {*rates.nlargest(5).index} == {*best} and len(best) == 5

@pytest.mark.parametrize('target', TASKS)
def test_tables_of_targets_are_put_together(study, target):
    part, whole = pd.read_csv(study/'results'/'transfers'/'seed-0'/f'{target}.csv'), table(study).query('target == @target').reset_index()
    pd.testing.assert_frame_equal(part, whole, check_exact=True)
    assert np.isfinite(whole[['val', 'test']]).all(axis=None) and (whole[['val', 'test']] > 0).all(axis=None)
    with np.load(study/'results'/'transfers'/'seed-0'/f'{target}.npz') as held:
        for split in ('val', 'test'): assert np.array_equal(held[split], TransferResults(study/'results').ranks(target, 0, split)) and held[split].shape == (16, NAMES)

def by_hand(target, label, output, mask, statistics):
    "The loss of every image, without `TaskLosses`; NaN without a label."
    if target == 'S': terms = torch.nn.functional.cross_entropy(output, torch.where(mask, label, 0), reduction='none')
    else:
        mean, std = (torch.tensor(statistics.loc[target][c].to_numpy()).view(-1, 1, 1) for c in ('mean', 'std'))
        terms, mask = (output - (label - mean)/std).abs().mean(1) if statistics.loc[target].shape[0] > 1 else (output - (label - mean)/std).abs()[:, 0], mask[:, 0]
    return images_means(terms.numpy(), mask.numpy())

@pytest.fixture(scope='module')
def again(study, views):
    "Representations of all networks, taken again: of grey images for colorization alone."
    few  = dict(views, train=views['train'].some(some(64)))
    nets = {k: load_network(study/'small'/('tasks' if k in TASKS else k), k, 0) for k in FEW}
    found = Transfers(nets, few['train'], {s: few[s] for s in ('val', 'test')}, read_statistics(study/'small'/'tasks'), epochs=2, seed=0)
    grey  = {s: self_supervised(v, 'colorization') for s, v in few.items()}
    assert all(torch.equal(v.batch([0])[0][:, 0], v.batch([0])[0][:, c]) for v in grey.values() for c in (1, 2))
    found.add('coloured', {s: represent(nets['colorization'], v) for s, v in few.items()})
    found.add('colorization', {s: represent(nets['colorization'], v) for s, v in grey.items()})
    return found

@pytest.fixture(scope='module')
def losses(study, views, again):
    "The losses of all transfers to D and S, {(target, split): (images, transfers)}, measured without the study."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {(t, s): {} for t in ('D', 'S') for s in ('val', 'test')}
    for (target, split), columns in found.items():
        images, labels, masks = views[split].batch(np.arange(16))
        score = lambda output: by_hand(target, labels[target], output, masks[target], again.statistics)
        for name in [*of(study, target).index][:-3]:
            sources = [again.chain(*name.split('>'))] if '>' in name else name.split('+')
            readout = again.learn(sources, target)
            with torch.no_grad(): columns[name] = score(readout(again.of(sources, split)))
        with torch.no_grad():
            columns['full']    = score(again.networks[target](images)[target])
            columns['scratch'] = score(load_network(study/'small'/'scratch'/'seed-0', target, 0)(images)[target])
        columns['constant'] = constant_losses(views['train'], views[split], target, again.statistics)
    torch.set_num_threads(threads)
    return {k: pd.DataFrame(columns) for k, columns in found.items()}

@pytest.mark.parametrize('target', ['D', 'S'])
@pytest.mark.parametrize('split', ['val', 'test'])
def test_losses_measured_another_way(study, losses, target, split):
    "Means over images that have a label."
    found = of(study, target)[split]
    assert [*losses[target, split]] == [*found.index]
    assert losses[target, split].mean().to_numpy() == pytest.approx(found.to_numpy(), rel=1e-4) and found.round(4).nunique() > NAMES/2

@pytest.mark.parametrize('target', ['D', 'S'])
@pytest.mark.parametrize('split', ['val', 'test'])
def test_ranks_are_the_order_of_the_losses(study, losses, target, split):
    ranks = TransferResults(study/'results').ranks(target, 0, split)
    for i, (row, rank) in enumerate(zip(losses[target, split].to_numpy(), ranks.to_numpy())):
        if (target, split, i) == ('D', 'test', HIDDEN):
            assert np.isnan(row).all() and not rank.any()
            continue
        assert {*rank} == {*range(1, rank.max() + 1)} and rank.max() > NAMES/2
        clear = row[:, None] < row - 1e-4
        assert clear.sum() > NAMES and (rank[:, None] < rank)[clear].all()

def test_colorization_is_given_grey_images(study, views, again):
    "With coloured ones its losses would be others; denoising and inpainting read images as they are."
    read = lambda name: np.nanmean(again.losses(again.learn(name, 'D'), name, 'D', 'val'))
    found = of(study, 'D').val
    assert abs(read('coloured')/found['colorization'] - 1) > 1e-3 and read('colorization') == pytest.approx(found['colorization'], rel=1e-4)
    for k in ALTERED:
        altered, campaign = {s: self_supervised(v, k) for s, v in views.items()}, json.loads((study/'small'/k/'campaign.json').read_text())
        assert campaign['data'] == {s: fingerprint(v) for s, v in altered.items()} and campaign['data']['train']['image'] != fingerprint(views['train'])['image']
        assert campaign['model'] == 'small' and [*campaign['tasks']] == [k] and task_network(study/'small', k, 0).tasks == (k,)

def test_scratch_learns_from_a_share_in_as_many_steps(study, views):
    home, folder = study/'small', study/'small'/'scratch'/'seed-0'
    whole, part = (json.loads((f/'campaign.json').read_text()) for f in (home/'tasks', folder))
    assert part['data']['train'] == fingerprint(views['train'].some(some(64)), [t for t in views['train'].tasks if t.key in TASKS])
    assert part['data']['train']['views'] == 64*SHARE
    assert {s: part['data'][s] for s in ('val', 'test')} == {s: whole['data'][s] for s in ('val', 'test')}
    assert part['recipe'] == whole['recipe'] | dict(share=8) and whole['recipe']['share'] == 1
    assert (folder/'statistics.csv').read_text() == (home/'tasks'/'statistics.csv').read_text()
    few = views['train'].some(some(64)).statistics()
    assert not np.allclose(few['mean'].D, read_statistics(folder)['mean'].D)
    for f in (home/'tasks', folder):
        for t in TASKS:
            record = json.loads((f/'networks'/t/'seed-0'/'network.json').read_text())
            assert round(record['seconds']*record['images_per_second']) == 8*8 and record['epochs'] == 1

def test_fewer_sources_than_are_combined(again):
    "Three of them give three pairs and a triple; each transfer is said once."
    said, few = [], ('S', 'D', 'autoencoding', 'colorization')
    with pytest.MonkeyPatch.context() as m:
        for name, value in dict(SOURCES=few, TARGETS=few, CHAINS=2).items(): m.setattr(transfer_study, name, value)
        found, chains = target_losses(again, 'S', 3, said.append), [f'{s}>{by}' for s, by in drawn_chains('S', 3)]
    names = ['D', 'autoencoding', 'colorization', 'D+autoencoding', 'D+colorization', 'autoencoding+colorization', 'D+autoencoding+colorization', *chains]
    assert [*found['val']] == [*found['test']] == names == said and all(t.shape == (16, 9) for t in found.values()) and len({*chains}) == 2

# ---- going on

def test_the_same_call_again_trains_and_measures_nothing(longer, data, tmp_path):
    out = shutil.copytree(longer[0], tmp_path/'out')
    before, results = times(out), {p.name: p.read_bytes() for p in (out/'results').glob('*.csv')}
    labels = {p: p.stat().st_mtime_ns for p in data.rglob('*.png')}
    _, said = train(data, out, seeds=(0, 1))
    assert len(before) == 2*(len(TASKS)*4 + 3) and times(out) == before and {p.name: p.read_bytes() for p in (out/'results').glob('*.csv')} == results
    assert not [s for s in said if s.startswith('transfers')] and {p: p.stat().st_mtime_ns for p in data.rglob('*.png')} == labels

def test_a_second_seed_joins(study, longer):
    out, said = longer
    assert [s for s in said if s.startswith('transfers')] == [f'transfers to {t} (seed 1)' for t in TASKS] and said[0] == 'seed 0: a network for each task'
    before, after = times(study), times(out)
    assert {n: after[n] for n in before} == before and len(after) == 2*len(before)
    r, one = TransferResults(out/'results'), table(study)
    assert r.seeds == [0, 1] and len(r.losses) == 2*len(TASKS)*NAMES
    pd.testing.assert_frame_equal(table(out).loc[[0]], one, check_exact=True)
    assert not np.isclose(of(out, 'D', 1).val[[*FEW[2:]]], of(out, 'D').val[[*FEW[2:]]], rtol=1e-4).any()
    for t in TASKS: assert r.ranks(t, 0).equals(TransferResults(study/'results').ranks(t, 0)) and not r.ranks(t, 1).equals(r.ranks(t, 0))
    chains = {s: [n for t in TASKS for n in r.ranks(t, s) if '>' in n] for s in (0, 1)}
    assert chains[0] != chains[1] and json.loads((out/'results'/'setup.json').read_text())['seeds'] == [0, 1]
    networks = pd.read_csv(out/'results'/'networks.csv')
    assert len(networks) == 2*(2*len(TASKS) + 3) and {*networks.campaign} == {'tasks', *ALTERED, 'scratch/seed-0', 'scratch/seed-1'}
    parts = [json.loads((out/'small'/'scratch'/f'seed-{s}'/'campaign.json').read_text())['data']['train']['image'] for s in (0, 1)]
    assert parts[0] != parts[1]  # other views

def test_a_target_is_measured_again_to_the_same_numbers(copied, data):
    "By any number of threads, which stays."
    folder, threads = copied/'results'/'transfers'/'seed-0', torch.get_num_threads()
    before, old = {p.name: p.read_bytes() for p in folder.iterdir()}, times(copied)
    (folder/'D.npz').unlink()
    (folder/'D.csv').unlink()
    (copied/'results'/'ranks.npz').unlink()
    (copied/'results'/'transfers.csv').write_text('')
    torch.set_num_threads(2)
    try:
        said = measure(data, copied)
        assert torch.get_num_threads() == 2 and said == ['transfers to D (seed 0)']
    finally: torch.set_num_threads(threads)
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix == '.csv'} == {n: b for n, b in before.items() if n.endswith('.csv')}
    assert {n for n, t in times(copied).items() if t != old[n]} == {f'results/transfers/seed-0/D.{e}' for e in ('csv', 'npz')}

def test_half_of_a_target_is_measured_again(copied, data):
    (copied/'results'/'transfers'/'seed-0'/'S.csv').unlink()
    assert measure(data, copied) == ['transfers to S (seed 0)']

def test_other_seeds_stay(longer, data, labelled, tmp_path):
    "A call for one seed keeps what was measured for others; a seed named twice is one."
    out = shutil.copytree(longer[0], tmp_path/'out')
    before, (_, said) = {n: (out/'results'/n).read_bytes() for n in ('transfers.csv', 'networks.csv', 'setup.json')}, train(data, out, seeds=(1, 1), command='its_a_match study taskonomy --train')
    after = {n: (out/'results'/n).read_bytes() for n in before}
    assert TransferResults(out/'results').seeds == [0, 1] and said.count('seed 1: a network for each task') == 1
    assert after['transfers.csv'] == before['transfers.csv'] and after['networks.csv'] == before['networks.csv'] and json.loads(after['setup.json'])['seeds'] == [0, 1]

def test_networks_that_are_trained_anew_are_measured_anew(copied, data):
    "In the same folder and process."
    part = copied/'results'/'transfers'/'seed-0'/'autoencoding.csv'
    old  = part.read_text()
    part.unlink()
    assert measure(data, copied) and part.read_text() == old
    for f in (copied/'small'/'tasks'/'networks'/'D'/'seed-0').glob('weights.*'): shutil.copy2(copied/'small'/'scratch'/'seed-0'/'networks'/'D'/'seed-0'/f.name, f)
    part.unlink()
    assert measure(data, copied) == ['transfers to autoencoding (seed 0)'] and part.read_text() != old

def test_the_same_bits_in_another_folder(study, data, views, tmp_path):
    "All networks, and one target."
    out, parts = tmp_path/'out', study/'results'/'transfers'/'seed-0'
    how = {k: FAST[k] for k in ('model', 'recipe', 'device', 'processes')}
    with tiny():
        train_tasks(views, out/'small', [0], progress=False, **how)
        train_scratch(views, out/'small', [0], progress=False, **how)
    files = [p.relative_to(study) for p in study.rglob('weights.safetensors')]
    assert len(files) == 2*len(TASKS) + 3 and all((out/f).read_bytes() == (study/f).read_bytes() for f in files)
    shutil.copytree(parts, out/'results'/'transfers'/'seed-0', ignore=shutil.ignore_patterns('autoencoding.*'))
    assert measure(data, out) == ['transfers to autoencoding (seed 0)']
    for f in ('transfers.csv', 'transfers/seed-0/autoencoding.csv'): assert (out/'results'/f).read_bytes() == (study/'results'/f).read_bytes()
    with np.load(out/'results'/'ranks.npz') as a, np.load(study/'results'/'ranks.npz') as b:
        assert [*a] == [*b] == [f'{t} {s} 0' for t in TASKS for s in ('val', 'test')] and all(np.array_equal(a[k], b[k]) for k in a)

def test_networks_by_name(study):
    with tiny(): nets = task_networks(study/'small', 0)
    assert [*nets] == [*FEW] and all(net.tasks == (k,) and not net.training for k, net in nets.items())

# ---- labels

@pytest.fixture
def labelled(monkeypatch): monkeypatch.setattr(transfer_study, 'add_labels', lambda *args, **options: 0)  # where they are there, to compare them takes a while

def test_data_is_rendered_where_none_is_given(data, labelled, monkeypatch):
    asked = []
    monkeypatch.setattr(transfer_study, 'render_rooms', lambda processes: asked.append(processes) or data)
    assert prepare_views(processes=1) == data and asked == [1]

@pytest.fixture
def one_view(tiny_rooms, tmp_path):
    "A folder with the image, depth and normals of one view, of which nobody says by what camera it was taken."
    row = TaskonomyDataset(tiny_rooms, None, 'DN').views.iloc[0]
    for p in row:
        (tmp_path/'one'/p).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tiny_rooms/p, tmp_path/'one'/p)
    return tmp_path/'one'

def test_labels_take_a_field_of_view(one_view):
    with pytest.raises(ValueError, match='give it in degrees, as fov'): prepare_views(one_view, processes=1)
    assert len([*one_view.rglob('*.png')]) == 3
    assert prepare_views(str(one_view), 60, 1) == one_view and len([*one_view.rglob('*.png')]) == 3 + len(GEOMETRY)
    assert all(len([*one_view.rglob(f'*_{t.name}.png')]) == 1 for t in GEOMETRY)
    with pytest.raises(ValueError, match='not between 0 and 180'): prepare_views(one_view, 200, 1)

# ---- what cannot be

def test_no_network(study, data, tmp_path):
    with pytest.raises(ValueError, match="there is no trained network 'D' with seed 7"): task_network(study/'small', 'D', 7)
    with pytest.raises(ValueError, match="there is no trained network 'colorization' with seed 7"): task_network(study/'small', 'colorization', 7)
    with pytest.raises(ValueError, match="'N' is not one of the tasks"): task_networks(study/'small', 0)  # all sixteen
    with pytest.raises(ValueError, match='there is no campaign.json in it'): task_networks(tmp_path, 0)

def test_a_seed_that_was_not_trained_cannot_be_measured(copied, data):
    before = {p: p.read_bytes() for p in (copied/'results').rglob('*') if p.is_file()}
    with pytest.raises(ValueError, match="there is no trained network 'S' with seed 5"): measure(data, copied, (0, 5))
    assert {p: p.read_bytes() for p in (copied/'results').rglob('*') if p.is_file()} == before

def test_a_folder_without_tasks(views, tmp_path):
    with tiny(), pytest.raises(OSError, match='statistics.csv'): train_scratch(views, tmp_path, [0], FAST['recipe'], processes=1, model='small', progress=False)

def test_labels_that_are_missing(tiny_rooms, tmp_path):
    "Views without the labels of geometry are opened, and nothing is trained on them."
    bare = study_views(tiny_rooms, 16)
    assert not bare['train'].batch(np.arange(64))[2]['reshading'].any()
    with pytest.raises(ValueError, match="task 'depth_euclidean': none of the 64 views has a label for it"):
        train_tasks(bare, tmp_path/'out', [0], 'small', recipe=FAST['recipe'], processes=1)
    assert not [*tmp_path.rglob('weights.safetensors')]

@pytest.mark.parametrize('changes, message', [
    (dict(seeds=[-1]), 'seed -1'), (dict(seeds=()), 'no seed'), (dict(seeds=(0, 1.5)), 'seed 1.5'), (dict(recipe='slow'), "recipe 'slow'"),
    (dict(model='huge'), "no model 'huge'"),
    (dict(processes=0), 'number of processes 0'), (dict(leave_out='nowhere.csv'), 'nowhere.csv')])
def test_refused_before_training(data, labelled, tmp_path, changes, message):
    with pytest.raises((ValueError, OSError), match=message): train(data, tmp_path/'out', **changes)
    assert not [*tmp_path.rglob('weights.safetensors')]

def test_too_few_views_for_a_batch(data, labelled, tmp_path):
    "An eighth of 64."
    with pytest.raises(ValueError, match='^[^ ]+: transfers learn from 0.125 of its 64 training views, which is 8, and a batch takes 16$'):
        train(data, tmp_path/'out', recipe=get_recipe('balanced', epochs=1, batch=16))
    assert not (tmp_path/'out').exists()

@pytest.mark.parametrize('target', ['colorization', 'nope'])
def test_no_such_target(target):
    with pytest.raises(ValueError, match=f"^target '{target}': it is none of S, D, "): drawn_chains(target, 0)

def test_a_constant_of_no_task(given_data):
    with pytest.raises(ValueError, match="^task 'x': the data has none of this key, only a, "): constant_losses(*given_data, 'x', None)

def test_no_data(tmp_path):
    with pytest.raises(ValueError, match='nowhere'): train(tmp_path/'nowhere', tmp_path/'out')
    assert not (tmp_path/'out').exists()

@pytest.mark.parametrize('changes, message', [
    (dict(recipe=get_recipe('quick', epochs=1, batch=8)), "recipe.reduce was 'geometric' there and is 'mean' here"),
    (dict(size=32), r'data.train.shape was \[3, 16, 16\] there and is \[3, 32, 32\] here')])
def test_a_folder_made_otherwise(copied, data, labelled, changes, message):
    before = {p: p.read_bytes() for p in (copied/'results').rglob('*') if p.is_file()}
    with pytest.raises(ValueError, match=message): train(data, copied, **changes)
    assert {p: p.read_bytes() for p in (copied/'results').rglob('*') if p.is_file()} == before
