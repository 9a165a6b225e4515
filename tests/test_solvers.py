"The three solvers against plain enumeration, on any instance: arbitrary costs, missing losses, ties."
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from its_a_match.solvers import branch_and_bound, integer_program, tie_limit
from its_a_match.subset_dp import blocks, subset_dp

VALUES = st.one_of(st.sampled_from([.1, .2, .3]), st.floats(-1, 1).map(lambda v: round(v, 6)))  # ties are common

@st.composite
def instances(draw, tasks=4, networks=7, costs=st.integers(0, 4).map(float)):
    "(loss, cost, rank, budgets) as the solvers take them; every network solves a task and every task is solved."
    T, N = draw(st.integers(1, tasks)), draw(st.integers(1, networks))
    cells = draw(st.lists(st.one_of(st.just(np.inf), VALUES), min_size=T*N, max_size=T*N))
    loss = np.reshape(cells, (T, N))
    for n in np.flatnonzero(~np.isfinite(loss).any(0)): loss[draw(st.integers(0, T-1)), n] = draw(VALUES)
    for t in np.flatnonzero(~np.isfinite(loss).any(1)): loss[t, draw(st.integers(0, N-1))] = draw(VALUES)
    cost = np.array(draw(st.lists(costs, min_size=N, max_size=N)))
    return loss, cost, np.array(draw(st.permutations(range(N)))), np.array(draw(st.lists(st.integers(0, 9).map(float), min_size=1, max_size=3)))

def enumerate_all(loss, cost, rank, budget, slack=0.):
    "The best choice by trying every assignment of networks to tasks."
    choices = [c for c in product(*(np.flatnonzero(np.isfinite(row)) for row in loss)) if cost[list(set(c))].sum() <= budget + slack]
    if not choices: return [-1]*len(loss)
    total = {c: sum(loss[t, n] for t, n in enumerate(c)) for c in choices}
    tied = [c for c in choices if total[c] <= tie_limit(min(total.values()))]
    cheapest = min(cost[list(set(c))].sum() for c in tied) + slack
    return list(min((c for c in tied if cost[list(set(c))].sum() <= cheapest), key=lambda c: (len(set(c)), [rank[n] for n in c])))

SOLVERS = dict(bb=branch_and_bound, dp=subset_dp, pareto=lambda *a, **k: subset_dp(*a, **k, columns=0), milp=integer_program)

@settings(max_examples=150)
@given(instances())
def test_solvers_agree_with_enumeration(problem):
    want = [enumerate_all(*problem[:3], b) for b in problem[3]]
    for name, solve in SOLVERS.items(): assert solve(*problem).tolist() == want, name

@settings(max_examples=60)
@given(instances(costs=st.floats(.01, 4)))
def test_costs_without_a_common_unit(problem):
    want = [enumerate_all(*problem[:3], b, 1e-9) for b in problem[3]]
    for name, solve in SOLVERS.items(): assert solve(*problem, slack=1e-9).tolist() == want, name

@settings(max_examples=60)
@given(instances(tasks=6, networks=14))
def test_dynamic_programme_agrees_with_the_paper_s_algorithm(problem):
    assert subset_dp(*problem).tolist() == branch_and_bound(*problem).tolist()

@given(instances())
def test_a_larger_budget_never_hurts(problem):
    loss, cost, rank, _ = problem
    found = subset_dp(loss, cost, rank, np.arange(12.))
    totals = [loss[np.arange(len(loss)), c].sum() if c[0] >= 0 else np.inf for c in found]
    assert all(b <= a + 1e-12 for a, b in zip(totals, totals[1:]) if np.isfinite(a))

@settings(max_examples=60)
@given(instances(), st.randoms(use_true_random=False))
def test_relabelling_tasks_and_networks_changes_nothing(problem, random):
    loss, cost, rank, budgets = problem
    tasks, nets = random.sample(range(len(loss)), len(loss)), random.sample(range(len(cost)), len(cost))
    found, moved = subset_dp(*problem), subset_dp(loss[np.ix_(tasks, nets)], cost[nets], rank[nets], budgets)
    for a, b in zip(found, moved):
        assert (a[0] < 0) == (b[0] < 0)
        if a[0] < 0: continue
        b = np.array(nets)[b]  # back to the old numbers
        assert loss[range(len(loss)), a].sum() == pytest.approx(loss[tasks, b].sum(), abs=1e-12)
        assert cost[list(set(a))].sum() == cost[list(set(b))].sum() and len(set(a)) == len(set(b))

@given(instances())
def test_blocks_are_pareto_lists(problem):
    loss, cost, *_ = problem
    first, c, l = blocks(loss, cost)
    for mask in range(1, 2**len(loss)):
        mine = slice(first[mask], first[mask+1])
        assert (np.diff(c[mine]) > 0).all() and (np.diff(l[mine]) < 0).all()
        sums = loss[[t for t in range(len(loss)) if mask >> t & 1]].sum(0)
        want = [(k, sums[cost <= k].min()) for k in np.unique(cost) if np.isfinite(sums[cost <= k].min(initial=np.inf))]
        want = [p for i, p in enumerate(want) if i == 0 or p[1] < want[i-1][1] - 1e-12]
        np.testing.assert_allclose(np.reshape(want, (-1, 2)), np.c_[c[mine], l[mine]], atol=1e-12)

def test_many_ties_end_soon():
    "Twelve tasks, all groups, every total equal: one network for all."
    groups = [g for k in range(1, 13) for g in combinations(range(12), k)]
    loss = np.full((12, len(groups)), np.inf)
    for n, g in enumerate(groups): loss[list(g), n] = 0.
    found = subset_dp(loss, np.ones(len(groups)), np.arange(len(groups)), [1., 12.])
    assert (found == len(groups) - 1).all()
