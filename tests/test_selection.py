"Selection on tables: the paper's numbers, every option, every kind of bad input."
from fractions import Fraction
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from its_a_match.candidates import common_unit, read_candidates
from its_a_match.published import published_dir, which_tasks_losses
from its_a_match.selection import (Objective, affinity_candidates, all_in_one, all_single, early_stopping, frontier, higher_order,
                                   pessimal, random_groupings, select_for, select_networks)

VAL, TEST, EARLY = map(which_tasks_losses, ('val', 'test', 'early'))
BUDGETS, SOLVERS = np.arange(1, 5.5, .5), ('branch-and-bound', 'subset-dp', 'milp')

@pytest.mark.parametrize('solver', SOLVERS)
def test_optimal_row_of_table_7(solver):
    assert [round(s.on(TEST).total, 3) for s in select_for(VAL, BUDGETS, solver)] == [.503, .461, .452, .446, .442, .439, .436, .436, .435]

def test_early_stopping_row_of_table_7():
    assert [round(early_stopping(EARLY, TEST, b).total, 3) for b in BUDGETS] == [.503, .487, .467, .461, .457, .451, .451, .447, .447]

def test_higher_order_tie_at_four_and_a_half():
    "D and DN have the same validation loss on depth; the alphabet decides."
    chosen = select_networks(higher_order(VAL), 4.5)
    assert 'D' in chosen.networks and chosen.on(TEST).total == pytest.approx(.44552)
    assert chosen.losses.D == VAL.D['DN']

def test_random_and_pessimal():
    mean = random_groupings(VAL, 2.5, on=TEST)
    assert .455 < mean['mean'] < .475 and 0 < mean['sem'] < .001 and mean['draws'] > 1000
    assert random_groupings(VAL, 2.5, on=TEST).equals(mean)
    assert pessimal(VAL, 5).total >= max(random_groupings(VAL, 5, n=1, seed=s)['mean'] for s in range(20)) - 1e-12

@settings(max_examples=25)
@given(st.lists(st.floats(.01, 1), min_size=18, max_size=18), st.sampled_from([1, 1.5, 2, 2.5, 3]))
def test_pessimal_is_the_worst(losses, budget):
    "Against all sets of networks that cost the budget."
    from itertools import combinations
    names, values = ['a', 'b', 'c', 'ab', 'bc', 'abc', 'a@0.5', 'b@0.5'], iter(losses)
    rows = {n: dict(cost=.5 if '@' in n else 1., **{t: next(values) for t in n.split('@')[0]}) for n in names}
    table = pd.DataFrame.from_dict(rows, 'index')[['cost', 'a', 'b', 'c']]
    worst = [table.loc[list(s), list('abc')].min().sum(skipna=False) for k in range(1, 7) for s in combinations(names, k) if table.cost[list(s)].sum() == budget]
    worst = [w for w in worst if np.isfinite(w)]
    if worst: assert pessimal(table, budget).total == pytest.approx(max(worst))
    else: pytest.raises(ValueError, pessimal, table, budget)

def test_frontier_is_select_at_each_budget():
    table = frontier(VAL, BUDGETS)
    assert list(table.columns) == ['budget', 'networks', 'total', 'cost', *'SDNKE'] and table.attrs['solver'] == 'subset-dp'
    for row in table.itertuples():
        s = select_networks(VAL, row.budget)
        assert (s.networks, s.total, s.cost) == (row.networks, row.total, row.cost)
        assert s.losses.to_dict() == {t: getattr(row, t) for t in 'SDNKE'}

def test_networks_in_column_order_whatever_the_rows(): 
    assert select_networks(VAL[::-1], 2.5).networks == ('SDN', 'N@0.5', 'NKE')
    assert select_networks(VAL[['cost', *'EKNDS']], 2.5).networks == ('NKE', 'N@0.5', 'SDN')

def test_choose_by_fixes_the_networks():
    other = TEST.copy()
    other.loc['NKE', 'N'] = .001  # on validation N@0.5 serves N, and may not learn of this
    chosen = select_networks(VAL, 2.5)
    assert chosen.on(other).solves['N'] == 'NKE' and chosen.on(other, choose_by=VAL).solves['N'] == 'N@0.5'

def test_objectives():
    assert select_networks(VAL, 2, weights=dict(S=0, D=0, N=0, K=0)).solves['E'] == 'NKE'
    assert select_networks(VAL, 2, require=dict(N=.0895)).losses.N <= .0895
    relative = select_networks(VAL, 5, objective='relative')
    assert relative.total == pytest.approx(sum(relative.losses[t]/VAL[t][t] for t in 'SDNKE'))
    accuracy = VAL.assign(S=1 - VAL.S)
    assert select_networks(accuracy, 2.5, higher_is_better=['S']).networks == select_networks(VAL, 2.5).networks
    shifted = select_networks(VAL, 3, decoder_cost=.1)
    assert shifted.networks == select_networks(VAL, 2.5).networks and shifted.cost == pytest.approx(3)

@st.composite
def tables(draw):
    "Candidates of up to four tasks with any costs, several networks for the same tasks, tasks that some lack, ties, and weights."
    tasks = list('abcd')[:draw(st.integers(1, 4))]
    loss, cost = st.sampled_from([.1, .2, .25, .3, .7]), st.sampled_from([.5, 1., 1.25, 2., .3, 3.917])
    rows = [dict(cost=draw(cost), **{t: draw(loss) for t in tasks if t == sure or draw(st.booleans())})
            for sure in [*tasks, *draw(st.lists(st.sampled_from(tasks), max_size=4))]]
    names = draw(st.permutations([f'n{i}' for i in range(len(rows))]))
    weights = {t: draw(st.sampled_from([0, .5, 1, 3])) for t in tasks if draw(st.booleans())}
    return pd.DataFrame(rows, names)[['cost', *tasks]], weights, draw(st.sampled_from([1., 2.25, 3.1, 4.5, 8.]))

def best_by_hand(table, weights, budget):
    "The least (total, cost, number of networks, names) over all ways of serving each task by some network."
    from itertools import product
    tasks, found = list(table.columns[1:]), []
    for choice in product(*(table.index[table[t].notna()] for t in tasks)):
        cost = sum(Fraction(str(table.cost[n])) for n in set(choice))
        if cost <= Fraction(str(budget)): found.append((sum(weights.get(t, 1)*table.at[n, t] for t, n in zip(tasks, choice)), cost, len(set(choice)), choice))
    least = min((f[0] for f in found), default=None)
    return min((f[1:] for f in found if f[0] <= least + 1e-12), default=None)

@settings(max_examples=80)
@given(tables())
def test_all_solvers_on_any_table(problem):
    table, weights, budget = problem
    want = best_by_hand(*problem)
    for solver in SOLVERS:
        if want is None:
            with pytest.raises(ValueError, match='the least that works is'): select_networks(table, budget, solver, weights=weights)
        else:
            got = select_networks(table, budget, solver, weights=weights)
            assert (tuple(got.solves.values()), got.cost) == (want[2], pytest.approx(float(want[0])))

def test_users_tasks_and_costs_in_milliseconds():
    table = read_candidates(StringIO('network,cost,seg,depth\nseg,3.917,.30,\ndepth,4.0021,,.49\nseg+depth,5.13,.31,.52\nseg@0.5,2.2,.33,'))
    assert [s.networks for s in select_for(table, [5.2, 7, 8])] == [('seg+depth',), ('seg@0.5', 'depth'), ('seg', 'depth')]
    for solver in SOLVERS: assert select_networks(table, 7.9191, solver).networks == ('seg', 'depth')

def test_a_sum_of_decimals_meets_its_budget():
    "In doubles .1 + .2 is more than .3."
    table = pd.DataFrame(dict(cost=[.1, .2], a=[1, None], b=[None, 1]), ['a', 'b'])
    for solver in SOLVERS: assert select_networks(table, .3, solver).networks == ('a', 'b')

@given(st.lists(st.decimals(0, 100, places=3), min_size=1, max_size=6), st.decimals(0, 100, places=3))
def test_units_are_exact(costs, budget):
    units, limits, unit, slack = common_unit([float(c) for c in costs], [float(budget)])
    assert slack == 0 and [round(u*unit, 3) for u in units] == pytest.approx([float(c) for c in costs])
    for k in range(1, len(costs) + 1): assert (sum(costs[:k]) <= budget) == (units[:k].sum() <= limits[0])

def test_affinity_groups():
    flat = pd.DataFrame(np.where(np.eye(3), np.nan, 1.), list('abc'), list('abc'))
    assert select_networks(affinity_candidates(flat), 3).networks == ('abc',)                 # grouping always pays
    assert select_networks(affinity_candidates(-flat), 3).networks == ('a', 'b', 'c')         # and never
    assert select_networks(affinity_candidates(flat, alone='mean'), 3).networks == ('abc',)   # all tied: the cheapest
    with pytest.raises(ValueError, match="no affinity for partner 'b' and target 'a'"): affinity_candidates(flat.drop(index='b'))

def test_higher_order_needs_all_pairs():
    with pytest.raises(ValueError, match="the pair 'KE' is missing"): higher_order(VAL.drop('KE'))
    dearer = VAL.assign(cost=VAL.cost.where(VAL.index != 'SD', 2))
    with pytest.raises(ValueError, match="differ in cost"): higher_order(dearer)
    assert higher_order(dearer, cost=1.5).cost['SDN'] == 1.5
    turned = higher_order(VAL.rename(dict(KE='EK')))
    assert turned.loc['SKE', 'K'] == higher_order(VAL).loc['SKE', 'K']

def test_singles_and_all_in_one():
    assert all(len(n.split('@')[0]) == 1 for n in all_single(VAL, 4).networks)
    assert all_in_one(VAL, 3).networks == ('SDNKE',)

CSV = 'network,cost,S,D\nS,1,.1,\nD,1,,.2\nSD,1,.3,.4\n'
BAD = {
    'no choice of networks solves every task within a budget of 0.5; the least that works is 1': (CSV, .5),
    "no network solves task 'D'": ('network,cost,S,D\nS,1,.1,\n', 1),
    "network 'D' costs -1": (CSV.replace('D,1,,', 'D,-1,,'), 1),
    "network 'D' has no cost": (CSV.replace('D,1,,', 'D,,,'), 1),
    "network 'D' costs inf": (CSV.replace('D,1,,', 'D,inf,,'), 1),
    "network 'D' solves no task": (CSV.replace('.2', ''), 1),
    "the network 'S' comes twice": (CSV.replace('D,1,,', 'S,1,,'), 1),
    "network 'SD', column 'S': '.3x' is not a number": (CSV.replace('.3', '.3x'), 1),
    "network 'SD', column 'S': a loss is a finite number": (CSV.replace('.3', 'inf'), 1),
    'the file is empty': ('', 1),
    "there is no column 'network' among 'net', 'cost'": (CSV.replace('network', 'net'), 1),
    "there is no column 'cost' among 'costs'": (CSV.replace('cost', 'costs'), 1),
    'there is no network in it': ('network,cost,S\n', 1),
    "no column of losses beside 'cost'": ('network,cost\nS,1\n', 1),
    "row 2 has no network name": (CSV.replace('\nD,', '\n,'), 1),
    'the budget -1 is not a number of at least 0': (CSV, -1),
    'the budget nan is not a number of at least 0': (CSV, np.nan),
}

@pytest.mark.parametrize('message', BAD)
def test_bad_tables_are_told_in_one_sentence(message, tmp_path):
    text, budget = BAD[message]
    (tmp_path/'losses.csv').write_text(text)
    with pytest.raises(ValueError) as told: select_networks(read_candidates(tmp_path/'losses.csv'), budget)
    assert message in str(told.value) and '\n' not in str(told.value)
    if 'budget' not in message and 'choice' not in message: assert 'losses.csv' in str(told.value)

@pytest.mark.parametrize('options, message', [
    (dict(weights=dict(X=1)), "no task 'X'"), (dict(weights=dict(S=-1)), "weight of task 'S' is -1"),
    (dict(weights=dict(S=np.nan)), "weight of task 'S' is nan"), (dict(require=dict(S=.01)), "no network meets the requirement of 0.01 on task 'S'"),
    (dict(objective='best'), "no objective 'best'"), (dict(solver='simplex'), "no solver 'simplex'"), (dict(decoder_cost=-1), 'decoder cost -1')])
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message): select_networks(VAL, 2.5, **options)

def test_relative_needs_single_task_networks():
    with pytest.raises(ValueError, match="full-size single-task network 'S'"): select_networks(VAL.drop('S'), 2.5, objective='relative')
    assert select_networks(VAL.drop('S'), 2.5, objective='relative', reference=dict(S=.08)).total > 0

def test_published_file_is_a_candidates_table():
    pd.testing.assert_frame_equal(read_candidates(published_dir()/'which_tasks_val.csv'), VAL)

def table(text): return read_candidates(StringIO(text))

def test_a_cost_far_above_the_budget():
    flops = table('network,cost,a,b\na,1,.1,\nb,1,,.2\na+b,1,.2,.3\nA+b,5000000000,.1,.1')
    for solver in SOLVERS: assert select_networks(flops, 2, solver).networks == ('a', 'b')
    assert [s.networks for s in select_for(flops, [1, 6e9])] == [('a+b',), ('A+b',)]

@given(st.lists(st.decimals('0.001', 40, places=3), min_size=2, max_size=5))
def test_what_a_selection_costs_is_a_budget_for_it(costs):
    names = list('abcde')[:len(costs)]
    singles = pd.DataFrame([{'cost': float(c), n: .1} for n, c in zip(names, costs)], names)
    chosen = select_networks(singles, np.inf)
    assert select_networks(singles, chosen.cost).networks == chosen.networks
    assert select_networks(singles, sum(float(c) for c in costs)).cost == chosen.cost == float(sum(costs))

@pytest.mark.parametrize('text, budget', [
    ('network,cost,a,b\nca0,0,1000,\ncb2,2,,0\ncb4,2,1e-6,1000\ncc5,1,0,', 2),
    ('network,cost,a,b\nca0,0.5,0.2000000000005,0.2\nca2,0.5,,0.1000000000005\nab3,0.5,0.3000000000001,\nab1,0.5,0.1,', .5),
    ('network,cost,a\np,0.30000000000000004,.1\nq,0.3,.2', .3)])
def test_milp_keeps_to_budgets_and_ties(text, budget):
    assert len({select_networks(table(text), budget, solver).networks for solver in SOLVERS}) == 1

def test_ties_without_a_common_unit():
    near = table('network,cost,a,b\nq,804.3566548568017,0.1,0.1\np,438.23022141737391,0.0999999999997,0.100000000002\nr,0.1234567890123456,0.5,')
    for solver in SOLVERS: assert select_networks(near, 2000, solver).networks == ('q',)

def test_hundreds_of_equal_networks():
    rows = [{'cost': 1., 'abcdefghijkl'[i % 12]: .1} for i in range(240)]
    equal = pd.DataFrame(rows, [f'n{i:03}' for i in range(240)])[['cost', *'abcdefghijkl']]
    assert select_networks(equal, 12).networks == tuple(f'n{i:03}' for i in range(12))

def test_random_and_pessimal_beyond_one_network_a_task():
    means = [random_groupings(VAL, b, n=200)['mean'] for b in (5, 6, 8)]
    assert means[0] > means[1] > means[2]
    assert np.isfinite(random_groupings(VAL, 2.5, n=50, require=dict(S=.075))['mean'])
    few = VAL.loc[['S', 'D', 'N', 'K', 'E', 'SD', 'NK', 'SDNKE']]
    from itertools import combinations
    worst = [few.loc[list(c), list('SDNKE')].min().sum(skipna=False) for c in combinations(few.index, 7)]
    assert pessimal(few, 7).total == pytest.approx(max(worst))
    with pytest.raises(ValueError, match='costs exactly 1.25'): pessimal(VAL, 1.25)
    assert random_groupings(VAL, 1.5, n=20, decoder_cost=.1)['mean'] == pytest.approx(VAL.loc['SDNKE', list('SDNKE')].sum())

def test_auto_takes_the_dynamic_programme_whatever_the_budget():
    tasks = list('abcdefghijklmnopqr')
    many = pd.DataFrame([{'cost': 1., t: .1} for t in tasks for _ in range(300)], [f'{t}{i}' for t in tasks for i in range(300)])[['cost', *tasks]]
    assert select_networks(many, np.inf).solver == 'subset-dp'

def test_alone_goes_by_name():
    flat = pd.DataFrame(np.where(np.eye(3), 9., 1.), list('abc'), list('abc'))
    groups = affinity_candidates(flat, alone=pd.Series(dict(c=3., b=2., a=1.)))
    assert [groups.at[t, t] for t in 'abc'] == [-1, -2, -3]
    assert affinity_candidates(flat, alone='mean').at['a', 'a'] == -1
    with pytest.raises(ValueError, match="what task 'b' scores alone"): affinity_candidates(flat, alone=dict(a=1))

@pytest.mark.parametrize('text, message', [
    ('network,cost,a,b\nx,1,.1,.2,.3\n', 'line 2 has 5 cells, and the header has 4'), ('network,cost,a,b\nx,1,.1\n', 'line 2 has 3 cells'),
    ('network,cost,a,a\nx,1,.1,.2\n', "the column 'a' comes twice"), (',network,cost,a\n0,x,1,.1\n', 'column 1 has no name')])
def test_ragged_files_are_refused(text, message):
    with pytest.raises(ValueError, match=message): table(text)

@pytest.mark.parametrize('options, message', [
    (dict(require=dict(S=np.nan)), "requirement on task 'S' is nan"), (dict(objective='relative', reference=dict(Q=1)), "no task 'Q'"),
    (dict(reference=dict(S=1)), "only used by the objective 'relative'"), (dict(higher_is_better='seg'), "no task 'seg'"),
    (dict(objective=Objective(), weights=dict(S=1)), 'weights: give these'), (dict(weights=dict(S='2')), "weight of task 'S' is '2'"),
    (dict(decoder_cost=np.inf), 'decoder cost inf')])
def test_nothing_is_guessed(options, message):
    with pytest.raises(ValueError, match=message): select_networks(VAL, 2.5, **options)

def test_odd_arguments():
    with pytest.raises(ValueError, match='no budget'): frontier(VAL, [])
    with pytest.raises(ValueError, match="the budget '2'"): select_networks(VAL, '2')
    assert select_networks(VAL.reset_index(), 2).networks == select_networks(VAL, 2).networks
    with pytest.raises(ValueError, match='must hold the names'): select_networks(VAL.reset_index(drop=True), 2)
    assert len(frontier(VAL, 2)) == 1
    with pytest.raises(ValueError, match='meets the requirements within a budget of 1; the least that works is 2'): select_networks(VAL, 1, require=dict(S=.0725))
    with pytest.raises(ValueError, match='column name 1 is not a text'): select_networks(VAL.rename(columns=dict(S=1)), 2)
    assert str(select_networks(VAL.rename(dict(SDN='resnet@v2+')), 2)) .startswith('resnet@v2+ + NKE')
    assert select_networks(VAL, 2.5).on(TEST.assign(X=np.nan).drop(index='E')).total == pytest.approx(.44612)
