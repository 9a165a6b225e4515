"Folders, splits and the data set: every layout, what is missing, what is broken, and that a view's labels are its own."
import os, pickle, shutil, time

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from torch.utils.data import DataLoader

from its_a_match import taskonomy
from its_a_match.encoding import decode, encode, resize, write_counts
from its_a_match.folders import find_views, read_splits, split_buildings
from its_a_match.published import match_buildings
from its_a_match.taskonomy import FileReader, TaskonomyDataset
from its_a_match.tasks import RGB, TASKONOMY, Task

S, D, N, K, E = TASKONOMY
MODALITIES = [RGB.name, *(t.name for t in TASKONOMY)]
LAYOUTS = ['{task}/{building}', '{building}_{task}/{task}', '{building}/{task}', '{task}/taskonomy/{building}']
layouts = pytest.mark.parametrize('layout', LAYOUTS)
SPELT = {'segment_semantic': 'segmentsemantic'}

def file_of(root, task, building, point, view, layout=LAYOUTS[0], end='_domain_{}', spelt=SPELT):
    return root/layout.format(task=task.name, building=building)/f'point_{point}_view_{view}{end.format(spelt.get(task.name, task.name))}.png'

def counts_of(task, building, point, view, side=4):
    "Counts that no other file has: random, from its name."
    rng = np.random.default_rng([*f'{task.name} {building} {point} {view}'.encode()])
    if task.vector:
        v = rng.normal(size=(side, side, 3))
        return encode(v/np.linalg.norm(v, axis=-1, keepdims=True), task)
    top = task.channels if task.kind == 'classes' else 2**task.bits
    return rng.integers(0, top, (side, side, 3) if task.channels == 3 else (side, side)).astype(task.dtype)

def make(root, buildings=('ihlen', 'mcdade'), views=((0, 0), (2, 1), (10, 0)), tasks=(RGB, *TASKONOMY), side=4, **where):
    for b in buildings:
        for p, v in views:
            for t in tasks:
                path = file_of(root, t, b, p, v, **where)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_counts(path, counts_of(t, b, p, v, side))
    return root

@pytest.fixture
def toy(tmp_path): return make(tmp_path/'toy')

def says(call, *args, **kwargs):
    "The one sentence of a ValueError."
    with pytest.raises(ValueError) as e: call(*args, **kwargs)
    assert '\n' not in str(e.value)
    return str(e.value)

def same(sample, other):
    "Whether two items, or batches, are equal in every value, shape and type."
    flat = lambda s: [s[0], *s[1].values(), *s[2].values()]
    return list(sample[1]) == list(other[1]) and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(flat(sample), flat(other), strict=True))

def holds(ds):
    "Whether every view gives the decoded counts of its own files."
    for i, (b, p, v) in enumerate(ds.views.index):
        rgb, targets, masks = ds[i]
        assert np.array_equal(rgb.numpy(), decode(counts_of(RGB, b, p, v), RGB)[0].transpose(2, 0, 1))
        for t in ds.tasks:
            values, mask = decode(counts_of(t, b, p, v), t)
            if t.kind == 'dense': values, mask = values.reshape(*mask.shape, -1).transpose(2, 0, 1), mask[None]
            assert np.array_equal(targets[t.key].numpy(), values) and np.array_equal(masks[t.key].numpy(), mask)
    return True


# --- folders

@layouts
@pytest.mark.parametrize('names', [dict(), dict(spelt={}), dict(end='')], ids=['archive', 'folder', 'none'])
def test_layouts_and_spellings(tmp_path, layout, names):
    make(tmp_path, layout=layout, **names)
    views = find_views(tmp_path)
    assert list(views) == MODALITIES and views.index.names == ['building', 'point', 'view'] and views.notna().all(axis=None)
    assert list(views.index) == [(b, *k) for b in ('ihlen', 'mcdade') for k in ((0, 0), (2, 1), (10, 0))]
    assert views.attrs == dict(ignored=0, example='')
    assert views.normal[('mcdade', 2, 1)] == file_of(tmp_path, N, 'mcdade', 2, 1, layout, **names).relative_to(tmp_path).as_posix()
    assert holds(TaskonomyDataset(tmp_path, 'test'))

@layouts
def test_asking_for_less(tmp_path, layout):
    make(tmp_path, layout=layout)
    views = find_views(tmp_path, ['normal', 'rgb'], ['mcdade', 'elsewhere'])
    assert list(views) == ['rgb', 'normal'] and list(views.index.unique('building')) == ['mcdade'] and len(views) == 3
    assert find_views(tmp_path, []).empty and find_views(tmp_path, buildings=[]).empty

@layouts
def test_names_with_underscores(tmp_path, layout):
    "Buildings and tasks may have them, and a building may end in the name of another task."
    heat = Task('heat_map')
    make(tmp_path, ['my_house', 'house_rgb', 'x_normal'], tasks=(RGB, heat, N), layout=layout)
    views = find_views(tmp_path)
    assert list(views) == ['rgb', 'normal', 'heat_map'] and list(views.index.unique('building')) == ['house_rgb', 'my_house', 'x_normal']
    assert views.notna().all(axis=None)

@layouts
@pytest.mark.parametrize('buildings', [['taskonomy'], ['ihlen', 'taskonomy']], ids=len)
def test_a_building_called_taskonomy(tmp_path, layout, buildings):
    make(tmp_path, buildings, layout=layout)
    views = find_views(tmp_path)
    assert list(views.index.unique('building')) == buildings and views.notna().all(axis=None) and len(views) == 3*len(buildings)

@pytest.mark.parametrize('other', [dict(layout=l) for l in LAYOUTS[1:]] + [dict(spelt={}), dict(end='')], ids=str)
def test_a_view_twice(tmp_path, other):
    "In two layouts or in two spellings: both files are named."
    make(tmp_path, ['ihlen', 'hanson'])
    make(tmp_path, ['ihlen'], tasks=[S], views=[(2, 1)], **other)
    a, b = (file_of(tmp_path, S, 'ihlen', 2, 1, **o).relative_to(tmp_path).as_posix() for o in ({}, other))
    for call in (find_views, lambda root: TaskonomyDataset(root, None)):
        message = says(call, tmp_path)
        assert message.startswith(f'{tmp_path}: ') and a in message and b in message and message.endswith('are the same view')
    assert len(TaskonomyDataset(tmp_path, ['hanson'])) == 3  # the other building is as good as before
    (tmp_path/'out.csv').write_text('building,point,view\nihlen,2,1\n')
    ds = TaskonomyDataset(tmp_path, None, leave_out=tmp_path/'out.csv')
    assert len(ds) == 5 and ds.report()['count']['views on the list to leave out'] == 1 and holds(ds)

def test_a_view_twice_by_zeros(toy):
    path = file_of(toy, D, 'ihlen', 2, 1)
    shutil.copy(path, path.with_name('point_02_view_1_domain_depth_zbuffer.png'))
    assert 'point_02_view_1' in says(find_views, toy)

def test_layouts_that_do_not_overlap(tmp_path):
    "Half of the buildings in one layout and half in another is no contradiction."
    for b, layout in zip('abcd', LAYOUTS): make(tmp_path, [b], layout=layout)
    assert list(find_views(tmp_path).index.unique('building')) == [*'abcd'] and holds(TaskonomyDataset(tmp_path, None))

def test_other_files(toy):
    for name in ('rgb/ihlen/Thumbs.db', 'rgb/ihlen/point_0_view_0_domain_normal.png', 'normal/ihlen/point_3_view_0_domain_normal.json',
                 'normal/mcdade/.point_0_view_0_domain_normal.png.77', 'normal/mcdade/point_a_view_0_domain_normal.png'): (toy/name).touch()
    (toy/'splits_taskonomy').mkdir(); (toy/'.hidden/ihlen').mkdir(parents=True); (toy/'rgb/point_0_view_0_domain_rgb.png').touch()
    (toy/'normal/mcdade/more').mkdir()
    views = find_views(toy)
    assert len(views) == 6 and list(views) == MODALITIES
    assert views.attrs['ignored'] == 6 and views.attrs['example'].split('/')[0] == 'normal'
    ds = TaskonomyDataset(toy, 'test', 'S')
    assert ds.report()['count']['other files ignored'] == 2 and holds(ds)

def test_nothing_there(tmp_path):
    assert says(find_views, tmp_path/'lost') == f'{tmp_path}/lost: there is no such folder'
    assert len(find_views(tmp_path)) == 0
    assert says(TaskonomyDataset, tmp_path/'lost', 'test') == f'{tmp_path}/lost: there is no such folder'
    assert 'no file is named and placed as in one of the three layouts' in says(TaskonomyDataset, tmp_path, 'test')

def test_quick(tmp_path):
    "No more than 20 times what listing the same folders takes."
    for m in MODALITIES:
        (tmp_path/m/'b').mkdir(parents=True)
        for p in range(500): (tmp_path/m/'b'/f'point_{p}_view_0_domain_{m}.png').touch()
    def seconds(call):
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    listing = min(seconds(lambda: [os.listdir(d) for d, *_ in os.walk(tmp_path)]) for _ in range(3))
    assert min(seconds(lambda: find_views(tmp_path)) for _ in range(3)) < max(20*listing, .2)


# --- splits

def test_splits_of_the_supplement(toy):
    for s in ('train', 'val', 'test'): assert split_buildings(toy, s) == match_buildings(s)
    assert says(split_buildings, toy, 'tset').startswith("there is no split 'tset'")

def test_splits_of_the_folder_come_first(toy):
    (toy/'splits.csv').write_text('id,train,val,test\nihlen,1,0,0\nmcdade,0,1,0\nspare,0,0,0\n')
    assert [split_buildings(toy, s) for s in ('train', 'val', 'test')] == [['ihlen'], ['mcdade'], []]
    assert list(TaskonomyDataset(toy, 'val').views.index.unique('building')) == ['mcdade']
    assert "no view of the split 'test': no building is in it; those there are ihlen, mcdade" in says(TaskonomyDataset, toy, 'test')
    assert says(split_buildings, toy, 'tset') == f"{toy}/splits.csv: there is no split 'tset': choose one of train, val, test"

@pytest.mark.parametrize('folder', ['', 'splits_taskonomy'])
def test_named_splits(toy, folder):
    (toy/folder).mkdir(exist_ok=True)
    (toy/folder/'train_val_test_medium.csv').write_text('id,train,val,test\nihlen,1,0,0\nmcdade,0,1,0\nhanson,1,0,0\n')
    ds = TaskonomyDataset(toy, 'medium/train')
    assert (len(ds), ds.absent) == (3, ['hanson'])
    assert says(split_buildings, toy, 'medium/all').endswith("train_val_test_medium.csv: there is no split 'all': choose one of train, val, test")
    assert says(split_buildings, toy, 'tiny/train') == f"{toy}/train_val_test_tiny.csv: there is no such file for the split 'tiny/train'"

@pytest.mark.parametrize('text, why', [
    ('id,train,val,test\na,1,0,0\nb,1,1,0\n', "the building 'b' is in two splits"), ('id,train,val,test\na,1,0,0\na,1,0,0\n', "the building 'a' comes twice"),
    ('id,train,val\na,1,0\n', 'it has no column test'), ('building,train,val,test\na,1,0,0\n', 'it has no column id'),
    ('id,train,val,test\na,1,0,\n', "the building 'a' has something else than 0 and 1"), ('id,train,val,test\na,2,0,0\n', "the building 'a' has something"),
    ('', 'it cannot be read as a table'), ('id,train,val,test\na,1,0,0,0,0\nb,1\n', 'it cannot be read|something else|more fields'),
    ('id,train,val,test\na,1,0,0,1\n', 'its rows have more fields than its first line'), ('id,train,val,test\na,1,0,0,0\n', 'its rows have more fields')])
def test_wrong_splits(toy, text, why):
    (toy/'splits.csv').write_text(text)
    for call in (lambda: read_splits(toy/'splits.csv'), lambda: TaskonomyDataset(toy, 'train')):
        message = says(call)
        assert message.startswith(f'{toy}/splits.csv: ') and any(w in message for w in why.split('|'))

def test_spaces_in_splits(toy):
    (toy/'splits.csv').write_text('id , train, val , test\nihlen ,1,0,0\n mcdade, 0, 1, 0\n')
    assert read_splits(toy/'splits.csv') == dict(train=['ihlen'], val=['mcdade'], test=[])

def test_buildings_called_like_numbers(tmp_path):
    make(tmp_path, ['007', 'NA'])
    (tmp_path/'splits.csv').write_text('id,train,val,test\n007,1,0,0\nNA,0,0,1\n')
    (tmp_path/'out.csv').write_text('building,point,view\n007,2,1\nNA,2,1\n')
    for split, building in (('train', '007'), ('test', 'NA')):
        ds = TaskonomyDataset(tmp_path, split, leave_out=tmp_path/'out.csv')
        assert list(ds.views.index) == [(building, 0, 0), (building, 10, 0)]

def test_buildings_by_name(toy):
    assert list(TaskonomyDataset(toy, ('mcdade',)).views.index.unique('building')) == ['mcdade']
    assert len(TaskonomyDataset(toy, None)) == 6
    assert says(TaskonomyDataset, toy, ['mcdade', 'hanson']) == f"{toy}: there is no view of the building 'hanson'"
    assert says(TaskonomyDataset, toy, []) == 'no building is named'
    assert says(TaskonomyDataset, toy, ['mcdade']*2) == "the building 'mcdade' is named twice"
    assert says(TaskonomyDataset, toy, 'mcdade').startswith("there is no split 'mcdade'")


# --- items

def test_shapes_and_types(toy):
    rgb, targets, masks = TaskonomyDataset(toy, 'test')[0]
    assert rgb.shape == (3, 4, 4) and rgb.dtype == torch.float32 and 0 <= rgb.min() and rgb.max() <= 1
    assert list(targets) == list(masks) == [*'SDNKE']
    assert {k: (tuple(t.shape), t.dtype) for k, t in targets.items()} == dict(
        S=((4, 4), torch.int64), D=((1, 4, 4), torch.float32), N=((3, 4, 4), torch.float32), K=((1, 4, 4), torch.float32), E=((1, 4, 4), torch.float32))
    for k, m in masks.items():
        assert m.dtype == torch.bool and m.shape == ((4, 4) if k == 'S' else (1, 4, 4))
        assert (targets[k].masked_select(~m) == 0).all()

@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(-6, 5), min_size=1, max_size=8), st.sampled_from([None, 2, 3, (4, 4), 8]))
def test_a_batch_is_its_items(toy, indices, size):
    ds = TaskonomyDataset(toy, 'test', size=size)
    items = [ds[i] for i in indices]
    stacked = torch.utils.data.default_collate(items)
    for batch in (ds.batch(indices), ds[indices], ds[np.array(indices)], ds[torch.tensor(indices)], torch.utils.data.default_collate(ds.__getitems__(indices))):
        assert same(batch, stacked)
    for i in indices: assert same(ds[i], ds[i % 6])

def test_slices_and_ends(toy):
    ds = TaskonomyDataset(toy, 'test', 'D')
    assert same(ds[:], ds.batch(range(6))) and same(ds[4:99], ds.batch([4, 5])) and len([*ds]) == 6
    for i in (6, -7): pytest.raises(IndexError, ds.__getitem__, i)
    pytest.raises(IndexError, ds.batch, [0, 6])
    assert same(ds[np.arange(6) > 3], ds[4:]) and same(ds[range(2, 4)], ds[2:4])
    for i in ([1.5], [[0, 1.]]): pytest.raises(IndexError, ds.batch, i)
    for i in ([], slice(9, 9), np.array([], int)): assert says(ds.batch, i) == 'a batch without a view'

@pytest.mark.parametrize('workers', [0, 2])
def test_loaders(toy, workers):
    "Any way of loading gives the views in order, whatever the number of processes."
    ds = TaskonomyDataset(toy, 'test', size=2)
    batches = [*DataLoader(ds, batch_size=4, num_workers=workers)]
    assert same(batches[0], ds[:4]) and same(batches[1], ds[4:])
    by_batch = torch.utils.data.BatchSampler(torch.utils.data.SequentialSampler(ds), 4, False)
    for a, b in zip(DataLoader(ds, sampler=by_batch, batch_size=None), batches, strict=True): assert same(a, b)

def test_pickle(toy):
    ds = TaskonomyDataset(toy, 'test', 'SN', size=2)
    assert same(pickle.loads(pickle.dumps(ds))[:], ds[:])

def test_resized(toy):
    ds = TaskonomyDataset(toy, 'test', size=2)
    for i, key in enumerate(ds.views.index):
        for t in (RGB, *TASKONOMY): assert np.array_equal(ds.counts(i, t), resize(counts_of(t, *key), t, 2))
    assert np.array_equal(ds.counts(0, 'D'), ds.counts(0, D)) and np.array_equal(ds.counts(0, 'normal'), ds.counts(-6, 'N'))
    assert says(ds.counts, 0, 'X') == "task 'X': it is not one of rgb, S, D, N, K, E"

def test_another_reader(toy):
    "What the cache does: counts from elsewhere, asked for only where there is a label."
    file_of(toy, D, 'ihlen', 2, 1).unlink()
    ds, asked = TaskonomyDataset(toy, 'test', 'DS', require='any'), []
    expected, files = ds[:], ds.reader
    def reader(indices, task):
        asked.append((task.name, [int(i) for i in indices]))
        return files(indices, task)
    ds.reader = reader
    assert same(ds[:], expected)
    assert asked == [('rgb', [*range(6)]), ('segment_semantic', [*range(6)]), ('depth_zbuffer', [0, 2, 3, 4, 5])]
    assert isinstance(files, FileReader)

@pytest.mark.parametrize('seg', [Task('seg', kind='classes', channels=5), Task('seg', kind='classes', channels=5, invalid=255),
                                 Task('heat', bits=16, scale=.01, zero=100, unit='K', invalid=0)], ids=str)
@layouts
@pytest.mark.parametrize('end', ['_domain_{}', ''])
def test_tasks_of_ones_own(tmp_path, seg, layout, end):
    make(tmp_path, ['hut'], tasks=(RGB, seg), layout=layout, end=end)
    ds = TaskonomyDataset(tmp_path, ['hut'], seg)
    assert [*ds[0][1]] == [seg.name] and holds(ds)
    make(tmp_path, ['hut'], tasks=(D,), layout=layout, end=end)
    ds = TaskonomyDataset(tmp_path, ['hut'], [seg, 'D'])
    assert [*ds[0][1]] == ['D', seg.name] and holds(ds)

@pytest.mark.parametrize('task', [Task('scene', kind='number'), Task('room', kind='classes', channels=9, per_image=True)])
def test_tasks_without_images(toy, task):
    assert says(TaskonomyDataset, toy, 'test', [D, task]) == f'task {task.name!r}: it has one label an image, and this data set reads labels at every pixel'

@pytest.mark.parametrize('kwargs, why', [(dict(size=0), 'the size 0 is neither'), (dict(size=(4,)), 'the size'), (dict(size=2.5), 'the size 2.5'), (dict(size='64'), 'the size'),
                                         (dict(require='some'), "require is 'some'"), (dict(tasks='X'), "task 'X'"), (dict(tasks=[]), 'no task')])
def test_wrong_arguments(toy, kwargs, why): assert why in says(TaskonomyDataset, toy, 'test', **kwargs)

def test_unfinished(toy):
    (toy/'UNFINISHED').write_text('rendering stopped; start it again\n')
    assert says(TaskonomyDataset, toy, 'test') == f'{toy}: rendering stopped; start it again'
    (toy/'UNFINISHED').write_bytes(b'stopped \xff')
    assert says(TaskonomyDataset, toy, 'test') == f'{toy}: stopped \ufffd'


# --- what is missing or broken

@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lost=st.sets(st.tuples(st.sampled_from([RGB, S, D, N]), st.integers(0, 5)), max_size=10), out=st.sets(st.integers(0, 5), max_size=3), require=st.sampled_from(['all', 'any']))
def test_every_view_is_accounted_for(tmp_path_factory, lost, out, require):
    root = make(tmp_path_factory.mktemp('lost'), tasks=(RGB, S, D, N), side=2)
    keys = list(find_views(root).index)
    for t, i in lost: file_of(root, t, *keys[i]).unlink()
    pd.DataFrame([keys[i] for i in out], columns=['building', 'point', 'view']).assign(problem='x').to_csv(root/'out.csv', index=False)
    has  = {t: [(t, i) not in lost for i in range(6)] for t in (RGB, S, D, N)}
    good = [has[RGB][i] and (all if require == 'all' else any)(has[t][i] for t in (S, D, N)) for i in range(6)]
    there = [any(has[t][i] for t in has) for i in range(6)]
    used = [k for i, k in enumerate(keys) if good[i] and i not in out]
    make_it = lambda: TaskonomyDataset(root, None, 'SDN', require=require, leave_out=root/'out.csv')
    if not used: assert says(make_it).startswith(f'{root}: '); return
    ds = make_it()
    assert list(ds.views.index) == used
    assert dict(ds.missing) == {t.name: sum(there) - sum(has[t]) for t in has}
    count = ds.report()['count']
    assert count['views found'] == sum(there) == count['views dropped for that'] + count['views on the list to leave out'] + count['views used']
    for t in has: assert count[f'views without {t.name}'] == ds.missing[t.name]
    rgb, targets, masks = ds[:]
    for n, key in enumerate(used):
        for t in (S, D, N):
            if has[t][keys.index(key)]: assert np.array_equal(ds.counts(n, t), counts_of(t, *key, 2))
            else: assert not masks[t.key][n].any() and not targets[t.key][n].any() and ds.counts(n, t) is None

def test_the_report_names_some(toy):
    for v in ((0, 0), (2, 1)): file_of(toy, N, 'ihlen', *v).unlink()
    report = TaskonomyDataset(toy, 'test').report()
    assert report.loc['buildings absent'].tolist() == [2, 'muleshoe, noxapater']
    assert report.loc['views without normal'].tolist() == [2, 'ihlen point 0 view 0, ihlen point 2 view 1']
    assert report.loc['buildings asked for', 'count'] == 4 and report.loc['views used', 'count'] == 4

def test_no_view_is_left(toy):
    for b in ('ihlen', 'mcdade'): shutil.rmtree(toy/'rgb'/b)
    assert says(TaskonomyDataset, toy, 'test').startswith(f"{toy}: no view of the split 'test' is left: 4 buildings asked for, 2 buildings absent, 6 views found, 6 views without rgb")

@pytest.mark.parametrize('text, why', [('point,view\n1,2\n', 'no column building'), ('building,point,view\na,x,1\n', 'is not a whole number'), ('building,point,view\na,1,1.5\n', 'is not a whole number'), ('', 'cannot be read as a table'),
    ('building,point,view\nihlen,2,1,0\n', 'its rows have more fields than its first line'), (f'building,point,view\na,{9**30},1\n', 'is not a whole number')])
def test_wrong_lists(toy, text, why):
    (toy/'out.csv').write_text(text)
    assert says(TaskonomyDataset, toy, 'test', leave_out=toy/'out.csv').startswith(f'{toy}/out.csv: ')
    assert why in says(TaskonomyDataset, toy, 'test', leave_out=toy/'out.csv')
    assert 'lost.csv: ' in says(TaskonomyDataset, toy, 'test', leave_out=toy/'lost.csv')

def test_a_list_with_spaces(toy):
    (toy/'out.csv').write_text('building, point, view\n ihlen, 2, 1\n')
    assert len(TaskonomyDataset(toy, 'test', leave_out=toy/'out.csv')) == 5

def test_an_empty_list(toy):
    (toy/'out.csv').write_text('building,point,view\n')
    assert len(TaskonomyDataset(toy, 'test', leave_out=toy/'out.csv')) == 6

@pytest.mark.parametrize('task', [RGB, S, D, N, E], ids=lambda t: t.name)
@pytest.mark.parametrize('damage', ['cut', 'empty', 'changed', 'gone', 'other size'])
def test_a_broken_file_is_named_when_it_is_asked_for(toy, task, damage):
    ds, path = TaskonomyDataset(toy, 'test', size=2), file_of(toy, task, 'ihlen', 2, 1)
    expected, data = ds[0], path.read_bytes()
    if   damage == 'gone':       path.unlink()
    elif damage == 'other size': write_counts(path, counts_of(task, 'ihlen', 2, 1, 6)[:, :4].copy())
    else: path.write_bytes(dict(cut=data[:-20], empty=b'', changed=data[:50] + bytes([data[50] ^ 4]) + data[51:])[damage])
    for call in (lambda: ds[1], lambda: ds.batch([0, 1, 2]), lambda: ds.counts(1, task)): assert says(call).startswith(f'{path}: ')
    assert same(ds[0], expected)

def test_sizes_that_differ(toy):
    "With a size they are fine, and without one the file is named."
    write_counts(file_of(toy, D, 'ihlen', 2, 1), counts_of(D, 'ihlen', 2, 1, 8))
    ds = TaskonomyDataset(toy, 'test', 'D')
    assert says(lambda: ds[1]).startswith(f"{file_of(toy, D, 'ihlen', 2, 1)}: its 8 × 8 pixels are not the 4 × 4 of its image")
    assert says(lambda: ds[:2]).startswith(f"{file_of(toy, D, 'ihlen', 2, 1)}: its 8 × 8 pixels are not the 4 × 4 of {file_of(toy, D, 'ihlen', 0, 0)}")
    assert TaskonomyDataset(toy, 'test', 'D', size=4)[:][1]['D'].shape == (6, 1, 4, 4)


# --- statistics

def test_statistics(toy):
    ds = TaskonomyDataset(toy, 'test')
    statistics = ds.statistics()
    assert list(statistics.index) == [('D', 0), ('N', 0), ('N', 1), ('N', 2), ('K', 0), ('E', 0)]
    _, targets, masks = ds[:]
    for (k, c), row in statistics.iterrows():
        valid = targets[k][:, c][masks[k][:, 0]].double()
        assert row['mean'] == pytest.approx(valid.mean().item()) and row['std'] == pytest.approx(valid.std(correction=0).item())
        assert row['labelled'] == pytest.approx(masks[k].double().mean().item())
    pd.testing.assert_frame_equal(statistics, ds.statistics(batch_size=1))
    assert TaskonomyDataset(toy, 'test', 'S').statistics().empty

def test_statistics_without_a_label(toy):
    for key in find_views(toy).index: write_counts(file_of(toy, D, *key), np.full((4, 4), 65535, np.uint16))
    assert says(TaskonomyDataset(toy, 'test').statistics) == f"{toy}: no pixel of the split 'test' has a label for D"

def test_names_to_import(): assert taskonomy.find_views is find_views and taskonomy.split_buildings is split_buildings
