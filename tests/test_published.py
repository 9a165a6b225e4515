"The published tables: their numbers, pinned; their forms; what is refused."
import csv
import math
import subprocess
import sys
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from its_a_match import published as pub
from its_a_match.tasks import LETTERS

L = list(LETTERS)
NAMES = [''.join(c) for k in range(1, 6) for c in combinations(L, k)] + [f'{t}@0.5' for t in L]
SPLITS = ['val', 'test', 'early']


def same(a, b): return a == b or (math.isnan(a) and math.isnan(b))


def is_pairwise(table):
    "The square form: S D N K E both ways, axes named, nothing on the diagonal, everything beside it."
    assert list(table.index) == list(table.columns) == L
    assert (table.index.name, table.columns.name) == ('partner', 'target')
    assert (table.isna().values == np.eye(5, dtype=bool)).all()
    assert (table.dtypes == float).all()


# --- *Which tasks*: losses

@pytest.mark.parametrize('split', SPLITS)
def test_candidates_form(split):
    t = pub.which_tasks_losses(split)
    assert t.index.name == 'network' and list(t.columns) == ['cost', *L] and (t.dtypes == float).all()
    assert list(t.index) == NAMES
    assert list(t.cost) == [1] * 31 + [0.5] * 5
    for name, row in t[L].iterrows(): assert ''.join(row.dropna().index) == name.split('@')[0]
    assert ((t[L].stack() > 0) & (t[L].stack() < 1) | t[L].stack().isna()).all()
    assert t.attrs['paper'] == 'Which tasks'


@pytest.mark.parametrize('split, network, task, loss', [
    ('val', 'S', 'S', 0.08039), ('val', 'E', 'E', 0.02783), ('val', 'D', 'D', 0.1695), ('val', 'DN', 'D', 0.1695), ('val', 'DNK', 'D', 0.1654),
    ('val', 'SDNKE', 'N', 0.1), ('val', 'NKE', 'E', 0.02609), ('val', 'SDNK', 'K', 0.1015), ('val', 'S@0.5', 'S', 0.08021), ('val', 'E@0.5', 'E', 0.03313),
    ('test', 'S', 'S', 0.07662), ('test', 'SNE', 'S', 0.06859), ('test', 'DNKE', 'E', 0.02768), ('test', 'SDNKE', 'D', 0.186), ('test', 'K@0.5', 'K', 0.09203),
    ('early', 'S', 'S', 0.3937), ('early', 'DK', 'K', 0.1634), ('early', 'NKE', 'E', 0.1064), ('early', 'SDNKE', 'E', 0.3485), ('early', 'N@0.5', 'N', 0.1498)])
def test_pinned_losses(split, network, task, loss): assert pub.which_tasks_losses(split).loc[network, task] == loss


@pytest.mark.parametrize('split, sums', [('val', [1.22619, 2.8101, 1.52779, 1.50625, 0.56643]), ('test', [1.17209, 2.8126, 1.52385, 1.48222, 0.55883]),
                                         ('early', [3.888, 5.55, 2.6466, 3.5481, 4.7574])])
def test_checksums(split, sums):
    "Column sums of the 31 full-size networks, added up from the papers' text by other means."
    t = pub.which_tasks_losses(split)
    assert t[L].notna().sum().sum() == 5 * 2**4 + 5
    assert t.iloc[:31][L].sum().round(5).tolist() == sums


def test_losses_reproduce_the_rows_of_table_7_that_they_can():
    t, printed = pub.which_tasks_losses('test'), pub.which_tasks_table(7)
    assert round(t.loc['SDNKE', L].sum(), 3) == printed.loc['Traditional', 1] == 0.503
    assert round(t.loc[L, L].sum().sum(), 3) == printed.loc['Independent', 5] == 0.448
    assert round(t.loc[[f'{x}@0.5' for x in L], L].sum().sum(), 3) == printed.loc['Independent', 2.5] == 0.465


@pytest.mark.parametrize('bad', ['train', '', None, 0])
def test_unknown_split(bad):
    with pytest.raises(ValueError, match='choose one of val, test, early'): pub.which_tasks_losses(bad)


# --- *Which tasks*: tables

def test_table_1(): assert pub.which_tasks_table(1).total.tolist() == [0.50925, 0.53484, 0.50658]


def test_table_2_and_3_as_printed():
    two, three = pub.which_tasks_table(2), pub.which_tasks_table(3)
    is_pairwise(two); is_pairwise(three)
    assert two.loc['S', 'E'] == -0.3464 and two.loc['N', 'E'] == 0.1233 and two.loc['K', 'N'] == -0.0002
    assert two.attrs['average'] == -0.0115
    assert np.allclose(list(two.attrs['by_partner'].values()), two.mean(axis=1), atol=1e-4)
    assert np.allclose(list(two.attrs['by_target'].values()), two.mean(), atol=1e-4)
    assert three.equals(three.T)
    assert np.allclose(three, (two + two.T.values) / 2, atol=1e-4, equal_nan=True)


def test_table_4():
    t = pub.which_tasks_table(4)
    is_pairwise(t)
    assert t.equals(t.T) and t.loc['S', 'D'] == 1.740 and t.loc['N', 'K'] == 0.089 and t.stack().max() == t.loc['D', 'N'] == 1.915


def test_table_5():
    t = pub.which_tasks_table(5)
    assert [same(a, b) for a, b in zip(t.values.ravel(), [0.265, np.nan, np.nan, 0.1398, 0.2525, 0.1319])] == [True] * 6


def test_table_6():
    t = pub.which_tasks_table(6)
    assert list(t.columns) == ['method', 'budget', 'position', 'printed', 'network', 'used']
    assert t.method.unique().tolist() == ['Optimal', 'ESA', 'HOA']
    assert sorted(t.budget.unique()) == [1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5]
    assert (t.printed.str.upper() == t.network).all() and t.network.isin(NAMES).all()
    assert [''.join(c for c in p if c.isupper()) for p in t.printed] == t.used.tolist()
    for _, group in t.groupby(['method', 'budget']):
        assert sorted(''.join(group.used)) == sorted(L)
        assert group.position.tolist() == list(range(1, len(group) + 1))
        assert len(group) <= group.budget.iloc[0] * 2
    at = t[(t.method == 'ESA') & (t.budget == 4.5)]
    assert at.printed.tolist() == ['sDne', 'sdke', 'nKE', 'N', 'Snk']


def test_table_7():
    t = pub.which_tasks_table(7)
    assert list(t.columns) == [1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5]
    assert t.index.tolist() == ['Sener', 'GradNorm', 'Pessimal', 'Traditional', 'Random', 'Independent', 'ESA', 'HOA', 'Optimal']
    assert t.loc['Optimal'].tolist() == [.503, .461, .452, .446, .442, .439, .436, .436, .435]
    assert t.loc['HOA'].tolist() == [.503, .461, .455, .451, .449, .445, .444, .445, .442]
    assert t.loc['ESA'].tolist() == [.503, .487, .467, .461, .457, .451, .451, .447, .447]
    assert t.loc['Random'].tolist() == [.503, .483, .475, .471, .467, .464, .462, .460, .459]
    assert t.loc['Pessimal'].tolist() == [.503, .503, .503, .503, .503, .502, .499, .496, .495]
    assert t.loc['Traditional'].dropna().to_dict() == {1: .503, 2: .492, 2.5: .487, 4: .488}
    assert t.loc['Independent'].dropna().to_dict() == {1: .515, 1.5: .501, 2: .477, 2.5: .465, 4: .454, 5: .448}
    assert t.loc['GradNorm'].dropna().to_dict() == {1: .515, 4: .5}
    assert t.loc['Sener'].dropna().to_dict() == {1: .562, 2: .556, 2.5: .551, 4: .547}
    assert t.attrs['printed']['Pessimal'] == 'Pessimial Grouping'


@pytest.mark.parametrize('bad', [0, 8, '2', None])
def test_unknown_table(bad):
    with pytest.raises(ValueError, match='choose one of 1, 2, 3, 4, 5, 6, 7'): pub.which_tasks_table(bad)


# --- *Match*

def test_match_affinities():
    tables = pub.match_affinities()
    assert list(tables) == ['TD', 'IAS', 'RSA', 'LI', 'GS', 'GT']
    for n, (score, t) in enumerate(tables.items(), 1):
        is_pairwise(t)
        a = t.attrs
        assert (a['score'], a['table'], a['paper']) == (score, f'Table {n}', 'Match')
        assert t.equals(t.T) == a['symmetric'] == (score not in ('LI', 'GT'))
        assert a['scale'] == {'LI': 100, 'GS': 100, 'GT': 100}.get(score, 1)
        assert a['scale_source'] == ('inferred' if score == 'GT' else 'stated')
        natural = (t / a['scale']).stack().dropna()
        assert natural.between(*a['range']).all() and natural.between(*a['printed_range']).all()
        assert a['printed_range'][0] <= a['range'][0] and a['range'][1] <= a['printed_range'][1]


@pytest.mark.parametrize('score, partner, target, printed', [
    ('TD', 'S', 'K', -8), ('TD', 'K', 'D', -12), ('IAS', 'S', 'N', .45), ('RSA', 'D', 'N', .69), ('RSA', 'K', 'D', .04), ('LI', 'S', 'K', -2.93),
    ('LI', 'K', 'S', -8.47), ('LI', 'N', 'D', 66.30), ('LI', 'E', 'S', -15.93), ('LI', 'S', 'N', 3.70), ('GS', 'D', 'N', 8.40), ('GS', 'K', 'N', 1.0),
    ('GT', 'S', 'D', 1.69), ('GT', 'D', 'S', .47), ('GT', 'E', 'K', .71), ('GT', 'K', 'E', .38), ('GT', 'N', 'D', 1.26), ('GT', 'K', 'S', -.03)])
def test_pinned_affinities(score, partner, target, printed): assert pub.match_affinities()[score].loc[partner, target] == printed


def test_true_ranges():
    s = pub.match_scores()
    assert s.high['GT'] == 1 and s.low['LI'] == -1 and s.high['TD'] == 0
    assert np.isinf(s.printed_high['GT']) and np.isinf(s.printed_low['LI'])
    assert set(s.needs) == {'nothing', 'single-task networks', 'joint networks', 'extra training'}


def test_match_buildings():
    lists = {s: pub.match_buildings(s) for s in ('train', 'val', 'test')}
    assert [len(b) for b in lists.values()] == [58, 10, 4]
    assert len(set(sum(lists.values(), []))) == 72
    assert (lists['train'][0], lists['train'][29], lists['train'][30], lists['train'][-1]) == ('adairsville', 'cosmos', 'benevolence', 'silas')
    assert lists['val'][0] == 'corozal' and lists['test'] == ['ihlen', 'muleshoe', 'noxapater', 'mcdade']
    splits = pub.match_splits()
    assert splits.buildings.to_dict() == {s: len(b) for s, b in lists.items()}
    assert splits.images.to_dict() == {'train': 603437, 'val': 82345, 'test': 40367}
    with pytest.raises(ValueError, match="no split 'validation'"): pub.match_buildings('validation')


# --- Fifty et al., *RSA*, *Taskonomy*

def test_fifty():
    t = pub.fifty_affinities()
    is_pairwise(t)
    assert t.loc['D', 'S'] == .1154 and t.loc['E', 'K'] == .6897 and t.loc['K', 'E'] == .3037 and t.loc['S', 'N'] == .1398


def test_rows_of_match_are_partners():
    "GT was borrowed from Fifty et al.; it ranks as theirs does only if the rows are partners."
    gt, fifty = pub.match_affinities()['GT'], pub.fifty_affinities()
    as_read, turned = (fifty.stack().corr(t.stack(), method='spearman') for t in (gt, gt.T.rename_axis(index='partner', columns='target')))
    assert as_read > turned
    for t in (gt, fifty): assert t.loc['S', 'D'] / t.loc['D', 'S'] == pytest.approx(3.6, abs=0.05)


def test_rsa():
    net, said = pub.rsa_small_network(), pub.rsa_reported()
    conv = net[net.layer != 'Upscale']
    assert conv.layer.tolist() == [f'Conv{i}' for i in range(1, 11)] and (conv.kernel == 3).all()
    assert conv.channels.tolist()[:-1] == [16, 32, 64, 64, 8, 32, 16, 4, 4] and conv.channels.iloc[-1] is pd.NA
    assert net.stride.prod() == net.upscale.prod() == 2**4
    assert sorted(said.value) == sorted([.97, .77, .851, .88, .99, .95, .96, .99])
    assert set(said.statistic) == {'Pearson', 'Spearman'} and set(said.relation) == {'=', '>'}


def test_taskonomy_novel_tasks():
    t = pub.taskonomy_novel_tasks()
    assert t.groupby('task').size().tolist() == [9] * 10 and t.loss.notna().all()
    missing = t[t.win_rate.isna()]
    assert (missing.baseline == 'Taxonomy').sum() == 10
    assert missing[missing.baseline != 'Taxonomy'][['task', 'baseline']].values.tolist() == [['Layout', 'Zamir [100]']]
    at = t.set_index(['task', 'baseline'])
    assert at.loc[('Normals', 'full supervision'), 'win_rate'] == 6 and at.loc[('Egomotion', 'Taxonomy'), 'loss'] == 6.85
    assert t.win_rate.dropna().between(0, 100).all()


def test_taskonomy_gain_quality():
    t = pub.taskonomy_gain_quality()
    assert len(t) == 9 * 8 and not t.duplicated(['task', 'order', 'measure']).any() and t.value.between(0, 1).all()
    assert set(t.task) == {'Curvature', 'Denoising', 'Distance', 'Layout', 'Matching', 'Object Cls.', 'Occ. Edges', 'Pose (nonfix)', 'Z-Depth'}
    assert t.groupby(['task', 'measure']).value.diff().abs().max() <= 0.5


def test_taskonomy_transfer_affinities():
    "Table 4 of *Which tasks* is 100 times the mean of both directions, to its last digit."
    t = pub.taskonomy_transfer_affinities()
    is_pairwise(t)
    assert t.attrs['paper'] == 'Taskonomy'
    assert (t.loc['S', 'D'], t.loc['D', 'S'], t.loc['N', 'D'], t.loc['D', 'E'], t.loc['E', 'K']) == (.013078, .021715, .0299812, .0000121, .0001032)
    assert t.sum().round(7).to_dict() == {'S': .0852547, 'D': .0604550, 'N': .0137838, 'K': .0002822, 'E': .0046039}  # sums of the text, as fractions
    pd.testing.assert_frame_equal((50*(t + t.T)).round(3), pub.which_tasks_table(4))


# --- the folder

def test_every_file_is_described_and_well_formed():
    folder = pub.published_dir()
    readme = (folder/'README.md').read_text(encoding='utf-8')
    for file in folder.glob('*.csv'):
        rows = list(csv.reader(file.open(encoding='utf-8', newline='')))
        assert len(rows) > 1 and len({len(r) for r in rows}) == 1, file.name
        assert file.name in readme, file.name
        assert all(cell == cell.strip() for r in rows for cell in r), file.name


def test_missing_folder_is_told_plainly(tmp_path, monkeypatch):
    monkeypatch.setattr(pub.neighbour, '__file__', str(tmp_path/'lib'/'its_a_match'/'__init__.py'))
    with pytest.raises(FileNotFoundError, match='no folder data/published') as e: pub.which_tasks_losses()
    assert '\n' not in str(e.value)


def test_results_are_the_callers_own():
    mine = pub.which_tasks_losses()
    mine.loc['S', 'S'] = 0
    assert pub.which_tasks_losses().loc['S', 'S'] == 0.08039


def test_tables_are_found_beside_a_clone(tmp_path):
    "Python takes a folder called its_a_match, as a clone is, for a part of the package."
    (tmp_path/'its_a_match').mkdir()
    code = "from its_a_match.published import which_tasks_losses; print(len(which_tasks_losses('val')))"
    run = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, '36\n'), run.stderr
