"The taxonomy against trying every set of sources, its rules for ties, its options, and what it refuses."
from itertools import chain, combinations, product
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from its_a_match import supervision
from its_a_match.supervision import beam_search, check_transfers, draw_taxonomy, taxonomies, taxonomy, taxonomy_graph, transfer_candidates, transfer_sources

COLUMNS = ['sources', 'target', 'affinity']
VALUES  = st.one_of(st.sampled_from([0., .1, .2, .3]), st.floats(0, 1).map(lambda v: round(v, 6)))  # ties are common
EXAMPLE = pd.DataFrame([('S', 'S', .38), ('D', 'S', .20), ('N', 'S', .15), ('D+N', 'S', .30), ('D', 'D', .50), ('N', 'D', .40), ('N', 'N', .60), ('D', 'N', .30),
                        ('K', 'K', .70), ('D', 'K', .10), ('N', 'K', .12)], columns=COLUMNS)

def subsets(names, least=1): return chain.from_iterable(combinations(names, k) for k in range(least, len(names) + 1))

@st.composite
def problems(draw, costs=st.sampled_from([0., 1., 1., 2., .5]), paid=False):
    "(table, options, budget): each target has a transfer; tasks that are only sources or only targets; ties."
    tasks = 'ABCDE'[:draw(st.integers(1, 5))]
    goals = draw(st.lists(st.sampled_from(tasks), min_size=1, unique=True))
    sets  = list(subsets(tasks))
    rows  = [('+'.join(draw(st.permutations(c))), t, draw(VALUES)) for t in goals for c in draw(st.lists(st.sampled_from(sets), min_size=1, max_size=4 if paid else 7, unique=True))]
    table = pd.DataFrame(draw(st.permutations(rows)), columns=COLUMNS)
    if paid: table['cost'] = [draw(costs) for _ in rows]
    options = dict(importance={t: draw(st.sampled_from([0., .5, 1., 2.])) for t in goals if draw(st.booleans())}, transfer_costs=paid)
    used = sorted({*'+'.join(table.sources).split('+')})
    options['label_costs'] = draw(st.one_of(st.none(), st.just(0.), st.just({t: draw(costs) for t in used})))
    return table, options, draw(st.sampled_from([.5, 1., 1.5, 2., 3., 4., 7.]))

def enumerate_all(table, budget, importance=None, label_costs=None, transfer_costs=False):
    "The best taxonomy by trying every set of sources with every choice of transfers; None where the budget is too small."
    rows = [(transfer_sources(r.sources), r) for r in table.itertuples()]
    tasks, goals = sorted({s for names, _ in rows for s in names}), list(dict.fromkeys(table.target))
    pay = {s: label_costs if isinstance(label_costs, float) else (label_costs or {}).get(s, 1.) for s in tasks}
    weigh = {t: (importance or {}).get(t, 1.) for t in goals}
    found, grain = [], 1e-9*max(weigh[r.target]*r.affinity for _, r in rows)
    for some in subsets(tasks):
        able = [[(names, r) for names, r in rows if r.target == t and {*names} <= {*some}] for t in goals]
        if not transfer_costs: able = [[max(a, key=lambda o: (o[1].affinity, -len(o[0]), [-ord(c) for c in sorted(o[0])]))] if a else [] for a in able]
        for choice in product(*able):
            cost = sum(pay[s] for s in some) + sum(r.cost for _, r in choice)*transfer_costs if transfer_costs else sum(pay[s] for s in some)
            if cost > budget*(1 + 1e-9): continue
            total = sum(weigh[r.target]*r.affinity for _, r in choice)
            ranks = [(len(names), *sorted(names)) for names, _ in sorted(choice, key=lambda o: goals.index(o[1].target))]
            found.append(SimpleNamespace(total=total, cost=cost, sources=some, ranks=ranks, transfers={r.target: {*names} for names, r in choice}))
    if not found: return None
    best  = max(f.total for f in found)
    found = [f for f in found if f.total >= best - grain]
    least = min(f.cost for f in found)
    return min((f for f in found if f.cost <= least + 1e-9), key=lambda f: (len(f.sources), f.sources, f.ranks))

def agrees(problem):
    table, options, budget = problem
    want = enumerate_all(table, budget, **options)
    if want is None:
        with pytest.raises(ValueError, match=r'within a budget of .*; the least that works is ([\d.e-]+)$') as e: taxonomy(table, budget, **options)
        least = float(str(e.value).split()[-1])
        assert least > budget and enumerate_all(table, least, **options) and not enumerate_all(table, least - 1e-6, **options)
        return
    got = taxonomy(table, budget, **options)
    assert got.total == pytest.approx(want.total, abs=1e-12) and got.cost == pytest.approx(want.cost, abs=1e-12)
    assert tuple(sorted(got.sources)) == want.sources
    assert {t: {*s} for t, s in got.transfers.items()} == want.transfers
    assert got.total <= got.bound <= got.total + 1e-9

@settings(max_examples=250)
@given(problems())
def test_agrees_with_trying_everything(problem): agrees(problem)

@settings(max_examples=100)
@given(problems(costs=st.floats(.01, 3).map(lambda v: round(v, 3))))
def test_label_costs_of_any_size(problem): agrees(problem)

@settings(max_examples=100)
@given(problems(paid=True))
def test_costs_of_transfers(problem): agrees(problem)

def random_table(tasks, seed, digits=6):
    "First-order transfers between all tasks, own labels, and some pairs."
    rng, names = np.random.default_rng(seed), list('ABCDEFGHIJ'[:tasks])
    rows = [(s, t, rng.random() + (s == t)) for t in names for s in names] + [('+'.join(rng.permutation(names)[:2]), t, rng.random() + .3) for t in names]
    return pd.DataFrame(rows, columns=COLUMNS).round({'affinity': digits})

@pytest.mark.parametrize('seed', range(4))
def test_larger_cases_and_all_budgets(seed):
    table = random_table(8, seed, digits=6 if seed else 1)
    rows  = taxonomies(table, range(1, 9)).set_index('budget')
    for b in rows.index:
        want = enumerate_all(table, b)
        assert rows.total[b] == pytest.approx(want.total, abs=1e-12) and tuple(sorted(rows.sources[b])) == want.sources
    assert (rows.total.diff().dropna() >= -1e-9).all() and (rows.cost <= rows.index).all()

def test_higher_orders_never_hurt():
    rows = taxonomies(random_table(6, 9), [2, 3], orders=[1, 2])
    assert rows.order.tolist() == [1, 1, 2, 2] and (rows.total[2:].to_numpy() >= rows.total[:2].to_numpy()).all()
    assert rows[rows.order == 1][list('ABCDEF')].map(lambda s: '+' not in s).all(axis=None)

def test_order_of_rows_and_of_names_changes_nothing():
    table = random_table(6, 3, digits=1)
    turned = table.sample(frac=1, random_state=1).assign(sources=lambda d: ['+'.join(reversed(s.split('+'))) for s in d.sources])
    a, b = taxonomy(table, 3), taxonomy(turned, 3)
    assert sorted(a.sources) == sorted(b.sources) and {t: {*s} for t, s in a.transfers.items()} == {t: {*s} for t, s in b.transfers.items()}

def test_rounding_of_costs_does_not_break_a_budget():
    "0.1 + 0.2 is a little more than 0.3."
    table = pd.DataFrame([('A', 'A', 1.), ('B', 'B', 1.)], columns=COLUMNS)
    assert taxonomy(table, .3, label_costs=dict(A=.1, B=.2)).sources == ('A', 'B')
    with pytest.raises(ValueError, match='the least that works is 0.3$'): taxonomy(table, .2999999, label_costs=dict(A=.1, B=.2))

def test_more_than_ten_equal_tasks():
    "The alphabet decides, in blocks of ten names."
    names = [f'task{i:02}' for i in range(13)]
    table = pd.DataFrame([(s, t, .5) for t in names for s in names[::-1]], columns=COLUMNS)
    assert taxonomy(table, 5).sources == ('task00',)
    assert taxonomy(table, 5, label_costs={n: float(n != 'task12') for n in names}).sources == ('task12',)
    own = table.assign(affinity=np.where(table.sources == table.target, 1., .5))
    assert taxonomy(own, 11).sources == tuple(names[:11])

def test_values_of_very_different_size():
    table = EXAMPLE.assign(affinity=EXAMPLE.affinity*1e-7)
    assert taxonomy(table, 3).sources == taxonomy(EXAMPLE, 3).sources
    assert taxonomy(EXAMPLE, 2, importance=dict(S=1e6)).sources == ('S', 'N')

def test_everything_worth_nothing():
    got = taxonomy(EXAMPLE.assign(affinity=0.), 4)
    assert (got.sources, got.total, got.bound) == (('D',), 0, 0)

def test_infinite_budget():
    assert taxonomy(EXAMPLE, np.inf).sources == ('S', 'D', 'N', 'K')

def test_targets_and_sources_apart():
    "A task that is only a target, and one that is only a source."
    table = pd.DataFrame([('X', 'A', .3), ('B', 'A', .2), ('B', 'B', .9), ('X', 'B', .1)], columns=COLUMNS)
    assert taxonomy(table, 1).sources == ('B',) and taxonomy(table, 1, importance=dict(A=10)).sources == ('X',)
    assert taxonomy(table, 2, sources=['X']).transfers == {'A': ('X',), 'B': ('X',)}
    assert taxonomy(table, 2, targets=['A']).sources == ('X',)

def test_unproven_solution_is_an_error(monkeypatch):
    solve = supervision.milp
    def unproven(*args, **kwargs):
        found = solve(*args, **kwargs)
        found.status, found.message = 1, 'Time limit reached.'
        return found
    monkeypatch.setattr(supervision, 'milp', unproven)
    with pytest.raises(RuntimeError, match='not proven its solution optimal: Time limit'): taxonomy(EXAMPLE, 2)

def test_loose_bound_is_an_error(monkeypatch):
    solve = supervision.milp
    def loose(*args, **kwargs):
        found = solve(*args, **kwargs)
        found.mip_dual_bound -= 10
        return found
    monkeypatch.setattr(supervision, 'milp', loose)
    with pytest.raises(RuntimeError, match='the bound 1.85'): taxonomy(EXAMPLE, 2)

def changed(row, **values): return EXAMPLE.astype(dict.fromkeys(values, object)).assign(**{k: [v if i == row else old for i, old in enumerate(EXAMPLE[k])] for k, v in values.items()})

@pytest.mark.parametrize('table, options, said', [
    (EXAMPLE[EXAMPLE.target != 'K'], dict(targets=['S', 'X']), "the target 'X' is in no transfer"),
    (EXAMPLE[EXAMPLE.target != 'S'], dict(targets=['S']), "the target 'S' is in no transfer"),
    (EXAMPLE, dict(sources=['S', 'K']), "target 'D': there is no transfer to it from the tasks that may be supervised"),
    (changed(0, sources='D+K').drop([1, 2, 3]), dict(max_order=1), "target 'S': there is no transfer to it of order 1 or lower"),
    (EXAMPLE, dict(sources=['D', 'Q']), "the source 'Q' is in no transfer"),
    (EXAMPLE, dict(sources=['D', 'D']), "the source 'D' comes twice"),
    (EXAMPLE, dict(sources=[]), 'there is no source'),
    (EXAMPLE, dict(importance=dict(Q=1)), "the importance of 'Q': there is no such task"),
    (EXAMPLE, dict(importance=dict(S=float('nan'))), "the importance of 'S' is nan"),
    (EXAMPLE, dict(label_costs=dict(Q=1)), "the label cost of 'Q': there is no such task"),
    (EXAMPLE, dict(label_costs=-1.), "the label cost of 'S' is -1"),
    (EXAMPLE, dict(max_order=1.5), 'the order is 1.5'),
    (EXAMPLE, dict(transfer_costs=True), "no column 'cost'"),
    (EXAMPLE, dict(budget=0), 'the budget is 0, not a number above 0'),
    (EXAMPLE, dict(budget=-2), 'the budget is -2'),
    (EXAMPLE, dict(budget=float('nan')), 'the budget is nan'),
    (EXAMPLE, dict(budget='2'), "the budget is '2'"),
    (EXAMPLE, dict(budget=.5), 'within a budget of 0.5; the least that works is 1$'),
    (EXAMPLE, dict(budget=1, label_costs=dict(D=3, N=2.5)), 'within a budget of 1; the least that works is 2.5$'),
    (changed(3, affinity=float('nan')), {}, r'the transfer from D\+N to S: its affinity is nan'),
    (changed(3, affinity=-.1), {}, 'its affinity is -0.1'),
    (changed(3, affinity=float('inf')), {}, 'its affinity is inf'),
    (changed(3, affinity='high'), {}, "its affinity is 'high'"),
    (changed(3, sources='D+'), {}, r"row 3 of the transfers: the sources 'D\+'"),
    (changed(3, sources=('D', 'N')), {}, "row 3 of the transfers: the sources .* are no text"),
    (changed(3, target=None), {}, 'row 3 of the transfers: the target (None|nan) is no name'),
    (pd.concat([EXAMPLE, pd.DataFrame([('N+D', 'S', .1)], columns=COLUMNS)]), {}, r'the transfer from N\+D to S comes twice'),
    (EXAMPLE.assign(cost=-1.), {}, 'its cost is -1.0'),
    (EXAMPLE[:0], {}, 'has no row'),
    (EXAMPLE.drop(columns='affinity'), {}, "no column 'affinity'")])
def test_refused(table, options, said):
    with pytest.raises(ValueError, match=said) as e: taxonomy(table, **dict(budget=2) | options)
    assert '\n' not in str(e.value)

def test_tables_survive_a_file(tmp_path):
    EXAMPLE.to_csv(tmp_path/'transfers.csv', index=False)
    pd.testing.assert_frame_equal(check_transfers(pd.read_csv(tmp_path/'transfers.csv')), check_transfers(EXAMPLE))

def test_text():
    assert str(taxonomy(EXAMPLE, 3)) == 'supervised D + N + K: total 2.1 at cost 3; S from D+N'
    assert str(taxonomy(EXAMPLE, 4)) == 'supervised S + D + N + K: total 2.18 at cost 4'

# --- candidates, beam search, drawing

def test_candidates():
    first = pd.Series(np.arange(12.), [f't{i}' for i in range(12)])
    names = transfer_candidates(first)
    assert [names.count(n) for n in names] == [1]*25 and {s for n in names for s in n.split('+')} == {f't{i}' for i in range(7, 12)}
    assert transfer_candidates(first[:2]) == ['t0+t1'] and transfer_candidates(first, top=3, max_order=3)[-1] == 't9+t10+t11'
    for bad in (1, 6):
        with pytest.raises(ValueError, match=f'the order is {bad}'): transfer_candidates(first, max_order=bad)
    with pytest.raises(ValueError, match="the source 't0' comes twice"): transfer_candidates(pd.concat([first, first[:1]]))

@given(st.integers(1, 5), st.randoms(use_true_random=False))
def test_a_wide_beam_is_exhaustive(order, random):
    names, calls = list('ABCDEF'), []
    worth = {frozenset(c): random.random() for c in subsets(names)}
    def value(some): calls.append(some); return worth[frozenset(some)]
    found = beam_search(value, names, order, width=100)
    assert len(found) == len(calls) == len({*map(frozenset, calls)}) == sum(1 for c in subsets(names) if len(c) <= order)
    assert found.max() == max(v for c, v in worth.items() if len(c) <= order)

def test_a_narrow_beam_adds_one_at_a_time():
    found = beam_search(lambda names: sum('FEDCBA'.index(n) for n in names), list('ABCDEF'), 6, width=1)
    assert found.idxmax() == 'A+B+C+D+E' and len(found) == 6 + 5 + 4 + 3 + 2 + 1
    for bad in (dict(max_order=0), dict(max_order=3), dict(max_order=1, width=0)):
        with pytest.raises(ValueError, match='the order is'): beam_search(len, ['A', 'B'], **bad)
    with pytest.raises(ValueError, match='each once'): beam_search(len, ['A', 'A'], 1)
    with pytest.raises(ValueError, match=r'the value of A is NaN'): beam_search(lambda n: float('nan'), ['A'], 1)

def test_graph_and_drawing():
    result = taxonomy(EXAMPLE, 3)
    graph  = taxonomy_graph(result)
    assert {*graph.predecessors(('target', 'S'))} == {('join', 'S')} and {*graph.predecessors(('join', 'S'))} == {('source', 'D'), ('source', 'N')}
    assert {*graph.predecessors(('target', 'N'))} == {('source', 'N')}
    ax = draw_taxonomy(result)
    assert sorted(t.get_text() for t in ax.texts) == sorted([*'SDNK', *'DNK']) and ax.get_title() == 'total 2.1, cost 3'
    plt.close(ax.figure)
