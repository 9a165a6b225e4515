"Which network to train next: against exhaustive search, in any order, and what cannot be."
from itertools import combinations

import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st

from its_a_match.candidates import Objective
from its_a_match.published import which_tasks_losses
from its_a_match.search import recommend_from, search, settled
from its_a_match.selection import select_networks

VAL, TEST = map(which_tasks_losses, ('val', 'test'))

def every_group(tasks, seed=0, digits=9, cost=1.):
    "A table of every group and of half-size networks for one task, their losses .1 to 1, its rows in any order."
    draw, rows = np.random.default_rng(seed), [(g, cost, '') for k in range(1, len(tasks) + 1) for g in combinations(tasks, k)] + [((t,), cost/2, '@0.5') for t in tasks]
    found = pd.DataFrame([dict(cost=c) | {t: round(draw.uniform(.1, 1), digits) for t in g} for g, c, _ in rows], [''.join(g) + size for g, _, size in rows])
    return found[['cost', *tasks]].iloc[draw.permutation(len(found))]

@st.composite
def problems(draw):
    "Such a table of three to five tasks, with ties or without, and a budget."
    tasks = 'abcde'[:draw(st.integers(3, 5))]
    return every_group(tasks, draw(st.integers(0, 999)), draw(st.sampled_from([1, 9]))), draw(st.sampled_from([1., 1.5, 2.]))

def least(table, budget):
    "The least total of all sets of networks within the budget."
    cost, loss, found = table.cost.to_numpy(), table.iloc[:, 1:].fillna(np.inf).to_numpy(), []
    for k in range(1, min(int(2*budget), loss.shape[1]) + 1):
        sets = np.array([*combinations(range(len(table)), k)])
        found.append(loss[sets[cost[sets].sum(1) <= budget]].min(1).sum(1))
    return np.concatenate(found).min()

def overestimate(table):
    "By what fraction the worst prediction of a group from its pairs is too high."
    pair = lambda a, b: table.at[''.join(sorted(a + b)), a]
    return max(1 - table.at[g, t]/np.mean([pair(t, o) for o in g if o != t]) for g in table.index if len(g) > 2 and '@' not in g for t in g)

def check_path(path, table):
    "What holds for every path."
    assert [*path.columns] == ['network', 'trained', 'spent', 'networks', 'missing', 'total', 'regret']
    assert path.network.is_unique and {*path.network} <= {*table.index} and [*path.trained] == [*range(1, len(path) + 1)]
    assert path.spent.to_numpy() == pytest.approx(table.cost[path.network].cumsum().to_numpy())
    assert all({*n} <= {*table.index} for n in path.networks) and all((len(n) == 0) == np.isnan(t) for n, t in zip(path.networks, path.total))
    assert [*path.missing] == [len({*n} - {*path.network[:i]}) for i, n in enumerate(path.networks, 1)]
    assert all(path.regret.dropna() >= -1e-9)

@settings(max_examples=30)
@given(problems())
def test_a_margin_that_covers_the_worst_prediction_ends_with_the_optimum(problem):
    table, budget = problem
    path = search(table, budget, margin=max(0, overestimate(table)) + 1e-9)
    check_path(path, table)
    assert path.missing.iloc[-1] == 0 and path.regret.iloc[-1] == pytest.approx(0, abs=1e-9)
    assert path.total.iloc[-1] == pytest.approx(least(table, budget))

@settings(max_examples=20)
@given(problems(), st.sampled_from([0, .1, .5, .99]))
def test_whatever_the_margin(problem, margin):
    "Single tasks, then pairs, in the order of the table; at the end all that is recommended is trained, and nothing was trained that was not recommended."
    table, budget = problem
    path = search(table, budget, margin=margin)
    check_path(path, table)
    n = table.notna().sum(axis=1) - 1
    first = [*table.index[n == 1], *table.index[n == 2]]
    assert [*path.network[:len(first)]] == first and path.missing.iloc[-1] == 0
    for i in range(len(first), len(path)):
        assert path.network[i] in recommend_from(table.loc[path.network[:i]], budget, table.cost, margin=margin).networks

@settings(max_examples=20)
@given(st.data(), st.booleans())
def test_in_any_order_all_networks_end_without_regret(data, predicted):
    table, budget = data.draw(problems())
    path = search(table, budget, order=data.draw(st.permutations([*table.index])), predicted=predicted)
    check_path(path, table)
    if not predicted: assert not path.missing.any() and all(path.regret.dropna().diff().dropna() <= 1e-9)
    assert len(path) == len(table) and path.regret.iloc[-1] == pytest.approx(0, abs=1e-9) and path.missing.iloc[-1] == 0
    assert path.networks.iloc[-1] == select_networks(table, budget).networks

@settings(max_examples=15)
@given(problems(), st.sampled_from([0, .3]))
def test_settled_is_the_first_row_of_the_last_recommendation(problem, margin):
    path = search(*problem, margin=margin)
    n, last = settled(path), {*path.networks.iloc[-1]}
    assert all({*some} == last for some in path.networks[n - 1:]) and (n == 1 or {*path.networks[n - 2]} != last)

def test_the_study():
    "The published losses: without a margin NKE is never tried, with one of 5 % it is."
    paths = {m: search(VAL, 2.5, on=TEST, margin=m) for m in (0, .05)}
    assert [(len(p), settled(p)) for p in paths.values()] == [(21, 20), (33, 28)]
    assert 'NKE' not in [*paths[0].network] and paths[.05].networks.iloc[-1] == ('SDN', 'N@0.5', 'NKE')
    assert paths[.05].total.iloc[-1] == pytest.approx(.446, abs=5e-4) and paths[.05].regret.iloc[-1] == 0

def test_chosen_on_one_table_and_reported_on_another():
    path = search(VAL, 3, order=VAL.index, on=TEST)
    chosen = select_networks(VAL, 3)
    assert path.networks.iloc[-1] == chosen.networks and path.total.iloc[-1] == pytest.approx(chosen.on(TEST, choose_by=VAL).total)

@pytest.mark.parametrize('kind', [dict, pd.Series])
def test_what_training_costs(kind):
    hours = kind({n: i + .5 for i, n in enumerate(VAL.index)})
    path = search(VAL, 2.5, spent=hours)
    assert [*path.spent] == [sum(hours[n] for n in path.network[:i]) for i in path.trained]

def test_relative():
    path = search(VAL, 2.5, objective='relative', margin=.3)
    assert path.regret.iloc[-1] == pytest.approx(0) and path.total.iloc[-1] == pytest.approx(select_networks(VAL, 2.5, objective='relative').total)

@pytest.mark.parametrize('seed', range(4))
def test_users_tasks(seed):
    "Names as `depth+normals` search as letters do."
    table, names = every_group('abcd', seed), dict(a='seg', b='depth', c='normals', d='edges')
    def spelt(n): return '+'.join(names[k] for k in n.partition('@')[0]) + ''.join(n.partition('@')[1:])
    path, own = search(table, 2, margin=.2), search(table.rename(index=spelt, columns=names), 2, margin=.2)
    assert [*own.network] == [*map(spelt, path.network)] and [{*n} for n in own.networks] == [{*map(spelt, n)} for n in path.networks]
    assert [*own.regret.dropna()] == pytest.approx([*path.regret.dropna()])

def test_two_tasks_and_one():
    for tasks in ('a', 'ab'):
        table = every_group(tasks)
        assert {*(path := search(table, 1)).network} == {*table.index} and path.regret.iloc[-1] == pytest.approx(0)

# ---- what is recommended

def test_nothing_is_recommended_before_every_task_has_a_network_that_fits():
    assert recommend_from(VAL.loc[['S', 'D', 'NKE']][['cost', *'SDNKE']], 3).networks == ('S', 'D', 'NKE')
    assert recommend_from(VAL.loc[[*'SDNKE']], 5).networks == (*'SDNKE',)
    for table, why in ((VAL.loc[['S', 'D', 'N', 'K']], "no network solves task 'E'"), (VAL.iloc[:0], 'there is no network'), (VAL.loc[[*'SDNKE']], 'the least that works is 5')):
        with pytest.raises(ValueError, match=why): recommend_from(table, 4.9)

def test_larger_groups_count_once_all_pairs_are_trained():
    pairs = VAL[VAL.notna().sum(axis=1) <= 3]
    chosen = recommend_from(pairs, 1)
    assert chosen.networks == ('SDNKE',) and chosen.losses.S == pytest.approx(np.mean([VAL.S[n] for n in ('SD', 'SN', 'SK', 'SE')]))
    assert recommend_from(pairs, 1, margin=.1).losses.S == pytest.approx(.9*chosen.losses.S)
    for how in (dict(costs=VAL.cost.drop('SDNKE')), dict(predicted=False)):
        with pytest.raises(ValueError, match='the least that works'): recommend_from(pairs, 1, **how)
    with pytest.raises(ValueError, match='the least that works'): recommend_from(pairs.drop('KE'), 1)
    assert recommend_from(pairs.drop('KE'), 2).networks  # groups without K and E are predicted still
    assert recommend_from(VAL, 2.5, margin=.9).total == recommend_from(VAL, 2.5).total  # all are trained

# ---- what cannot be

@pytest.mark.parametrize('budget, options, message', [
    (2, dict(margin=1), 'the margin is 1, not a number from 0 to below 1'), (2, dict(margin=-.1), 'the margin is -0.1'), (2, dict(margin=np.nan), 'the margin is nan'),
    (2, dict(spent=dict(S=1)), "network 'D': what training it costs is not given"), (.5, {}, 'the least that works is 1'), (-1, {}, 'the budget -1'), (np.nan, {}, 'the budget nan'),
    ('2', {}, "the budget '2'"), (2, dict(objective='best'), "no objective 'best'"), (2, dict(objective=Objective(weights=dict(X=1))), "no task 'X'"),
    (2, dict(on=VAL.drop(columns='E', index=['E', 'E@0.5'])), "the task 'E' is not in the other table"), (2, dict(on=VAL[VAL.notna().sum(axis=1) < 3]), 'is not in the other table')])
def test_what_cannot_be(budget, options, message):
    with pytest.raises(ValueError, match='^[^\n]+$') as told: search(VAL, budget, **options)
    assert message in str(told.value)

def test_a_damaged_table():
    with pytest.raises(ValueError, match="network 'S' costs -1"): search(VAL.assign(cost=VAL.cost.where(VAL.index != 'S', -1)), 2)
    with pytest.raises(ValueError, match="no column 'cost'"): search(VAL.drop(columns='cost'), 2)
    with pytest.raises(ValueError, match="no column 'cost'"): recommend_from(VAL.drop(columns='cost'), 2)

# ---- tables of every kind

def test_costs_in_any_unit():
    "Where every group costs .6, one of them fits a budget of .9."
    path = search(every_group('abc', 1, cost=.6), .9, margin=.99)
    assert path.regret.iloc[-1] == pytest.approx(0, abs=1e-9)

def test_what_is_recommended_keeps_to_the_budget():
    table = every_group('abc', 7, cost=2.)
    assert all(table.cost[[*n]].sum() <= 2.5 for n in search(table, 2.5, margin=.5).networks)

def test_a_margin_where_higher_is_better():
    better = Objective(higher_is_better=tuple('abc'))
    above = [every_group('abc', s) + pd.Series(dict(cost=0, a=1, b=1, c=1)) for s in range(6)]
    assert [search(t, 2, objective=better, margin=.99).regret.iloc[-1] for t in above] == pytest.approx([0]*6, abs=1e-9)

def test_a_margin_where_losses_are_below_zero():
    below = [every_group('abc', s) - pd.Series(dict(cost=0, a=2, b=2, c=2)) for s in range(6)]
    assert [search(t, 2, margin=.99).regret.iloc[-1] for t in below] == pytest.approx([0]*6, abs=1e-9)

def test_a_table_that_lacks_a_pair():
    "It cannot be searched, but trained in any order."
    table = every_group('abc').drop('ab')
    with pytest.raises(ValueError, match="the pair 'ab' is missing"): search(table, 1)
    assert search(table, 1, order=table.index).regret.iloc[-1] == pytest.approx(0)

def test_a_larger_network_that_pairs_do_not_predict_is_trained_beforehand():
    table = pd.concat([every_group('abc'), pd.DataFrame(dict(cost=2., a=.01, b=.01, c=.01), ['abc@2'])])
    assert search(table, 2).networks.iloc[-1] == ('abc@2',)

def test_groups_in_another_order_of_letters():
    table = every_group('abc', 1).rename(dict(abc='cab'))
    assert 'cab' in [*search(table, 1, margin=.99).network]

def test_a_requirement_that_the_first_networks_do_not_meet():
    path = search(VAL, 3, objective=Objective(require=dict(S=.0725)), margin=.3)
    assert path.networks[0] == () and path.regret.iloc[-1] == pytest.approx(0)

def test_relative_in_any_order():
    assert search(VAL, 2.5, order=VAL.index[::-1], objective='relative').regret.iloc[-1] == pytest.approx(0)

@pytest.mark.parametrize('order', [['S', 'X'], ['S', 'S½'], ['S', 'S']])
def test_an_order_that_names_what_there_is_not(order):
    with pytest.raises(ValueError, match='^[^\n]+$'): search(VAL.drop('S@0.5'), 2, order=order)

def test_half_signs_and_a_column_of_names():
    half = lambda t: t.rename(lambda n: n.replace('@0.5', '½'))
    assert search(half(VAL), 2, on=half(TEST), order=half(VAL).index).regret.iloc[-1] == 0
    assert search(VAL.reset_index(), 2, on=TEST.reset_index(), order=VAL.index).regret.iloc[-1] == 0

def test_a_margin_is_for_untrained_networks_however_they_are_spelt():
    half = VAL[VAL.notna().sum(axis=1) == 2].rename(lambda n: n.replace('@0.5', '½'))
    assert recommend_from(half, 2.5, margin=.5).total == pytest.approx(recommend_from(half, 2.5).total)

@pytest.mark.parametrize('how', [dict(budget='2'), dict(budget=np.nan), dict(budget=1, margin=2)])
def test_what_recommend_from_cannot(how):
    with pytest.raises(ValueError, match='budget|margin'): recommend_from(VAL[VAL.notna().sum(axis=1) <= 3], **how)

@pytest.mark.parametrize('options', [dict(margin='5%'), dict(margin=None), dict(spent={n: 'x' for n in VAL.index}), dict(spent={n: None for n in VAL.index})])
def test_no_numbers(options):
    with pytest.raises(ValueError, match='margin|training'): search(VAL, 2, **options)

def test_a_price_that_is_not_a_number():
    with pytest.raises(ValueError, match='training'): search(VAL, 2, spent=dict.fromkeys(VAL.index, np.nan))

def test_an_order_of_nothing():
    with pytest.raises(ValueError, match='the order names no network'): search(VAL, 2, order=[])

def test_settled_of_a_part_of_a_path():
    path = search(VAL, 2.5, margin=.05)
    assert settled(path[path.trained >= 15]) == settled(path) == 28
