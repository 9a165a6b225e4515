"The decoded cache: the same bits as the files give, shared by data sets, never trusted where it is stale, half-written or being written."
import errno, json, os, pickle, signal, subprocess, sys, time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np, pandas as pd, pytest, torch
from torch.utils.data import DataLoader

from its_a_match import cache
from its_a_match.cache import bytes_per_view, cached
from its_a_match.encoding import write_counts
from its_a_match.tasks import RGB, TASKONOMY, Task
from its_a_match.taskonomy import TaskonomyDataset

S, D, N, K, E = TASKONOMY


def counts(rng, task, size):
    "Counts of every kind, labelled or not."
    if task.kind == 'classes': return rng.integers(0, task.channels, (size, size)).astype(task.dtype)
    shape = (size, size, task.channels) if task.channels > 1 else (size, size)
    made = rng.integers(0, 2**task.bits - 1, shape).astype(task.dtype)
    if task.invalid is not None: made[rng.random((size, size)) < .2] = task.invalid
    if task.vector: made[rng.random((size, size)) < .2] = 127
    return made


def name(task, v, building='a'): return f'{task.name}/{building}/point_{v}_view_0_domain_{task.name}.png'


@pytest.fixture
def make(tmp_path):
    "`make(folder)` writes two buildings of six views; the second view has no depth and the third no normals."
    def write(folder='data', size=24, seed=0, lack=((D, 1), (N, 2))):
        rng = np.random.default_rng(seed)
        for building in 'ab':
            for v in range(6):
                for t in (RGB, *TASKONOMY):
                    made = counts(rng, t, size)
                    file = tmp_path/folder/name(t, v, building)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    if (t, v) not in lack: write_counts(file, made)
        return tmp_path/folder
    return write


@pytest.fixture
def root(make): return make()


@pytest.fixture
def store(tmp_path): return tmp_path/'store'


def equal(a, b):
    "The same views, images, targets and masks, bit for bit."
    assert a.views.equals(b.views) and len(a) == len(b)
    for at in (range(len(a)), [0], [len(a) - 1, 0, 1], [1, 2], [2, 2]):
        for x, y in zip(a.batch(at), b.batch(at)):
            for x, y in zip(x.values(), y.values(), strict=True) if isinstance(x, dict) else [(x, y)]:
                assert x.dtype == y.dtype and x.shape == y.shape
                assert x.numpy().tobytes() == y.numpy().tobytes()
    for i in range(len(a)):
        for t in (RGB, *a.tasks):
            x, y = a.counts(i, t), b.counts(i, t)
            assert (x is None) == (y is None) and (x is None or (x.dtype == y.dtype and np.array_equal(x, y)))
    return True


def open_(root, tasks='SDNKE', size=16, require='any', **kwargs): return TaskonomyDataset(root, None, tasks, size, require, **kwargs)


def build(data, store, processes=1):
    "The cached data set and how many views were decoded for it."
    log = [0]
    fast = cached(data, store, processes, lambda done, total: log.append(done))
    assert log == sorted(log) and log[-1] in (0, len(data))
    return fast, log[-1]


def arrays(fast): return sorted(p.stem for p in fast.reader.folder.glob('*.npy'))


# The same bits

@pytest.mark.parametrize('processes, kwargs', [
    (2, dict()), (1, dict(require='all')), (1, dict(tasks='DN', size=None)), (1, dict(tasks=['edge_texture'], size=(12, 12))), (1, dict(size=36))])
def test_equals_the_files(root, store, processes, kwargs):
    data = open_(root, **kwargs)
    fast, built = build(data, store, processes)
    assert built == len(data) and equal(data, fast) and data.reader is not fast.reader and type(fast) is type(data)


def test_equals_the_files_without_left_out_views(root, store, tmp_path):
    pd.DataFrame(dict(building=['a', 'b'], point=[0, 5], view=0)).to_csv(tmp_path/'out.csv', index=False)
    data = open_(root, leave_out=tmp_path/'out.csv')
    assert len(data) == 10 and equal(data, build(data, store)[0])


def test_tasks_of_ones_own(root, store):
    rng = np.random.default_rng(1)
    mine = [Task('mask', kind='classes', channels=3), Task('flow', channels=3, zero=128, scale=1/64, invalid=0, normalise='none')]
    for v in range(6):
        for t in mine:
            (root/t.name/'a').mkdir(parents=True, exist_ok=True)
            write_counts(root/name(t, v), counts(rng, t, 24))
    data = TaskonomyDataset(root, ['a'], [S, *mine], 16)
    assert equal(data, build(data, store)[0])


def test_a_modality_without_any_file(make, store):
    root = make(lack=[(K, v) for v in range(6)])
    data = open_(root, 'SK')
    fast, _ = build(data, store)
    assert equal(data, fast) and arrays(fast) == ['rgb', 'segment_semantic'] and build(data, store)[1] == 0


# What lies there

def test_files(root, store):
    data = open_(root)
    folder = build(data, store)[0].reader.folder
    assert folder.parent == store and sorted(p.name for p in folder.iterdir() if p.suffix != '.npy') == ['lock', 'manifest.json', 'views.csv']
    for t in (RGB, *TASKONOMY):
        plain = np.load(folder/f'{t.name}.npy', mmap_mode='r')
        assert plain.dtype == t.dtype and plain.shape[:3] == (12, 16, 16) and plain.flags.c_contiguous
        for i in range(12):
            if (made := data.counts(i, t)) is not None: assert np.array_equal(plain[i], made)
    views = pd.read_csv(folder/'views.csv', index_col=['building', 'point', 'view'])
    assert views.index.equals(data.views.index) and views.astype(bool).equals(data.views.notna())
    manifest = json.loads((folder/'manifest.json').read_text())
    assert manifest['version'] == cache.FORMAT and manifest['root'] == str(root) and manifest['size'] == [16, 16]
    assert manifest['arrays']['normal']['shape'] == [12, 16, 16, 3] and manifest['arrays']['depth_zbuffer']['encoding']['invalid'] == 65535


@pytest.mark.parametrize('tasks', ['SDNKE', 'S', 'DN', ''])
def test_bytes_per_view(make, store, tasks):
    data = open_(make(lack=()), tasks or [Task('rgb', channels=3)])
    folder = build(data, store)[0].reader.folder
    assert sum(np.load(p).nbytes for p in folder.glob('*.npy')) == len(data)*bytes_per_view(data.tasks, 16)


def test_default_folder(root, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, 'user_cache_dir', lambda *_, **__: str(tmp_path/'user'))
    assert cached(open_(root)).reader.folder.parent == tmp_path/'user'/'decoded'


# Who shares it

def test_data_sets_share_modalities(root, store):
    fast, built = build(open_(root, 'SK'), store)
    assert built == 12 and build(open_(root, 'KS'), store)[1] == 0 and build(open_(root, 'S'), store)[1] == 0
    before = {p.name: p.stat().st_mtime_ns for p in fast.reader.folder.glob('*.npy')}
    more, built = build(open_(root, 'SE'), store)
    assert built == 12 and more.reader.folder == fast.reader.folder and arrays(more) == ['edge_texture', 'keypoints2d', 'rgb', 'segment_semantic']
    assert before.items() <= {p.name: p.stat().st_mtime_ns for p in fast.reader.folder.glob('*.npy')}.items()
    assert list(pd.read_csv(fast.reader.folder/'views.csv'))[3:] == ['rgb', 'segment_semantic', 'edge_texture', 'keypoints2d']
    assert equal(open_(root, 'SK'), fast) and equal(open_(root, 'SE'), more) and equal(open_(root, 'SKE'), build(open_(root, 'SKE'), store)[0])


def test_presence_survives_an_addition(root, store):
    data = open_(root, 'DK')
    build(data, store)
    views = pd.read_csv(build(open_(root, 'EK'), store)[0].reader.folder/'views.csv')
    assert views[D.name].astype(bool).tolist() == data.views[D.name].notna().tolist()


def test_others_do_not_share(make, store):
    one, two = make('one/data'), make('two/data', seed=1)
    datas = [open_(one), open_(two), open_(one, size=8), open_(one, require='all'), TaskonomyDataset(one, ['a'], size=16)]
    fasts = [build(d, store)[0] for d in datas]
    assert len({f.reader.folder for f in fasts}) == len(datas)
    assert all(map(equal, datas, fasts)) and [build(d, store)[1] for d in datas] == [0]*len(datas)


def test_another_encoding_is_built_anew(root, store):
    build(open_(root, 'SD'), store)
    shifted = replace(D, invalid=3)
    data = open_(root, [S, shifted])
    fast, built = build(data, store)
    assert built == 12 and equal(data, fast)
    assert build(open_(root, [S, replace(shifted, label='Distance', letter='', normalise='none')]), store)[1] == 0
    with pytest.raises(ValueError, match="'depth_zbuffer'"): fast.reader([0], D)
    with pytest.raises(ValueError, match="not opened for the task 'normal'"): fast.reader([0], N)


# Stale or half-written

def rewrite(file, data, seed=9):
    write_counts(file, counts(np.random.default_rng(seed), N, 24))
    os.utime(file, ns=(1, 1))


def manifest_of_another_version(folder):
    manifest = json.loads((folder/'manifest.json').read_text())
    (folder/'manifest.json').write_text(json.dumps(manifest | dict(version=0)))


@pytest.mark.parametrize('harm', [
    lambda folder, root: rewrite(root/name(N, 0), N),
    lambda folder, root: os.utime(root/name(N, 3), (5, 5)),
    lambda folder, root: os.truncate(folder/'normal.npy', 500),
    lambda folder, root: (folder/'normal.npy').unlink(),
    lambda folder, root: (folder/'manifest.json').unlink(),
    lambda folder, root: os.truncate(folder/'manifest.json', 100),
    lambda folder, root: (folder/'manifest.json').write_text('[]'),
    lambda folder, root: (folder/'views.csv').unlink(),
    lambda folder, root: manifest_of_another_version(folder),
    lambda folder, root: ((folder/'normal.npy').rename(folder/'normal.npy.part'), (folder/'rgb.npy.part').write_text('half')),
], ids=['source', 'time', 'cut', 'gone', 'manifest gone', 'manifest cut', 'manifest odd', 'views gone', 'version', 'parts'])
def test_noticed_and_rebuilt(root, store, harm):
    fast, _ = build(open_(root), store)
    harm(fast.reader.folder, root)
    again, built = build(open_(root), store)
    assert built == 12 and equal(open_(root), again) and build(open_(root), store)[1] == 0
    assert not list(again.reader.folder.glob('*.part'))


def test_only_what_is_stale_is_rebuilt(root, store):
    folder = build(open_(root), store)[0].reader.folder
    before = {p.name: p.stat().st_mtime_ns for p in folder.glob('*.npy')}
    rewrite(root/name(N, 4), N)
    build(open_(root), store)
    assert [n for n, t in before.items() if (folder/n).stat().st_mtime_ns != t] == ['normal.npy']


def test_an_open_cache_keeps_its_array_and_a_new_process_is_told(root, store):
    fast, _ = build(open_(root), store)
    before = fast.batch([0])[1]['N'].clone()
    rewrite(root/name(N, 0), N)
    build(open_(root), store)
    assert torch.equal(fast.batch([0])[1]['N'], before)
    with pytest.raises(ValueError, match='call cached again'): pickle.loads(pickle.dumps(fast)).batch([0])


# Broken files and full disks

@pytest.mark.parametrize('processes', [1, 2])
@pytest.mark.parametrize('victim', [0, 4])
def test_broken_source(root, store, processes, victim):
    fast, _ = build(open_(root, 'SK'), store)
    os.truncate(root/name(E, victim, 'b'), 70)
    with pytest.raises(ValueError) as e: cached(open_(root), store, processes)
    assert str(e.value).startswith(str(root/name(E, victim, 'b'))) and '\n' not in str(e.value) and e.value.__cause__ is None
    assert arrays(fast) == ['keypoints2d', 'rgb', 'segment_semantic'] and not list(fast.reader.folder.glob('*.part'))
    assert build(open_(root, 'SK'), store)[1] == 0 and equal(open_(root, 'SK'), fast)
    with pytest.raises(ValueError): cached(open_(root), store, processes)


def test_broken_source_of_a_first_cache(root, store):
    os.truncate(root/name(E, 4), 70)
    with pytest.raises(ValueError): cached(open_(root), store, 1)
    assert not [p for p in store.rglob('*') if p.is_file() and p.name != 'lock']


def test_source_that_has_gone(root, store):
    data = open_(root)
    (root/name(K, 2)).unlink()
    with pytest.raises(ValueError, match=name(K, 2)): cached(data, store)


def test_files_of_several_sizes(root, store):
    write_counts(root/name(S, 3), np.ones((30, 24), np.uint8))
    with pytest.raises(ValueError, match=f'{name(S, 3)}: .*30 × 24 .*give the data set a size'): cached(open_(root, size=None), store)


def test_too_little_space(root, store, monkeypatch):
    monkeypatch.setattr(cache.shutil, 'disk_usage', lambda folder: SimpleNamespace(free=12*bytes_per_view(TASKONOMY, 16) - 1))
    with pytest.raises(OSError, match='the cache needs 0.0399 MB, and 0.0399 MB are free'): cached(open_(root), store)
    monkeypatch.setattr(cache.shutil, 'disk_usage', lambda folder: SimpleNamespace(free=12*bytes_per_view(TASKONOMY, 16)))
    assert equal(open_(root), build(open_(root), store)[0])


def test_disk_that_becomes_full(root, store, monkeypatch):
    def full(*_): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(cache, '_fill', full)
    with pytest.raises(OSError, match='the disk is full, and the cache is not finished'): cached(open_(root), store, 1)
    assert not list(store.rglob('*.npy*')) and not list(store.rglob('manifest.json'))


@pytest.mark.parametrize('processes', [0, -1, 1.5, '2'])
def test_odd_number_of_processes(root, store, processes):
    with pytest.raises(ValueError, match='not a whole number from 1'): cached(open_(root), store, processes)


# Several at once

def script(code, root, store, **kwargs):
    "A program that has the data set `data` and calls `cached` on it, without the line `if __name__ == '__main__'`."
    code = f'''
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where the tests run in the background
from its_a_match.cache import cached
from its_a_match.taskonomy import TaskonomyDataset
data = TaskonomyDataset({str(root)!r}, None, size=16, require='any')
{code.replace('STORE', repr(str(store)))}'''
    file = store.parent/f'script{time.time_ns()}.py'
    file.write_text(code)
    return subprocess.Popen([sys.executable, file], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **kwargs)


def test_two_programs_build_at_the_same_time(root, store):
    code = "log = []\ncached(data, STORE, 2, lambda done, total: log.append(done))\nprint(len(log) > 0)"
    told = [p.communicate(timeout=120) for p in [script(code, root, store) for _ in range(3)]]
    assert sorted(told) == [('False\n', ''), ('False\n', ''), ('True\n', '')]
    fast, built = build(open_(root), store)
    assert built == 0 and equal(open_(root), fast)


@pytest.mark.skipif(not Path('/proc').is_dir(), reason='looks for processes in /proc')
def test_killed_while_building(root, store):
    p = script("cached(data, STORE, 2, lambda done, total: done and (print(done, flush=True), __import__('time').sleep(60)))", root, store)
    assert p.stdout.readline().strip()
    assert not list(store.rglob('manifest.json')) and list(store.rglob('*.npy.part'))
    session = lambda: [q for q in Path('/proc').glob('[0-9]*') if _session(q) == p.pid and _session(q, 0) not in ('Z', None)]
    assert len(session()) >= 3
    p.kill()
    p.communicate(timeout=30)
    until = time.monotonic() + 20
    while session() and time.monotonic() < until: time.sleep(.1)
    assert not session()
    fast, built = build(open_(root), store)
    assert built == 12 and equal(open_(root), fast) and not list(store.rglob('*.part'))


def _session(process, field=3):
    "The session (field 3) or the state (field 0) of a process in /proc, None when it has ended."
    try: value = (process/'stat').read_text().rpartition(')')[2].split()[field]
    except (FileNotFoundError, ProcessLookupError): return None
    return int(value) if field else value


def test_interrupted_while_building(root, store):
    p = script("try: cached(data, STORE, 2, lambda done, total: done and (print(done, flush=True), __import__('time').sleep(60)))\n"
               "except KeyboardInterrupt: print('interrupted')", root, store)
    assert p.stdout.readline().strip()
    os.killpg(p.pid, signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert out.endswith('interrupted\n') and not err
    assert not [q for q in store.rglob('*') if q.is_file() and q.name != 'lock']


def test_builders_need_neither_torch_nor_pandas():
    code = "import sys, its_a_match.cache; print([m for m in ('torch', 'pandas', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout == '[]\n'


# Reading

def test_neighbours_are_not_copied(root, store):
    fast, _ = build(open_(root), store)
    for t in (RGB, *TASKONOMY):
        array = fast.reader.array(t)
        for at in ([3], [3, 4], [2, 3, 4, 5], range(12)): assert np.shares_memory(fast.reader(np.array(at), t), array)
        for at in ([4, 3], [2, 2], [1, 3], [3, 5, 4, 6]):
            got = fast.reader(np.array(at), t)
            assert not np.shares_memory(got, array) and np.array_equal(got, array[at])
        assert not array.flags.writeable
        with pytest.raises(ValueError): array[0] = 0


@pytest.mark.parametrize('start', ['fork', 'spawn'])
def test_workers_of_a_data_loader(make, store, start):
    data = open_(make(lack=()), 'DN')
    fast, _ = build(data, store)
    fast.batch([0])  # its arrays are open already
    assert len(pickle.dumps(fast)) < 50_000
    if start == 'fork' and sys.platform != 'linux': pytest.skip('forks only on Linux')
    batches = list(DataLoader(fast, batch_size=5, num_workers=1, multiprocessing_context=start))
    for (rgb, targets, masks), at in zip(batches, (range(5), range(5, 10), range(10, 12)), strict=True):
        want = data.batch(at)
        assert torch.equal(rgb, want[0]) and all(torch.equal(targets[k], want[1][k]) and torch.equal(masks[k], want[2][k]) for k in 'DN')


def test_a_cached_data_set_can_be_cached_elsewhere(root, store):
    fast, _ = build(open_(root), store)
    twice, built = build(fast, store.parent/'other')
    assert built == 12 and equal(open_(root), twice)
