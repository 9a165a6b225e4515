"""How long reading data takes: building a decoded cache, and an epoch from it against one from PNG files, written to benchmarks/results/.

    python benchmarks/data.py            about two minutes on 2 CPU cores
    python benchmarks/data.py --quick    a third of the views

The views are made here, always the same: boxes on a smooth ground with texture and a sensor's noise, in Taskonomy's encoding. At 512² their six PNG
files take about 0.8 MB, as real ones do; noise and texture are what makes a photograph and its edges hard to compress. All files are read once before
anything is timed, so the disk plays no part.
"""
import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter

from its_a_match.cache import cached
from its_a_match.encoding import write_counts
from its_a_match.tasks import TASKONOMY
from its_a_match.taskonomy import TaskonomyDataset

RESULTS = Path(__file__).parent/'results'


def smooth(rng, size, cells):
    "A field between 0 and 1: random numbers on a coarse grid, interpolated."
    grid = Image.fromarray(rng.random((cells + 1, cells + 1), np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC)).clip(0, 1)


def responses(rgb):
    "Stand-ins for edges and keypoints: the gradient's length and the Hessian's determinant of the smoothed grey image."
    grey = np.asarray(Image.fromarray(rgb).convert('L').filter(ImageFilter.GaussianBlur(1)), np.float32)/255
    gy, gx = np.gradient(grey)
    (gyy, gyx), gxx = np.gradient(gy), np.gradient(gx, axis=1)
    return {n: (x*65535).clip(0, 65535).astype(np.uint16) for n, x in dict(edge_texture=2*np.hypot(gx, gy), keypoints2d=20*(gxx*gyy - gyx**2)).items()}


def view(size, seed):
    "The counts of one view, by modality."
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]/size
    rgb, ids, depth = 60 + 150*np.stack([smooth(rng, size, 3) for _ in range(3)], -1), np.ones((size, size), np.uint8), 2 + 4*smooth(rng, size, 2)
    normal = np.zeros((size, size, 3)) + [0, 0, 1]
    for _ in range(12):
        (top, left), (h, w), n = rng.uniform(0, .8, 2), rng.uniform(.1, .5, 2), rng.normal(size=3)
        box = (y >= top) & (y < top + h) & (x >= left) & (x < left + w)
        texture = 40*rng.integers(0, 2)*smooth(rng, size, max(2, size//8)) + 30*smooth(rng, size, 4)
        rgb[box], ids[box], normal[box] = rng.uniform(30, 220, 3) + texture[box, None], rng.integers(2, 17), n/np.linalg.norm(n)
        depth[box] = (rng.uniform(1, 8) + rng.normal()*x + rng.normal()*y)[box]
    rgb = (rgb + rng.normal(0, 3, rgb.shape)).clip(0, 255).astype(np.uint8)
    normal += .05*np.stack([smooth(rng, size, size//16 + 2) for _ in range(3)], -1)
    normal = (127*normal/np.linalg.norm(normal, axis=-1, keepdims=True) + 127).round().astype(np.uint8)
    depth = (depth.clip(.3, 100)*512).astype(np.uint16)
    window = slice(size//3, size//2)
    depth[window, window], normal[window, window] = 65535, 127
    return dict(rgb=rgb, segment_semantic=ids, depth_zbuffer=depth, normal=normal) | responses(rgb)


def make(root, size, distinct, times):
    "A data set of `distinct` views, each there `times` times; the bytes of a view."
    for i in range(distinct):
        for name, counts in view(size, i).items():
            files = [root/name/'building'/f'point_{i}_view_{v}_domain_{name}.png' for v in range(times)]
            files[0].parent.mkdir(parents=True, exist_ok=True)
            write_counts(files[0], counts)
            for f in files[1:]: os.link(files[0], f)
    files = [f for f in root.rglob('*.png') if '_view_0_' in f.name]
    return sum(len(f.read_bytes()) for f in files)/distinct


def seconds(call, repeat):
    "Median seconds of `call`."
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def epoch(data, batch):
    "Reads every view in one fixed random order: `batch` of them at once, or one by one (0)."
    order = np.random.default_rng(0).permutation(len(data))
    if not batch: return [None for i in order if data[i] is None]
    for start in range(0, len(order), batch): data.batch(order[start:start+batch])


def rows(work, source, size, ways, reach):
    "Lines of the table: views a second in each way, and how many times the first."
    first = next(iter(ways.values()))
    for i, (way, rate) in enumerate(ways.items()):
        yield dict(work=work, source=source, size=size, way=way, views_per_second=float(f'{rate:.4g}'), ratio=round(rate/first, 2), reach=reach if i else '')
        print(f"{work}, {source}² to {size}², {way}: {rate:,.0f} views/s, {rate/first:.2f} times" + (f' (reach {reach})' if i and reach else ''), flush=True)


def building(root, folder, size, repeat=3):
    "Building the cache, from an empty folder each time."
    data = TaskonomyDataset(root, None, size=size)
    times, fresh = {1: [], 2: []}, iter(range(10**6))
    for _ in range(repeat):
        for p in times: times[p].append(seconds(lambda: cached(data, folder/str(next(fresh)), processes=p), 1))
    ways = {f"{p} process{'es'*(p > 1)}": len(data)/np.median(t) for p, t in times.items()}
    yield from rows('building the cache', 512, size, ways, '1.5 times')


def reading(root, folder, source, size, repeat):
    "An epoch from PNG and from the cache, in batches of 32 and view by view."
    data = TaskonomyDataset(root, None, size=size)
    fast = cached(data, folder)
    for batch, way in ((32, 'ds.batch of 32'), (0, 'ds[i]')):
        epoch(fast, batch)
        took = [(seconds(lambda: epoch(data, batch), 1), seconds(lambda: epoch(fast, batch), 5)) for _ in range(repeat)]
        png, cache = len(data)/np.median(took, axis=0)
        yield from rows(f'reading an epoch, {way}', source, size or source, {'PNG files': png, 'cache': cache}, '10 times')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--quick', action='store_true')
    few = 1 + 2*(not parser.parse_args().quick)
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        large, small, store = (Path(temporary)/n for n in ('large', 'small', 'store'))
        for root, size, distinct, times in ((large, 512, 32, 4*few), (small, 64, 128, 4)):
            print(f'{distinct*times} views of {size}², {make(root, size, distinct, times)/1e3:,.0f} KB each in {len(TASKONOMY) + 1} PNG files', flush=True)
        table = [*building(large, store/'built', 256), *reading(small, store, 64, None, 3), *reading(large, store, 512, 256, 1)]
    pd.DataFrame(table).to_csv(RESULTS/'data.csv', index=False)
    print(f"{os.cpu_count()} CPU cores, {sys.platform}; written to {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}")


if __name__ == '__main__': main()
