"Rooms: what is in it, that it is the same bytes however it is made, and that nothing that interrupts it leaves half a data set that looks whole."
import errno, itertools, json, multiprocessing as mp, os, random, re, shutil, signal, subprocess, sys, textwrap, time
from pathlib import Path

import numpy as np, pandas as pd, pytest

from its_a_match import rooms
from its_a_match.encoding import decode, read_counts, write_counts
from its_a_match.labels import LABELS
from its_a_match.rooms import MODALITIES, PRESETS, SPLITS, Rooms, blind_losses, building_digest, building_split, fingerprint, render_rooms, view_file
from its_a_match.taskonomy import TaskonomyDataset
from its_a_match.tasks import TASKONOMY, get_tasks

BY_NAME = {t.name: t for t in MODALITIES}

def contents(folder): return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}

# What is in it

@pytest.fixture(scope='module')
def manifest(tiny_rooms): return json.loads((tiny_rooms/'rooms.json').read_text())

@pytest.fixture(scope='module')
def labels(tiny_rooms):
    "{modality: counts of all 96 views, stacked}"
    files = [(n, v) for n in Rooms('tiny').names for v in range(8)]
    return {t.name: np.stack([read_counts(tiny_rooms/view_file(t.name, n, v), t) for n, v in files]) for t in MODALITIES}

@pytest.mark.parametrize('preset, images', [('tiny', [64, 16, 16]), ('quick', [2000, 300, 300]), ('large', [10000, 1500, 1500])])
def test_presets(preset, images):
    r = Rooms(preset)
    assert [r.splits()[s].sum()*r.views for s in SPLITS] == images
    assert r.size == (128 if preset == 'large' else 64)

def test_splits_are_disjoint_and_never_move(tiny_rooms):
    "No building is for two ends, in one data set or in two."
    use = {}
    for r in (Rooms('tiny'), Rooms('quick'), Rooms('large', seed=3), Rooms('large', buildings=2000)):
        table = r.splits().set_index('id')
        assert table.index.is_unique and (table.sum(axis=1) == 1).all() and list(table.columns) == list(SPLITS)
        for n, s in table.idxmax(axis=1).items(): assert use.setdefault(n, s) == s
    assert all({building_split(i) for i in range(n)} == set(SPLITS) for n in range(3, 60))
    pd.testing.assert_frame_equal(pd.read_csv(tiny_rooms/'splits.csv'), Rooms('tiny').splits())

def test_the_loader_reads_it(tiny_rooms):
    views = {s: TaskonomyDataset(tiny_rooms, s).views for s in SPLITS}
    assert {s: len(v) for s, v in views.items()} == dict(train=64, val=16, test=16)
    for a, b in itertools.combinations(SPLITS, 2):
        assert not set(views[a].index.unique('building')) & set(views[b].index.unique('building'))

def test_no_image_comes_twice(labels):
    assert len({im.tobytes() for im in labels['rgb']}) == 96

def test_files(tiny_rooms, manifest):
    "Six files for each view, the tables and the manifest; nothing else."
    expected = {view_file(t.name, n, v) for t in MODALITIES for n in Rooms('tiny').names for v in range(8)}
    assert set(contents(tiny_rooms)) == expected | {'splits.csv', 'classes.csv', 'rooms.json'}
    assert view_file('segment_semantic', 'house0001', 0).endswith('_domain_segmentsemantic.png')
    assert manifest | Rooms('tiny').settings() == manifest and manifest['images'] == dict(train=64, val=16, test=16)
    assert set(manifest['made_with']) >= {'its_a_match', 'mitsuba', 'numpy', 'pillow', 'scikit-image', 'platform'}

def test_counts(labels):
    "Types and ranges as Taskonomy stores them."
    for t in MODALITIES:
        assert labels[t.name].shape == (96, 64, 64) + (3,)*(t.channels == 3 and t.kind == 'dense') and labels[t.name].dtype == t.dtype
    depth, has = decode(labels['depth_zbuffer'], BY_NAME['depth_zbuffer'])
    assert .05 < depth[has].min() and depth[has].max() < 15 and 1.2 < np.median(depth[has]) < 5
    normal, has = decode(labels['normal'], BY_NAME['normal'])
    assert np.abs(np.linalg.norm(normal[has], axis=-1) - 1).max() < .01
    assert (normal[has][:, 2] > -.8).all()  # what is seen faces the camera, but for the slant of the ray

def test_every_pixel_has_a_class_and_every_class_occurs(tiny_rooms, labels):
    names = pd.read_csv(tiny_rooms/'classes.csv', index_col='id').name
    assert set(np.unique(labels['segment_semantic'])) - {0} == set(range(1, 17)) == set(names.index) - {0}
    assert (labels['segment_semantic'] == 0).mean() < 1e-4  # a ray may slip between two shapes

def test_windows_alone_have_no_depth_and_no_normal(tiny_rooms, labels):
    names = pd.read_csv(tiny_rooms/'classes.csv').name
    none = np.isin(labels['segment_semantic'], names.index[names.isin(['unlabelled', 'window'])])
    for task in ('depth_zbuffer', 'normal'): assert (decode(labels[task], BY_NAME[task])[1] == ~none).all()

@pytest.mark.parametrize('task', LABELS)
def test_labels_of_the_stored_image(labels, task):
    for im, counts in zip(labels['rgb'], labels[task]): np.testing.assert_array_equal(LABELS[task](im), counts)

# The same bytes

@pytest.fixture(scope='module')
def expected(tmp_path_factory):
    return contents(render_rooms(tmp_path_factory.mktemp('data')/'expected', 'tiny', size=16, buildings=4, processes=1))

def test_fingerprint_is_of_all_bytes(tiny_rooms, manifest, tmp_path):
    assert fingerprint(tiny_rooms) == fingerprint(tiny_rooms, manifest['digests']) == manifest['fingerprint']
    copy = Path(shutil.copytree(tiny_rooms, tmp_path/'copy'))
    for name in ('splits.csv', 'classes.csv', view_file('normal', 'house0012', 7)):
        data = (copy/name).read_bytes()
        (copy/name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert fingerprint(copy) != manifest['fingerprint'], name
        (copy/name).write_bytes(data)
    assert fingerprint(copy) == manifest['fingerprint']

def test_a_building_depends_on_its_name_and_seed_alone(manifest, expected, tmp_path):
    "One process or several, few buildings or many: the same bytes; another seed: other bytes."
    few = render_rooms(tmp_path/'few', 'tiny', buildings=3, processes=1)
    for n in ('house0001', 'house0002', 'house0003'): assert building_digest(few, n) == manifest['digests'][n]
    other = contents(render_rooms(tmp_path/'other', 'tiny', size=16, buildings=3, seed=1, processes=2))
    assert not [f for f in other if f.endswith('.png') and other[f] == expected[f]]

# A stand-in for the renderer, for what does not depend on pictures

def noise(name, seed, views, size):
    rng = np.random.default_rng([seed, *name.encode()])
    return [dict(rgb=rng.integers(0, 256, (size, size, 3), np.uint8), depth_zbuffer=rng.integers(0, 2000, (size, size), np.uint16),
                 normal=rng.integers(0, 255, (size, size, 3), np.uint8), segment_semantic=rng.integers(1, 17, (size, size), np.uint8)) for _ in range(views)]

@pytest.fixture
def small(monkeypatch):
    "Three buildings of two noisy views, written in this process: a function of the folder."
    monkeypatch.setattr(rooms, 'render_building', noise)
    monkeypatch.setitem(PRESETS, 'tiny', rooms.Preset(3, 2, 16))
    return lambda out, **kw: render_rooms(out, **dict(preset='tiny', processes=1) | kw)

class Stop(BaseException):
    "What ends the program at some step; nothing catches it."

def test_ended_at_every_step(small, tmp_path, monkeypatch):
    "Ended before or after each thing it does to the disk, it is marked unfinished or has no image, and goes on to the same bytes."
    steps, stop_at = itertools.count(), None
    def step():
        if next(steps) == stop_at: raise Stop
    def watched(call):
        def watch(*args, **kwargs):
            step(); result = call(*args, **kwargs); step()
            return result
        return watch
    for name in ('mkdir', 'touch', 'unlink', 'replace'): monkeypatch.setattr(Path, name, watched(getattr(Path, name)))
    monkeypatch.setattr(shutil, 'rmtree', watched(shutil.rmtree))
    monkeypatch.setattr(rooms, 'write_counts', watched(write_counts))
    for name in ('fsync', 'sync'): monkeypatch.setattr(os, name, lambda *args: None)  # they cost time, and serve power cuts
    monkeypatch.setattr(rooms, '_made_with', dict)
    expected = contents(small(tmp_path/'whole'))
    count = next(steps)
    assert count > 100
    for n in [*range(20), *range(20, count - 30, 11), *range(count - 30, count)]:
        out, steps, stop_at = tmp_path/f'{n}', itertools.count(), n
        try: small(out)
        except Stop: pass
        else: assert n >= count - 6  # the last steps remove the records, and if that fails the data set is whole all the same
        here = contents(out) if out.exists() else {}
        whole = 'rooms.json' in here and 'UNFINISHED' not in here
        assert whole or 'UNFINISHED' in here or not any(f.endswith('.png') for f in here)
        assert not whole or {k: v for k, v in here.items() if not k.startswith('.rooms')} == expected
        stop_at = None
        assert {k: v for k, v in contents(small(out)).items() if not k.startswith('.rooms')} == expected
        shutil.rmtree(out)

@pytest.mark.parametrize('harm', ['a file cut short', 'a file missing', 'a stray file', 'an empty record', 'a folder gone'])
def test_a_damaged_building_is_rendered_again(small, tmp_path, harm):
    expected = contents(small(tmp_path/'whole'))
    def stop(done, total):
        if done == 4: raise Stop
    with pytest.raises(Stop): small(tmp_path/'out', progress=stop)
    file = tmp_path/'out'/view_file('normal', 'house0001', 0)
    if harm == 'a file cut short':  file.write_bytes(file.read_bytes()[:50])
    if harm == 'a file missing':    file.unlink()
    if harm == 'a stray file':      file.with_name('point_9_view_0_domain_normal.png').write_bytes(file.read_bytes())
    if harm == 'an empty record':   (tmp_path/'out/.rooms/house0001').write_text('')
    if harm == 'a folder gone':     shutil.rmtree(file.parent)
    done = []
    small(tmp_path/'out', progress=lambda *n: done.append(n))
    assert done == [(2, 6), (4, 6), (6, 6)] and contents(tmp_path/'out') == expected

def test_a_whole_data_set_is_left_alone(small, tmp_path, monkeypatch):
    out = small(tmp_path/'out')
    before = {p: p.stat().st_mtime_ns for p in out.rglob('*')}
    monkeypatch.setattr(rooms, 'render_building', None)
    monkeypatch.setattr(rooms, '_made_with', None)  # nor is a renderer needed
    assert small(out) == out and {p: p.stat().st_mtime_ns for p in out.rglob('*')} == before

def test_default_folder(small, tmp_path, monkeypatch):
    "Where the platform keeps caches; what differs lies in a folder of its own."
    monkeypatch.setattr(rooms, 'user_cache_path', lambda name, **kw: tmp_path/name)
    folders = [small(None), small(None, seed=1), small(None, size=32), small(None, buildings=4)]
    assert len(set(folders)) == 4 and all(f.parent == tmp_path/'its_a_match/rooms' and (f/'rooms.json').exists() for f in folders)

# What is refused

@pytest.mark.parametrize('wrong, message', [
    (dict(preset='huge'), "there is no preset 'huge': choose one of tiny, quick, large"), (dict(size=0), 'size is 0, not a whole number from 16 to 4096'),
    (dict(size=64.), 'size is 64.0, not'), (dict(buildings=2), 'buildings is 2, not a whole number from 3'), (dict(seed=-1), 'seed is -1, not'),
    (dict(seed=True), 'seed is True, not'), (dict(seed='x'), "seed is 'x', not"), (dict(processes=0), 'processes is 0, not a whole number from 1')])
def test_wrong_arguments(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=re.escape(message)): render_rooms(tmp_path/'out', **dict(preset='tiny') | wrong)
    assert not (tmp_path/'out').exists()

@pytest.mark.parametrize('finished', [True, False])
def test_another_data_set_is_refused(small, tmp_path, finished):
    out = tmp_path/'out'
    def stop(done, total):
        if not finished and done: raise Stop
    try: small(out, progress=stop)
    except Stop: pass
    before = contents(out)
    for other, why in ((dict(seed=1), 'seed 0 instead of 1'), (dict(size=32), 'size 16 instead of 32'), (dict(buildings=4), 'buildings 3 instead of 4'),
                       (dict(preset='quick'), 'preset tiny instead of quick and size 16 instead of 64 and buildings 3 instead of 104 and views 2 instead of 25')):
        with pytest.raises(ValueError, match=f"^{re.escape(str(out))} holds {'' if finished else 'unfinished '}Rooms with {why}: choose another folder, or delete it$"): small(out, **other)
    assert contents(out) == before

def test_other_versions_do_not_go_on(small, tmp_path, monkeypatch):
    "A data set is made by one set of versions; once whole it serves any."
    out, old = tmp_path/'out', rooms._made_with()
    def stop(done, total):
        if done: raise Stop
    with pytest.raises(Stop): small(out, progress=stop)
    monkeypatch.setattr(rooms, '_made_with', lambda: old | dict(mitsuba='9.9'))
    with pytest.raises(ValueError, match=f"unfinished Rooms with mitsuba {re.escape(old['mitsuba'])} instead of 9.9"): small(out)
    monkeypatch.setattr(rooms, '_made_with', lambda: old)
    small(out)
    monkeypatch.setattr(rooms, '_made_with', lambda: old | dict(mitsuba='9.9'))
    small(out)

def test_a_strange_folder_is_refused(small, tmp_path):
    (tmp_path/'thesis.txt').write_text('')
    with pytest.raises(ValueError, match='is not empty and holds no Rooms'): small(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['thesis.txt']
    with pytest.raises(OSError, match=r'thesis.txt: Not a directory$'): small(tmp_path/'thesis.txt')
    with pytest.raises(OSError, match=r'Not a directory$'): small(tmp_path/'thesis.txt'/'below')

def test_an_unreadable_manifest(small, tmp_path):
    out = small(tmp_path/'out')
    (out/'rooms.json').write_text('{"preset":')
    with pytest.raises(ValueError, match='rooms.json cannot be read'): small(out)

@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_a_folder_that_cannot_be_written(small, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match='Permission denied$'): small(tmp_path/'out')
    tmp_path.chmod(0o700)

def test_a_full_disk(small, tmp_path, monkeypatch):
    room = itertools.count()
    def full(path, counts):
        if next(room) > 20: raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_counts(path, counts)
    monkeypatch.setattr(rooms, 'write_counts', full)
    with pytest.raises(OSError) as e: small(tmp_path/'out')
    assert re.fullmatch(r'building house0002: .*point_1_view_0_domain_\w+\.png: No space left on device', str(e.value))
    assert (tmp_path/'out/UNFINISHED').exists()
    monkeypatch.setattr(rooms, 'write_counts', write_counts)
    assert contents(small(tmp_path/'out')) == contents(small(tmp_path/'other'))

def test_a_failure_names_the_building(small, tmp_path, monkeypatch):
    def fails(name, *how):
        if name == 'house0002': raise ZeroDivisionError('a sofa of no width')
        return noise(name, *how)
    monkeypatch.setattr(rooms, 'render_building', fails)
    with pytest.raises(RuntimeError, match='^building house0002: ZeroDivisionError: a sofa of no width$'): small(tmp_path/'out')

# Real processes: killed, interrupted, in each other's way

@pytest.fixture(scope='module')
def script(tmp_path_factory):
    "A program as a user may write it, without a guard; prints how far it is and the processes that it started."
    path = tmp_path_factory.mktemp('script')/'render.py'
    path.write_text(textwrap.dedent("""
        import multiprocessing as mp, resource, sys
        from its_a_match.rooms import render_rooms
        out, processes, limit, buildings = sys.argv[1], *map(int, sys.argv[2:])
        if limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        def tell(done, total): print(done, *(p.pid for p in mp.active_children()), flush=True)
        render_rooms(out, 'tiny', size=16, buildings=buildings, processes=processes, progress=tell)
        """))
    def start(out, processes, limit=0, buildings=4):
        return subprocess.Popen([sys.executable, path, out, str(processes), str(limit), str(buildings)], text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return start

def gone(pids, patience=20):
    "Whether all these processes end."
    end = time.time() + patience
    def runs(pid):
        try: return Path(f'/proc/{pid}/stat').read_text().rsplit(')')[1].split()[0] != 'Z'
        except OSError: return False
    while any(map(runs, pids)) and time.time() < end: time.sleep(.05)
    return not any(map(runs, pids))

def wait_for(program, done):
    "Reads until that many views are done; the processes at work."
    for line in program.stdout:
        count, *pids = map(int, line.split())
        if count >= done: return pids
    pytest.fail(program.stderr.read())

linux = pytest.mark.skipif(not sys.platform.startswith('linux'), reason='looks into /proc')

@linux
@pytest.mark.parametrize('processes', [1, 2])
def test_killed_at_random_times(script, expected, tmp_path, processes):
    "It goes on to the same bytes, and nothing outlives the program that was killed."
    random.seed(processes)
    for done in (0, 16):
        program = script(tmp_path/'out', processes)
        pids = wait_for(program, done)
        time.sleep(random.uniform(0, .4))
        program.kill()
        program.communicate()
        assert gone(pids), 'a process outlived its parent'
        here = contents(tmp_path/'out')
        assert 'UNFINISHED' in here or here == expected
    end = script(tmp_path/'out', processes)
    assert end.communicate()[1] == '' and contents(tmp_path/'out') == expected

@linux
@pytest.mark.parametrize('processes', [1, 2])
def test_ctrl_c(script, expected, tmp_path, processes):
    "It ends soon, without a word from the other processes, and goes on later."
    program = script(tmp_path/'out', processes)
    pids = wait_for(program, 8)
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does: to all of them
    start = time.time()
    error = program.communicate()[1]
    assert program.returncode == -signal.SIGINT and error.rstrip().endswith('KeyboardInterrupt')
    handling = error.count('During handling of the above exception')  # where it came while the program handled another
    assert error.count('KeyboardInterrupt\n') == 1 and error.count('Traceback') == 1 + handling
    assert time.time() - start < 5 and gone(pids) and (tmp_path/'out/UNFINISHED').exists()
    assert contents(render_rooms(tmp_path/'out', 'tiny', size=16, buildings=4, processes=1)) == expected

@linux
def test_a_process_that_dies(script, tmp_path):
    program = script(tmp_path/'out', 2, buildings=40)  # so that there is work left
    pids = wait_for(program, 8)
    os.kill(pids[0], signal.SIGKILL)
    error = program.communicate()[1].rstrip().splitlines()[-1]
    assert re.fullmatch(r'RuntimeError: a process that shared the work was killed, .*: it was at house\d{4}( or house\d{4})*', error)
    assert gone(pids)

@linux
@pytest.mark.parametrize('processes', [1, 2])
def test_a_write_that_fails(script, tmp_path, processes):
    "A real failure to write, in another process or here, is one sentence."
    error = script(tmp_path/'out', processes, limit=600).communicate()[1].rstrip().splitlines()[-1]
    assert re.fullmatch(r"OSError: building house\d{4}: .*out.*: File too large", error)

def test_two_at_once(script, expected, tmp_path):
    program = script(tmp_path/'out', 1)
    wait_for(program, 0)
    with pytest.raises(RuntimeError, match='out is being rendered by another process: wait for it, or choose another folder'):
        render_rooms(tmp_path/'out', 'tiny', size=16, buildings=4)
    program.communicate()
    assert contents(tmp_path/'out') == expected

def test_no_process_is_left_behind(tmp_path):
    before = mp.active_children()
    def stop(done, total):
        if done: raise Stop
    with pytest.raises(Stop): render_rooms(tmp_path/'out', 'tiny', size=16, buildings=3, processes=2, progress=stop)
    assert mp.active_children() == before

def test_import_is_light():
    "A process of the pool starts quickly: no torch; and a whole data set is found without a renderer."
    code = "import its_a_match.rooms, sys; print([m for m in ('torch', 'mitsuba', 'skimage', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'

# What a network has to beat

class Views:
    "A data set out of arrays: ids (n, H, W), and depth (n, H, W) with NaN for no label."
    tasks = tuple(t for t in TASKONOMY if t.letter in 'SD')
    def __init__(self, ids, depth): self.ids, self.depth = ids, depth
    def __len__(self): return len(self.ids)
    def batch(self, indices):
        s, d = self.ids[indices], self.depth[indices][:, None]
        return None, dict(S=s, D=np.nan_to_num(d)), dict(S=s > 0, D=~np.isnan(d))

def test_blind_losses_see_only_labels():
    rng = np.random.default_rng(0)
    def views(n):
        depth = rng.exponential(2, (n, 5, 6)).astype(np.float32)
        depth[rng.random(depth.shape) < .2] = np.nan
        depth[:, 0, 0] = np.nan
        return Views(rng.integers(0, 18, (n, 5, 6)), depth)
    train, test = views(150), views(70)
    table = blind_losses(train, test)
    d, has = train.depth[~np.isnan(train.depth)].astype(float), ~np.isnan(test.depth)
    for name, guess in (('mean', d.mean()), ('median', np.median(d))):
        assert table.loc['Depth', name] == pytest.approx(np.abs(test.depth[has] - guess).mean()/d.std())
    guess = np.array([[np.nanmean(train.depth[:, r, c]) if (r, c) != (0, 0) else d.mean() for c in range(6)] for r in range(5)])
    assert table.loc['Depth', 'pixel mean'] == pytest.approx(np.abs(test.depth - guess)[has].mean()/d.std())
    share = np.array([(train.ids == i).sum() + 1 for i in range(1, 18)])
    assert table.loc['SemSeg', 'mean'] == pytest.approx(-np.log((share/share.sum())[test.ids[test.ids > 0] - 1]).mean())
    assert np.isnan(table.loc['SemSeg', 'median']) and table.loc['SemSeg', 'pixel mean'] > table.loc['SemSeg', 'mean'] - .05  # nothing to know of a pixel
    same = blind_losses(train, train)
    assert same.loc['Depth', 'pixel median'] < same.loc['Depth', 'pixel mean'] < same.loc['Depth', 'mean']

class Pieces(Views):
    "Ids of pieces (n, H, W), 0 for none, and two numbers a pixel."
    tasks = get_tasks(['segment_unsup25d', 'principal_curvature'])
    def batch(self, indices):
        s, d = self.ids[indices], np.stack([self.depth[indices]]*2, 1)
        return None, dict(segment_unsup25d=s, principal_curvature=d), dict(segment_unsup25d=s > 0, principal_curvature=np.ones((len(s), 1, *s.shape[1:]), bool))

def test_blind_losses_of_pieces_are_those_of_the_term():
    "The loss of networks whose outputs are all the same is that of one probability for all pairs; the best one is lower."
    import torch
    from its_a_match.losses import TaskLosses
    rng = np.random.default_rng(0)
    def views(n, side): return Pieces(np.kron(rng.integers(0, 3, (n, 3, 3)), np.ones((side//3, side//3), int)), rng.normal(size=(n, side, side)).astype(np.float32))
    train, test = views(6, 24), views(5, 24)
    ids, known = (torch.as_tensor(x) for x in (test.ids, test.ids > 0))
    sums, counts = TaskLosses(train.tasks[:1]).per_image(dict(segment_unsup25d=torch.zeros(5, train.tasks[0].channels, 24, 24)),
                                                        dict(segment_unsup25d=ids), dict(segment_unsup25d=known))['segment_unsup25d']
    said, table = 2/(1 + np.exp(.01)), blind_losses(train, test)
    def loss(p, views):  # pair by pair
        total = 0
        for x in views.ids:
            for r, c in np.argwhere(x > 0):
                others = [x[q] for s in (1, 3) for q in ((r + s, c), (r, c + s)) if max(q) < 24 and x[q] > 0]
                total += np.mean([-np.log(p if o == x[r, c] else 1 - p) for o in others]) if others else 0
        return total/(views.ids > 0).sum()
    assert (sums.sum()/counts.sum()).item() == pytest.approx(loss(said, test), rel=1e-4)
    best = min(np.linspace(.01, .99, 99), key=lambda p: loss(p, train))
    assert table.loc['2.5D Segm.', 'loss'] == 'cross-entropy of pairs'
    assert table.loc['2.5D Segm.', 'mean'] == pytest.approx(loss(best, test), abs=1e-3)
    assert table.loc['2.5D Segm.', ['median', 'pixel mean', 'pixel median']].isna().all() and table.loc['Curvature'].notna().all()

def test_blind_losses_on_rooms(tiny_rooms):
    table = blind_losses(TaskonomyDataset(tiny_rooms, 'train'), TaskonomyDataset(tiny_rooms, 'test'))
    assert list(table.index) == [t.short for t in TASKONOMY] and table['loss'].tolist() == ['cross-entropy'] + ['L1 / std']*4
    assert table.loc['SemSeg', 'mean'] < np.log(16) and table.drop(index='SemSeg')[['mean', 'median', 'pixel mean', 'pixel median']].stack().between(.2, 1.2).all()
