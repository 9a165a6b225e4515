"The committed results of the studies of transfer and of representation: that they are whole, and fit together."
import json, re
from dataclasses import asdict
from itertools import combinations, product

import numpy as np, pytest
from PIL import Image
from scipy.stats import spearmanr

from its_a_match.archive import read_table
from its_a_match.models import DEFAULT_MODEL
from its_a_match.recipes import DEFAULT_RECIPE, get_recipe
from its_a_match.representation_study import COMPARED, COUNTS, DRAWS, LAYOUT, LEARNED, SMALL, STAGES, START
from its_a_match.transfer_results import JUDGES, TransferResults, first_order, rated, similarity_tables
from its_a_match.transfer_study import ALTERED, SHARE, SOURCES, TARGETS, drawn_chains

SEEDS, MODELS = [0, 1, 2], [SMALL, DEFAULT_MODEL]
EVERY = [*product(TARGETS, SEEDS)]

@pytest.fixture(scope='module')
def r(root): return TransferResults(root/'data/results/transfer')

@pytest.fixture(scope='module')
def tables(root): return similarity_tables(root/'data/results/transfer')

@pytest.fixture(scope='module')
def about(root): return {n: json.loads((root/'data/results/transfer'/f'{n}.json').read_text()) for n in ('setup', 'representation', 'predictions')}

def test_files(r):
    "Those that the README names and no other, none of them with a path of some machine."
    assert {p.name for p in r.folder.iterdir()} == {'README.md', 'predictions.jpg', 'ranks.npz', *(f'{n}.json' for n in ('setup', 'representation', 'predictions')),
                                                    *(f'{n}.csv' for n in ('transfers', 'similarities', 'stages', 'images', 'starts', 'losses', 'networks'))}
    for p in r.folder.glob('*.[cj]s*'): assert not re.search(r'(^|[\s",=])[\\/]\w', p.read_text(), re.M), p

# ---- transfers

def test_all_seeds_and_targets(r):
    assert sorted(r.seeds) == SEEDS and tuple(r.targets) == TARGETS and tuple(r.sources) == SOURCES and len(r.losses) == len(EVERY)*(15 + 25 + 5 + 3)
    assert np.isfinite(r.losses[['val', 'test']]).all(axis=None) and (r.losses[['val', 'test']] > 0).all(axis=None)

@pytest.mark.parametrize('target, seed', EVERY)
def test_transfers_to_a_target(r, target, seed):
    "From each other task, each set of five of them, five chains; and what they are judged by."
    names = [*r.ranks(target, seed)]
    best  = sorted({s for n in names[15:40] for s in n.split('+')}, key=SOURCES.index)
    assert names[:15] == [s for s in SOURCES if s != target] and len(best) == 5 and names[15:40] == ['+'.join(c) for k in (2, 3, 4) for c in combinations(best, k)]
    assert names[40:45] == [f'{s}>{by}' for s, by in drawn_chains(target, seed)] and names[45:] == [*JUDGES]

@pytest.mark.parametrize('target, seed', EVERY)
def test_ranks_are_orders_that_fit_the_means(r, target, seed):
    means = r.losses.query('target == @target and seed == @seed')
    for split in ('val', 'test'):
        ranks = r.ranks(target, seed, split)
        known = ranks[(ranks > 0).any(axis=1)]
        assert len(ranks) == 300 and len(known) > 250 and (known.min(axis=1) == 1).all() and (known.nunique(axis=1) == known.max(axis=1)).all()
        assert spearmanr(known.mean(), means[split]).statistic > .8

@pytest.mark.parametrize('seed', SEEDS)
def test_affinities(r, seed):
    table = rated(r, seed)
    assert (table.affinity > 0).all() and len(table) == 13*(15 + 25 + 1) and np.allclose(table.groupby('target').affinity.sum(), 1)
    first = first_order(r, seed)
    assert {*first.index} == {*SOURCES} and tuple(first) == TARGETS and first.notna().sum().tolist() == [15]*13

def test_networks(r):
    networks = read_table(r.folder/'networks.csv', ['seconds', 'parameters', 'multiply_adds'], ['network', 'seed', 'status', 'campaign'])
    assert (networks.status == 'done').all() and (networks[['seconds', 'parameters', 'multiply_adds']] > 0).all(axis=None)
    found = sorted(networks[['campaign', 'network', 'seed']].itertuples(index=False, name=None))
    assert found == sorted((c, k, str(s)) for s in SEEDS for c, keys in [('tasks', TARGETS), *((k, [k]) for k in ALTERED), (f'scratch/seed-{s}', TARGETS)] for k in keys)

# ---- representations

def test_similarities(tables):
    "Symmetric and of every two tasks; a task is not compared with itself."
    found = tables['similarities']
    assert {*zip(found.seed, found.model)} == {*product(SEEDS, MODELS)}
    for _, part in found.groupby(['seed', 'model']):
        table = part.pivot(index='partner', columns='target', values='similarity').loc[[*SOURCES], [*SOURCES]].to_numpy()
        off = ~np.eye(16, dtype=bool)
        assert np.isnan(np.diag(table)).all() and (abs(table[off]) <= 1 + 1e-9).all() and np.allclose(table[off], table.T[off], atol=1e-9)

def test_stages(tables):
    found = tables['stages']
    assert sorted(zip(found.seed, found.model, found.stage, found.task)) == sorted(product(SEEDS, MODELS, STAGES, SOURCES))
    assert (abs(found.similarity) <= 1 + 1e-9).all()

def test_numbers_of_images(tables, about):
    n = about['representation']['images']
    assert sorted(zip(*(tables['images'][c] for c in ('seed', 'images', 'draw')))) == sorted((s, k, d) for s in SEEDS for k in COUNTS if k <= n for d in range(DRAWS if k < n else 1))
    assert (abs(tables['images'].pearson) <= 1 + 1e-9).all() and n >= COMPARED

def test_starts(tables):
    assert sorted(zip(tables['starts'].seed, tables['starts'].task)) == sorted(product(SEEDS, (*SOURCES, START))) and tables['starts'].miou.between(0, 1).all()

def test_losses(tables):
    found = tables['losses']
    assert sorted(zip(found.task, found.model, found.seed.fillna(-1))) == sorted([*product(SOURCES, MODELS, SEEDS), *product(SOURCES, ['constant'], [-1])])
    assert np.isfinite(found.test).all() and (found.test > 0).all()

def test_predictions(r, about):
    "A row of pictures for each task, the new one as well; a column for each of `columns`."
    said = about['predictions']
    assert said['columns'] == ['given', 'label', *MODELS] and said['tasks'] == [*SOURCES, LAYOUT.key] and said['seed'] in SEEDS and 0 <= said['view'] < 300
    assert Image.open(r.folder/'predictions.jpg').size == (64*4, 64*17)

# ---- both

def test_both_are_of_the_same_networks(about):
    setup, other = about['setup'], about['representation']
    both = 'its_a_match study representation-similarity --train'  # which makes the transfers, too
    assert other['command'] == both and setup['command'] in (both, 'its_a_match study taskonomy --train')
    assert setup['recipe'] == other['recipe'] == asdict(get_recipe(DEFAULT_RECIPE)) and setup['data'] == other['data']
    assert setup['seeds'] == other['seeds'] == SEEDS and setup['model'] == DEFAULT_MODEL and other['models'] == MODELS and setup['share'] == SHARE
    assert {s: (d['views'], d['shape'], {*d['labels']}) for s, d in setup['data'].items()} == {
        s: (n, [3, 64, 64], {*TARGETS}) for s, n in dict(train=2000, val=300, test=300).items()}
    assert {*other['learned']} == {'train', 'val', 'test'} and LEARNED <= other['learned']['train'] < 2000
