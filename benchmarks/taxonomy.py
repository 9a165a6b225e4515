"""How long Taskonomy's AHP and taxonomies take: medians and ratios of one run, written to benchmarks/results/taxonomy.csv.

    python benchmarks/taxonomy.py            everything (about five minutes on one CPU core, most of it for what is compared)
    python benchmarks/taxonomy.py --quick    three budgets; nothing is written

AHP       the affinities of 25 or 49 transfers to each of 25 tasks on 10,000 test images, against a loop over pairs of pandas columns and
          numpy.linalg.eig, timed on three tasks and scaled; the results must agree
taxonomy  25 tasks, each with 49 transfers from other tasks (24 first-order ones; of the best five sources 10 pairs, 10 triples and 5 fours) and its own
          labels, at each budget from 1 to 25, proven optimal; against the same program with equation 5 aggregated, |sources| x_i - sum x_s <= 0, by
          scipy.optimize.milp with a time limit. Twice: affinities by AHP of made-up losses, and uniform random numbers, which have no structure

Losses are made up: tasks are points in the plane, and a transfer is the better the closer its sources are to its target.
"""
import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp
from selection import RESULTS, row, seconds  # benchmarks/selection.py

from its_a_match.affinity.tournaments import rate_transfers
from its_a_match.supervision import taxonomy, transfer_candidates, transfer_sources

TASKS, IMAGES = 25, 10_000
NAMES = [f'task{i:02}' for i in range(TASKS)]


def simulate(images, seed=0):
    "Losses of all transfers, {target: (images, 50)}: 24 of the first order, 10 pairs, 10 triples, 5 fours, and the target's own labels."
    rng, tables = np.random.default_rng(seed), {}
    place = rng.normal(size=(TASKS, 2))
    near  = pd.DataFrame(np.exp(-np.linalg.norm(place[:, None] - place, axis=-1)), NAMES, NAMES)
    for t in NAMES:
        first = near[t].drop(t)
        names = [*first.index, *transfer_candidates(first), t]
        worth = np.array([near.loc[t, t] if n == t else 1 - np.prod([1 - .8*first[s] for s in transfer_sources(n)]) for n in names])
        noise = rng.normal(0, .4, (images, len(names))) + rng.normal(0, .5, (images, 1))
        tables[t] = pd.DataFrame(np.exp(noise - worth), columns=names)
    return tables


# ---- AHP

def plain_affinities(table):
    "AHP as one would write it down: a loop over pairs of columns, and numpy's eigenvectors."
    rates  = np.array([[(table[i] < table[j]).mean() for j in table] for i in table]).clip(.001, .999)
    values, vectors = np.linalg.eig(rates/rates.T)
    v = vectors[:, values.real.argmax()].real
    return v/v.sum()


def ahp(quick):
    "The affinities of all targets in one call, beside the plain way."
    tables = simulate(IMAGES)
    for candidates in (25, 49):
        some   = {t: table.iloc[:, :candidates] for t, table in tables.items()}
        few    = dict(list(some.items())[:1 if quick else 3])
        once   = lambda: rate_transfers(some)
        found  = once().set_index('target').affinity
        for t, table in few.items(): np.testing.assert_allclose(found[t], plain_affinities(table), rtol=1e-8)
        took   = seconds(once, 3 if quick else 7)
        plain  = seconds(lambda: [plain_affinities(t) for t in few.values()], 1 if quick else 3)*TASKS/len(few)
        yield row(f'AHP, {TASKS} tasks, {IMAGES:,} images, {candidates} transfers each: rate_transfers', '1 s', took, 's',
                  beside=f'plain pandas and numpy {plain:.3g} s ({len(few)} tasks, scaled), {plain/took:,.0f} times as long')


# ---- the taxonomy

def aggregated(table, budget, limit):
    "The taxonomy with equation 5 as one row for each transfer: (total, whether it is proven optimal, seconds); the total is NaN if nothing is found."
    parts = [transfer_sources(s) for s in table.sources]
    E, target = len(table), pd.Categorical(table.target, NAMES).codes
    edge, source = np.array([(i, E + NAMES.index(s)) for i, p in enumerate(parts) for s in p]).T
    order = [len(p) for p in parts]
    needs = sparse.csr_array((np.r_[order, -np.ones(len(edge))], (np.r_[:E, edge], np.r_[:E, source])), (E, E + TASKS))
    one   = sparse.csr_array((np.ones(E), (target, np.arange(E))), (TASKS, E + TASKS))
    rules = [LinearConstraint(needs, ub=0), LinearConstraint(one, 1, 1), LinearConstraint(np.r_[np.zeros(E), np.ones(TASKS)], ub=budget)]
    start = time.perf_counter()
    found = milp(-np.r_[table.affinity, np.zeros(TASKS)], integrality=np.ones(E + TASKS), bounds=Bounds(0, 1), constraints=rules, options=dict(mip_rel_gap=0, time_limit=limit))
    return -found.fun if found.x is not None else np.nan, found.status == 0, time.perf_counter() - start


def taxonomies(kind, table, quick):
    "The best taxonomy of each budget, beside the aggregated form; the two in turn."
    budgets, limit = (3, 8, 15) if quick else range(1, TASKS + 1), 20
    ours, plain, proven = [], [], []
    taxonomy(table, TASKS)
    for b in budgets:
        start = time.perf_counter()
        found = taxonomy(table, b)
        ours.append(time.perf_counter() - start)
        total, done, took = aggregated(table, b, limit)
        assert found.bound - found.total <= 1e-6*table.affinity.max() and not total > found.total + 1e-5 and (not done or abs(total - found.total) < 1e-5), (b, total, found.total)
        plain.append(took)
        proven.append(done)
        print(f"{kind}, budget {b}: {ours[-1]:.3g} s; aggregated {took:.3g} s{'' if done else ', not proven'}", flush=True)
    ours, plain = np.array(ours), np.array(plain)
    what = f'{kind}, {TASKS} tasks, {len(table)//TASKS - 1} transfers and own labels each, {len(ours)} budgets'
    also = f"aggregated equation 5: median {np.median(plain):.3g} s, max {plain.max():.3g} s, {sum(proven)} of {len(ours)} proven within {limit} s"
    yield row(f'taxonomy, {what}: median', '10 s', np.median(ours), 's', beside=f"{'' if all(proven) else 'at least '}{np.median(plain/ours):.3g} times as long aggregated (median of the ratios)")
    yield row(f'taxonomy, {what}: max', '10 s', ours.max(), 's', beside=also)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--quick', action='store_true')
    args = parser.parse_args()
    rows   = list(ahp(args.quick))
    rated  = rate_transfers(simulate(500))
    random = rated.assign(affinity=np.random.default_rng(0).random(len(rated)))
    for kind, table in {'AHP affinities': rated, 'random affinities': random}.items(): rows += taxonomies(kind, table, args.quick)
    if args.quick: return
    RESULTS.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(RESULTS/'taxonomy.csv', index=False)
    print(f"{os.cpu_count()} CPU cores, {sys.platform}; written to {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}/taxonomy.csv")


if __name__ == '__main__': main()
