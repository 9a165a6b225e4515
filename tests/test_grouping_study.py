"The study of *Which tasks* trained anew: its names, its tables on the published losses, and a tiny training of all of it."
import json, os, shutil
from dataclasses import replace

import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, strategies as st
from PIL import Image

from its_a_match import assignment, grouping_study
from its_a_match.assignment import DataFolder, noted_data, open_data
from its_a_match.benchmarking import PRESETS
from its_a_match.candidates import check_candidates
from its_a_match.findings import verdict
from its_a_match.grouping_methods import BUDGETS, KEYS, GroupingResults, baselines, is_candidate, over_seeds, solutions, totals, without_task
from its_a_match.grouping_study import FRACTIONS, SHOWN, few_networks, other_networks, predictions, train_grouping_study, write_predictions
from its_a_match.memory import part_of, some_views
from its_a_match.published import which_tasks_losses, which_tasks_table
from its_a_match.recipes import get_recipe
from its_a_match.selection import select_networks
from its_a_match.taskonomy import TaskonomyDataset
from its_a_match.tasks import canonical_name, parse_network

VAL, TEST, EARLY = map(which_tasks_losses, ('val', 'test', 'early'))

# ---- names

def test_baselines():
    names = baselines()
    assert len({*names}) == len(names) == 29 and all(canonical_name(n, KEYS) == n for n in names) and not {*names} & {*VAL.index}
    assert names[:5] == ['S@0.2', 'D@0.2', 'N@0.2', 'K@0.2', 'E@0.2'] and names[-6:] == [f'SDNKE{n}' for n in ('+gradnorm', '@4+gradnorm', '+mgda', '@2+mgda', '@2.5+mgda', '@4+mgda')]

def test_candidates_are_the_papers():
    others = 'S@2', 'SD@0.5', 'SDNKE@2', 'SD+geometric', 'S<D', 'S@0.5+mgda'
    assert all(map(is_candidate, [*VAL.index, 'S½', 'DS'])) and not any(map(is_candidate, [*baselines(), *others]))
    with pytest.raises(ValueError, match="'X' is not one of the tasks"): is_candidate('SX')

def test_few_networks(): assert few_networks() == ['D', 'N', 'D@0.5', 'N@0.5', 'DN'] and FRACTIONS == (1/2, 1/4, 1/8, 1/16, 1/32)

@pytest.mark.parametrize('budget', BUDGETS)
def test_other_networks_cost_as_much(budget):
    chosen = select_networks(VAL, budget)
    some = other_networks(chosen)
    assert some['grouping'] == [*chosen.networks] and [len(some[w]) for w in ('all-in-one', 'individual')] == [1, 5]
    assert {w: pytest.approx(sum(parse_network(n, KEYS).size for n in names)) for w, names in some.items()} == dict.fromkeys(some, chosen.cost)

# ---- tables

def test_table_7():
    "What depends on the candidates alone is as printed; the tasks' networks are chosen on validation, which costs one digit of HOA."
    table, printed = totals(VAL, TEST, EARLY, n=100, exact=True).round(3), which_tasks_table(7)
    assert [*table.columns] == [*BUDGETS] and [*table.loc['Optimal']] == [*printed.loc['Optimal']]
    assert [*table.loc['ESA']] == [.503, .487, .467, .461, .457, .451, .451, .447, .447]
    assert all(table.loc['Optimal'] <= table.loc['Random']) and all(table.loc['Random'] <= table.loc['Pessimal'])
    assert table.loc[['GradNorm', 'Sener']].isna().all(axis=None) and [*table.loc['Independent'].dropna().index] == [2.5, 5] and [*table.loc['Traditional'].dropna().index] == [1]

def with_baselines(table):
    "The baselines as well, a tenth of a loss each."
    more = {n: parse_network(n, KEYS) for n in baselines()}
    return pd.concat([table, pd.DataFrame([dict(cost=p.size) | {t: .1 for t in p.tasks} for p in more.values()], [*more])])[['cost', *KEYS]]

def test_baselines_where_the_paper_has_them():
    found, printed = solutions(with_baselines(VAL), with_baselines(EARLY)), which_tasks_table(7)
    costs = {m: sorted({round(s.cost, 6) for s in of.values()}) for m, of in found.items() if m in ('Traditional', 'GradNorm', 'Sener', 'Independent')}
    assert costs == {'Traditional': [1, 2, 2.5, 4], 'GradNorm': [1, 4], 'Sener': [1, 2, 2.5, 4], 'Independent': [1, 1.5, 2, 2.5, 4, 5]}
    assert all([*found[m]] == [*BUDGETS] and all(s.cost <= b for b, s in found[m].items()) for m in costs)
    assert {*found} - {'Equal weights'} <= {*printed.index} and {n for m in ('Optimal', 'HOA', 'ESA', 'Pessimal') for s in found[m].values() for n in s.networks} <= {*VAL.index}

def test_rows_and_columns_in_any_order():
    mixed = [t.sample(frac=1, random_state=i) for i, t in enumerate((VAL, TEST, EARLY))]
    pd.testing.assert_frame_equal(totals(*mixed, [1, 2.5], n=3).drop('Random'), totals(VAL, TEST, EARLY, [1, 2.5], n=3).drop('Random'))

def test_without_a_task():
    rest = [without_task(t, 'S') for t in (VAL, TEST, EARLY)]
    assert len(rest[0]) == 19 and check_candidates(rest[0]).equals(rest[0])
    table = totals(*rest, (1, 2, 2.5, 4), n=10)
    assert table.loc['Traditional', 1] == TEST.loc['DNKE', [*'DNKE']].sum() and table.loc['Independent'].notna().tolist() == [False, True, True, True]
    assert totals(*rest, (1, 2, 2.5, 4), n=10, exact=True).loc['Independent'].notna().tolist() == [False, True, False, True]

@pytest.mark.parametrize('tables, budgets, message', [
    ((VAL, TEST, EARLY), [.5], 'the least that works is 1'), ((VAL, TEST, EARLY), [1.25], 'costs exactly 1.25'), ((VAL, TEST, EARLY), [], 'no budget'),
    ((VAL.drop('SD'), TEST, EARLY), [2], "the pair 'SD' is missing"), ((VAL, TEST.drop('NKE'), EARLY), [2.5], "'NKE' is not in the other table")])
def test_no_such_table(tables, budgets, message):
    with pytest.raises(ValueError, match=message): totals(*tables, budgets, n=2)

def test_over_seeds():
    mean, half = over_seeds({s: VAL[['S']]*k for s, k in enumerate((.9, 1, 1.1))})
    assert mean.S.to_numpy() == pytest.approx(VAL.S.to_numpy(), nan_ok=True)
    assert half.S['S'] == pytest.approx(4.30265*.1*VAL.S['S']/3**.5) and over_seeds({0: VAL})[1].isna().all(axis=None)

@pytest.mark.parametrize('differences, said', [([1, 1.1, 1.2], 'yes'), ([-1, -1.1], 'no'), ([1, -1], 'tie'), ([1], 'tie'), ([0, 0], 'tie')])
def test_verdict(differences, said): assert verdict(differences) == said

# ---- views

@given(st.integers(1, 3000), st.integers(0, 99))
def test_some_views_are_nested_and_the_same_again(n, seed):
    parts = [some_views(n, f, seed) for f in (1, *FRACTIONS)]
    assert [*parts[0]] == [*range(n)] and all({*b} <= {*a} for a, b in zip(parts, parts[1:]))
    for f, part in zip(FRACTIONS, parts[1:]): assert len(part) == max(1, round(n*f)) and [*part] == sorted({*part}) == [*some_views(n, f, seed)]

def test_another_seed_draws_other_views(): assert [*some_views(100, .5, 0)] != [*some_views(100, .5, 1)]

def test_a_part_is_the_same_in_memory_and_on_the_disk(tiny_rooms):
    files = TaskonomyDataset(tiny_rooms, 'val', 'SDN')
    rows  = some_views(len(files), .5, 0)
    disk, memory = part_of(files, rows), part_of(open_data(DataFolder(str(tiny_rooms), files.tasks), memory=True)['val'], rows)
    assert len(disk) == len(memory) == len(rows) and disk.tasks == memory.tasks
    for at in (slice(0, 3), [2, 0], np.array([1])):
        for a, b in zip(disk.batch(at), memory.batch(at)):
            for x, y in zip(*((d.values() if isinstance(d, dict) else [d]) for d in (a, b))): assert torch.equal(x, y)
    pd.testing.assert_frame_equal(disk.statistics(), memory.statistics())
    with pytest.raises(ValueError, match='a batch without a view'): disk.batch([])

# ---- training

SOME = ['S@0.2', 'SDNKE@2.5', 'SDNKE+gradnorm']
FAST = dict(seeds=(0,), model='small', encoder='small', recipe=get_recipe('balanced', epochs=1, batch=16), size=32, device='cpu', processes=1)

def train(data, out, fractions=(1/2,), **changes):
    "The study with the paper's networks, three baselines, one fraction, and no labels as inputs; what it said."
    said = []
    with pytest.MonkeyPatch.context() as m:
        m.setattr(grouping_study, 'FRACTIONS', fractions)
        m.setattr(grouping_study, 'baselines', lambda: SOME)
        m.setitem(PRESETS, 'full', replace(PRESETS['full'], parts=('single', 'pairs', 'all', 'larger', 'half'), images=8))
        m.setenv('XDG_CACHE_HOME', str(out.parent/'cache'))
        m.setattr(os, 'fsync', lambda file: None)  # a fifth of the time
        return train_grouping_study(data, out, **dict(FAST, say=said.append) | changes), said

@pytest.fixture(scope='module')
def study(tiny_rooms, tmp_path_factory):
    "The folder of a tiny study: read only."
    out = tmp_path_factory.mktemp('study')/'out'
    train(tiny_rooms, out)
    return out

@pytest.fixture(scope='module')
def longer(study, tiny_rooms):
    "The same with a second seed, in another folder."
    out = shutil.copytree(study, study.parent/'longer')
    train(tiny_rooms, out, seeds=(0, 1))
    return out

@pytest.fixture
def copied(study, tmp_path): return shutil.copytree(study, tmp_path/'out')

def weights(out): return {str(p.relative_to(out)): p.stat().st_mtime_ns for p in out.rglob('weights.safetensors')}

def test_what_it_leaves(study):
    r = GroupingResults(study)
    assert r.seeds == [0] and r.keys == [*KEYS] and repr(r) == 'GroupingResults of 5 tasks and 1 seed'
    for split in ('val', 'test', 'early'):
        assert {*r.candidates(split).index} == {*VAL.index} and {*r.candidates(split, 0, baselines=True).index} == {*VAL.index, *SOME, *(f'SDNKE{s}+mean' for s in ('', '@2', '@2.5', '@4'))}
    assert r.setup['command'] == 'train_grouping_study()' and r.setup['preset'] == 'full' and r.setup['data']['shape'] == [3, 32, 32]
    assert {p.name for p in r.folder.iterdir()} >= {'losses.csv', 'equal.csv', 'other.csv', 'fractions.csv', 'predictions.jpg', 'predictions.json'}
    assert totals(*(r.candidates(s, 0, baselines=True) for s in ('val', 'test', 'early')), [1, 2.5], n=3).loc[[*SHOWN], 2.5].notna().all()
    assert GroupingResults(r.folder).fractions.equals(r.fractions)

def test_another_encoder(study):
    r = GroupingResults(study)
    names = other_networks(select_networks(r.candidates('val'), 3))
    assert {*r.other.index.unique('network')} == {n for some in names.values() for n in some} and {*r.other.encoder} == {'small'}
    assert {*r.other.index.unique('split')} == {'val', 'test', 'early'} and all(r.other.loc['test', 0].cost[n].sum() <= 3 + 1e-9 for n in names.values())
    assert json.loads((study/'other'/'campaign.json').read_text())['data']['train']['shape'] == [3, 32, 32]

def test_less_data(study):
    "Half of the views, seen twice as often, with the labels normalised as before."
    r, folder = GroupingResults(study), study/'fractions'/'1_2'/'seed-0'
    n = r.setup['data']['views']['train']
    assert [*r.fractions.loc['test', 0].index] == few_networks() and {*r.fractions.fraction} == {.5} and {*r.fractions.views} == {n/2}
    about = json.loads((folder/'campaign.json').read_text())
    assert about['recipe']['share'] == 2 and about['data']['train']['views'] == n/2 and about['data']['test'] | dict(labels=0) == json.loads((study/'campaign.json').read_text())['data']['test'] | dict(labels=0)
    assert (folder/'statistics.csv').read_text() == (study/'statistics.csv').read_text()

def test_pictures(study):
    r = GroupingResults(study)
    about, picture = json.loads((r.folder/'predictions.json').read_text()), np.asarray(Image.open(r.folder/'predictions.jpg'))
    assert (about['seed'], about['tasks'], about['columns'], about['budget']) == (0, [*KEYS], ['image', 'label', *SHOWN], 2.5) and about['views'] == [5, 10]
    assert picture.shape == (32*len(about['views'])*5, 32*7, 3) and {*about['solves']} == {*SHOWN}
    assert about['solves']['Traditional'] == dict.fromkeys(KEYS, 'SDNKE@2.5') and about['solves']['Independent'] == {k: f'{k}@0.5' for k in KEYS}
    image, views = open_data(noted_data(study))['test'].batch(np.array([5]))[0][0], predictions(study, dict(Mine=about['solves']['Optimal']), [5])
    assert {*views} == {(5, '', 'image'), *((5, k, c) for k in KEYS for c in ('label', 'Mine'))} and all(v.shape == (32, 32, 3) and v.dtype == np.uint8 for v in views.values())
    assert np.abs(views[5, '', 'image']/255 - image.permute(1, 2, 0).numpy()).max() <= .5/255 + 1e-6
    for at, shown in (picture[:32, :32], views[5, '', 'image']), (picture[32:64, 32:64], views[5, 'D', 'label']), (picture[128:160, -32:], views[5, 'E', 'Mine']):
        assert np.abs(at.mean(2) - shown.mean(2))[4:-4, 4:-4].mean() < 8  # of 255: it is a JPEG

def test_other_views(copied):
    write_predictions(copied, views=[3])
    assert Image.open(copied/'results'/'predictions.jpg').size == (32*7, 32*5) and json.loads((copied/'results'/'predictions.json').read_text())['views'] == [3]

def test_a_second_call_trains_nothing(copied, tiny_rooms):
    before, tables = weights(copied), {p.name: p.read_text() for p in (copied/'results').glob('*.csv') if p.name not in ('times.csv', 'costs.csv', 'setup.json')}
    r, said = train(tiny_rooms, copied)
    assert weights(copied) == before and len(before) == 36 + 3 + 4 + 5 + len(r.other.loc['test']) and {p: (copied/'results'/p).read_text() for p in tables} == tables
    assert said[0] == 'seed 0: the benchmark' and 'seed 0: the baselines' in said and said[-1] == 'seed 0: the best grouping for 3 SNT with small'

def test_data_that_does_not_fit_into_memory(copied, tiny_rooms, monkeypatch):
    "It is read from files, and gives the same losses."
    before = GroupingResults(copied).fractions
    shutil.rmtree(copied/'fractions')
    monkeypatch.setattr(assignment, '_free_memory', lambda: 0)
    pd.testing.assert_frame_equal(train(tiny_rooms, copied)[0].fractions, before)

def test_a_second_seed_joins(study, longer):
    r, before, after = GroupingResults(longer), GroupingResults(study), weights(longer)
    assert r.seeds == [0, 1] and {n: after[n] for n in weights(study)} == weights(study)
    assert [*r.fractions.index.unique('seed')] == [*r.other.index.unique('seed')] == [0, 1]
    pd.testing.assert_frame_equal(r.losses.loc[(slice(None), 0), :].sort_index(), before.losses.sort_index())
    pd.testing.assert_frame_equal(r.fractions.loc[(slice(None), 0), :].sort_index(), before.fractions.sort_index())
    assert not r.losses.loc['val', 1].equals(r.losses.loc['val', 0])
    names = other_networks(select_networks(r.candidates('val'), 3))
    assert all({*some} <= {*r.other.loc['test', s].index} for some in names.values() for s in (0, 1))

# ---- what cannot be

def test_no_results(tmp_path, study):
    with pytest.raises(ValueError, match='there is no losses.csv'): GroupingResults(tmp_path)
    shutil.copytree(study/'results', tmp_path/'results')
    for name in ('equal.csv', 'other.csv', 'fractions.csv'): (tmp_path/'results'/name).unlink()
    r = GroupingResults(tmp_path)
    assert r.equal is None and r.other is None and r.fractions is None
    (tmp_path/'results'/'setup.json').unlink()
    with pytest.raises(ValueError, match='setup.json: it is missing'): GroupingResults(tmp_path)

@pytest.mark.parametrize('name, old, new, message', [
    ('losses.csv', 'cost', 'price', "no column 'cost'"), ('other.csv', 'encoder', 'model', "no column 'encoder'"), ('fractions.csv', 'views', 'sight', "no column 'views'"),
    ('fractions.csv', ',0.5,32\n', ',half,32\n', "fraction is 'half' in row 1"), ('other.csv', None, '', 'it is damaged'), ('fractions.csv', '\n', '', 'its last row is cut off')])
def test_damaged_results(copied, name, old, new, message):
    path = copied/'results'/name
    text = path.read_text()
    path.write_text('' if old is None else text[:-1] if old == '\n' else text.replace(old, new))
    with pytest.raises(ValueError, match='^[^\n]+$') as told: GroupingResults(copied)
    assert message in str(told.value) and name in str(told.value)

@pytest.mark.parametrize('changes, message', [
    (dict(seeds=[-1]), 'seed -1'), (dict(seeds=()), 'no seed'), (dict(recipe='slow'), "recipe 'slow'"), (dict(model='huge'), "no model 'huge'")])
def test_refused_before_training(tiny_rooms, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message): train(tiny_rooms, tmp_path/'out', **changes)
    assert not (tmp_path/'out'/'networks').exists()

def test_no_data(tmp_path):
    with pytest.raises(ValueError, match='there is no such folder'): train(tmp_path/'nowhere', tmp_path/'out')

@pytest.mark.parametrize('changes, message', [
    (dict(recipe=get_recipe('quick', epochs=1, batch=16)), "recipe.reduce was 'geometric' there and is 'mean' here"), (dict(model='wide'), "model was 'small' there and is 'wide' here"),
    (dict(encoder='wide'), "model was 'small' there and is 'wide' here")])
def test_a_folder_made_otherwise(copied, tiny_rooms, changes, message):
    before = weights(copied)
    with pytest.raises(ValueError, match=message): train(tiny_rooms, copied, **changes)
    assert weights(copied) == before

@pytest.mark.parametrize('network', ['SDNKE@2.5', 'S@0.5'])
def test_a_network_that_diverged(copied, tiny_rooms, network):
    "The study goes on without it, or says in a sentence that it cannot."
    folder = copied/'networks'/network/'seed-0'
    (folder/'network.json').write_text(json.dumps(json.loads((folder/'network.json').read_text()) | dict(status='diverged', reason='the loss is not finite')))
    (folder/'losses.csv').write_text('split,task,loss\n')
    try: train(tiny_rooms, copied)
    except ValueError as e: assert network in str(e)

def test_a_call_for_one_seed_keeps_the_others(longer, tiny_rooms, tmp_path):
    r, _ = train(tiny_rooms, shutil.copytree(longer, tmp_path/'out'), seeds=(1,))
    assert [*r.fractions.index.unique('seed')] == [*r.other.index.unique('seed')] == [0, 1]

def test_an_encoder_that_there_is_not_is_refused_before_anything_is_trained(tiny_rooms, tmp_path, monkeypatch):
    monkeypatch.setattr(grouping_study, 'benchmark', lambda *a, **k: pytest.fail('training began'))
    with pytest.raises(ValueError, match='resnet99'): train(tiny_rooms, tmp_path/'out', encoder='resnet99')

def test_a_fraction_of_less_than_a_batch_is_left_out(copied, tiny_rooms):
    shutil.rmtree(copied/'fractions')
    (copied/'results'/'fractions.csv').unlink()
    r, said = train(tiny_rooms, copied, fractions=(1/32,))
    assert r.fractions is None and 'of 64 views 1/32 would be less than a batch of 16, and is left out' in said

def test_a_view_that_there_is_not(copied):
    with pytest.raises(ValueError, match='99'): write_predictions(copied, views=[99])

@pytest.mark.parametrize('name', ['other.csv', 'fractions.csv'])
def test_a_seed_that_is_no_number(copied, name):
    (path := copied/'results'/name).write_text(path.read_text().replace('test,0,', 'test,x,'))
    with pytest.raises(ValueError, match=name): GroupingResults(copied)

def test_a_network_without_an_early_loss():
    with pytest.raises(ValueError, match='NKE'): solutions(VAL, EARLY.drop('NKE'), [2.5])

def test_seeds_with_other_networks():
    with pytest.raises(ValueError, match='seed'): over_seeds({0: VAL, 1: VAL.iloc[1:]})
    with pytest.raises(ValueError, match='seed'): over_seeds({})

def test_seeds_with_rows_in_another_order(): pd.testing.assert_frame_equal(over_seeds({0: VAL, 1: VAL[::-1]})[0], VAL)
