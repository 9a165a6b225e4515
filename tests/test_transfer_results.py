"What is read from a transfer study, by small tables whose numbers can be worked out by hand."
import numpy as np, pandas as pd, pytest

from its_a_match.affinity.tournaments import transfer_affinities
from its_a_match.supervision import taxonomy
from its_a_match.transfer_results import (JUDGES, SIMILARITY_TABLES, TASK_CLASSES, TransferResults, best_transfers, class_contrast, first_order, judged, rated,
                                          similarity_tables, task_class, transferring_out, win_rate)
from its_a_match.transfer_study import SOURCES

NAMES = {'K': ['S', *JUDGES], 'S': ['D', 'colorization', 'D+colorization', 'colorization>D', *JUDGES], 'D': ['S', 'K', 'S+K', 'K>S', *JUDGES]}  # by target
# the order of these on each image: a fifth one without a label of D, and of K four
TEST = {'K': [[1, 2, 3, 4], [3, 1, 2, 4], [2, 1, 3, 4], [3, 1, 2, 4]],
        'S': [[3, 5, 2, 4, 1, 6, 7]]*5,
        'D': [[3, 4, 2, 5, 1, 6, 7], [2, 5, 3, 4, 1, 6, 7], [4, 2, 1, 6, 3, 5, 7], [2, 2, 1, 5, 1, 3, 4], [0]*7]}
VAL  = {'K': [[2, 1, 3, 4]]*3 + [[1, 2, 3, 4]],
        'S': [[4, 2, 3, 1, 5, 6, 7], [2, 4, 3, 1, 5, 6, 7], [2, 4, 3, 1, 5, 6, 7]],
        'D': [[5, 4, 3, 1, 2, 6, 7], [5, 3, 4, 1, 2, 6, 7], [5, 4, 3, 1, 2, 6, 7]]}

def write(folder, seeds=(0,), **changes):
    "Results of three targets and a task more that is a source; for a seed above 0 the orders are turned round."
    turned = lambda table, s: np.array(table, np.uint8) if not s else np.where(np.array(table) > 0, 9 - np.array(table), 0).astype(np.uint8)
    ranks  = {f'{t} {split} {s}': turned(of[t], s) for split, of in (('val', VAL), ('test', TEST)) for t in NAMES for s in seeds}
    rows   = [(s, t, n, .5 + i/8 + s, .25 + i/8 + s) for s in seeds for t, names in NAMES.items() for i, n in enumerate(names)]
    pd.DataFrame(rows, columns=['seed', 'target', 'transfer', 'val', 'test']).to_csv(folder/'transfers.csv', index=False)
    np.savez_compressed(folder/'ranks.npz', **ranks | changes)
    return folder

@pytest.fixture
def r(tmp_path): return TransferResults(write(tmp_path, (0, 2)))

def test_what_was_measured(r, tmp_path):
    assert r.seeds == [0, 2] and r.targets == ['K', 'S', 'D'] and r.sources == ['K', 'S', 'D', 'colorization']
    assert repr(r) == 'transfers between 4 tasks, 3 of them targets, seeds 0, 2'
    assert len(r.losses) == 36 and r.losses.seed.dtype == int
    assert r.losses.query('seed == 2 and target == "D" and transfer == "S+K"')[['val', 'test']].to_numpy().tolist() == [[2.75, 2.5]]
    assert TransferResults(str(tmp_path)).losses.equals(r.losses)

@pytest.mark.parametrize('target', [*NAMES])
def test_ranks(r, target):
    assert [*r.ranks(target, 0)] == NAMES[target]
    assert r.ranks(target, 0).to_numpy().tolist() == TEST[target] and r.ranks(target, 0, 'val').to_numpy().tolist() == VAL[target]
    assert r.ranks(target, 2, 'test').to_numpy().tolist() == [[9*(x > 0) - x for x in row] for row in TEST[target]]

@pytest.mark.parametrize('args', [('N', 0), ('D', 1), ('D', 0, 'train'), ('colorization', 0)])
def test_ranks_that_there_are_not(r, args):
    with pytest.raises(KeyError, match=args[0]): r.ranks(*args)

# ---- win rates

@pytest.mark.parametrize('winner, loser, share', [
    ('S', 'scratch', 1), ('scratch', 'S', 0), ('S+K', 'full', 1/4), ('full', 'S+K', 1/2), ('K', 'S', 1/4), ('S', 'K', 1/2),
    ('K>S', 'constant', 3/4), ('constant', 'full', 0), ('S', 'S', 0)])
def test_win_rate(r, winner, loser, share):
    "Of the four images with a label; of a tie nobody wins."
    assert win_rate(r, 'D', winner, loser, 0) == share == win_rate(r, 'D', loser, winner, 2) and isinstance(win_rate(r, 'D', winner, loser, 0), float)

def test_win_rate_on_validation(r): assert [win_rate(r, 'D', *pair, 0, 'val') for pair in (('K>S', 'full'), ('K', 'S+K'))] == [1, 1/3]

@pytest.mark.parametrize('args', [('N', 'S', 'K', 0), ('D', 'N', 'K', 0), ('D', 'S', 'D', 0), ('D', 'S', 'K', 7), ('D', 'S', 'K', 0, 'train')])
def test_win_rate_that_there_is_not(r, args):
    with pytest.raises(KeyError): win_rate(r, *args)

# ---- affinities

def eigenvector(rates):
    "The principal eigenvector of clipped win rates divided by their transpose, by numpy."
    w = np.clip(rates, .001, .999)
    np.fill_diagonal(w, .5)
    values, vectors = np.linalg.eig(w/w.T)
    v = abs(vectors[:, values.real.argmax()].real)
    return v/v.sum()

def test_rated(r):
    "Of two that win one and three of four images the affinities are one and three quarters."
    table = rated(r, 0)
    assert [*table] == ['sources', 'target', 'affinity'] and [*zip(table.target, table.sources)] == [
        ('K', 'S'), ('K', 'K'), ('S', 'D'), ('S', 'colorization'), ('S', 'D+colorization'), ('S', 'S'), ('D', 'S'), ('D', 'K'), ('D', 'S+K'), ('D', 'D')]
    assert table.groupby('target').affinity.sum().tolist() == pytest.approx([1, 1, 1]) and (table.affinity > 0).all()
    assert table.affinity[:2].tolist() == pytest.approx([1/4, 3/4])

@pytest.mark.parametrize('split, rates', [
    ('val', [[0, 0, 0, 0], [1, 0, 1/3, 0], [1, 2/3, 0, 0], [1, 1, 1, 0]]), ('test', [[0, 2/4, 1/4, 0], [1/4, 0, 0, 1/4], [3/4, 1, 0, 1/4], [1, 3/4, 2/4, 0]])])
def test_affinities_are_those_of_the_tournament(r, split, rates):
    "Of S, K, S+K and its own network for depth."
    assert rated(r, 0, split).query('target == "D"').affinity.to_numpy() == pytest.approx(eigenvector(np.array(rates, float)), rel=1e-6)

def test_orders_that_take_part(r):
    one, two = rated(r, 0, orders=1), rated(r, 0, orders=2)
    assert two.equals(rated(r, 0)) and not one.sources.str.contains('+', regex=False).any() and len(one) == 8
    assert one.groupby('target').affinity.sum().tolist() == pytest.approx([1, 1, 1])
    assert one.query('target == "S"').affinity.tolist() == transfer_affinities(r.ranks('S', 0, 'val')[['D', 'colorization', 'full']]).tolist()

def test_first_order(r):
    table = first_order(r, 0)
    assert [*table.index] == ['S', 'D', 'K', 'colorization'] and [*table] == ['K', 'S', 'D'] and (table.index.name, table.columns.name) == ('partner', 'target')
    known = {(s, t) for t in table for s in table.index if pd.notna(table.loc[s, t])}
    assert known == {('S', 'K'), ('D', 'S'), ('colorization', 'S'), ('S', 'D'), ('K', 'D')}
    every, alone = rated(r, 0, 'test').set_index(['target', 'sources']).affinity, rated(r, 0, 'val', 1).set_index(['target', 'sources']).affinity
    for s, t in known: assert table.loc[s, t] == every[t, s] and first_order(r, 0, 'val', 1).loc[s, t] == alone[t, s]
    assert table.loc['S', 'K'] == pytest.approx(1/4) and first_order(r, 2).loc['S', 'K'] == pytest.approx(3/4)

# ---- choices

@pytest.mark.parametrize('target, orders, expected', [
    ('D', 4, ['K', 'S+K', 'S+K', 'S+K']), ('D', 1, ['K']), ('S', 3, ['D', 'D', 'D']), ('K', 2, ['S', 'S'])])
def test_best_transfers(r, target, orders, expected):
    "On validation images, where chains and the own network are better still; on test images S would be the best for depth."
    assert best_transfers(r, target, 0, orders) == expected and win_rate(r, 'D', 'S', 'K', 0) > win_rate(r, 'D', 'K', 'S', 0)

def test_best_transfers_of_another_seed(r): assert best_transfers(r, 'D', 2, 2) == ['S', 'S'] and len(best_transfers(r, 'D', 2)) == 4

def test_judged(r):
    "S and K are supervised; depth is read off both."
    chosen = taxonomy(rated(r, 0), 2, sources=['S', 'K'])
    assert chosen.transfers == {'S': ('S',), 'D': ('S', 'K'), 'K': ('K',)}
    table = judged(r, chosen, 0)
    assert table.index.name == 'target' and [*table] == ['sources', 'gain', 'quality'] and table.sources.to_dict() == {'S': 'S', 'D': 'S+K', 'K': 'K'}
    assert table.gain.to_dict() == {'S': 1, 'D': 1, 'K': 1} and table.quality['D'] == 1/4 and table.quality[['S', 'K']].isna().all()
    assert judged(r, chosen, 2).gain.to_dict() == {'S': 0, 'D': 0, 'K': 0} and judged(r, chosen, 2).quality['D'] == 1/2

def test_judged_from_one_source(r):
    "The taxonomy of one label: K, which S loses on two images of four to scratch, and wins on one from the own network."
    chosen = taxonomy(rated(r, 0), 1)
    assert chosen.sources == ('S',)
    table = judged(r, chosen, 0)
    assert table.loc['K'].to_dict() == dict(sources='S', gain=1/2, quality=1/4) and table.loc['D'].to_dict() == dict(sources='S', gain=1, quality=0)

def test_judged_by_results_without_the_target(r):
    chosen = taxonomy(pd.DataFrame(dict(sources=['E'], target=['N'], affinity=[1.])), 1)
    with pytest.raises(KeyError, match='N'): judged(r, chosen, 0)

# ---- classes of tasks

def test_every_task_has_a_class():
    assert sorted(k for keys in TASK_CLASSES.values() for k in keys) == sorted(SOURCES) and (task_class('S'), task_class('K'), task_class('reshading')) == ('semantic', '2D', '3D')
    with pytest.raises(KeyError, match='layout'): task_class('layout')

def test_class_contrast():
    "Of four tasks of two classes a third of all names puts the same two together; and a semantic one is of no pair."
    near = lambda names, within, between: pd.DataFrame([[0 if a == b else within if task_class(a) == task_class(b) else between for b in names] for a in names], names, names)
    gap, p = class_contrast(near([*'DNKE'], .125, .5), 999)
    assert gap == .375 and p == pytest.approx(1/3, abs=.05) and round(p*1000) == pytest.approx(p*1000)
    assert class_contrast(near([*'SDNKE'], 1, 1), 99) == (0, 1) and class_contrast(near([*'DNKE'], .5, .25), 99)[0] == -.25
    gap, p = class_contrast(near(['D', 'N', 'reshading', 'keypoints3d', 'K', 'E', 'autoencoding', 'inpainting'], .25, 1), 999)
    assert gap == .75 and p < .06  # two of seventy

def test_transferring_out():
    "Over the targets that two sources have in common, which neither of them is."
    given = pd.DataFrame([[np.nan, .1, .01], [.01, np.nan, .1], [.1, .001, .1]], [*'SDK'], [*'SDN'])
    expected = np.array([[0, 1, 2.5**.5], [1, 0, .5**.5], [2.5**.5, .5**.5, 0]])
    found = transferring_out(given)
    assert [*found] == [*found.index] == [*'SDK'] and found.to_numpy() == pytest.approx(expected)

# ---- files that are missing or damaged

@pytest.mark.parametrize('name', ['transfers.csv', 'ranks.npz'])
def test_a_file_that_is_missing(tmp_path, name):
    (write(tmp_path)/name).unlink()
    with pytest.raises(FileNotFoundError, match=name): TransferResults(tmp_path)

@pytest.mark.parametrize('old, new, message', [
    ('target', 'goal', "no column 'target'"), ('transfer,', 'sources,', "no column 'transfer'"), (',val', ',valid', "no column 'val'"), ('seed', 'run', "no column 'seed'"),
    ('\n0,', '\n0.5,', 'a seed is no whole number'), ('\n0,', '\nx,', "seed is 'x' in row 1"),
    (',0.25\n', ',low\n', "test is 'low' in row 1"), (None, '', 'it is damaged'), ('\n', '', 'its last row is cut off')])
def test_damaged_losses(tmp_path, old, new, message):
    path = write(tmp_path)/'transfers.csv'
    text = path.read_text()
    path.write_text('' if old is None else text[:-1] if old == '\n' else text.replace(old, new, 1))
    with pytest.raises(ValueError, match='^[^\n]+$') as told: TransferResults(tmp_path)
    assert message in str(told.value) and 'transfers.csv' in str(told.value)

def test_no_rows(tmp_path):
    path = write(tmp_path)/'transfers.csv'
    path.write_text(path.read_text().split('\n')[0] + '\n')
    with pytest.raises(ValueError, match='transfers.csv: it is damaged, for it has no rows'): TransferResults(tmp_path)

@pytest.mark.parametrize('damage', [lambda b: b'', lambda b: b'order', lambda b: b[:len(b)//2], lambda b: b[:60] + bytes(20) + b[80:]])
def test_damaged_ranks(tmp_path, damage):
    path = write(tmp_path)/'ranks.npz'
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match='ranks.npz: it is damaged'): TransferResults(tmp_path)

@pytest.mark.parametrize('changes, message', [
    ({'D val 0': np.ones((3, 6))}, r'no order of the 7 transfers to D on val images \(seed 0\)'), ({'S test 0': np.ones(7)}, 'no order of the 7 transfers to S on test images')])
def test_ranks_that_do_not_fit_the_losses(tmp_path, changes, message):
    write(tmp_path, **changes)
    with pytest.raises(ValueError, match=f'ranks.npz: it is damaged, for it has {message}'): TransferResults(tmp_path)

def test_ranks_of_other_targets_and_seeds(tmp_path):
    "What is too much is no harm, what is missing is damage."
    assert TransferResults(write(tmp_path, E=np.ones(3))).targets == ['K', 'S', 'D']
    losses = pd.read_csv(tmp_path/'transfers.csv')
    pd.concat([losses, losses.query('target == "K"').assign(seed=4)]).to_csv(tmp_path/'transfers.csv', index=False)
    with pytest.raises(ValueError, match=r'no order of the 4 transfers to K on val images \(seed 4\)'): TransferResults(tmp_path)

# ---- tables of a representation study

TABLES = dict(similarities='partner,target,similarity,seed,model\nD,S,0.5,0,small\nS,S,,0,small\n', stages='task,similarity,seed,model,stage\nS,-0.25,1,fine,0.1\n',
              images='seed,images,draw,pearson\n2,100,9,0.875\n', starts='seed,task,miou\n0,S,0.5\n', losses='task,model,seed,test\nS,constant,,1.5\nS,small,0,0.1\n')

@pytest.fixture
def tables(tmp_path):
    for name, text in TABLES.items(): (tmp_path/f'{name}.csv').write_text(text)
    return tmp_path

def test_similarity_tables(tables):
    found = similarity_tables(str(tables))
    assert [*found] == [*TABLES] == [*SIMILARITY_TABLES]
    assert found['similarities'].similarity[0] == .5 and np.isnan(found['similarities'].similarity[1])
    assert found['similarities'].loc[0, ['partner', 'target', 'model']].tolist() == ['D', 'S', 'small']
    assert found['stages'].loc[0].to_dict() == dict(task='S', similarity=-.25, seed=1, model='fine', stage=.1)
    assert found['images'].loc[0].to_dict() == dict(seed=2, images=100, draw=9, pearson=.875) and found['starts'].miou[0] == .5
    assert np.isnan(found['losses'].seed[0]) and found['losses'].seed[1] == 0 and found['losses'].test.tolist() == [1.5, .1]
    assert all(t.seed.dtype.kind in 'if' for t in found.values())

@pytest.mark.parametrize('name', [*SIMILARITY_TABLES])
def test_a_table_that_is_missing_or_damaged(tables, name):
    path, number = tables/f'{name}.csv', SIMILARITY_TABLES[name][-1]
    path.write_text(TABLES[name].replace(number, 'amount'))
    with pytest.raises(ValueError, match=f"{name}.csv: it is damaged, for it has no column '{number}'"): similarity_tables(tables)
    path.write_text(TABLES[name][:-1])
    with pytest.raises(ValueError, match=f'{name}.csv: it is damaged, for its last row is cut off'): similarity_tables(tables)
    path.write_text(TABLES[name].replace('seed', 'run', 1))
    with pytest.raises(ValueError, match=f"{name}.csv: it is damaged, for it has no column 'seed'"): similarity_tables(tables)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f'{name}.csv'): similarity_tables(tables)
