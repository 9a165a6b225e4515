"""How long selection takes: medians and ratios of one run, written to benchmarks/results/.

    python benchmarks/selection.py            everything (about four minutes on 2 CPU cores)
    python benchmarks/selection.py --quick    without the 20 tasks and with a shorter curve
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import lru_cache
from pathlib import Path

import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from its_a_match.candidates import Objective, higher_order, instance
from its_a_match.figures import series, style
from its_a_match.published import which_tasks_losses
from its_a_match.selection import SOLVERS, frontier

RESULTS = Path(__file__).parent/'results'


def simulate(tasks, seed=0):
    "All groups of `tasks` tasks as candidates, half-size single networks included; losses of larger groups are means over pairs (HOA)."
    rng, names = np.random.default_rng(seed), list('ABCDEFGHIJKLMNOPQRSTUVWXYZ'[:tasks])
    single = rng.uniform(.05, .2, tasks)
    rows = {n: {'cost': 1., n: l} for n, l in zip(names, single)}
    for i, a in enumerate(names):
        for j in range(i + 1, tasks):
            rows[a + names[j]] = {'cost': 1., a: single[i]*rng.normal(1.03, .06), names[j]: single[j]*rng.normal(1.03, .06)}
    table = higher_order(pd.DataFrame.from_dict(rows, 'index')[['cost', *names]])
    half = pd.DataFrame([{'cost': .5, n: l*1.08} for n, l in zip(names, single)], [f'{n}@0.5' for n in names])
    return pd.concat([table, half]).rename_axis('network')


def halves(most): return np.arange(1, most + .5, .5)


def seconds(call, repeat=None):
    "Median seconds of `call`, after one call that compiles; repeated for about a second unless said otherwise."
    start = time.perf_counter()
    call()
    once = time.perf_counter() - start
    times = []
    for _ in range(repeat or max(3, min(200, int(1/max(once, 1e-4))))):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def arrays(table, budgets):
    "What a solver is given: the arrays of an instance."
    i = instance(table, budgets, Objective())
    return i.loss, i.cost, i.rank, i.budgets, i.slack


@lru_cache(1)
def problem(tasks): return arrays(simulate(tasks), halves(tasks))


def core(table, budgets, solver):
    "The solver alone."
    given = arrays(table, budgets)
    return lambda: SOLVERS[solver](*given)


def row(work, reach, measured, unit='ms', beside=''):
    "A line of the table: what was done, what it should take at most, what it took, and what to see beside it."
    line = dict(work=work, measured=f"{measured*(1e3 if unit == 'ms' else 1):.3g} {unit}", reach=reach, beside=beside)
    print('  '.join(filter(None, [line['work'] + ':', line['measured'], reach and f'(reach {reach})', beside])), flush=True)
    return line


def paper():
    "The nine budgets of the paper, with each solver."
    val, budgets = which_tasks_losses('val'), halves(5)
    public, times = seconds(lambda: frontier(val, budgets)), {s: seconds(core(val, budgets, s)) for s in SOLVERS}
    dp = times['subset-dp']
    yield row('36 networks, 9 budgets: frontier, DataFrame in and out', '3 ms', public)
    yield row('36 networks, 9 budgets: subset-dp alone', '0.3 ms', dp)
    for s in ('branch-and-bound', 'milp'): yield row(f'36 networks, 9 budgets: {s} alone', '', times[s], beside=f'{times[s]/dp:,.0f} times subset-dp')


def large(tasks, reach, repeat=None):
    "The frontier of all groups of `tasks` tasks."
    table = simulate(tasks)
    return row(f'{tasks} tasks, {len(table):,} networks, budgets 1 to {tasks} by halves: frontier', reach, seconds(lambda: frontier(table, halves(tasks)), repeat),
               beside=f"solver alone {1e3*seconds(core(table, halves(tasks), 'subset-dp'), repeat):.3g} ms")


def compiling():
    "The first call of a process, with and without numba's cache on disk."
    code = ("import time; from its_a_match.published import which_tasks_losses; from its_a_match.selection import frontier\n"
            "val = which_tasks_losses('val'); t = time.perf_counter(); frontier(val, [1, 2.5]); print(time.perf_counter() - t)")
    with tempfile.TemporaryDirectory() as cache:
        env = os.environ | dict(NUMBA_CACHE_DIR=cache)
        first, later = (float(subprocess.run([sys.executable, '-c', code], env=env, check=True, capture_output=True, text=True).stdout) for _ in range(2))
    yield row('first call ever, compiling', '3 s', first, 's')
    yield row('first call of a process, compiled code from disk', '', later, 's')


def twenty():
    "Run in a process of its own, for its peak memory."
    table = simulate(20)
    start = time.perf_counter()
    curve = frontier(table, halves(20))
    took = time.perf_counter() - start
    print(json.dumps(dict(took=took, networks=len(table), memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20, solver=curve.attrs['solver'])))


def curve(most, patience):
    "Seconds of each solver against the number of tasks, as far as the next run promises to take less than `patience`."
    rows = []
    for s in SOLVERS:
        SOLVERS[s](*problem(2))
        took = []
        for tasks in range(2, most + 1):
            if len(took) > 2 and took[-1]*max(took[-1]/took[-2], 3) > patience: break
            given = problem(tasks)
            start = time.perf_counter()
            SOLVERS[s](*given)
            took.append(time.perf_counter() - start)
            rows.append(dict(solver=s, tasks=tasks, seconds=took[-1]))
            print(f"{s}, {tasks} tasks: {took[-1]:.3g} s", flush=True)
    return pd.DataFrame(rows)


def draw(times):
    "Seconds against the number of tasks."
    style()
    fig, ax = plt.subplots(figsize=(5, 3.2))
    for i, (s, t) in enumerate(times.groupby('solver', sort=False)): ax.semilogy(t.tasks, t.seconds, label=s, **series(i))
    ax.set(xlabel='tasks (every group of them a candidate)', ylabel='seconds, all budgets', xticks=range(2, times.tasks.max() + 1, 2))
    ax.legend()
    fig.savefig(RESULTS/'selection_tasks.svg', bbox_inches='tight', metadata=dict(Date=None))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--quick', action='store_true')
    parser.add_argument('--twenty', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.twenty: return twenty()
    RESULTS.mkdir(exist_ok=True)
    rows = [*compiling(), *paper(), large(10, '20 ms'), large(15, '1 s', 3)]
    if not args.quick:
        run = subprocess.run([sys.executable, __file__, '--twenty'], check=True, capture_output=True, text=True)
        got = json.loads(run.stdout)
        rows.append(row(f"20 tasks, {got['networks']:,} networks, budgets 1 to 20 by halves: frontier", '120 s, 4 GB', got['took'], 's', beside=f"peak memory {got['memory']:.2g} GB"))
    pd.DataFrame(rows).to_csv(RESULTS/'selection.csv', index=False)
    times = curve(12 if args.quick else 18, 3 if args.quick else 30)
    times.to_csv(RESULTS/'selection_tasks.csv', index=False)
    draw(times)
    print(f"{os.cpu_count()} CPU cores, {sys.platform}; written to {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}")


if __name__ == '__main__': main()
