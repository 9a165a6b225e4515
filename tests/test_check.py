"Data sets with one fault each: the check finds it, and what is left after the quarantine can be read."
import os, shutil, subprocess, sys

import numpy as np, pandas as pd, pytest
from PIL import Image

from its_a_match.check import NOTES, PROBLEMS, check_data, quarantine, summary
from its_a_match.encoding import write_counts
from its_a_match.taskonomy import TaskonomyDataset
from its_a_match.tasks import RGB, TASKONOMY, Task

SPLITS = 'id,train,val,test\nattic,1,0,0\nbarn,0,1,0\ncellar,0,0,1\n'

def path(root, task, building='barn', point=1, layout='{task}/{building}', end='_domain_{task}'):
    spelt = end.format(task=task.replace('segment_', 'segment'))
    return root/layout.format(task=task, building=building)/f'point_{point}_view_0{spelt}.png'

def make(root, layout='{task}/{building}', views=3, side=8):
    rng = np.random.default_rng(0)
    for building in ('attic', 'barn', 'cellar'):
        for task in (RGB, *TASKONOMY):
            shape = (side, side, 3) if task.channels == 3 else (side, side)
            top = {'segment_semantic': 18, 'depth_zbuffer': 5000, 'normal': 60}.get(task.name, 2**task.bits)
            for point in range(views):
                file = path(root, task.name, building, point, layout)
                file.parent.mkdir(parents=True, exist_ok=True)
                write_counts(file, rng.integers(0, top, shape).astype(task.dtype))
    (root/'splits.csv').write_text(SPLITS)
    return root

@pytest.fixture(scope='session')
def sound(tmp_path_factory): return make(tmp_path_factory.mktemp('sound')/'data')

@pytest.fixture
def data(sound, tmp_path): return shutil.copytree(sound, tmp_path/'data')

def cut(keep): return lambda file: file.write_bytes(file.read_bytes()[:keep])

def flip(file):
    "Changes a byte of the compressed pixels."
    old = bytearray(file.read_bytes())
    old[old.index(b'IDAT') + 12] ^= 255
    file.write_bytes(old)

def folder(file): file.unlink(); file.mkdir()

def palette(file): Image.open(file).convert('L').convert('P').save(file)

def counts(value, dtype, shape=(8, 8)): return lambda file: write_counts(file, np.full(shape, value, dtype))

def noise(dtype, shape): return lambda file: write_counts(file, np.random.default_rng(1).integers(0, 200, shape).astype(dtype))

FAULTS = {
    'cut short':            ('depth_zbuffer', cut(100), 'unreadable'),
    'last bytes gone':      ('rgb', cut(-14), 'unreadable'),
    'empty':                ('normal', cut(0), 'unreadable'),
    'a web page':           ('rgb', lambda f: f.write_text('<html>404 Not Found</html>'), 'unreadable'),
    'a byte flipped':       ('edge_texture', flip, 'unreadable'),
    'a folder':             ('rgb', folder, 'unreadable'),
    'a dead link':          ('rgb', lambda f: (f.unlink(), f.symlink_to('nowhere')), 'unreadable'),
    'depth of 8 bits':      ('depth_zbuffer', noise('uint8', (8, 8)), 'wrong encoding'),
    'depth with a palette': ('depth_zbuffer', palette, 'wrong encoding'),
    'depth in colours':     ('depth_zbuffer', noise('uint8', (8, 8, 3)), 'wrong encoding'),
    'grey normals':         ('normal', noise('uint8', (8, 8)), 'wrong encoding'),
    'colours of 16 bits':   ('rgb', noise('uint16', (8, 8)), 'wrong encoding'),
    'class 18':             ('segment_semantic', counts(18, 'uint8'), 'wrong class'),
    'smaller':              ('rgb', noise('uint8', (4, 4, 3)), 'wrong size'),
    'label smaller':        ('normal', noise('uint8', (4, 4, 3)), 'wrong size'),
    'another shape':        ('normal', noise('uint8', (8, 6, 3)), 'wrong size'),
    'no depth':             ('depth_zbuffer', counts(65535, 'uint16'), 'no label'),
    'no normal':            ('normal', counts(128, 'uint8', (8, 8, 3)), 'no label'),
    'no class':             ('segment_semantic', counts(0, 'uint8'), 'no label'),
    'no file':              ('keypoints2d', os.unlink, 'missing'),
    'no image':             ('rgb', os.unlink, 'missing'),
    'twice':                ('rgb', lambda f: shutil.copy(f, f.with_name('point_1_view_0.png')), 'twice'),
    'in two spellings':     ('segment_semantic', lambda f: shutil.copy(f, f.with_name('point_1_view_0_domain_segment_semantic.png')), 'twice')}

@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_is_found_and_what_is_left_can_be_read(data, tmp_path, fault):
    task, spoil, problem = FAULTS[fault]
    spoil(path(data, task))
    table = check_data(data, processes=1)
    assert table.level.tolist() == ['wrong'] and table.problem.tolist() == [problem]
    assert tuple(table.loc[0, ['building', 'point', 'view', 'modality']]) == ('barn', 1, 0, task)
    assert problem == 'missing' or (data/table.file[0]).parent == path(data, task).parent
    assert str(tmp_path) not in table.detail[0] and len(table.detail[0].splitlines()) == 1
    quarantine(table).to_csv(tmp_path/'bad.csv', index=False)
    assert (tmp_path/'bad.csv').read_text() == 'building,point,view\nbarn,1,0\n'
    for size in (None, 4): assert len(read_all(data, size=size, leave_out=tmp_path/'bad.csv')) == 8

def read_all(root, **kwargs):
    "The views of a data set, each of which can be read by itself and with the others."
    ds = TaskonomyDataset(root, None, **kwargs)
    for i in range(len(ds)): ds[i]
    ds.batch(range(len(ds)))
    return ds

@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='root may read every file')
def test_a_file_that_may_not_be_read(data):
    path(data, 'rgb').chmod(0)
    assert check_data(data).problem.tolist() == ['unreadable']

def test_a_sound_data_set(sound, tmp_path):
    "Nothing is found, nothing is written, and an empty quarantine leaves nothing out."
    before = {p: p.stat().st_mtime_ns for p in sound.rglob('*')}
    table = check_data(sound)
    assert len(table) == 0 and table.attrs == dict(buildings=3, views=9, files=54) and len(summary(table)) == len(quarantine(table)) == 0
    assert {p: p.stat().st_mtime_ns for p in sound.rglob('*')} == before
    quarantine(table).to_csv(tmp_path/'bad.csv', index=False)
    assert len(read_all(sound, leave_out=tmp_path/'bad.csv')) == 9

@pytest.mark.parametrize('layout', ['{building}_{task}/{task}', '{building}/{task}', '{task}/taskonomy/{building}'])
def test_layouts(tmp_path, layout):
    root = make(tmp_path/'data', layout)
    assert len(check_data(root)) == 0
    path(root, 'normal', layout=layout).unlink()
    assert check_data(root)[['problem', 'building', 'point']].values.tolist() == [['missing', 'barn', 1]]

def test_two_layouts_at_once(data, tmp_path):
    "One building copied into another layout: each of its views is there twice, and the others can be read."
    make(tmp_path/'more', '{building}_{task}/{task}')
    for folder in (tmp_path/'more').glob('barn_*'): shutil.move(folder, data)
    table = check_data(data)
    assert table.problem.tolist() == ['twice']*18 and set(table.building) == {'barn'}
    quarantine(table).to_csv(tmp_path/'bad.csv', index=False)
    assert len(read_all(data, leave_out=tmp_path/'bad.csv')) == 6

def test_require(data):
    "With 'any' a label that is missing or empty is a note; a missing image is not."
    path(data, 'normal').unlink()
    FAULTS['no depth'][1](path(data, 'depth_zbuffer', point=2))
    path(data, 'rgb', 'attic').unlink()
    table = check_data(data, require='any')
    assert list(zip(table.level, table.problem)) == [('wrong', 'missing'), ('note', 'missing'), ('note', 'no label')]
    assert quarantine(table).values.tolist() == [['attic', 1, 0]]
    assert quarantine(check_data(data)).values.tolist() == [['attic', 1, 0], ['barn', 1, 0], ['barn', 2, 0]]

def test_tasks(data):
    "Only what is asked for is read; a task of one's own by its own rules, an unknown folder as images."
    cut(9)(path(data, 'normal'))
    assert check_data(data, 'SD').attrs['files'] == 27 and len(check_data(data, 'SD')) == 0
    shutil.copytree(data/'segment_semantic', data/'heat')
    for f in (data/'heat').rglob('*.png'): f.rename(f.with_name(f.name.replace('segmentsemantic', 'heat')))
    assert check_data(data).problem.tolist() == ['unreadable']
    assert set(check_data(data, [Task('heat', kind='classes', channels=4)]).problem) == {'wrong class'}
    assert check_data(data, ['D', Task('heat', kind='classes', channels=18), Task('cold')]).problem.tolist() == ['missing']

@pytest.mark.parametrize('text, problem, level', [
    (SPLITS.replace('barn,0', 'barn,1'), 'two splits', 'wrong'), (SPLITS + 'attic,0,0,1\n', 'two splits', 'wrong'),
    (SPLITS.replace('barn,0,1,0\n', ''), 'no split', 'note'), (SPLITS.replace('barn,0,1,0', 'barn,0,0,0'), 'no split', 'note'),
    (SPLITS + 'den,1,0,0\n', 'no files', 'note'), ('', 'split file', 'wrong'), ('id,train,val\n', 'split file', 'wrong'),
    (SPLITS.replace('barn,0', 'barn,x'), 'split file', 'wrong')])
def test_splits(data, text, problem, level):
    (data/'splits.csv').write_text(text)
    table = check_data(data)
    assert table.iloc[0][['level', 'problem']].tolist() == [level, problem]
    if problem != 'split file': assert len(table) == 1

def test_several_buildings_in_two_splits(data):
    (data/'splits.csv').write_text(SPLITS.replace(',0', ',1'))
    assert check_data(data).building.tolist() == ['attic', 'barn', 'cellar']

def test_splits_of_the_supplement(data):
    "Without a file of splits the loader goes by the lists of Match, and so does the check."
    (data/'splits.csv').unlink()
    assert check_data(data)[['level', 'problem']].values.tolist() == [['note', 'no split']]*3
    (data/'train_val_test_tiny.csv').write_text(SPLITS)
    assert len(check_data(data)) == 0

def test_notes(data):
    (data/'rgb/attic/Thumbs.db').touch()
    (data/'rgb/attic/.point_0_view_0_domain_rgb.png.123').touch()
    counts(7, 'uint16')(path(data, 'edge_texture'))
    for f in (data/'normal').rglob('*.png'): noise('uint8', (4, 4, 3))(f)
    table = check_data(data)
    assert table.problem.tolist() == ['one value', 'sizes differ', 'extra files'] and set(table.level) == {'note'}
    assert '2 in the folder' in table.detail[2] and len(quarantine(table)) == 0

def test_labels_of_another_shape(data):
    "All normals 8 × 6 pixels, all images 8 × 8: no size fits both."
    for f in (data/'normal').rglob('*.png'): noise('uint8', (8, 6, 3))(f)
    assert check_data(data).problem.tolist() == ['wrong shape']*9

def test_unfinished(data):
    (data/'UNFINISHED').write_text('It stopped.\n')
    table = check_data(data)
    assert table[['level', 'problem', 'detail']].values.tolist() == [['wrong', 'unfinished', 'It stopped.']]

@pytest.mark.parametrize('spoil, sentence', [
    (shutil.rmtree, 'there is no such folder'), (lambda root: [shutil.rmtree(d) for d in root.iterdir() if d.is_dir()], 'no view is in it')])
def test_nothing_to_check(data, spoil, sentence):
    spoil(data)
    with pytest.raises(ValueError, match=sentence): check_data(data)

def test_wrong_arguments(data):
    for kwargs in (dict(require='some'), dict(tasks='SX')):
        with pytest.raises(ValueError): check_data(data, **kwargs)

def test_many_processes(data, tmp_path):
    "The findings do not depend on how many processes read, and the last call of `progress` says that all is done."
    for b in ('attic', 'barn', 'cellar'):
        for p in range(3): cut(60 + p)(path(data, 'depth_zbuffer', b, p))
    told = []
    two = check_data(data, processes=2, progress=lambda *numbers: told.append(numbers))
    assert told == [(i + 1, 54) for i in range(54)]
    pd.testing.assert_frame_equal(two, check_data(data, processes=1))

def test_a_script_without_a_guard(data, tmp_path):
    "Worker processes do not run the user's script again, and do not import torch."
    (tmp_path/'mine.py').write_text(f'import sys\nfrom its_a_match.check import check_data\nprint(len(check_data({str(data)!r}, processes=2)), "torch" in sys.modules)\n')
    done = subprocess.run([sys.executable, tmp_path/'mine.py'], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ('0 False\n', '')

def test_thousands_of_findings_are_a_few_lines(data):
    path(data, 'normal').unlink()
    table = check_data(data)
    many = pd.concat([table]*5000, ignore_index=True)
    assert summary(many).findings.tolist() == [5000] and len(quarantine(many)) == 1

def test_problems_are_described(): assert set(NOTES) < set(PROBLEMS)

def test_names_of_classes(data):
    (data/'classes.csv').write_text('id,name\n1,wall\n1,floor\n')
    found = check_data(data)
    assert [*found.problem] == ['class names'] and found.level[0] == 'wrong' and found.detail[0].endswith('classes.csv: the id 1 comes twice')
