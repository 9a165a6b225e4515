"""How long Rooms takes: images a second, and the preset `quick`; written to benchmarks/results/.

    python benchmarks/rooms.py            everything (about ten minutes on 2 CPU cores)
    python benchmarks/rooms.py --quick    without the preset `quick`
"""
import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from its_a_match.rooms import MODALITIES, Rooms, blind_losses, render_rooms
from its_a_match.taskonomy import TaskonomyDataset

RESULTS = Path(__file__).parent/'results'


def row(work, measured, unit, reach='', beside=''):
    "A line of the table: what was done, what it took, what it should take, and what to see beside it."
    line = dict(work=work, measured=f'{measured:.3g} {unit}', reach=reach, beside=beside)
    print('  '.join(filter(None, [work + ':', line['measured'], reach and f'(reach {reach})', beside])), flush=True)
    return line


def render(processes, **what):
    "Renders into a new folder: seconds, seconds of the processors, files' bytes, and what `look` finds there."
    look = what.pop('look', lambda folder: None)
    with tempfile.TemporaryDirectory() as folder:
        start, used = time.perf_counter(), sum(os.times()[:4])
        render_rooms(Path(folder)/'rooms', processes=processes, **what)
        took, used = time.perf_counter() - start, sum(os.times()[:4]) - used
        return took, used, sum(p.stat().st_size for t in MODALITIES for p in (Path(folder)/'rooms'/t.name).rglob('*.png')), look(Path(folder)/'rooms')


def few(size, buildings=6):
    "A few buildings of 25 views with one process and with two."
    once, images = None, buildings*Rooms('quick').views
    for processes in (1, 2):
        took, used, stored, _ = render(processes, preset='quick', size=size, buildings=buildings)
        beside = f'{stored/images/1024:.1f} KiB an image with its labels' if once is None else f'{once/took:.2f} times one process'
        once, beside = once or took, f'{1e3*used/images:.0f} ms of a processor an image, {beside}'
        yield row(f"{size}² pixels, {images} images, {processes} process{'es'*(processes > 1)}", images/took, 'images/s', beside=beside)


def blind(folder):
    "What a network has to beat."
    return blind_losses(TaskonomyDataset(folder, 'train'), TaskonomyDataset(folder, 'test'))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--quick', action='store_true')
    args = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    rows = [*few(64), *few(128, 3)]
    if not args.quick:
        images = Rooms('quick').buildings*Rooms('quick').views
        took, used, stored, losses = render(2, preset='quick', look=blind)
        rows.append(row(f'preset quick, {images:,} images of 64² pixels, 2 processes', took/60, 'min', '6 min', f'{images/took:.3g} images/s, {1e3*used/images:.0f} ms of a processor an image, {stored/2**20:.0f} MiB'))
        losses.round(4).to_csv(RESULTS/'rooms_blind.csv')
        print(losses.round(3).to_string())
        pd.DataFrame(rows).to_csv(RESULTS/'rooms.csv', index=False)
    print(f'{os.cpu_count()} CPU cores, {sys.platform}')


if __name__ == '__main__': main()
