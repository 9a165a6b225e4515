"""How long first-order transfers between tasks take: readouts that share one pass of each frozen encoder over the data, beside readouts that
are each trained through their encoder. Both learn the same numbers. For the default network, whose encoder costs little more than a readout of
many classes, and for one whose encoder costs what encoders do elsewhere. One run, written to benchmarks/results/transfer.csv.

    python benchmarks/transfer.py            all pairs of five tasks, 250 views of 64², 20 epochs; a large encoder with fewer views (minutes on one CPU core)
    python benchmarks/transfer.py --quick    three tasks and fewer views, the default network alone; nothing is written
"""
import argparse
import datetime
import os
import platform
import sys
import time
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from training import views  # benchmarks/training.py

from its_a_match.affinity.transfer import Transfers
from its_a_match.measuring import evaluating
from its_a_match.models import DEFAULT_MODEL, get_model

RESULTS = Path(__file__).parent/'results'


class ThroughEncoder:
    "What a readout is given, computed from images whenever it is asked for."
    def __init__(self, net, images, mean, std):
        self.net, self.images, self.mean, self.std = net, images, mean, std
        with evaluating(net): self.shape_of_one = net.encode(images[:1]).shape[1:]
    ndim  = property(lambda self: 4)
    shape = property(lambda self: (len(self.images), *self.shape_of_one))
    def __len__(self): return len(self.images)
    def __getitem__(self, rows):
        with evaluating(self.net): return (self.net.encode(self.images[rows]).float() - self.mean)/self.std


def plainly(transfers, networks, images, sources, target):
    "A readout learned with its encoder run at every step."
    (source,), held = sources, transfers.of
    with torch.no_grad(): codes = torch.cat([networks[source].encode(images[a:a + 64]).float() for a in range(0, len(images), 64)])
    over  = (0, 2, 3)
    mean, std = codes.mean(over).view(1, -1, 1, 1), codes.std(over).view(1, -1, 1, 1)
    transfers.of = lambda *_: ThroughEncoder(networks[source], images, mean, torch.where(std > 1e-6, std, 1))
    try: return transfers.learn(source, target)
    finally: transfers.of = held


def seconds(work):
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def compare(model, keys, n, epochs):
    "Seconds of both ways for one network, a row of the table."
    data  = views(keys, n, 64)
    pairs = [*permutations([t.key for t in data.tasks], 2)]
    networks = {t.key: get_model(model, t, seed=0).eval() for t in data.tasks}
    images = data.batch(np.arange(n))[0]
    Transfers(networks, data, {}, epochs=1).learn(*pairs[0])  # the first call of anything takes longer
    def shared():
        transfers = Transfers(networks, data, {}, epochs=epochs)
        return transfers, {p: transfers.learn(*p) for p in pairs}
    fast, (transfers, readouts) = seconds(shared)
    slow, others = seconds(lambda: {p: plainly(transfers, networks, images, p[:1], p[1]) for p in pairs})
    same = max(float((a - b).abs().max()) for p in pairs for a, b in zip(readouts[p].state_dict().values(), others[p].state_dict().values()))
    assert same < 1e-3, f'both ways should learn the same readouts, and they differ by {same:g}'
    work = f'{len(pairs)} first-order transfers between networks of {model}, {n} views of 64², {epochs} epochs'
    print(f'{work}: {fast:.1f} s with representations kept, {slow:.1f} s through the encoders, {slow/fast:.1f} times (reach 3)', flush=True)
    rows = ('through the encoder', slow, ''), ('representations kept', fast, '3')
    return [dict(work=work, way=way, seconds=float(f'{s:.4g}'), ratio=round(slow/s, 2), reach=reach) for way, s, reach in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--quick', action='store_true', help='seconds instead of minutes; nothing is written')
    args = parser.parse_args()
    torch.set_num_threads(1)  # as each process of a study has
    if args.quick: return compare(DEFAULT_MODEL, 'DNE', 64, 5)
    rows = compare(DEFAULT_MODEL, 'SDNKE', 250, 20) + compare('xception17', 'SDN', 32, 20)
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()} CPU, 1 thread, {sys.platform}")
    RESULTS.mkdir(exist_ok=True)
    pd.DataFrame(rows).assign(device=f'{platform.machine()} CPU, 1 thread', date=datetime.date.today().isoformat()).to_csv(RESULTS/'transfer.csv', index=False)
    print(f"written to {os.path.relpath(RESULTS/'transfer.csv')}")


if __name__ == '__main__': main()
