"Data in memory gives the loader's bits; order, mirroring and injection are functions of their arguments; nothing is guessed."
import gc, pickle, threading, time
from dataclasses import replace
from operator import methodcaller

import numpy as np, pandas as pd, pytest, torch

from its_a_match.batches import batches, flip, inject, mirrored, order, prepare, steps_in_pass
from its_a_match.cache import cached
from its_a_match.memory import MemoryDataset, in_memory, memory_per_view
from its_a_match.processes import each
from its_a_match.tasks import TASKONOMY, Task
from its_a_match.taskonomy import TaskonomyDataset

S, D, N, K, E = TASKONOMY
SCENE, COUNT = Task('scene', kind='classes', channels=3, per_image=True), Task('count', kind='number', channels=2)
MANY = Task('many', kind='classes', channels=1000)
LAST = torch.channels_last


def bits(x): return x.contiguous().numpy().tobytes()


def equal(a, b):
    "The same batch, bit for bit."
    pairs = [(a[0], b[0]), *((x[k], y[k]) for x, y in zip(a[1:], b[1:], strict=True) for k in x)]
    return [list(d) for d in a[1:]] == [list(d) for d in b[1:]] and all(x.dtype == y.dtype and x.shape == y.shape and bits(x) == bits(y) for x, y in pairs)


@pytest.fixture
def arrays():
    "Seven views of 6 x 8 pixels with every kind of label, and masks for all."
    rng = np.random.default_rng(0)
    images  = rng.integers(0, 256, (7, 3, 6, 8), np.uint8)
    targets = dict(S=rng.integers(1, 18, (7, 6, 8)), D=rng.random((7, 1, 6, 8)), N=rng.random((7, 3, 6, 8)) - .5, many=rng.integers(0, 1000, (7, 6, 8)),
                   scene=rng.integers(0, 3, 7), count=rng.random((7, 2)))
    masks = dict(S=rng.random((7, 6, 8)) < .8, D=rng.random((7, 1, 6, 8)) < .8, N=rng.random((7, 1, 6, 8)) < .8, many=rng.random((7, 6, 8)) < .8,
                 scene=rng.random(7) < .7, count=rng.random((7, 1)) < .7)
    masks['D'][2] = False
    return images, targets, masks


TASKS = (S, D, N, MANY, SCENE, COUNT)


@pytest.fixture
def data(arrays): return MemoryDataset(TASKS, *arrays)


@pytest.fixture(scope='module')
def rooms(tiny_rooms): return TaskonomyDataset(tiny_rooms, None, size=32)


class Plain:
    "A data set that is not in memory, and notes in which thread it is read."
    def __init__(self, data): self.data, self.tasks, self.threads, self.read = data, data.tasks, set(), 0
    def __len__(self): return len(self.data)
    def statistics(self): return self.data.statistics()
    def batch(self, indices):
        self.threads.add(threading.current_thread())
        self.read += 1
        return self.data.batch(indices)


# in memory

@pytest.mark.parametrize('size', [None, 24])
def test_the_bits_of_the_loader(tiny_rooms, size):
    files = TaskonomyDataset(tiny_rooms, 'val', size=size, require='any')
    log = []
    held = in_memory(files, progress=lambda *n: log.append(n))
    assert held.tasks == files.tasks and len(held) == len(files) and log[0] == (0, len(files)) and log[-1] == (len(files),)*2
    assert held._images.dtype == torch.uint8
    for at in (range(len(files)), [3], [5, 0, 5], slice(None, None, 3), np.array([-1, 2]), torch.tensor([1, 2]), slice(4, 1, -1)):
        assert equal(held.batch(at), files.batch(at))
    assert equal(held[2], files[2])
    pd.testing.assert_frame_equal(held.statistics(), files.statistics(), rtol=1e-12, atol=1e-14)  # files are summed in another order


def test_from_the_cache(rooms, tmp_path):
    fast = cached(rooms, tmp_path, 1)
    held = in_memory(fast)
    assert held.statistics().equals(fast.statistics())
    assert equal(held.batch(range(40)), rooms.batch(range(40)))
    for b in (fast.batch([3, 1, 2]), held.batch([3, 1, 2])):
        images, targets, masks = prepare(b, rooms.tasks, chosen=torch.tensor([True, False, True]))
        assert images.is_contiguous(memory_format=LAST)
        assert equal((images, targets, masks), flip(*rooms.batch([3, 1, 2]), torch.tensor([True, False, True]), rooms.tasks))


def test_missing_labels(arrays, data):
    images, targets, masks = arrays
    rgb, t, m = data.batch(range(7))
    assert torch.equal(rgb, torch.from_numpy(images).float().mul(1/255)) and rgb.is_contiguous(memory_format=LAST)
    for k in targets:
        x, mask = torch.from_numpy(targets[k]), torch.from_numpy(masks[k])
        assert torch.equal(m[k], mask)
        assert torch.equal(t[k], torch.where(mask, x if x.dtype == torch.int64 else x.float(), 0))
    assert [t[k].dtype for k in ('S', 'many', 'scene')] == [torch.int64]*3


def test_nobody_s_arrays_are_shared(arrays, data):
    before = data.batch(range(7))
    for x in (arrays[0], *arrays[1].values()): x[...] = 0
    for x in (*(b := data.batch(slice(None)))[1].values(), b[0]): x.zero_()
    assert equal(data.batch(range(7)), before)


def test_images(arrays):
    images, targets, _ = arrays
    make = lambda x: MemoryDataset([COUNT], x, {'count': targets['count']})
    counts = make(images)
    floats = torch.from_numpy(images).float().mul(1/255)
    for same in (floats, floats.to(memory_format=LAST), floats.double(), floats.numpy()):
        assert make(same)._images.dtype == torch.uint8 and equal(make(same).batch(range(7)), counts.batch(range(7)))
    odd = torch.cat([floats]*6)  # longer than what is stored at once, so that counts were stored before
    odd[40, 1, 2, 3] = .12345
    held = MemoryDataset([COUNT], odd, {'count': np.zeros((42, 2))})
    assert held._images.dtype == torch.float32 and bits(held.batch(range(42))[0]) == bits(odd)
    memory_mapped = images.copy()
    memory_mapped.flags.writeable = False
    assert equal(make(memory_mapped).batch([1]), counts.batch([1]))


def test_nan_is_missing_only_where_said(arrays):
    images, targets, _ = arrays
    t = {k: targets[k].copy() for k in ('D', 'N', 'count')}
    t['D'][3, 0, 1, 2] = t['N'][4, 1, 0, 0] = t['count'][5, 1] = np.nan
    for masks in (None, {}, {'D': None}):
        with pytest.raises(ValueError, match="task 'D': row 3 holds a NaN.*give the mask 'nan'"): MemoryDataset([D, N, COUNT], images, t, masks)
    held = MemoryDataset([D, N, COUNT], images, t, 'nan')
    _, got, masks = held.batch(range(7))
    assert [tuple(map(int, (~masks[k]).nonzero()[0])) for k in 'DN'] == [(3, 0, 1, 2), (4, 0, 0, 0)]
    assert (~masks['count']).nonzero().tolist() == [[5, 0]] and got['N'][4, :, 0, 0].tolist() == [0]*3 and got['count'][5].tolist() == [0, 0]
    with pytest.raises(ValueError, match="task 'N': row 4"): MemoryDataset([D, N], images, {k: t[k] for k in 'DN'}, {'D': 'nan'})


def test_the_class_that_means_no_label(arrays):
    images, targets, _ = arrays
    targets['S'][1, 2, 3] = S.invalid
    mask = MemoryDataset('S', images, {'S': targets['S']}).batch(range(7))[2]['S']
    assert (~mask).nonzero().tolist() == [[1, 2, 3]]


BAD = [(lambda i, t, m: i.__setitem__(0, i[0].transpose(0, 2, 3, 1)), r'images: .*give images.transpose\(0, 3, 1, 2\)'),
       (lambda i, t, m: i.__setitem__(0, i[0][:, 0]), r'images: their shape \(7, 6, 8\) is not \(N, C, H, W\)'),
       (lambda i, t, m: i.__setitem__(0, i[0][:0]), 'images: there is none'),
       (lambda i, t, m: i.__setitem__(0, i[0].astype(int)), 'images: their type is torch.int64'),
       (lambda i, t, m: i.__setitem__(0, np.where(np.arange(7)[:, None, None, None] == 5, 1.5, i[0]/255)), 'images: row 5 holds 1.5'),
       (lambda i, t, m: i.__setitem__(0, np.where(np.arange(7)[:, None, None, None] == 4, np.nan, i[0]/255)), 'images: row 4 holds nan'),
       (lambda i, t, m: t.pop('N'), "task 'N': it has no labels"),
       (lambda i, t, m: t.update(X=t['D']), "task 'X': it has labels or a mask, but the tasks are"),
       (lambda i, t, m: m.update(X=m['D']), "task 'X': it has labels or a mask, but the tasks are"),
       (lambda i, t, m: t.update(D=t['D'][:, 0]), r"task 'D': the shape of its labels is \(7, 6, 8\), not \(7, 1, 6, 8\)"),
       (lambda i, t, m: t.update(count=t['count'][:6]), "task 'count': the shape of its labels"),
       (lambda i, t, m: m.update(N=np.ones((7, 3, 6, 8), bool)), r"task 'N': the shape of its mask is \(7, 3, 6, 8\), not \(7, 1, 6, 8\)"),
       (lambda i, t, m: m.update(D=m['D'].astype(np.uint8)), "task 'D': its mask is of the type torch.uint8, not bool"),
       (lambda i, t, m: m.update(S='nan'), "task 'S': the mask 'nan' is no array"),
       (lambda i, t, m: m.update(D='none'), "task 'D': the mask 'none' is no array"),
       (lambda i, t, m: t.update(S=t['S'].astype(float)), "task 'S': its labels are of the type torch.float64, not whole numbers"),
       (lambda i, t, m: t.update(D=t['D'].astype(int)), "task 'D': its labels are of the type torch.int64, not floating-point numbers"),
       (lambda i, t, m: (t['S'].__setitem__((6, 0, 0), 18), m['S'].__setitem__(6, True)), "task 'S': row 6 holds the class 18, which is not from 0 to 17"),
       (lambda i, t, m: (t['scene'].__setitem__(2, -1), m['scene'].__setitem__(2, True)), "task 'scene': row 2 holds the class -1"),
       (lambda i, t, m: (t['count'].__setitem__((1, 1), np.inf), m['count'].__setitem__(1, True)), "task 'count': row 1 holds a NaN or an infinity")]


@pytest.mark.parametrize('spoil, why', BAD, ids=range(len(BAD)))
def test_bad_arrays_are_named(arrays, spoil, why):
    images, targets, masks = arrays
    box = [images]
    MemoryDataset(TASKS, *arrays)
    spoil(box, targets, masks)
    with pytest.raises(ValueError, match=why) as e: MemoryDataset(TASKS, box[0], targets, masks)
    assert '\n' not in str(e.value)


def test_bad_rows_far_on_are_named():
    t = np.zeros((100, 1, 4, 4))
    t[77] = np.nan
    with pytest.raises(ValueError, match='row 77'): MemoryDataset('D', np.zeros((100, 3, 4, 4), np.uint8), {'D': t})


def test_what_a_mask_hides_may_be_anything(arrays):
    images, targets, masks = arrays
    clean = MemoryDataset(TASKS, *arrays).batch(range(7))
    for k, t in targets.items(): t[~np.broadcast_to(masks[k], t.shape)] = 10**6 if t.dtype == int else np.nan
    assert equal(MemoryDataset(TASKS, images, targets, masks).batch(range(7)), clean)


def test_indices(data):
    for bad in ([7], [-8], [0, 99]):
        with pytest.raises(IndexError): data.batch(bad)
    for none in ([], range(0), slice(3, 3), np.array([], int)):
        with pytest.raises(ValueError, match='without a view'): data.batch(none)
    assert equal(data.batch([-1]), data.batch([6])) and equal(data[1:3], data.batch([1, 2])) and equal(data[[4]], data.batch([4]))
    assert data[-1][1]['D'].shape == (1, 6, 8)


def test_only(data):
    for tasks in ('SD', ['D', 'S'], (S, D), ['depth_zbuffer', S]):
        two = data.only(tasks)
        assert two.tasks == (S, D) and two._targets['D'] is data._targets['D'] and two._images is data._images
    x = data.batch([3, 1])
    assert equal(two.batch([3, 1]), (x[0], *({k: d[k] for k in 'SD'} for d in x[1:])))
    assert data.only('scene').tasks == data.only(SCENE).tasks == (SCENE,) and two.nbytes < data.nbytes and len(data.tasks) == 6
    for bad in ('K', ['S', 'X'], [K]):
        with pytest.raises(ValueError, match='it is not one of S, D, N, many, scene, count'): data.only(bad)
    with pytest.raises(ValueError, match='no task'): data.only([])


def test_statistics(arrays, data):
    _, targets, masks = arrays
    stats = data.statistics()
    assert stats.index.names == ['task', 'channel'] and stats.index.tolist() == [('D', 0), ('N', 0), ('N', 1), ('N', 2), ('count', 0), ('count', 1)]
    for k, c in stats.index:
        x = targets[k][:, c].astype(np.float32).astype(float)[masks[k][:, 0]]
        assert np.allclose(stats.loc[(k, c)], [x.mean(), x.std(), masks[k].mean()], atol=1e-9)
    assert stats.equals(data.statistics(batch_size=16))
    pd.testing.assert_frame_equal(stats, data.statistics(batch_size=2))
    with pytest.raises(ValueError, match="task 'D': none of the 7 views"): MemoryDataset('D', arrays[0], {'D': targets['D']}, {'D': masks['D'] & False}).statistics()


def test_bytes(data, rooms):
    assert memory_per_view(TASKS, (6, 8))*7 == data.nbytes and memory_per_view(rooms.tasks, 32)*len(rooms) == in_memory(rooms).nbytes


def test_sent_and_shared(data):
    again = pickle.loads(pickle.dumps(data))
    assert equal(again.batch(range(7)), data.batch(range(7))) and again.tasks == data.tasks
    assert data.share_memory_() is data and all(x.is_shared() for x in (data._images, *data._targets.values(), *data._masks.values()))
    data._targets['D'][0] = 5.
    for stats in each(methodcaller('statistics'), [data], 2): assert stats.equals(data.statistics())


def test_in_memory_twice(data): assert in_memory(data)._images is data._images and in_memory(data, 'meta').device.type == 'meta'


# order

@pytest.mark.parametrize('n, batch', [(10, 3), (7, 7), (5, 1), (64, 16)])
def test_passes(n, batch):
    steps = steps_in_pass(n, batch)
    passes = [np.concatenate([order(n, batch, 3, p*steps + s) for s in range(steps)]) for p in range(4)]
    for p in passes: assert len(p) == n//batch*batch == len(set(p.tolist())) and set(p.tolist()) <= set(range(n))
    assert n == 5 or len({tuple(p) for p in passes}) == 4


def test_order_is_a_function():
    a = order(100, 8, 5, 37)
    for s in range(60): order(100, 8, s % 7, s)
    assert np.array_equal(a, order(100, 8, 5, 37)) and a.dtype == np.int64
    assert not np.array_equal(a, order(100, 8, 6, 37)) and order(100, 8, 0, 0).tolist() != order(100, 8, 0, 12).tolist()
    with pytest.raises(ValueError): a[0] = 1  # the pass is kept, and nobody may change it


def test_known_numbers():
    "What older checkpoints went on with must not change."
    assert order(10, 4, 0, 0).tolist() == [4, 6, 2, 7] and order(10, 4, 1, 3).tolist() == [1, 0, 3, 5]
    assert mirrored(8, 0, 0).tolist() == [True, True, False, True, True, True, True, True]


@pytest.mark.parametrize('batch, world', [(8, 2), (9, 2), (8, 3), (5, 5)])
def test_shares(batch, world):
    for draw in (lambda *r: order(50, batch, 1, 9, *r), lambda *r: mirrored(batch, 1, 9, *r)):
        parts = [draw(r, world) for r in range(world)]
        whole = draw()
        for r, p in enumerate(parts): assert p.tolist() == whole[r::world].tolist()
        assert sum(map(len, parts)) == len(whole) == batch


@pytest.mark.parametrize('call, why', [(lambda: order(10, 11, 0, 0), 'a batch of 11 cannot be taken from 10 views'), (lambda: order(10, 0, 0, 0), 'a batch of 0'), (lambda: order(10, 2, -1, 0), 'seed is -1'),
                                       (lambda: order(10, 2, 0, 1.5), 'step is 1.5'), (lambda: order(10, 2, 0, 0, 2, 2), 'process 2 of 2'), (lambda: order(10, 2, 0, 0, 0, 3), 'process 0 of 3 has no share in a batch of 2'),
                                       (lambda: mirrored(2, None, 0), 'seed is None')])
def test_impossible_orders(call, why):
    with pytest.raises(ValueError, match=why): call()


def test_half_is_mirrored():
    drawn = torch.stack([mirrored(32, 0, s) for s in range(400)]).double()
    assert abs(drawn.mean() - .5) < .02 and (drawn.mean(0) - .5).abs().max() < .12 and len({tuple(r) for r in drawn.tolist()}) == 400


# mirroring

def layouts(batch): return [(f(batch[0]), *({k: f(x) if x.ndim == 4 else x for k, x in d.items()} for d in batch[1:])) for f in (torch.clone, torch.Tensor.contiguous)]


@pytest.mark.parametrize('chosen', [[True, False, True, True, False, False, True], [True]*7, [False]*7])
def test_flip(data, chosen):
    chosen = torch.tensor(chosen)
    for batch in layouts(data.batch(range(7))):
        before = pickle.dumps(batch)
        images, targets, masks = turned = flip(*batch, chosen, TASKS)
        where = lambda x, y: torch.where(chosen.view(-1, *[1]*(x.ndim - 1)), y, x)
        assert torch.equal(images, where(batch[0], batch[0].flip(3)))
        for d, old in ((targets, batch[1]), (masks, batch[2])):
            for k in ('S', 'D', 'many'): assert torch.equal(d[k], where(old[k], old[k].flip(-1)))
            for k in ('scene', 'count'): assert torch.equal(d[k], old[k])
        mirror = batch[1]['N'].flip(3)*torch.tensor([-1, 1, 1])[:, None, None]
        assert torch.equal(targets['N'], where(batch[1]['N'], mirror)) and torch.equal(masks['N'], where(batch[2]['N'], batch[2]['N'].flip(3)))
        assert [x.stride() for x in (images, *targets.values())] == [x.stride() for x in (batch[0], *batch[1].values())]
        assert equal(flip(*turned, chosen, TASKS), batch)
        assert equal(pickle.loads(before), batch)  # what went in is as it was


def test_only_vectors_change_sign(data):
    plain = [replace(t, vector=False) if t is N else t for t in TASKS]
    batch, chosen = data.batch(range(7)), torch.ones(7, dtype=bool)
    assert torch.equal(flip(*batch, chosen, plain)[1]['N'], batch[1]['N'].flip(3))


# injection

def test_inject(data):
    images, targets, masks = batch = data.batch(range(7))
    for t in TASKS[:3] + TASKS[4:]:
        got, label, mask = inject(*batch, t), targets[t.key], masks[t.key]
        assert got.shape == (7, 3 + t.channels, 6, 8) and got.is_contiguous(memory_format=LAST) and torch.equal(got[:, :3], images) and got.dtype == torch.float32
        extra = got[:, 3:]
        if t.kind == 'classes':
            hot = torch.nn.functional.one_hot(label, t.channels).movedim(-1, 1)*mask[:, None]
            assert torch.equal(extra, (hot if t.pixels else hot[:, :, None, None].expand(7, -1, 6, 8)).float())
        else: assert torch.equal(extra, (label if t.pixels else label[:, :, None, None]).expand(7, -1, 6, 8))


def test_injected_ids_may_be_anything_where_masked():
    seg = Task('seg', kind='classes', channels=4)
    ids, mask = torch.tensor([[[1, 255], [-1, 3]]]), torch.tensor([[[True, False], [False, True]]])
    assert inject(torch.zeros(1, 3, 2, 2), dict(seg=ids), dict(seg=mask), seg)[0, 3:].sum((1, 2)).tolist() == [0, 1, 0, 1]

def test_nothing_is_injected_where_there_is_no_label(data):
    "Normalised labels, which are not 0 where there is none."
    images, targets, masks = data.batch(range(7))
    moved = {k: x + 3 if x.is_floating_point() else x for k, x in targets.items()}
    for t in (D, N, COUNT):
        extra = inject(images, moved, masks, t)[:, 3:]
        m = masks[t.key].view(7, 1, *masks[t.key].shape[2:] or (1, 1)).expand_as(extra)
        assert (extra[~m] == 0).all() and (extra[m] > 2).all()
    nan = {k: torch.where(masks[k], x, torch.nan) if x.is_floating_point() else x for k, x in targets.items()}
    assert all(inject(images, nan, masks, t).isfinite().all() for t in (D, N, COUNT))


def test_prepare(data):
    batch, chosen = data.batch(range(7)), mirrored(7, 0, 0)
    assert chosen.any() and not chosen.all()
    normalise = lambda targets: {k: (x - 1)*2 if x.is_floating_point() else x for k, x in targets.items()}
    images, targets, masks = prepare(batch, TASKS, 'cpu', chosen, normalise, N)
    i, t, m = flip(*batch, chosen, TASKS)
    assert equal((images[:, :3], targets, masks), (i, normalise(t), m))
    assert torch.equal(images[:, 3:], torch.where(m['N'], (t['N'] - 1)*2, 0)) and images.is_contiguous(memory_format=LAST)
    assert equal(prepare(batch, TASKS), batch)
    contiguous = (batch[0].contiguous(), *batch[1:])
    assert prepare(contiguous, TASKS)[0].is_contiguous(memory_format=LAST)


# one batch ahead

def test_batches_come_in_order(data):
    for d, prefetch, elsewhere in ((data, None, False), (Plain(data), None, True), (Plain(data), 0, False), (Plain(data), 3, True)):
        steps = [order(7, 2, 0, s) for s in range(10)]
        for b, i in zip(batches(d, iter(steps), prefetch=prefetch), steps, strict=True): assert equal(b, data.batch(i))
        if isinstance(d, Plain): assert (d.threads != {threading.current_thread()}) == elsewhere and d.read == 10


def test_one_batch_is_read_ahead(data):
    plain = Plain(data)
    feed = batches(plain, ([i % 7] for i in range(100)))
    next(feed)
    until = time.monotonic() + 20
    while plain.read < 2 and time.monotonic() < until: time.sleep(.001)
    time.sleep(.02)
    assert plain.read == 2
    feed.close()


def test_the_thread_ends(data):
    threads = threading.active_count()
    for stop in (lambda f: f.close(), lambda f: None):
        feed = batches(Plain(data), ([0] for _ in range(1000)))
        next(feed)
        assert threading.active_count() == threads + 1
        stop(feed)
        del feed
        gc.collect()
        assert threading.active_count() == threads


def test_errors_come_where_the_batch_is_wanted(data):
    got = []
    with pytest.raises(IndexError):
        for b in batches(Plain(data), [[0], [1], [7], [2]]): got.append(b)
    assert len(got) == 2
    def steps():
        yield [0]
        raise KeyError('steps')
    with pytest.raises(KeyError, match='steps'): list(batches(Plain(data), steps()))
    assert not any(t.name.startswith('batches') for t in threading.enumerate())


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
def test_on_a_gpu(data):
    there, chosen = data.to('cuda'), mirrored(7, 0, 0)
    normalise = lambda targets: {k: x*2 - 1 if x.is_floating_point() else x for k, x in targets.items()}
    back = lambda b: (b[0].cpu(), *({k: x.cpu() for k, x in d.items()} for d in b[1:]))
    wanted = prepare(data.batch(range(7)), TASKS, 'cpu', chosen, normalise, N)
    for d in (data, there, Plain(data)):
        b = next(batches(d, [range(7)], 'cuda'))
        assert b[0].is_cuda or b[0].is_pinned()
        got = prepare(b, TASKS, 'cuda', chosen, normalise, N)
        assert got[0].is_cuda and got[0].is_contiguous(memory_format=LAST) and equal(back(got), wanted)
    assert there.nbytes == data.nbytes and in_memory(there).device.type == 'cuda' and in_memory(data, 'cuda').device.type == 'cuda'
