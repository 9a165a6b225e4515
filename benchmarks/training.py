"""How fast networks train: images a second and ratios of one run, written to benchmarks/results/training.csv.

    python benchmarks/training.py                     everything (about fifteen minutes on 2 CPU cores)
    python benchmarks/training.py --rows fit campaign some of it: fit, decoding, campaign, gpu
    python benchmarks/training.py --quick             all rows, too short to be exact

Images and labels are random numbers, for time does not depend on what they show; the views of `decoding` are those of benchmarks/data.py. What is
compared takes turns, A B A B, and every ratio is the median of the ratios of the turns. A row that was not run keeps its line of an earlier run on
the same device. Without a CUDA GPU the rows that need one are left out.
"""
import argparse
import datetime
import logging
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from its_a_match.batches import MemoryDataset, batches, in_memory, order, steps_in_pass
from its_a_match.costs import multiply_adds
from its_a_match.models import get_model
from its_a_match.processes import cores
from its_a_match.recipes import get_recipe, make_optimizer
from its_a_match.tasks import get_tasks
from its_a_match.training import Callback, fit

RESULTS = Path(__file__).parent/'results'


# ---- what all rows use

def device_name(device): return torch.cuda.get_device_name(device) if device == 'cuda' else f'{platform.machine()} CPU, {cores()} cores'


def wait(device):
    if device == 'cuda': torch.cuda.synchronize()


def views(tasks, n, size, seed=0):
    "`n` views of random numbers with labels everywhere."
    g, tasks = torch.Generator().manual_seed(seed), get_tasks(tasks)
    label = lambda t: torch.randint(1, t.channels, (n, size, size), generator=g) if t.kind == 'classes' else torch.rand(n, t.channels, size, size, generator=g)
    return MemoryDataset(tasks, torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=g), {t.key: label(t) for t in tasks})


class Clock(Callback):
    "Seconds of a training's steps from number `first` on, validation left out."
    def __init__(self, first): self.first = first
    def before_fit(self, t): self.seconds, self.steps = 0., 0
    def _now(self, t):
        wait(t.device.type)
        return time.perf_counter()
    def after_step(self, t):
        if t.step == self.first: self.start = self._now(t)
        if t.step == t.steps: self.seconds, self.steps = self._now(t) - self.start, t.steps - self.first


def by_fit(net, data, valid, steps, batch, device, warm=5, **changes):
    "Images a second of `fit`: one epoch of `steps` steps after some that do not count."
    clock, share = Clock(warm), (steps + warm)/steps_in_pass(len(data), batch)
    fit(net, data, valid, get_recipe('quick', batch=batch, epochs=1, share=share, early=0., **changes), clock, device=device)
    return clock.steps*batch/clock.seconds


def ready(data, batch, device, channels_last=True, many=8):
    "Batches as they would enter the network, their labels normalised, so that a loop has nothing to do but its three passes."
    layout, made = torch.channels_last if channels_last else torch.contiguous_format, []
    for s in range(min(many, steps_in_pass(len(data), batch))):
        images, targets, _ = data.batch(order(len(data), batch, 0, s))
        norm = {k: x if x.dtype == torch.int64 else (x - x.mean((0, 2, 3), keepdim=True))/x.std((0, 2, 3), keepdim=True) for k, x in targets.items()}
        made.append((images.to(device, memory_format=layout), {k: x.to(device) for k, x in norm.items()}))
    return made


def bare(net, made, steps, device, warm=5, channels_last=True):
    "Images a second of a loop of forward, backward and step alone, without masks, data or records."
    net = net.to(device, memory_format=torch.channels_last if channels_last else torch.contiguous_format).train()
    opt = make_optimizer(get_recipe('quick'), net.parameters())
    for i in range(-warm, steps):
        if i == 0:
            wait(device)
            start = time.perf_counter()
        images, targets = made[i % len(made)]
        outputs = net(images)
        losses = [F.cross_entropy(outputs[k], x) if x.dtype == torch.int64 else F.l1_loss(outputs[k], x) for k, x in targets.items()]
        (sum(losses)/len(losses)).backward()
        opt.step()
        opt.zero_grad()
    wait(device)
    return steps*len(made[0][0])/(time.perf_counter() - start)


def turns(ways, repeat):
    "Every way in turn, `repeat` times: {way: its rates}. Each second round goes backwards."
    rates = {w: [] for w in ways}
    for r in range(repeat):
        for w in list(ways)[::1 if r % 2 == 0 else -1]: rates[w].append(ways[w]())
    return {w: np.array(x) for w, x in rates.items()}


def lines(row, work, rates, device, reach='', unit='images/s', against=None, **more):
    "Lines of the table: the median rate of each way, and the median of its ratios to the first (or to `against`)."
    first = against or next(iter(rates))
    for way, r in rates.items():
        ratio, wanted = float(np.median(r/rates[first])), reach if way != first else ''
        extra = {k: v.get(way, '') for k, v in more.items()}
        print(f'{work}, {way}: {np.median(r):,.4g} {unit}, {ratio:.3f} times' + (f' (reach {wanted})' if wanted else '')
              + ''.join(f', {k.replace("_", " ")} {v}' for k, v in extra.items() if v != ''), flush=True)
        yield dict(row=row, work=work, way=way, device=device, date=datetime.date.today().isoformat(), rate=float(f'{np.median(r):.4g}'), unit=unit,
                   ratio=round(ratio, 3), reach=wanted, **extra)


# ---- the rows

def row_fit(quick):
    "`fit` on data in memory against a bare loop, with the small network on the CPU and Xception-17 on a GPU; images a second with one task and five."
    steps, repeat = (10, 2) if quick else (150, 9)
    for tasks, words in (('N', 'one task'), ('SDNKE', 'five tasks')):
        data, valid = views(tasks, 1024, 64), views(tasks, 32, 64)
        made, some = ready(data, 32, 'cpu'), steps if tasks == 'N' else max(5, steps//3)
        model = lambda: get_model('small', tasks, seed=0)
        ways = {'bare loop': lambda: bare(model(), made, some, 'cpu'), 'fit': lambda: by_fit(model(), data, valid, some, 32, 'cpu')}
        yield from lines('fit', f'small network, {words}, 64², batch 32', turns(ways, repeat), device_name('cpu'), '0.92')
    if not torch.cuda.is_available():
        print('fit on a GPU: left out, for torch finds no CUDA GPU here')
        return
    steps, repeat = (10, 2) if quick else (100, 7)
    for tasks, words in (('N', 'one task'), ('SDNKE', 'five tasks')):
        data, valid = views(tasks, 1024, 128).to('cuda'), views(tasks, 32, 128).to('cuda')
        made, model = ready(data, 32, 'cuda'), lambda: get_model('xception17', tasks, seed=0)
        ways = {'bare loop': lambda: bare(model(), made, steps, 'cuda', 10), 'fit': lambda: by_fit(model(), data, valid, steps, 32, 'cuda', 10)}
        yield from lines('fit', f'Xception-17, {words}, 128², batch 32', turns(ways, repeat), device_name('cuda'), '0.95')


def decode(data):
    "Views a second of an epoch's batches, as `fit` reads them."
    start, n = time.perf_counter(), steps_in_pass(len(data), 32)
    for b in batches(data, (order(len(data), 32, 0, s) for s in range(n)), 'cpu', prefetch=0): pass
    return 32*n/(time.perf_counter() - start)


def row_decoding(quick):
    "An epoch's batches from PNG files, from the cache and from memory."
    from data import make  # benchmarks/data.py
    from its_a_match.cache import cached
    from its_a_match.taskonomy import TaskonomyDataset
    few = 1 if quick else 4
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for source, size, distinct, times in ((64, None, 64, 4*few), (512, 256, 16, 2*few)):
            make(root/str(source), source, distinct, times)
            data = TaskonomyDataset(root/str(source), None, size=size)
            fast = cached(data, root/'store', processes=1)
            memory = in_memory(fast)
            ways = {'PNG files, the first epoch': lambda: decode(data), 'cache, later epochs': lambda: decode(fast), 'memory': lambda: decode(memory)}
            for way in list(ways)[1:]: ways[way]()  # every page of the arrays was touched once
            yield from lines('decoding', f'batches of 32 views, {source}² to {size or source}²', turns(ways, 2 if quick else 3), device_name('cpu'), '10', 'views/s')


def row_campaign(quick):
    "Fifteen small networks by two processes of one thread each, against one after the other with two threads."
    from its_a_match.campaign import plan, run
    networks = plan(sizes=(1,), orders=(1, 2))
    assert len(networks) == 15
    n, epochs = (64, 1) if quick else (2000, 3)
    data = dict(train=views('SDNKE', n, 64), val=views('SDNKE', 64, 64, 1), test=views('SDNKE', 64, 64, 2))
    recipe = get_recipe('quick', epochs=epochs)
    def rate(processes):
        with tempfile.TemporaryDirectory() as out:
            start = time.perf_counter()
            found = run(networks, data, out, model='small', recipe=recipe, device='cpu', processes=processes, progress=False)
            took = time.perf_counter() - start
        if len(found) != 3*len(networks): raise RuntimeError(f'the campaign gave {len(found)} rows, not {3*len(networks)}')
        return len(networks)*n*epochs/took
    if cores() < 2:
        print('campaign: left out, for there is one core')
        return
    torch.set_num_threads(2)
    ways = {'one after the other, two threads': lambda: rate(1), 'two processes, one thread each': lambda: rate(2)}
    yield from lines('campaign', f'15 small networks, {n} views, {epochs} epochs', turns(ways, 1 if quick else 2), device_name('cpu'), '1.2')
    torch.set_num_threads(cores())


def matmul_peak(n=8192, repeat=20):
    "Operations a second of large bf16 matrix products."
    a, b = (torch.randn(n, n, device='cuda', dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5): a @ b
    times = []
    for _ in range(repeat):
        wait('cuda')
        start = time.perf_counter()
        a @ b
        wait('cuda')
        times.append(time.perf_counter() - start)
    return 2*n**3/np.median(times)


def row_gpu(quick):
    "Xception-17 in bf16, channels last and compiled, against fp32 as torch has it by itself; share of the GPU's peak in bf16."
    if not torch.cuda.is_available():
        print('gpu: left out, for torch finds no CUDA GPU here')
        return
    peak, batch, (steps, repeat) = matmul_peak(), 64, (10, 1) if quick else (60, 5)
    yield from lines('gpu', 'matrix products of 8192², bf16', {'torch': np.array([peak/1e12])}, device_name('cuda'), unit='tera-operations/s')
    for tasks, words in (('N', 'one task'), ('SDNKE', 'five tasks')):
        for size in (128, 256):
            model = lambda: get_model('xception17', tasks, seed=0)
            operations = 2*3*multiply_adds(model(), (3, size, size))  # a multiply-add is two; backward is twice forward
            data, valid = views(tasks, 512, size).to('cuda'), views(tasks, 64, size).to('cuda')
            plain = ready(data, batch, 'cuda', channels_last=False, many=4)
            ways = {'fp32 eager, channels first, a bare loop': lambda: bare(model(), plain, steps, 'cuda', 10, channels_last=False)}
            for way, changes in {'fit, fp32': {}, 'fit, bf16': dict(precision='bf16'), 'fit, bf16, compiled': dict(precision='bf16', compile=True)}.items():
                ways[way] = lambda c=changes: by_fit(model(), data, valid, steps, batch, 'cuda', 10, **c)
            rates = turns(ways, repeat)
            shares = {w: round(float(np.median(r))*operations/peak, 4) for w, r in rates.items()}
            yield from lines('gpu', f'Xception-17, {words}, {size}², batch {batch}', rates, device_name('cuda'), share_of_bf16_peak=shares)


ROWS = dict(fit=row_fit, decoding=row_decoding, campaign=row_campaign, gpu=row_gpu)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rows', nargs='+', choices=ROWS, default=list(ROWS))
    parser.add_argument('--quick', action='store_true', help='seconds instead of minutes; nothing is written')
    args = parser.parse_args()
    logging.getLogger('torch').setLevel(logging.ERROR)
    torch.set_num_threads(cores())
    table = pd.DataFrame([line for row in args.rows for line in ROWS[row](args.quick)])
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {device_name('cpu')}, {sys.platform}")
    if args.quick or table.empty: return
    file, here = RESULTS/'training.csv', ['row', 'device', 'work']
    if file.exists():
        old = pd.read_csv(file, dtype={'reach': str})
        table = pd.concat([old[~old.set_index(here).index.isin(table.set_index(here).index)], table])
    RESULTS.mkdir(exist_ok=True)
    table.sort_values('row', key=lambda r: r.map(list(ROWS).index), kind='stable').to_csv(file, index=False)
    print(f'written to {os.path.relpath(file)}')


if __name__ == '__main__': main()
