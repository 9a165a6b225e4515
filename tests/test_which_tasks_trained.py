"The committed results of *Which tasks*, trained: that they are whole, and what the studies say of them."
import json

import numpy as np, pytest

from its_a_match.agenda import named
from its_a_match.findings import verdict
from its_a_match.grouping_methods import KEYS, GroupingResults, baselines, is_candidate, totals
from its_a_match.grouping_study import FRACTIONS, few_networks, other_networks
from its_a_match.results import BenchmarkResults
from its_a_match.search import search
from its_a_match.selection import select_networks

@pytest.fixture(scope='module')
def r(root): return GroupingResults(root/'data/results/which-tasks')

def test_the_benchmarks_networks_were_not_trained_again(r, root):
    rooms = BenchmarkResults(root/'data/results/rooms')
    assert r.losses.reindex(rooms.losses.index).equals(rooms.losses)
    assert r.setup['data'] == rooms.setup['data'] and r.setup['recipe'] == rooms.setup['recipe']
    assert {*r.losses.index.unique('network')} - {*rooms.losses.index.unique('network')} == {*baselines()}

def test_candidates_are_the_36(r):
    for split in ('val', 'test', 'early'):
        for seed in (*r.seeds, None): assert len(r.candidates(split, seed)) == 36 and len(r.candidates(split, seed, baselines=True)) == 65 + 4
    assert all(map(is_candidate, r.candidates('val').index)) and (r.networks.status == 'done').all()

def test_less_data_is_whole(r):
    part = r.fractions.reset_index()
    assert part.groupby(['split', 'seed', 'views']).network.apply(set).map(lambda n: n == {*few_networks()}).all()
    assert sorted(part.fraction.unique()) == sorted(FRACTIONS) and set(part.seed) == set(r.seeds)
    assert part.groupby('fraction').views.unique().map(lambda v: list(v)).to_dict() == {f: [round(2000*f)] for f in FRACTIONS}
    assert part.D.notna().equals(part.network.str.contains('D')) and part.N.notna().equals(part.network.str.contains('N'))

def test_the_other_encoder_has_the_best_grouping(r):
    wanted = {n for some in other_networks(select_networks(r.candidates('val'), 3)).values() for n in some}
    for seed, part in r.other.loc['test'].groupby('seed'): assert {*part.index.get_level_values('network')} == wanted
    assert set(r.other.encoder) == {'resnet18'}

def test_pictures_are_of_solutions_that_fit(r):
    about = json.loads((r.folder/'predictions.json').read_text())
    names = {n for of in about['solves'].values() for n in of.values()}
    assert {*about['solves']} <= {*about['columns']} and all({*of} == {*KEYS} for of in about['solves'].values())
    costs = {m: named([*{*of.values()}])['size'].sum() for m, of in about['solves'].items()}
    assert max(costs.values()) <= about['budget'] and names <= {*r.candidates('val', about['seed'], baselines=True).index}

def test_what_the_study_says(r):
    "The leads that the notebook reports, from the tables alone."
    tables = {s: totals(*(r.candidates(x, s, baselines=True) for x in ('val', 'test', 'early')), budgets=[1, 2.5, 4, 5], n=50) for s in r.seeds}
    lead = lambda m, b, rival, than: [1 - t.loc[m, b]/t.loc[rival, than] for t in tables.values()]
    assert verdict(lead('Optimal', 5, 'Independent', 5)) == 'yes' and .005 < np.mean(lead('Optimal', 5, 'Independent', 5)) < .015
    assert verdict(lead('Optimal', 5, 'Traditional', 4)) == 'yes' and verdict(lead('Optimal', 2.5, 'Independent', 5)) == 'no'
    assert verdict(lead('Independent', 1, 'Traditional', 1)) == 'tie' and verdict(lead('Traditional', 4, 'Sener', 4)) == 'yes'

def test_the_search_finds_nearly_the_best_with_less(r):
    for seed in r.seeds:
        path = search(r.candidates('val', seed), 3, on=r.candidates('test', seed))
        assert len(path) <= 22 and abs(path.regret.iloc[-1]) < .01
