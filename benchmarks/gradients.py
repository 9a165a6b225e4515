"""What a probe of the tasks' gradients costs: seconds and ratios of one run, written to benchmarks/results/gradients.csv.

    python benchmarks/gradients.py            everything (about a minute on one CPU core)
    python benchmarks/gradients.py --quick    too short to be exact; nothing is written

GS and GT of all 20 ordered pairs of a network of five tasks, on one batch of 32 images. The naive way goes through the tasks b one by one: it copies the
network, runs the copy with the head of b alone, steps its encoder along the gradient, runs it again with every head and throws it away; the losses before
the step come from one more pass, and the angles from the gradients it has come by. All are called within a training, with its batch, losses and
learning rate, on random numbers, for time does not depend on what images show. They take turns, A B A B, and every ratio is the median of the ratios of
the turns. The share of an epoch is that of one probe in 62 steps, 2,000 views; a step's time is measured in the same run, but for a training without a probe.

How well the first-order estimate agrees with the look-ahead does depend on the images: those rows come from data/results/affinity/gradients_ways.csv, a
training on Rooms (data/results/affinity/make makes the file).
"""
import argparse
import datetime
import os
import platform
import sys
import time
from copy import copy, deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from training import views, wait  # benchmarks/training.py

from its_a_match.affinity.gradients import cosines, measure_gradients
from its_a_match.models import get_model
from its_a_match.recipes import get_recipe
from its_a_match.training import Callback, fit

RESULTS, AGREEMENT = Path(__file__).parent/'results', Path(__file__).parents[1]/'data'/'results'/'affinity'/'gradients_ways.csv'
EPOCH = 62  # steps of the quick recipe on 2,000 views


def losses(t, net, keys):
    "Losses of some tasks by a network of these tasks."
    wanted = copy(t.task_losses)
    wanted.tasks = tuple(task for task in wanted.tasks if task.key in keys)
    return wanted(net(t.images), t.targets, t.masks)


def naive(t):
    "GS and GT by a copy of the network for each task."
    gradients, GT = [], torch.zeros(len(t.keys), len(t.keys), dtype=torch.double)
    with torch.no_grad(): before = losses(t, deepcopy(t.net), t.keys)
    for i, b in enumerate(t.keys):
        net = deepcopy(t.net)
        step = torch.optim.SGD(net.shared_parameters(), t.optimizer.param_groups[0]['lr'])
        losses(t, net.only(b), [b])[b].backward()
        gradients.append(torch.cat([p.grad.reshape(-1) for p in net.shared_parameters()]))
        step.step()
        with torch.no_grad(): after = losses(t, net, t.keys)
        for j, a in enumerate(t.keys): GT[i, j] = 1 - after[a].item()/before[a].item()
    return cosines(torch.stack(gradients))[0], GT


WAYS = {'naive': naive, 'exact': measure_gradients, 'first order': lambda t: measure_gradients(t, 'first-order'),
        "the optimiser's step": lambda t: measure_gradients(t, 'optimizer'), 'GS alone': lambda t: measure_gradients(t, None)}


class Turns(Callback):
    "Within a training calls every way in turn, and times them and the steps without any."
    def __init__(self, at, repeat): self.at, self.repeat, self.seconds, self.steps = at, repeat, {w: [] for w in WAYS}, []
    def before_step(self, t):
        if t.step == self.at:
            for r in range(self.repeat + 1):  # the first round does not count
                for w in list(WAYS)[::1 if r % 2 else -1]: self.seconds[w][r:] = [self.timed(t, WAYS[w])]
            found, expected = measure_gradients(t)[1:], naive(t)
            off = ~torch.eye(len(t.keys), dtype=bool)
            assert all(torch.allclose(x[off], y[off], rtol=1e-3, atol=1e-6) for x, y in zip(found, expected)), 'both ways should give the same numbers'
        wait(t.device.type)
        self.start = time.perf_counter()
    def after_step(self, t):
        wait(t.device.type)
        if t.step > 3: self.steps.append(time.perf_counter() - self.start)
    def timed(self, t, way):
        wait(t.device.type)
        start = time.perf_counter()
        way(t)
        wait(t.device.type)
        return time.perf_counter() - start


def device_name(device): return torch.cuda.get_device_name(device) if device == 'cuda' else f'{platform.machine()} CPU, 1 thread'


def speed(device, model, size, repeat, steps):
    "Lines of one network on one device."
    turns, data = Turns(steps, repeat), views('SDNKE', 32*(steps + 1), size).to(device)
    fit(get_model(model, 'SDNKE', seed=0), data, views('SDNKE', 32, size).to(device), get_recipe('quick', epochs=1, early=0.), turns, device=device)
    seconds, step = {w: np.array(s[1:]) for w, s in turns.seconds.items()}, float(np.median(turns.steps))
    for way, s in seconds.items():
        ratio, share, reach = float(np.median(s/seconds['naive'])), float(np.median(s))/(EPOCH*step), {'exact': '0.85', 'first order': '0.45'}.get(way, '')
        print(f"{model}, {size}², {way}: {np.median(s):.4f} s, {ratio:.3f} times" + (f' (reach {reach})' if reach else '') + f', {share:.1%} of an epoch', flush=True)
        yield dict(row='probe', work=f'GS and GT of five tasks, {model} network, {size}², batch 32', way=way, device=device_name(device), date=datetime.date.today().isoformat(),
                   seconds=float(f'{np.median(s):.4g}'), ratio=round(ratio, 3), reach=reach, share_of_epoch=round(share, 4))


def agreement():
    "Lines of how the estimate agrees with the look-ahead, over the 20 pairs' means over the epochs."
    table = pd.read_csv(AGREEMENT).groupby(['way', 'partner', 'target']).GT.mean().unstack('way')
    for way in ('first-order', 'optimizer'):
        rank, slope = table[way].corr(table.sgd, 'spearman'), np.polyfit(table.sgd, table[way], 1)[0]
        print(f'{way} against the look-ahead by a plain step, Rooms: Spearman {rank:.3f}, slope {slope:.3g}')
        yield dict(row='agreement', work='GT on Rooms, against a plain step', way=way, device='any', spearman=round(rank, 3), slope=float(f'{slope:.3g}'))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--quick', action='store_true', help='seconds instead of minutes; nothing is written')
    args = parser.parse_args()
    torch.set_num_threads(1)  # as each process of a campaign has
    repeat, steps = (2, 5) if args.quick else (15, 20)
    lines = list(speed('cpu', 'wide', 64, repeat, steps))
    if torch.cuda.is_available(): lines += [*speed('cuda', 'wide', 64, repeat, steps), *speed('cuda', 'xception17', 128, repeat, steps)]
    else: print('on a GPU: left out, for torch finds no CUDA GPU here')
    if AGREEMENT.exists(): lines += agreement()
    else: print(f'agreement: left out, for there is no {os.path.relpath(AGREEMENT)}')
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {device_name('cpu')}, {sys.platform}")
    if args.quick: return
    file, table, here = RESULTS/'gradients.csv', pd.DataFrame(lines), ['row', 'device', 'work']
    if file.exists():
        old = pd.read_csv(file, dtype={'reach': str})
        table = pd.concat([table, old[~old.set_index(here).index.isin(table.set_index(here).index)]])
    RESULTS.mkdir(exist_ok=True)
    table.sort_values('row', ascending=False, kind='stable').to_csv(file, index=False)
    print(f'written to {os.path.relpath(file)}')


if __name__ == '__main__': main()
