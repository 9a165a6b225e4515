"Whatever is broken, `its_a_match` says it in one plain sentence: a table of cases, from the data to the folder for results."
import errno, os, re, shutil
from pathlib import Path

import pandas as pd, pytest

HOW = ['--preset', 'tiny', '--model', 'small', '--tasks', 'DE', '--epochs', 1, '--processes', 1, '--scores', 'TD']

def cut_off(data):
    path = sorted((data/'depth_zbuffer').rglob('*.png'))[3]
    path.write_bytes(path.read_bytes()[:100])

def no_image(data):
    path = sorted((data/'edge_texture').rglob('*.png'))[0]
    path.write_text('a text that is no picture')

def splits(change):
    def broken(data):
        table = pd.read_csv(data/'splits.csv')
        change(table)
        table.to_csv(data/'splits.csv', index=False)
    return broken

def both(table): table.loc[0, 'test'] = 1
def no_test(table): table['test'] = 0

def empty(data):
    shutil.rmtree(data)
    data.mkdir()

DATA = {  # what is broken: how it is broken, and what is said of the folder `data`
    'a truncated PNG':              (cut_off, 'data/depth_zbuffer/house0001/point_3_view_0_domain_depth_zbuffer.png: it is cut off'),
    'a PNG that is none':           (no_image, 'data/edge_texture/house0001/point_0_view_0_domain_edge_texture.png: it is not an image'),
    'a missing modality':           (lambda data: shutil.rmtree(data/'edge_texture'), "data: no pixel of the split 'train' has a label for E", "task 'E': none of the 64 views has a label for it"),
    'no pictures':                  (lambda data: shutil.rmtree(data/'rgb'), 'data: '),
    'a building in two splits':     (splits(both), "data/splits.csv: the building 'house0001' is in two splits"),
    'no test building':             (splits(no_test), "data: there is no view of the split 'test': no building is in it"),
    'an empty folder':              (empty, "data: there is no view of the split 'train'"),
    'no folder':                    (shutil.rmtree, 'data: there is no such folder'),
}

@pytest.fixture
def data(tiny_rooms, tmp_path): return shutil.copytree(tiny_rooms, tmp_path/'data')

def one_sentence(told):
    "What was said at the end, if the command failed plainly."
    assert told.returncode == 1 and 'Traceback' not in told.stderr, told.stderr
    last = told.stderr.strip().splitlines()[-1]
    assert last.startswith('its_a_match: ')
    return last.removeprefix('its_a_match: ')

@pytest.mark.parametrize('case', DATA)
@pytest.mark.parametrize('command', [['benchmark', '--data', 'data', *HOW, '--out', 'run'], ['benchmark', '--data', 'data', *HOW, '--plan']], ids=['benchmark', 'plan'])
def test_broken_data(call, data, case, command, tmp_path):
    broken, *sentences = DATA[case]  # the last for a plan
    broken(data)
    told = call(*command)
    if '--plan' in command and told.returncode == 0: return  # a plan reads some views only
    assert one_sentence(told).replace(f'{tmp_path}/', '').startswith(sentences[-1 if '--plan' in command else 0])
    assert not [*tmp_path.glob('run/networks/*/*/network.json')]

def no_header(path): path.write_text('')
def letters(path): path.write_text('network,cost,D,E\nD,1,low,\nE,1,,.2\n')
def twice(path): path.write_text('network,cost,D,E\nD,1,.1,\nD,1,.1,\nE,1,,.2\n')
def no_cost(path): path.write_text('network,D,E\nD,.1,\nE,,.2\n')
def negative(path): path.write_text('network,cost,D,E\nD,-1,.1,\nE,1,,.2\n')
def short(path): path.write_text('network,cost,D,E\nD,1,.1\nE,1,,.2\n')
def unsolved(path): path.write_text('network,cost,D,E\nD,1,.1,\n')
def binary(path): path.write_bytes(bytes(range(256)))

LOSSES = {  # what is broken in the table of losses, and what is said
    'an empty file': (no_header, 'losses.csv: the file is empty'),
    'a word':        (letters, "losses.csv: network 'D', column 'D': 'low' is not a number"),
    'a network twice': (twice, "losses.csv: the network 'D' comes twice"),
    'no cost':       (no_cost, "losses.csv: there is no column 'cost'"),
    'a cost below 0': (negative, "losses.csv: network 'D' costs -1"),
    'a row cut off': (short, 'losses.csv: line 2 has 3 cells'),
    'a task nobody solves': (unsolved, "losses.csv: no network solves task 'E'"),
    'no text':       (binary, 'losses.csv: not a CSV file'),
    'no file':       (lambda path: None, 'losses.csv: No such file'),
}

@pytest.mark.parametrize('case', LOSSES)
def test_broken_losses(call, tmp_path, case):
    broken, sentence = LOSSES[case]
    broken(tmp_path/'losses.csv')
    assert one_sentence(call('select', 'losses.csv', '--budget', 2)).startswith(sentence)

def test_a_file_in_the_way(call, data, tmp_path):
    (tmp_path/'run').write_text('not a folder')
    assert one_sentence(call('benchmark', '--data', 'data', *HOW, '--out', 'run')).startswith('run')
    assert (tmp_path/'run').read_text() == 'not a folder'

as_root = hasattr(os, 'geteuid') and os.geteuid() == 0  # who may write into every folder but those of the kernel

@pytest.mark.skipif(os.name != 'posix' or as_root and not Path('/sys').is_dir(), reason='there is no folder that cannot be written')
def test_a_folder_that_is_read_only(call, data, tmp_path):
    (tmp_path/'run').mkdir(mode=0o500)
    out = '/sys/its_a_match' if as_root else 'run'
    assert re.search(f'{out}.*(Permission denied|Operation not permitted|Read-only file system)', one_sentence(call('benchmark', '--data', 'data', *HOW, '--out', out)))

def test_a_full_disk_and_then_room(call, data, tmp_path, monkeypatch):
    from its_a_match import checkpoints
    write, room = checkpoints.write_bytes, [30]
    def full(path, content):
        room[0] -= 1
        if room[0] < 0: raise OSError(errno.ENOSPC, 'No space left on device', str(path))
        write(path, content)
    monkeypatch.setattr(checkpoints, 'write_bytes', full)
    command = ['benchmark', '--data', 'data', *HOW, '--out', 'run']
    assert 'No space left on device' in one_sentence(call(*command))
    room[0] = 10**6
    assert call(*command).returncode == 0 and (tmp_path/'run'/'report.html').exists()
