"The study of *RSA* on networks of our own: its parts by hand, and a tiny training of all of it."
import json, os, shutil
from dataclasses import replace
from inspect import signature
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from scipy.stats import spearmanr
from skimage.color import rgb2lab

from its_a_match import representation_study, transfer_study
from its_a_match.archive import collect, read_statistics
from its_a_match.assignment import load_network
from its_a_match.batches import flip
from its_a_match.buildings import CLASSES
from its_a_match.folders import split_buildings
from its_a_match.gallery import colour_label, colour_limits
from its_a_match.memory import MemoryDataset, in_memory
from its_a_match.models import get_model
from its_a_match.recipes import get_recipe
from its_a_match.representation_study import (LAYOUT, PARTS, PASSES, START, layout_views, mean_iou, measure_similarities, measure_starts, network_dissimilarities, network_losses, new_views,
                                              ranking, similarities, task_views, train_representation_study, write_predictions)
from its_a_match.rooms import Rooms
from its_a_match.taskonomy import TaskonomyDataset
from its_a_match.tasks import GEOMETRY, Task
from its_a_match.transfer_study import study_views, task_network, train_tasks

WHOLE = {n: getattr(representation_study, n) for n in ('SOURCES', 'LEARNED', 'COMPARED', 'COUNTS', 'STAGES', 'DRAWS')}
SOURCES, ALTERED, SEEDS, MODELS, STAGES, SIZE = ('S', 'N', 'segment_unsup2d', 'colorization'), ('colorization',), (0, 2), ('small', 'wide'), (.5, 1.), 32
EACH = [(m, s) for m in MODELS for s in SEEDS]
RECIPE = get_recipe('balanced', epochs=1, batch=16)
FEW = replace(RECIPE, share=PASSES, flip=False, patience=None)

def transfers(data, out, seeds, model, size, leave_out, command, say, **how):
    "In place of the transfer study: the networks of its tasks, which are all that is needed of it."
    say('the transfer study')
    for s in seeds: train_tasks(study_views(data, size, leave_out), Path(out)/model, [s], model, **how)

@pytest.fixture(scope='module', autouse=True)
def little():
    "Four tasks, six buildings to compare networks on, and few of all else."
    few = dict(SOURCES=SOURCES, ALTERED=ALTERED, LEARNED=3, COMPARED=6, COUNTS=(10, 20, 48, 60), STAGES=STAGES, DRAWS=3)
    with pytest.MonkeyPatch.context() as m:
        for name, value in few.items(): m.setattr(representation_study, name, value)
        for name, value in dict(SOURCES=SOURCES, ALTERED=ALTERED, TARGETS=SOURCES[:3], GEOMETRY=[t for t in GEOMETRY if t.key in SOURCES]).items(): m.setattr(transfer_study, name, value)
        m.setattr(representation_study, 'train_transfer_study', transfers)
        m.setattr(os, 'fsync', lambda file: None)
        representation_study._new.cache_clear()
        yield
        representation_study._new.cache_clear()

@pytest.fixture(scope='module')
def data(tiny_rooms, tmp_path_factory):
    "A copy of the rooms, to which labels are added."
    return shutil.copytree(tiny_rooms, tmp_path_factory.mktemp('representation')/'rooms')

def train(data, new, out, **changes):
    "The study; what it said."
    said = []
    train_representation_study(data, out, **dict(seeds=SEEDS, model='wide', recipe=RECIPE, device='cpu', processes=1, size=SIZE, new=new, say=said.append) | changes)
    return said

@pytest.fixture(scope='module')
def study(data, tiny_rooms):
    "The folder of a tiny study: read only."
    train(data, tiny_rooms, data.parent/'out')
    return data.parent/'out'

@pytest.fixture
def copied(study, tmp_path): return shutil.copytree(study, tmp_path/'out')

@pytest.fixture(scope='module')
def views(study, data): return study_views(data, SIZE)

@pytest.fixture(scope='module')
def learned(tiny_rooms, little): return new_views(tiny_rooms, SIZE)[0]

@pytest.fixture(scope='module')
def compared(tiny_rooms, little): return new_views(tiny_rooms, SIZE)[1]

@pytest.fixture(scope='module')
def encoded(study, compared):
    "What every encoder makes of the images: {(model, seed): {key or stage of the new task: (N, P)}}."
    images = compared.batch(np.arange(len(compared)))[0]
    light  = torch.from_numpy(rgb2lab(images.numpy(), channel_axis=1))[:, :1]/100
    grey   = ((255*light.clamp(0, 1)).round()/255).float().expand(-1, 3, -1, -1)
    def features(net, x):
        with torch.no_grad(): return net.encode(x).flatten(1).double().numpy()
    of = lambda m, s: {k: features(task_network(study/m, k, s), grey if k == 'colorization' else images) for k in SOURCES}
    return {(m, s): of(m, s) | {f: features(load_network(study/m/'layout', 'layout', s, f), images) for f in STAGES} for m, s in EACH}

def rsa(a, b, rows=slice(None)):
    "Spearman's correlation of the upper triangles of 1 − Pearson correlation, by numpy and scipy."
    found = [1 - np.corrcoef(x[rows]) for x in (a, b)]
    upper = np.triu_indices(len(found[0]), 1)
    return spearmanr(*(d[upper] for d in found)).statistic

def table(study, name): return pd.read_csv(study/'results'/f'{name}.csv')

# ---- similarities

def made_up(n=12, keys='DSx', levels=9):
    "Symmetric matrices with many equal numbers."
    halves = {k: np.triu(np.random.default_rng(i).integers(0, levels, (n, n)), 1)/4 for i, k in enumerate(keys)}
    return {k: torch.tensor(h + h.T) for k, h in halves.items()}

@pytest.mark.parametrize('rows', [None, range(7), [11, 0, 4, 5], np.array([3, 1, 2])])
def test_similarities_are_spearmans_correlations(rows):
    matrices = made_up()
    at, found = np.arange(12) if rows is None else np.array(rows), similarities(matrices, rows)
    assert [*found] == [*found.index] == ['S', 'D', 'x'] and np.isnan(np.diag(found)).all() and (found.index.name, found.columns.name) == ('partner', 'target')
    upper = [m.numpy()[np.ix_(at, at)][np.triu_indices(len(at), 1)] for m in matrices.values()]
    for i, a in enumerate(matrices):
        for j, b in enumerate(matrices):
            if i != j: assert found.at[a, b] == pytest.approx(spearmanr(upper[i], upper[j]).statistic, abs=1e-6)

@pytest.mark.parametrize('rows', [None, [8, 0, 4, 5, 9]])
def test_ranking_agrees_with_similarities(rows):
    matrices = made_up(keys='DSxE')
    found, whole = ranking(matrices['x'], {k: matrices[k] for k in 'DSE'}, rows), similarities(matrices, rows)
    assert (found.name, found.index.name, [*found.index]) == ('similarity', 'task', [*'DSE'])
    assert found.to_dict() == pytest.approx(whole['x'].drop('x').to_dict(), abs=1e-9) and ranking(matrices['x'], matrices, rows)['x'] == pytest.approx(1)

def test_ranking_of_any_names():
    matrices = made_up(keys='DSxE')
    found = ranking(matrices['x'], {'': matrices['D'], 'similarity': matrices['S'], 0: matrices['E']})
    assert [*found.index] == ['', 'similarity', 0] and found.tolist() == ranking(matrices['x'], {k: matrices[k] for k in 'DSE'}).tolist() and found.nunique() == 3

def test_a_network_without_dissimilarities_is_similar_to_none():
    matrices = made_up()
    matrices['x'][3] = matrices['x'][:, 3] = torch.nan
    assert similarities(matrices)['x'].isna().all() and similarities(matrices).notna().sum().sum() == 2
    assert similarities(matrices, [0, 1, 2, 4, 5]).notna().sum().sum() == 6 and np.isnan(ranking(matrices['S'], matrices)['x'])

@pytest.mark.parametrize('model, seed', EACH)
def test_dissimilarities_of_trained_networks(study, compared, encoded, model, seed):
    "The network that learned to colour is given grey images."
    nets = {k: task_network(study/model, k, seed) for k in SOURCES}
    found = network_dissimilarities(nets, compared)
    assert [*found] == [*SOURCES]
    for k in SOURCES: assert found[k].numpy() == pytest.approx(1 - np.corrcoef(encoded[model, seed][k]), abs=1e-4)
    coloured = network_dissimilarities({'other': nets['colorization']}, compared)['other']
    assert (coloured - found['colorization']).abs().max() > 1e-2

# ---- the new task

SIDES = {-1.: 'right wall', -.51: 'right wall', -.5: 'front wall', 0.: 'front wall', .5: 'front wall', .51: 'left wall', 1.: 'left wall'}
OF = dict(floor='floor', rug='floor', ceiling='ceiling') | dict.fromkeys(('table', 'chair', 'sofa', 'bed', 'shelf', 'lamp', 'box', 'ball', 'plant'), 'contents')

def rooms_of(ids, side, known=None, seed=0):
    "Views (B, H, W) of these classes and horizontal components of the normals."
    ids, side = torch.as_tensor(ids), torch.as_tensor(side, dtype=torch.float32)
    normal = torch.stack([side, torch.zeros_like(side), (1 - side.square()).sqrt()], 1)
    images = torch.randint(0, 256, (len(ids), 3, *ids.shape[1:]), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return MemoryDataset('SN', images, {'S': ids, 'N': normal}, None if known is None else {'N': torch.as_tensor(known)[:, None]})

def test_every_class_and_side_by_hand():
    "A view for each side, a column for each class; the lower row has no normal."
    ids  = torch.arange(len(CLASSES)).expand(len(SIDES), 2, -1).clone()
    side = torch.tensor([*SIDES])[:, None, None].expand(ids.shape)
    known = torch.tensor([True, False])[None, :, None].expand(ids.shape)
    views = rooms_of(ids, side, known)
    found = layout_views(views)
    images, targets, masks = found.batch(np.arange(len(SIDES)))
    assert torch.equal(images, views.batch(np.arange(len(SIDES)))[0]) and found.tasks == (LAYOUT,) and (LAYOUT.key, LAYOUT.kind, LAYOUT.channels) == ('layout', 'classes', 7)
    for i, wall in enumerate(SIDES.values()):
        for j, name in enumerate(CLASSES):
            part = 'unlabelled' if name == 'unlabelled' else wall if name in ('wall', 'door', 'window', 'picture') else OF[name]
            assert PARTS[targets['layout'][i, 0, j]] == part and masks['layout'][i, 0, j] == (name != 'unlabelled'), (name, wall)
    assert not masks['layout'][:, 1].any() and not targets['layout'][:, 1].any()

def test_classes_of_other_ids():
    names = ['nothing', *reversed(CLASSES[1:])]
    found = layout_views(rooms_of([[[names.index(n) for n in ('floor', 'sofa', 'wall')]]], [[[0, 0, 1]]]), names)
    assert [PARTS[i] for i in found[0][1]['layout'][0]] == ['floor', 'contents', 'left wall']

def test_rooms_that_are_rendered(tiny_rooms):
    "Left is left and up is up; the layout of a mirrored room is the mirrored layout with the walls exchanged."
    views = in_memory(TaskonomyDataset(tiny_rooms, 'train', 'SN'))
    n, found = np.arange(len(views)), layout_views(views)
    images, targets, masks = found.batch(n)
    for first, second, axis in (('left wall', 'right wall', 1), ('ceiling', 'floor', 0)):
        places = [[np.nonzero((ids == PARTS.index(part)).numpy())[axis] for part in (first, second)] for ids in targets['layout']]
        both = [(a.mean(), b.mean()) for a, b in places if min(len(a), len(b)) > 40]
        assert len(both) > 20 and all(a < b for a, b in both)
    assert {*targets['layout'][masks['layout']].unique().tolist()} == {*range(1, 7)} and masks['layout'].float().mean() > .9
    turned = MemoryDataset(views.tasks, *flip(*views.batch(n), torch.ones(len(n), dtype=torch.bool), views.tasks))
    exchanged = torch.tensor([PARTS.index({'left wall': 'right wall', 'right wall': 'left wall'}.get(p, p)) for p in PARTS])
    assert torch.equal(layout_views(turned).batch(n)[1]['layout'], exchanged[targets['layout']].flip(-1))

@pytest.mark.parametrize('lack, kept', [('S', 'N'), ('N', 'S')])
def test_no_layout_without_its_labels(lack, kept):
    views = rooms_of([[[1, 2]]], [[[0, 0]]])
    with pytest.raises(ValueError, match=f"^task '{lack}': the layout of a room follows from S and N, and the data has no labels for it$"): layout_views(views.only(kept))

class Says(torch.nn.Module):
    "Its classes are the counts of the first channel."
    def forward(self, images):
        assert not self.training and not torch.is_grad_enabled()
        return {'c': torch.nn.functional.one_hot((255*images[:, 0]).round().long(), 5).movedim(-1, 1).float()}

def told(said, true, mask=None):
    images = np.zeros((len(said), 3, *said.shape[1:]), np.uint8)
    images[:, 0] = said
    return MemoryDataset([Task('c', kind='classes', channels=5)], images, {'c': true}, mask if mask is None else {'c': mask})

def test_mean_iou_is_that_of_sets():
    "Of all pixels of 70 views, which are more than are taken at once; class 3 is nowhere, though it is said, and class 4 is never said."
    rng = np.random.default_rng(0)
    true, said, mask = rng.choice([0, 1, 2, 4], (70, 4, 4)), rng.integers(0, 4, (70, 4, 4)), rng.random((70, 4, 4)) < .7
    where = lambda x, c: {*np.flatnonzero(((x == c) & mask).ravel())}
    by_hand = [len(where(true, c) & where(said, c))/len(where(true, c) | where(said, c)) for c in (0, 1, 2, 4)]
    net = Says().train()
    assert mean_iou(net, told(said, true, mask), 'c') == pytest.approx(np.mean(by_hand)) and by_hand[3] == 0 < min(by_hand[:3]) and net.training
    assert mean_iou(net, told(true, true), 'c') == 1 and mean_iou(net, told(3 + 0*true, true), 'c') == 0

def test_mean_iou_by_hand():
    "Two pixels of class 1 of which one is found, two of class 2 that are found, and one that is unknown."
    true, said = np.array([[[1, 1, 2, 2, 0]]]), np.array([[[1, 2, 2, 2, 1]]])
    assert mean_iou(Says(), told(said, true, np.array([[[1, 1, 1, 1, 0]]], bool)), 'c') == pytest.approx((1/2 + 2/3)/2)
    assert mean_iou(Says(), told(said, true), 'c') == pytest.approx((1/3 + 2/3 + 0)/3)

def test_no_label_to_compare_with():
    zeros = np.zeros((3, 2, 2), int)
    with pytest.raises(ValueError, match="^task 'c': none of the 3 views has a label for it$"): mean_iou(Says(), told(zeros, zeros, np.zeros((3, 2, 2), bool)), 'c')

# ---- its data

def pictures(dataset): return {x.numpy().tobytes() for x in dataset.batch(np.arange(len(dataset)))[0].contiguous()}

@pytest.mark.parametrize('learned, compare', [(3, 6), (3, 2), (7, 80), (1, 4)])
def test_nothing_that_is_learned_is_compared_on(tiny_rooms, monkeypatch, learned, compare):
    monkeypatch.setattr(representation_study, 'LEARNED', learned)
    monkeypatch.setattr(representation_study, 'COMPARED', compare)
    views, images = new_views(tiny_rooms, SIZE)
    by = {s: split_buildings(tiny_rooms, s) for s in ('train', 'val', 'test')}
    assert {s: len(v) for s, v in views.items()} == dict(train=8*learned, val=16, test=16) and all(v.tasks == (LAYOUT,) for v in views.values())
    assert not pictures(images) & (pictures(views['train']) | pictures(views['val'])) and not pictures(views['train']) & pictures(views['test'])
    wanted = ([b for b in by['train'] if b not in by['train'][:learned]] + by['test'])[:compare]
    expected = in_memory(TaskonomyDataset(tiny_rooms, wanted, 'SN', SIZE))
    assert len(images) == len(expected) == 8*min(compare, 10 - learned) and pictures(images) == pictures(expected)
    assert {t.key for t in images.tasks} == {'S', 'N'} and images.batch([0])[0].shape == (1, 3, SIZE, SIZE)

@pytest.mark.parametrize('learned', [8, 10])
def test_too_few_buildings(tiny_rooms, monkeypatch, learned):
    monkeypatch.setattr(representation_study, 'LEARNED', learned)
    with pytest.raises(ValueError) as why: new_views(tiny_rooms)
    assert str(why.value) == f'{tiny_rooms}: 8 buildings to train on, and {learned} of them are learned from, so none is left to compare networks on'

def test_a_folder_without_rooms(tmp_path):
    with pytest.raises(ValueError, match=f'^{tmp_path}[^\n]+$'): new_views(tmp_path)

def test_the_usual_rooms_suffice():
    "As many images are compared as the largest sample has, and the training's stages end with its end."
    rooms = Rooms('quick', seed=1)
    count = rooms.splits()[['train', 'test']].sum()
    assert count.train - WHOLE['LEARNED'] + count.test >= WHOLE['COMPARED'] and WHOLE['COMPARED']*rooms.views == WHOLE['COUNTS'][-1]
    assert len({*WHOLE['SOURCES']}) == 16 and WHOLE['STAGES'][-1] == 1 and len({f'{s:g}' for s in WHOLE['STAGES']}) == 10 and [*WHOLE['COUNTS']] == sorted({*WHOLE['COUNTS']})

def test_views_of_a_task(views):
    plain, grey = task_views(views, 'N'), task_views(views, 'colorization')
    assert [*plain] == [*grey] == ['train', 'val', 'test']
    for s in plain:
        assert [t.key for t in plain[s].tasks] == ['N'] and [t.key for t in grey[s].tasks] == ['colorization'] and pictures(plain[s]) == pictures(views[s])
        images = grey[s].batch(np.arange(len(grey[s])))[0]
        assert len(grey[s]) == len(views[s]) and torch.equal(images[:, 0], images[:, 1]) and torch.equal(images[:, 0], images[:, 2]) and images.std() > .05

# ---- all of it

def test_similarities_of_tasks(study, encoded):
    found = table(study, 'similarities').dropna()
    assert {*found} == {'partner', 'target', 'similarity', 'seed', 'model'} and len(found) == 12*4 and found.similarity.between(-1, 1).all()
    for (m, s), part in found.groupby(['model', 'seed']):
        square = part.pivot(index='partner', columns='target', values='similarity')
        assert {*square} == {*SOURCES} and square.equals(square.T)
        for r in part.itertuples(): assert r.similarity == pytest.approx(rsa(encoded[m, s][r.partner], encoded[m, s][r.target]), abs=1e-4)
    assert {*found.groupby(['model', 'seed']).groups} == {*EACH} and found.drop_duplicates('similarity').shape[0] == 24

def test_stages(study, encoded):
    "The small and the large network of the new task, at each stage, beside the large networks of the others."
    found = table(study, 'stages')
    assert {*found} == {'task', 'similarity', 'seed', 'model', 'stage'} and len(found) == 2*2*len(STAGES)*len(SOURCES) and not found.duplicated(['task', 'seed', 'model', 'stage']).any()
    for r in found.itertuples(): assert r.similarity == pytest.approx(rsa(encoded[r.model, r.seed][r.stage], encoded['wide', r.seed][r.task]), abs=1e-4)
    wide = found.pivot_table(index=['model', 'seed', 'task'], columns='stage', values='similarity')
    assert [*wide] == [*STAGES] and ((wide[.5] - wide[1.]).abs() > 1e-3).mean() > .5

@pytest.mark.parametrize('model, seed', EACH)
def test_the_last_stage_is_the_network(study, model, seed):
    "There was one epoch, so that the best is the last."
    last, net, half = (load_network(study/model/'layout', 'layout', seed, stage).state_dict() for stage in (1, None, .5))
    assert all(torch.equal(last[k], net[k]) for k in net) and not all(torch.equal(half[k], net[k]) for k in net)

def test_fewer_images(study, encoded):
    found = table(study, 'images')
    assert [*found] == ['seed', 'images', 'draw', 'pearson'] and found.groupby(['seed', 'images']).draw.apply(list).to_dict() == {(s, k): [*range(3 if k < 48 else 1)] for s in SEEDS for k in (10, 20, 48)}
    assert found.query('images == 48').pearson.to_numpy() == pytest.approx(1) and found.pearson.between(-1, 1).all() and (found.query('images == 10').pearson < .9999).any()
    of = lambda s, rows: [rsa(encoded['small', s][1.], encoded['wide', s][k], rows) for k in SOURCES]
    for r in found.itertuples():
        rows = np.random.default_rng([r.seed, r.draw]).permutation(48)[:r.images]
        assert r.pearson == pytest.approx(np.corrcoef(of(r.seed, rows), of(r.seed, np.arange(48)))[0, 1], abs=1e-3)

def test_losses(study, views):
    "Those of the networks are what was measured when they were trained."
    found = table(study, 'losses')
    assert [*found] == ['task', 'model', 'seed', 'test'] and len(found) == len(SOURCES)*5 and (found.test > 0).all() and found[found.model == 'constant'].seed.isna().all()
    by = found.set_index(['task', 'model', 'seed']).test
    for m, s in EACH:
        for folder, keys in (('tasks', SOURCES[:3]), ('colorization', ALTERED)):
            trained = collect(study/m/folder).loc['test', s]
            for k in keys: assert by[k, m, s] == pytest.approx(trained.at[k, k], rel=1e-4)
    def of(k):
        held = [views[s].only(k).batch(np.arange(len(views[s])))[1:] for s in ('train', 'test')]
        return [(x[k].movedim(1, -1) if x[k].ndim > 3 else x[k])[m[k].squeeze(1)].numpy() for x, m in held]
    constant, (known, there), (normal, other) = found[found.model == 'constant'].set_index('task').test, of('S'), of('N')
    share = np.bincount(known, minlength=18)/len(known)
    assert constant['S'] == pytest.approx(-np.log(np.maximum(share, 1e-6)[there]).mean(), rel=1e-4)
    assert constant['N'] == pytest.approx((abs(other - np.sort(normal, 0)[(len(normal) - 1)//2])/normal.std(0)).mean(), rel=1e-3)

def test_every_labelled_pixel_counts_as_much(tmp_path, monkeypatch):
    "Of three test images, one with three labelled pixels, one with one, and one with none."
    monkeypatch.setattr(representation_study, 'SOURCES', ('S', 'D'))
    def rows(ids, depth, known):
        ids, depth, known = (np.array(x)[:, None] for x in (ids, depth, known))
        return MemoryDataset('SD', np.zeros((len(ids), 3, 1, 4), np.uint8), {'S': ids, 'D': depth[:, None].astype(np.float32)}, {'S': known > 0, 'D': known[:, None] > 0})
    views = dict(train=rows([[1, 1, 1, 2]], [[0, 2, 2, 4]], [[1]*4]),
                 test=rows([[1, 1, 1, 5], [2, 5, 5, 5], [5]*4], [[1, 1, 3, 9], [5, 9, 9, 9], [9]*4], [[1, 1, 1, 0], [1, 0, 0, 0], [0]*4]))
    found = network_losses(views, tmp_path, [], [])
    assert found.task.tolist() == ['S', 'D'] and found.test.tolist() == pytest.approx([-(3*np.log(3/4) + np.log(1/4))/4, (3*1 + 3)/4/2**.5], rel=1e-4)

def test_losses_of_some_networks(study, views, monkeypatch):
    "The seeds may be such that can be counted once."
    monkeypatch.setattr(representation_study, 'SOURCES', ('N', 'S'))
    found, kept = network_losses(views, study, ['wide'], iter([2])), table(study, 'losses').set_index(['task', 'model', 'seed']).test.sort_index()
    assert [*zip(found.task, found.model)] == [('N', 'constant'), ('N', 'wide'), ('S', 'constant'), ('S', 'wide')] and found.seed.dropna().tolist() == [2, 2]
    assert found.test.tolist() == pytest.approx([x for k in 'NS' for x in (kept[k, 'constant'].item(), kept[k, 'wide', 2])])

def test_starts_table(study):
    found = table(study, 'starts')
    assert [*found] == ['seed', 'task', 'miou'] and [*zip(found.seed, found.task)] == [(s, k) for s in SEEDS for k in (*SOURCES, START)] and found.miou.between(0, 1).all() and found.miou.nunique() > 5
    for r in found.itertuples(): assert json.loads((study/'results'/'starts'/f'seed-{r.seed}'/f'{r.task}.json').read_text()) == dict(seed=r.seed, task=r.task, miou=r.miou)

def test_where_training_starts(study, tiny_rooms, tmp_path, monkeypatch):
    "The encoder is that of the task and seed, all else the same; what is written is of the network that was trained."
    begun, done, fit = {}, {}, representation_study.fit
    def watched(net, train, val, recipe, **how):
        at, before = len(begun), {k: v.clone() for k, v in net.state_dict().items()}
        done[at] = fit(net, train, val, recipe, **how)
        begun[at] = before, len(train), recipe, how
        return done[at]
    monkeypatch.setattr(representation_study, 'fit', watched)
    measure_starts(study/'wide', tmp_path, SEEDS, (str(tiny_rooms), SIZE), 'wide', FEW, 1)
    test = new_views(tiny_rooms, SIZE)[0]['test']
    images, targets, masks = test.batch(np.arange(len(test)))
    for (at, (weights, n, recipe, how)), (s, k) in zip(begun.items(), [(s, k) for s in SEEDS for k in (*SOURCES, START)]):
        plain = get_model('wide', [LAYOUT], seed=s)
        encoder = (plain if k == START else task_network(study/'wide', k, s)).encoder.state_dict()
        assert all(torch.equal(weights[f'encoder.{name}'], w) for name, w in encoder.items()) and all(torch.equal(weights[f'decoders.{name}'], w) for name, w in plain.decoders.state_dict().items())
        assert (k == START) == all(torch.equal(weights[f'encoder.{name}'], w) for name, w in plain.encoder.state_dict().items())
        assert (n, recipe, how['seed']) == (24, FEW, s)
        with torch.no_grad(): found = done[at].net(images)['layout'].argmax(1)
        true, said = targets['layout'][masks['layout']], found[masks['layout']]
        iou = [((true == c) & (said == c)).sum()/((true == c) | (said == c)).sum() for c in true.unique()]
        assert json.loads((tmp_path/'starts'/f'seed-{s}'/f'{k}.json').read_text())['miou'] == pytest.approx(np.mean(iou), abs=1e-6)
    assert len(begun) == 10 and (tmp_path/'starts.csv').read_text() == (study/'results'/'starts.csv').read_text()

def test_the_number_of_threads_stays(study, tiny_rooms, tmp_path, monkeypatch):
    before = torch.get_num_threads()
    def fail(*args, **how): raise ValueError(f'{torch.get_num_threads()} threads')
    monkeypatch.setattr(representation_study, 'fit', fail)
    try:
        torch.set_num_threads(2)
        with pytest.raises(ValueError, match='^1 threads$'): measure_starts(study/'wide', tmp_path, [0], (str(tiny_rooms), SIZE), 'wide', FEW, 1)
        assert torch.get_num_threads() == 2 and not [*tmp_path.rglob('*.json')] and not (tmp_path/'starts.csv').exists()
    finally: torch.set_num_threads(before)

def test_what_the_results_say(study):
    about, of = json.loads((study/'results'/'representation.json').read_text()), json.loads((study/'wide'/'tasks'/'campaign.json').read_text())
    assert (about['command'], about['models'], about['seeds'], about['images'], about['learned']) == ('train_representation_study()', [*MODELS], [*SEEDS], 48, dict(train=24, val=16, test=16))
    assert about['recipe'] == of['recipe'] and about['data'] == of['data'] and about['recipe']['share'] == 1 and about['data']['train'] | dict(labels=0, image=0) == dict(views=64, shape=[3, SIZE, SIZE], labels=0, image=0)
    assert {*about['versions']} == {'python', 'torch', 'its_a_match'}

def test_the_new_task_is_not_learned_from_mirrored_views(study):
    "A mirrored left wall would be learned as a left wall."
    recipes = {f: json.loads((study/f/'campaign.json').read_text())['recipe'] for m in MODELS for f in (f'{m}/tasks', f'{m}/layout')}
    for m in MODELS: assert recipes[f'{m}/layout'] == recipes[f'{m}/tasks'] | dict(share=PASSES, flip=False, patience=None) and recipes[f'{m}/tasks']['flip']

def test_no_place_of_this_machine_is_in_the_results(study, tiny_rooms):
    files = [p for p in (study/'results').rglob('*') if p.is_file()]
    assert {p.relative_to(study/'results').parts[0] for p in files} == {f'{n}.csv' for n in ('similarities', 'stages', 'images', 'starts', 'losses')} | {'starts', 'predictions.jpg', 'predictions.json', 'representation.json'}
    for p in files: assert not any(bytes(place) in p.read_bytes() for place in (study.parent, tiny_rooms, Path.home())), p

# ---- pictures

ROWS = (*SOURCES, 'layout')

def test_pictures(study):
    about, picture = json.loads((study/'results'/'predictions.json').read_text()), np.asarray(Image.open(study/'results'/'predictions.jpg'))
    assert about == dict(seed=0, view=8, tasks=[*ROWS], columns=['given', 'label', *MODELS]) and picture.shape == (SIZE*len(ROWS), SIZE*4, 3)

def test_what_pictures_show(copied, views, learned, monkeypatch):
    "Of another view and seed: images, labels, and predictions in the units of the labels."
    drawn, fromarray = [], Image.fromarray
    monkeypatch.setattr(Image, 'fromarray', lambda picture: drawn.append(picture) or fromarray(picture))
    write_predictions(views, learned, copied, ['wide', 'small'], 2, view=3)
    assert json.loads((copied/'results'/'predictions.json').read_text()) == dict(seed=2, view=3, tasks=[*ROWS], columns=['given', 'label', 'wide', 'small'])
    assert np.abs(np.asarray(Image.open(copied/'results'/'predictions.jpg')) - drawn[0].astype(float)).mean() < 12  # of 255: it is a JPEG
    shown, (image, targets, masks) = dict(zip(ROWS, drawn[0].reshape(len(ROWS), SIZE, 4, SIZE, 3).transpose(0, 2, 1, 3, 4))), views['test'][3]
    S, N = (next(t for t in views['test'].tasks if t.key == k) for k in 'SN')
    for k in SOURCES[:3]: assert np.array_equal(shown[k][0], (255*image.permute(1, 2, 0)).round().numpy())
    assert np.ptp(shown['colorization'][0], axis=2).max() == 0 and np.array_equal(shown['S'][1], colour_label(targets['S'].numpy(), masks['S'].numpy(), S))
    normal, known = targets['N'].permute(1, 2, 0).numpy(), masks['N'][0].numpy()
    limits, moments = colour_limits([(normal, known)], N), read_statistics(copied/'small'/'tasks').loc['N']
    assert np.array_equal(shown['N'][1], colour_label(normal, known, N, limits))
    for i, m in enumerate(('wide', 'small'), 2):
        with torch.no_grad(): normal, ids = (task_network(copied/m, k, 2)(image[None])[k][0].permute(1, 2, 0).numpy() for k in 'NS')
        assert np.abs(shown['N'][i] - colour_label(normal*moments['std'].to_numpy() + moments['mean'].to_numpy(), None, N, limits).astype(float)).max() <= 1
        assert np.array_equal(shown['S'][i], colour_label(ids.argmax(2), None, S)) and not np.array_equal(shown['N'][2], shown['N'][3])
        assert all(c.min() == 0 and c.max() >= 254 for c in shown['segment_unsup2d'][i].T)  # each principal component spans a colour

def test_the_picture_of_the_new_task(copied, views, learned, monkeypatch):
    "It is of the view in the middle of its own test views, whichever view of the others is drawn."
    drawn, fromarray = [], Image.fromarray
    monkeypatch.setattr(Image, 'fromarray', lambda picture: drawn.append(picture) or fromarray(picture))
    for view in (3, None): write_predictions(views, learned, copied, MODELS, 2, view)
    given, label, *found = drawn[0][-SIZE:].reshape(SIZE, 4, SIZE, 3).swapaxes(0, 1)
    image, target, mask = learned['test'][8]
    assert len(learned['test']) == 16 and np.array_equal(drawn[0][-SIZE:], drawn[1][-SIZE:]) and not np.array_equal(drawn[0][:SIZE], drawn[1][:SIZE])
    assert np.array_equal(given, (255*image.permute(1, 2, 0)).round().numpy()) and np.array_equal(label, colour_label(target['layout'].numpy(), mask['layout'].numpy(), LAYOUT))
    for m, picture in zip(MODELS, found):
        with torch.no_grad(): ids = load_network(copied/m/'layout', 'layout', 2)(image[None])['layout'][0].argmax(0)
        assert np.array_equal(picture, colour_label(ids.numpy(), None, LAYOUT)) and not np.array_equal(picture, label)

def test_a_view_that_there_is_not(copied, views, learned):
    before = results(copied)
    with pytest.raises(IndexError): write_predictions(views, learned, copied, MODELS, 0, view=16)
    assert results(copied) == before

# ---- going on

def trained(out): return {str(p.relative_to(out)): p.stat().st_mtime_ns for pattern in ('weights.safetensors', 'keep-*.safetensors', 'starts/*/*.json') for p in out.rglob(pattern)}
def results(out): return {p.name: p.read_bytes() for p in (out/'results').iterdir() if p.is_file()}

def test_a_second_call_trains_nothing(copied, data, tiny_rooms):
    before, held = trained(copied), results(copied)
    said = train(data, tiny_rooms, copied)
    assert trained(copied) == before and len(before) == 4*(4 + 1 + len(STAGES)) + 10 and results(copied) == held
    assert said == ['the transfer study', *(f'seed {s}: a small network for each task' for s in SEEDS), *(f'seed {s}: a {m} network for the new task' for s in SEEDS for m in MODELS),
                    *(f'similarities (seed {s})' for s in SEEDS)]

def test_what_the_transfer_study_is_asked_for(data, tiny_rooms, tmp_path, monkeypatch):
    "The same networks of data that are prepared; nothing is trained before."
    asked, prepared, say, leave_out = [], [], [].append, tmp_path/'list.csv'
    leave_out.write_text('building,point,view\n')
    def stop(*args, **how): raise RuntimeError(asked.append(signature(transfer_study.train_transfer_study).bind(*args, **how).arguments))
    monkeypatch.setattr(representation_study, 'train_transfer_study', stop)
    monkeypatch.setattr(representation_study, 'prepare_views', lambda *args: prepared.append(args) or data)
    with pytest.raises(RuntimeError): train(None, tiny_rooms, tmp_path/'out', seeds=iter(SEEDS), processes=2, leave_out=str(leave_out), fov=60, command='again', say=say)
    assert prepared == [(None, 60, 2)] and not (tmp_path/'out').exists()
    assert asked == [dict(data=data, out=tmp_path/'out', seeds=[*SEEDS], model='wide', recipe=RECIPE, device='cpu', processes=2, size=SIZE,
                          leave_out=str(leave_out), command='again', say=say)]

def test_a_start_that_is_missing_is_measured_again(copied, tiny_rooms, data):
    (path := copied/'results'/'starts'/'seed-2'/'N.json').unlink()
    before, held = trained(copied), results(copied)
    said = train(data, tiny_rooms, copied)
    after = trained(copied)
    assert [w for w in said if 'started' in w] == ['the new task, started from N (seed 2)'] and results(copied) == held
    assert {k: after[k] for k in before} == before and {*after} - {*before} == {str(path.relative_to(copied))}

def test_seeds_that_can_be_counted_once(copied, tiny_rooms):
    held = results(copied)
    (copied/'results'/'starts.csv').unlink()
    measure_starts(copied/'wide', copied/'results', iter(SEEDS), (str(tiny_rooms), SIZE), 'wide', FEW, 1)
    assert results(copied) == held

def test_a_recipe_that_may_end_early(data, tiny_rooms, tmp_path, monkeypatch):
    "The new task is learned to the end, as its stages need."
    for module in (representation_study, transfer_study): monkeypatch.setattr(module, 'SOURCES', ('S', 'N')), monkeypatch.setattr(module, 'ALTERED', ())
    monkeypatch.setattr(transfer_study, 'TARGETS', ('S', 'N'))
    train(data, tiny_rooms, out := tmp_path/'out', seeds=0, recipe=replace(RECIPE, epochs=2, patience=1))
    assert len(table(out, 'stages')) == 2*len(STAGES)*2 and len(table(out, 'starts')) == 3
    assert [json.loads((out/'wide'/f/'campaign.json').read_text())['recipe']['patience'] for f in ('tasks', 'layout')] == [1, None]

def test_one_seed_of_two(study, data, tiny_rooms, tmp_path):
    "The networks of a seed do not depend on the others."
    out = shutil.copytree(study, tmp_path/'out', ignore=shutil.ignore_patterns('results', 'seed-0'))
    said, held = train(data, tiny_rooms, out, seeds=2, command='again'), trained(study)
    assert len([w for w in said if 'started' in w]) == 5 and not [*out.rglob('seed-0')] and json.loads((out/'results'/'representation.json').read_text())['command'] == 'again'
    assert all(held[k] == t for k, t in trained(out).items() if 'starts' not in k)
    for name in ('similarities', 'stages', 'images', 'starts'):
        whole = table(study, name)
        pd.testing.assert_frame_equal(table(out, name), whole[whole.seed == 2].reset_index(drop=True))

# ---- what cannot be

@pytest.mark.parametrize('model, message', [('small', "the large model is 'small', which is the small one$"), ('big', "there is no model 'big': choose ")])
def test_a_large_model_that_cannot_be_is_told_first(tmp_path, model, message):
    "Before any data is looked for."
    with pytest.raises(ValueError, match=f'^{message}'): train(tmp_path/'nowhere', tmp_path/'nowhere', tmp_path/'out', model=model)
    assert not any(tmp_path.iterdir())

@pytest.mark.parametrize('changes, message', [
    (dict(seeds=[0, -1]), 'seed -1: it is not a whole number from 0'), (dict(seeds=()), 'no seed is named'), (dict(recipe='slow'), "recipe 'slow': it is none of"),
    (dict(size=0), 'the size 0 is neither'), (dict(leave_out='nowhere.csv'), 'nowhere.csv: it cannot be read')])
def test_wrong_arguments(data, tiny_rooms, tmp_path, changes, message):
    with pytest.raises(ValueError, match=f'^{message}'): train(data, tiny_rooms, tmp_path/'out', **changes)
    assert not any(tmp_path.iterdir())

def test_new_rooms_are_too_few(data, tiny_rooms, tmp_path, monkeypatch):
    monkeypatch.setattr(representation_study, 'LEARNED', 8)
    with pytest.raises(ValueError, match='8 buildings to train on'): train(data, tiny_rooms, tmp_path/'out')
    assert not any(tmp_path.iterdir())

def test_another_recipe_or_other_views(copied, data, tiny_rooms):
    before = trained(copied), results(copied)
    for changes in (dict(recipe=replace(RECIPE, lr=1e-3)), dict(size=16)):
        with pytest.raises(ValueError, match='^[^\n]+$') as why: train(data, tiny_rooms, copied, **changes)
        assert str(copied) in str(why.value)
    assert (trained(copied), results(copied)) == before

def test_a_network_that_is_missing(copied, compared, tiny_rooms):
    shutil.rmtree(copied/'wide'/'tasks'/'networks'/'N'/'seed-2')
    (copied/'results'/'starts'/'seed-2'/'N.json').unlink()
    before, missing = results(copied), "there is no trained network 'N' with seed 2"
    with pytest.raises(ValueError, match=missing): measure_similarities(copied, MODELS, SEEDS, compared)
    with pytest.raises(ValueError, match=missing): measure_starts(copied/'wide', copied/'results', SEEDS, (str(tiny_rooms), SIZE), 'wide', FEW, 1)
    assert results(copied) == before

def test_a_stage_that_was_not_kept(copied, compared):
    next((copied/'small'/'layout').rglob('seed-0/keep-0.5.safetensors')).unlink()
    with pytest.raises(FileNotFoundError): measure_similarities(copied, MODELS, SEEDS, compared)
