"`its_a_match affinity` as a user calls it."
import json, shutil

import pandas as pd, pytest

OWN = '''
import numpy as np
from its_a_match.affinity import pairwise, score

@score('MINE', 'Always a third', needs='nothing', symmetric=True, range=(0, 1))
def mine(tasks, value=1/3):
    return pairwise(np.full((len(tasks),)*2, value), [t.key for t in tasks])
'''

@pytest.fixture(scope='module')
def trained(call_in, tiny_rooms, tmp_path_factory):
    "A campaign on D and E: read only."
    folder = tmp_path_factory.mktemp('affinity')
    told = call_in(folder, 'train', tiny_rooms, '--out', 'run', '--tasks', 'DE', '--model', 'small', '--epochs', 1, '--batch', 16, '--processes', 1)
    assert told.returncode == 0 and told.stdout.splitlines()[-1] == '  its_a_match affinity run'
    return folder/'run'

@pytest.fixture
def copied(trained, tmp_path): return shutil.copytree(trained, tmp_path/'run')

def test_tables_are_printed_and_saved_and_what_is_lacking_is_named(program, copied, tmp_path):
    told = program('affinity', 'run')
    assert told.returncode == 0, told.stderr
    heads = [l for l in told.stdout.splitlines() if l.startswith(('TD:', 'IAS:', 'RSA:', 'CKA:', 'GS:', 'GT:', 'LI:', 'TA:'))]
    assert [h.split(':')[0] for h in heads] == ['TD', 'IAS', 'RSA', 'CKA', 'TA', 'GS', 'GT']
    assert 'LI lacks 2 networks: D<E, E<D' in told.stdout and '  its_a_match affinity run --train' in told.stdout
    assert {p.stem for p in (copied/'affinity'/'seed-0').iterdir()} == {'TD', 'IAS', 'RSA', 'CKA', 'TA', 'GS', 'GT', 'costs'}
    assert pd.read_csv(copied/'affinity'/'seed-0'/'TD.csv', index_col=0).loc['D', 'E'] == -10

def test_train_makes_what_is_lacking(call, copied):
    told = call('affinity', 'run', '--train', '--processes', 1)
    assert told.returncode == 0 and 'LI: Label injection' in told.stdout and 'lacks' not in told.stdout
    assert (copied/'affinity'/'seed-0'/'LI.csv').exists() and (copied/'networks'/'D<E').exists()

def test_json(call, copied):
    told = call('affinity', 'run', '--scores', 'RSA,TD', '--json')
    found = json.loads(told.stdout)
    assert found['tables']['0']['TD'] == {'D': {'E': -10}, 'E': {'D': -10}} and list(found['tables']['0']) == ['RSA', 'TD'] and found['lacking'] == {}
    assert [c['score'] for c in found['costs']] == ['RSA', 'TD']

def test_a_score_that_was_asked_for_and_lacks_something(call, copied):
    told = call('affinity', 'run', '--scores', 'RSA,LI')
    assert told.returncode == 1 and 'RSA: Representation' in told.stdout and told.stderr.splitlines()[-1] == 'its_a_match: LI lacks 2 networks: D<E, E<D (seed 0)'
    assert "  its_a_match affinity run --scores RSA,LI --train" in told.stdout

def test_a_score_of_one_s_own(program, copied, tmp_path):
    (tmp_path/'mine.py').write_text(OWN)
    told = program('affinity', 'run', '--own', 'mine.py', '--scores', 'MINE')
    assert told.returncode == 0 and 'MINE: Always a third' in told.stdout and '0.333' in told.stdout
    (tmp_path/'broken.py').write_text('1/0')
    told = program('affinity', 'run', '--own', 'broken.py')
    assert told.returncode == 1 and told.stderr == 'its_a_match: broken.py: it does not run (ZeroDivisionError: division by zero)\n'
    assert program('affinity', 'run', '--own', 'none.py').stderr.endswith('none.py: No such file or directory\n')

def test_options(call, copied):
    args = 'affinity', 'run', '--scores', 'IAS,RSA', '--images', 5, '--layer', 'encoder.layers.0', '--attribution', 'Saliency', '--precision', 'bf16', '--seeds', 0
    assert call(*args).returncode == 0
    held = pd.read_csv(copied/'affinity'/'seed-0'/'costs.csv').set_index('score')
    assert json.loads(held.loc['RSA', 'options']) == dict(images=5, layer='encoder.layers.0', precision='bf16')
    assert json.loads(held.loc['IAS', 'options']) == dict(images=5, attribution='Saliency', precision='bf16') and held.loc['IAS', 'forward'] == 10

def test_joint_networks_by_choice(call, copied):
    told = call('affinity', 'run', '--joint', 'all')
    assert told.returncode == 0 and 'IAS: ' in told.stdout and 'GS: ' in told.stdout
    held = pd.read_csv(copied/'affinity'/'seed-0'/'costs.csv').set_index('score')
    assert json.loads(held.loc['GS', 'options']) == dict(joint='all') and held.loc['IAS', 'options'] == '{}'

@pytest.mark.parametrize('option', [('--images', 100000), ('--layer', 'nosuch'), ('--attribution', 'Magic')])
def test_an_option_that_cannot_be_fails(call, copied, option):
    told = call('affinity', 'run', *option)
    assert told.returncode == 1 and 'TD: ' in told.stdout and str(option[1]) in told.stderr.splitlines()[-1]

@pytest.mark.parametrize('args, status, why', [
    (('nowhere',), 1, 'nowhere: there is no campaign.json in it'), (('run', '--scores', 'ABC'), 1, "score 'ABC': it is none of TD"),
    (('run', '--scores', 'RSA', '--layer', 'encoder.99'), 1, 'encoder.99'), (('run', '--scores', 'IAS', '--attribution', 'Guess'), 1, 'Guess'),
    (('run', '--scores', 'RSA', '--images', 100000), 1, '100000 images are wanted'), (('run', '--seeds', 'a'), 2, "'a' is not a list of numbers"), (('run', '--seeds', ''), 2, "'' is not a list of numbers"),
    (('run', '--joint', 'some'), 2, 'some'), (('run', '--scores', 'RSA', '--data', 'nowhere'), 1, 'nowhere'), ((), 2, 'Missing argument')])
def test_bad_input(call, copied, args, status, why):
    told = call('affinity', *args)
    assert told.returncode == status and why in told.stderr and 'Traceback' not in told.stderr

def test_data_that_was_moved(call, copied, tiny_rooms, tmp_path):
    noted = json.loads((copied/'data.json').read_text())
    assert noted['root'] == str(tiny_rooms)
    (copied/'data.json').write_text(json.dumps(noted | dict(root=str(tmp_path/'gone'))))
    told = call('affinity', 'run', '--scores', 'RSA')
    assert told.returncode == 1 and f'its data was in {tmp_path/"gone"}, which is not there' in told.stderr
    assert call('affinity', 'run', '--scores', 'RSA', '--data', tiny_rooms).returncode == 0

def test_without_gradients(call, tiny_rooms, tmp_path):
    quick = '--tasks', 'DE', '--model', 'small', '--epochs', 1, '--batch', 16, '--processes', 1
    assert call('train', tiny_rooms, '--out', 'bare', *quick, '--no-gradients').returncode == 0
    told = call('affinity', 'bare', '--scores', 'GS')
    assert told.returncode == 1 and 'GS lacks 1 network, trained while gradients are measured: DE' in told.stderr
    assert call('affinity', 'bare', '--scores', 'GS', '--train', '--processes', 1).returncode == 0
    assert (tmp_path/'bare'/'gradients'/'networks'/'DE'/'seed-0'/'gradients.csv').exists()
