"""What the scores of single-task networks cost: seconds and ratios of one run, written to benchmarks/results/affinity.csv.

    python benchmarks/affinity.py                    everything (about twenty minutes on one CPU core)
    python benchmarks/affinity.py --rows rsa tasks   some of it: rsa, ias, tasks
    python benchmarks/affinity.py --quick            all rows, too short to be exact; nothing is written

rsa    RSA of five networks on 2,048 images, 8,192 features each, against rsatoolbox's calc_rdm and compare; they are given the same features, and must agree
ias    IAS of five networks on 2,048 images, against the forward and backward passes alone that it cannot do without
tasks  RSA and IAS of 2 to 20 networks, against going pair by pair, each pair making what it needs; also as a figure, affinity_tasks.svg

Images, features and weights are random numbers, for time does not depend on them. What is compared takes turns, A B, B A, and every ratio is the median
of the ratios of the turns. On the CPU all use one thread. GS and GT are in benchmarks/gradients.py.
"""
import argparse
import datetime
import os
import platform
import sys
import time
from pathlib import Path

import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn
from training import wait  # benchmarks/training.py

from its_a_match.affinity.attribution import input_attribution_similarity
from its_a_match.affinity.core import image_batches
from its_a_match.affinity.representation import representation_similarity
from its_a_match.figures import series, style
from its_a_match.measuring import evaluating
from its_a_match.models import MultiTaskNet, get_model
from its_a_match.tasks import Task, get_tasks

RESULTS = Path(__file__).parent/'results'
DEVICES = ('cpu', 'cuda') if torch.cuda.is_available() else ('cpu',)


# ---- what all rows use

def device_name(device): return torch.cuda.get_device_name(device) if device == 'cuda' else f'{platform.machine()} CPU, 1 thread'


def turns(ways, repeat, device='cpu', warm=None):
    "Seconds of every way in turn, `repeat` times: {way: array}. Each second round goes backwards; before the first, each of `warm` is called once."
    seconds = {w: [] for w in ways}
    for call in (warm or {}).values(): call()
    for r in range(repeat):
        for w in list(ways)[::1 if r % 2 == 0 else -1]:
            wait(device)
            start = time.perf_counter()
            ways[w]()
            wait(device)
            seconds[w].append(time.perf_counter() - start)
    return {w: np.array(s) for w, s in seconds.items()}


def lines(row, work, seconds, device, reach, faster=False):
    "Lines of the table: median seconds of each way, and the median ratio to the first: how many times as long, or as fast if `faster`."
    first = next(iter(seconds))
    for way, s in seconds.items():
        ratio, wanted = float(np.median(seconds[first]/s if faster else s/seconds[first])), reach if way != first else ''
        what = 'times as fast' if faster else 'times as long'
        print(f'{work}, {way}: {np.median(s):.4g} s, {ratio:.3f} {what}' + (f' (reach {wanted})' if wanted else ''), flush=True)
        yield dict(row=row, work=work, way=way, device=device_name(device), date=datetime.date.today().isoformat(), seconds=float(f'{np.median(s):.4g}'),
                   ratio=round(ratio, 3), ratio_is=what, reach=wanted)


def single_task(model, tasks, size, device):
    "A single-task network for each task, whose normalisation has seen some images."
    nets = {t.key: get_model(model, [t], seed=i).to(device) for i, t in enumerate(tasks)}
    with torch.no_grad():
        for net in nets.values(): net(torch.rand(16, 3, size, size, device=device))
    return nets


# ---- RSA

class LooksUp(nn.Module):
    "An encoder that takes no time: images say in their first two pixels which one they are, and it has the features."
    def __init__(self, features):
        super().__init__()
        self.features = nn.Parameter(features, requires_grad=False)
    def forward(self, images): return self.features[(images[:, 0, 0, 0]*4096).round().long()]


def rsatoolbox_rsa(features):
    "The similarities by rsatoolbox, (T, T)."
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import calc_rdm, compare
    rdms = calc_rdm([Dataset(f) for f in features], method='correlation')
    return compare(rdms, rdms, method='spearman')


def row_rsa(quick):
    "RSA against rsatoolbox, from the same features."
    n, p, repeat = (512, 1024, 2) if quick else (2048, 8192, 3)
    g = torch.Generator().manual_seed(0)
    shared   = torch.randn(n, 50, generator=g)
    features = [shared @ torch.randn(50, p, generator=g) + 5*torch.randn(n, p, generator=g) for _ in range(5)]
    images   = (torch.arange(n)/4096)[:, None, None, None].expand(n, 3, 1, 1)
    for device in DEVICES:
        nets = {k: MultiTaskNet(LooksUp(f), {k: nn.Identity()}, mean=0, std=1).to(device) for k, f in zip('SDNKE', features)}
        given, found = [f.numpy() for f in features], {}
        ways = {'rsatoolbox': lambda: found.update(theirs=rsatoolbox_rsa(given)), 'representation similarity': lambda: found.update(ours=representation_similarity(nets, images))}
        few  = {'rsatoolbox': lambda: rsatoolbox_rsa([f[:64] for f in given]), 'representation similarity': lambda: representation_similarity(nets, images[:64])}
        seconds = turns(ways, repeat, device, few)
        gap = np.nanmax(np.abs(found['ours'].to_numpy() - found['theirs']))
        print(f'the largest difference is {gap:.1g}')
        if gap > 1e-6: raise RuntimeError(f'RSA differs from rsatoolbox by {gap:g}')
        yield from lines('rsa', f'RSA, five networks, {n:,} images of {p:,} features', seconds, device, '10', faster=True)


# ---- IAS

def passes(networks, images, device):
    "What IAS cannot avoid: each network's output for each image, and the gradient of the output's sum with respect to the image."
    for x in image_batches(images, device=device):
        for net in networks.values():
            with evaluating(net), torch.enable_grad():
                given = x.detach().requires_grad_()
                (output,) = net(given).values()
                torch.autograd.grad(output, given, torch.ones_like(output))


def row_ias(quick):
    "IAS of five networks against the passes alone."
    n, repeat = (128, 2) if quick else (2048, 7)
    cases = {'cpu': [('wide', 64), ('small', 64)], 'cuda': [('wide', 64), ('xception17', 128)]}
    for device in DEVICES:
        for model, size in cases[device]:
            nets, images = single_task(model, get_tasks('SDNKE'), size, device), torch.rand(n, 3, size, size)
            both = {'forward and backward passes alone': lambda x: passes(nets, x, device), 'input attribution similarity': lambda x: input_attribution_similarity(nets, x)}
            ways, few = ({w: lambda f=f, x=x: f(x) for w, f in both.items()} for x in (images, images[:128]))
            yield from lines('ias', f'IAS, five networks, {model}, {n:,} images of {size}²', turns(ways, repeat, device, few), device, '1.15')


# ---- more and more tasks

def row_tasks(quick):
    "RSA and IAS of all pairs of T networks, and pair by pair."
    counts, n, repeat = ((2, 4, 8), 128, 1) if quick else ((2, 5, 10, 15, 20), 512, 3)
    tasks = [Task(f'task{i}') for i in range(counts[-1])]
    nets, images, medians = single_task('small', tasks, 64, 'cpu'), torch.rand(n, 3, 64, 64), {}
    scores = {'RSA': lambda nets: representation_similarity(nets, images), 'IAS': lambda nets: input_attribution_similarity(nets, images, tasks=tasks)}
    for name, score in scores.items():
        for T in counts:
            some = {t.key: nets[t.key] for t in tasks[:T]}
            def by_pairs():
                for i, a in enumerate(some):
                    for b in list(some)[i + 1:]: score({a: some[a], b: some[b]})
            ways = {'all together': lambda: score(some), 'pair by pair': by_pairs}
            warm = {'': lambda: score(dict(list(some.items())[:2]))}
            seconds = turns(ways, 1 if T > 10 else repeat, 'cpu', warm)
            for way, s in seconds.items(): medians.setdefault((name, way), {})[T] = np.median(s)
            yield from (line | dict(networks=T) for line in lines('tasks', f'{name}, {T} networks, small, {n} images of 64²', seconds, 'cpu', ''))
    for (name, way), s in medians.items():
        power = np.polyfit(np.log(list(s)), np.log(list(s.values())), 1)[0]
        print(f'{name}, {way}: grows with the number of networks to the power of {power:.2f}')
        yield dict(row='tasks', work=f'{name}, growth', way=way, device=device_name('cpu'), date=datetime.date.today().isoformat(), ratio=round(power, 3),
                   ratio_is='power of the number of networks')


def draw(table):
    "The figure of the row `tasks`."
    style()
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 2.8), sharey=True)
    for ax, name in zip(axes, ('RSA', 'IAS')):
        rows = table[table.work.str.startswith(name) & table.networks.notna()].astype({'networks': int})
        for i, (way, t) in enumerate(rows.groupby('way', sort=False)): ax.loglog(t.networks, t.seconds, label=way, **series(i))
        ours = rows[rows.way == 'all together']
        ax.loglog(ours.networks, ours.seconds.iloc[0]*ours.networks/ours.networks.iloc[0], color='grey', lw=.8, label='as the number of networks', zorder=0)
        ax.set(title=name, xlabel='networks')
        ax.set_xticks(ours.networks, ours.networks.astype(str))
        ax.minorticks_off()
    axes[0].set_ylabel('seconds')
    axes[0].legend()
    fig.savefig(RESULTS/'affinity_tasks.svg', bbox_inches='tight', metadata=dict(Date=None))


ROWS = dict(rsa=row_rsa, ias=row_ias, tasks=row_tasks)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rows', nargs='+', choices=ROWS, default=list(ROWS))
    parser.add_argument('--quick', action='store_true', help='seconds instead of minutes; nothing is written')
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = pd.DataFrame([line for row in args.rows for line in ROWS[row](args.quick)])
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {device_name('cpu')}, {sys.platform}")
    if args.quick: return
    file, here = RESULTS/'affinity.csv', ['row', 'device', 'work']
    if file.exists():
        old = pd.read_csv(file, dtype={'reach': str})
        table = pd.concat([old[~old.set_index(here).index.isin(table.set_index(here).index)], table])
    RESULTS.mkdir(exist_ok=True)
    if 'networks' in table: table = table.astype({'networks': 'Int64'})
    table = table.sort_values('row', key=lambda r: r.map(list(ROWS).index), kind='stable')
    table.to_csv(file, index=False)
    if (table.row == 'tasks').any(): draw(table[table.row == 'tasks'])
    print(f'written to {os.path.relpath(file)}')


if __name__ == '__main__': main()
