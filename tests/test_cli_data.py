"The commands that make, check and show data, as a user calls them."
import os, pty, subprocess, sys
from pathlib import Path

import numpy as np, pandas as pd, pytest
from PIL import Image

from its_a_match.encoding import write_counts
from its_a_match.rooms import PRESETS
from its_a_match.taskonomy import TaskonomyDataset

def path(root, task, building='barn', point=1): return root/task/building/f'point_{point}_view_0_domain_{task}.png'

@pytest.fixture
def data(tmp_path):
    "Two buildings with three views, of an image and a depth map each."
    rng = np.random.default_rng(0)
    for building in ('attic', 'barn'):
        for task, top, shape, dtype in (('rgb', 256, (8, 8, 3), 'uint8'), ('depth_zbuffer', 5000, (8, 8), 'uint16')):
            (tmp_path/'data'/task/building).mkdir(parents=True)
            for point in range(3): write_counts(path(tmp_path/'data', task, building, point), rng.integers(0, top, shape).astype(dtype))
    (tmp_path/'data/splits.csv').write_text('id,train,val,test\nattic,1,0,0\nbarn,0,1,0\n')
    return tmp_path/'data'

def files(folder): return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob('*')}

# check

def test_a_sound_data_set(call, data, tmp_path):
    told = call('check', 'data')
    assert (told.returncode, told.stderr) == (0, '')
    assert 'data (buildings: 2, views: 6, files: 12)' in told.stdout and 'Nothing is wrong' in told.stdout and 'data_check.csv' in told.stdout
    assert len(pd.read_csv(tmp_path/'data_check.csv')) == 0

def test_something_wrong(program, data, tmp_path):
    "A table, a CSV file, a list for the loader and status 1."
    path(data, 'rgb').write_bytes(path(data, 'rgb').read_bytes()[:99])
    path(data, 'depth_zbuffer', point=2).unlink()
    (data/'rgb/barn/notes.txt').touch()
    before = files(data)
    told = program('check', 'data', '--quarantine', 'bad.csv', '--processes', 2)
    assert (told.returncode, told.stderr) == (1, '') and files(data) == before
    lines = [' '.join(l.split()) for l in told.stdout.splitlines()]
    assert 'level problem modality findings example' in lines
    assert 'wrong unreadable rgb 1 rgb/barn/point_1_view_0_domain_rgb.png: it is cut off' in lines
    assert '2 wrong, 1 to note; each finding is in data_check.csv' in lines
    assert pd.read_csv(tmp_path/'data_check.csv').problem.tolist() == ['unreadable', 'missing', 'extra files']
    assert (tmp_path/'bad.csv').read_text() == 'building,point,view\nbarn,1,0\nbarn,2,0\n'
    rest = TaskonomyDataset(data, None, 'D', leave_out=tmp_path/'bad.csv')
    assert len(rest.batch(range(len(rest)))[0]) == 4
    drawn = program('show', 'data', '--leave-out', 'bad.csv', '--out', 'grid.png')
    assert (drawn.returncode, drawn.stderr) == (0, '') and (tmp_path/'grid.png').exists()

def test_thousands_of_findings_are_a_few_lines(call, tmp_path):
    rgb = tmp_path/'data/rgb/attic'
    rgb.mkdir(parents=True)
    for i in range(2000): (rgb/f'point_{i}_view_0_domain_rgb.png').touch()
    told = call('check', 'data')
    assert told.returncode == 1 and len(told.stdout.splitlines()) < 12 and '2000' in told.stdout
    assert len(pd.read_csv(tmp_path/'data_check.csv')) == 2001

def test_what_no_quarantine_mends(call, data, tmp_path):
    (data/'splits.csv').write_text('id,train,val,test\nattic,1,1,0\nbarn,0,1,0\n')
    (data/'UNFINISHED').write_text('It stopped.')
    told = call('check', 'data', '--quarantine', 'bad.csv')
    assert told.returncode == 1 and 'Leaving views out does not mend: unfinished, two splits' in told.stdout
    assert (tmp_path/'bad.csv').read_text() == 'building,point,view\n'

def test_options(call, data, tmp_path):
    path(data, 'depth_zbuffer').unlink()
    assert call('check', 'data').returncode == 1
    assert call('check', 'data', '--require', 'any').returncode == 0
    assert call('check', 'data', '--tasks', 'S').returncode == 1
    assert call('check', 'data', '--csv', 'found.csv').returncode == 1 and (tmp_path/'found.csv').exists()

def test_names_with_spaces(call, data):
    assert call('label', 'data', '--tasks', 'edge_texture, keypoints2d').stdout == '12 label files were written into data\n'

@pytest.mark.skipif(not Path('/dev/full').exists(), reason='it takes the device that is always full')
@pytest.mark.parametrize('option', ['--csv', '--quarantine'])
def test_a_full_disk_is_named(call, data, option):
    told = call('check', 'data', option, '/dev/full')
    assert (told.returncode, told.stderr) == (1, 'its_a_match: /dev/full: No space left on device\n')

def test_from_inside_the_data_set(call, data, tmp_path):
    before = files(data)
    told = call('check', '.', cwd=data)
    assert told.returncode == 0 and str(tmp_path/'data_check.csv') in told.stdout
    assert (tmp_path/'data_check.csv').exists() and files(data) == before

# show and label

def test_show(call, data, tmp_path):
    before = files(data)
    told = call('show', 'data', '--views', 2, '--split', 'train', '--out', 'grid.png')
    assert told.returncode == 0 and told.stdout == 'The picture is grid.png\n' and files(data) == before
    Image.open(tmp_path/'grid.png').verify()
    assert call('show', 'data').stdout == 'The picture is data_views.png\n'

def test_label(call, data):
    told = call('label', 'data')
    assert told.returncode == 0 and told.stdout == '12 label files were written into data\n'
    assert call('label', 'data').stdout.startswith('0 ')
    path(data, 'keypoints2d').unlink()
    assert call('label', 'data', '--tasks', 'edge_texture').stdout.startswith('0 ')
    assert call('label', 'data', '--tasks', 'keypoints2d').stdout.startswith('1 ')
    assert call('check', 'data').returncode == 0

# render

def test_render_check_show(program):
    pytest.importorskip('mitsuba')
    told = program('render', '--preset', 'tiny', '--size', 16, '--buildings', 3, '--out', 'rooms')
    assert (told.returncode, told.stderr) == (0, '')
    lines = told.stdout.splitlines()
    assert lines[0] == 'Rooms lie in rooms' and '16 pixels a side' in lines[1] and len(lines[2].split()[1]) == 64
    assert [l.strip() for l in lines[4:]] == ['its_a_match show rooms', 'its_a_match check rooms']
    for l in lines[4:]: assert program(*l.split()[1:]).returncode == 0
    assert program('render', '--preset', 'tiny', '--size', 16, '--buildings', 3, '--out', 'rooms').stdout == told.stdout
    assert program('render', '--preset', 'tiny', '--size', 32, '--buildings', 3, '--out', 'rooms').returncode == 1

def test_presets_are_as_the_help_says(call):
    told = ' '.join(call('render', '--help').stdout.split())
    assert ' '.join(PRESETS) == 'tiny quick large'
    assert all(f'{p.buildings*p.views:,} ' in told and f'of {p.size}' in told for p in PRESETS.values())

def test_without_mitsuba(program, tmp_path):
    (tmp_path/'sitecustomize.py').write_text('''
import importlib.metadata as m, sys
def version(name, old=m.version):
    if name == 'mitsuba': raise m.PackageNotFoundError(name)
    return old(name)
m.version, sys.modules['mitsuba'] = version, None
''')
    told = program('render', '--preset', 'tiny', '--out', 'rooms', PYTHONPATH=str(tmp_path))
    assert told.returncode == 1 and told.stdout == ''
    assert told.stderr.count('\n') == 1 and "pip install 'its_a_match[render]'" in told.stderr and not (tmp_path/'rooms/rgb').exists()

# all

@pytest.mark.parametrize('args', [
    ('check',), ('check', 'data', '--tasks', 'XY'), ('check', 'data', '--csv', 'data/a.csv'), ('check', 'data', '--quarantine', 'data/a.csv'),
    ('check', 'data', '--csv', 'nowhere/a.csv'), ('check', 'data', '--processes', 0), ('check', 'data', '--csv', '.'),
    ('check', 'data', '--csv', 'a.csv', '--quarantine', './a.csv'), ('check', 'data', '--quarantine', 'data_check.csv'), ('show', 'data', '--out', '.'), ('check', 'data', '--require', 'some'),
    ('show', 'data', '--views', 0), ('show', 'data', '--out', 'data/a.png'), ('render', '--preset', 'huge'), ('render', '--size', 8),
    ('render', '--buildings', 2), ('render', '--seed', -1)])
def test_wrong_usage_is_status_2(call, data, args):
    before = files(data)
    told = call(*args)
    assert told.returncode == 2 and told.stderr and 'Traceback' not in told.stderr and files(data) == before

@pytest.mark.parametrize('args, sentence', [
    (('check', 'nowhere'), 'nowhere: there is no such folder'), (('check', 'data/rgb'), 'no view is in it'), (('show', 'nowhere'), 'nowhere'),
    (('show', 'data', '--split', 'tset'), 'tset'), (('show', 'data', '--out', 'a.txt'), 'a.txt'), (('label', 'nowhere'), 'nowhere'),
    (('label', 'data', '--tasks', 'normal'), 'normal'), (('render', '--preset', 'tiny', '--out', 'data'), 'data')])
def test_a_failure_is_one_sentence_and_status_1(call, data, args, sentence):
    told = call(*args)
    assert (told.returncode, told.stdout) == (1, '')
    assert told.stderr.startswith('its_a_match: ') and sentence in told.stderr and told.stderr.count('\n') == 1

def test_help_starts_quickly():
    "What is slow to import is imported by the command that needs it."
    heavy = "{'torch', 'mitsuba', 'matplotlib', 'skimage', 'PIL', 'papermill'} & set(sys.modules)"
    done = subprocess.run([sys.executable, '-c', f'import sys, its_a_match.cli; print({heavy})'], capture_output=True, text=True)
    assert done.stdout == 'set()\n'

def test_progress_is_for_terminals(program, data):
    "A bar on standard error, where that is a terminal, and nothing but the result on standard output."
    master, slave = pty.openpty()
    done = program('check', 'data', stderr=slave)
    os.close(slave)
    assert b'12/12' in os.read(master, 1 << 16) and done.stdout.startswith('data (')
    os.close(master)

def test_stopped_by_hand(tmp_path, monkeypatch, capsys):
    "Ctrl-C while rendering says that the same command goes on."
    def stop(*args): raise KeyboardInterrupt
    monkeypatch.setattr('its_a_match.rooms.render_rooms', stop)
    from its_a_match.cli import render
    with pytest.raises(KeyboardInterrupt): render(out=tmp_path/'rooms')
    assert capsys.readouterr().err == 'its_a_match: stopped; the same command goes on\n'
