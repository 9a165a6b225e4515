"`its_a_match export` as a user calls it."
import json

import pytest, torch

@pytest.fixture(scope='module')
def trained(call_in, tiny_rooms, tmp_path_factory):
    "A campaign on D and E: read only."
    folder = tmp_path_factory.mktemp('export')
    told = call_in(folder, 'train', tiny_rooms, '--out', 'run', '--tasks', 'DE', '--seeds', '0,1',
                   '--model', 'small', '--size', 32, '--epochs', 1, '--batch', 16, '--processes', 1)
    assert told.returncode == 0
    return folder/'run'

def test_a_predictor_is_written_and_told_about(program, trained, tmp_path):
    told = program('export', trained, '--budget', '1.5', '--out', 'it', '--device', 'cpu')
    assert (told.returncode, told.stderr) == (0, '')
    lines = told.stdout.splitlines()
    assert 'for a budget of 1.5 SNT: cost ' in lines[0] and lines[1].startswith('The networks are those of seed ') and ' for 0, ' in lines[1]
    assert lines[2].startswith('Promised ') and lines[2].endswith(' ms an image.')
    starts = [l.split('  ')[0] for l in lines]
    assert all(w in starts for w in ('D', 'E', 'predictor', 'predictor.pt2', 'part of it', 'all in one', 'single tasks'))
    assert lines[-4:-1] == ['The predictor is in it', 'import torch', "predictor = torch.export.load('it/predictor.pt2').module()"]
    found = torch.export.load(tmp_path/'it/predictor.pt2').module()(torch.rand(2, 3, 32, 32))
    assert {k: tuple(v.shape) for k, v in found.items()} == dict(D=(2, 1, 32, 32), E=(2, 1, 32, 32))

def test_json(call, trained, tmp_path):
    told = call('export', trained, '--networks', 'DE', '--seed', 1, '--out', 'it', '--device', 'cpu', '--batch', 2, '--json')
    found = json.loads(told.stdout)
    assert found['folder'] == 'it' and found['solves'] == dict(D='DE', E='DE') and found['seed'] == 1 and found['budget'] is None
    assert [r['what'] for r in found['latency']] == ['predictor', 'predictor.pt2', 'part of it', 'all in one', 'single tasks'] and {r['batch'] for r in found['latency']} == {2}
    assert json.loads((tmp_path/'it/predictor.json').read_text()) == {k: v for k, v in found.items() if k not in ('folder', 'latency')}

def test_milliseconds(call, trained):
    told = call('export', trained, '--budget', '100000ms', '--out', 'it', '--device', 'cpu')
    assert told.returncode == 0 and 'for a budget of 100000 ms' in told.stdout and 'Promised' in told.stdout and 'above the budget' not in told.stdout
    told = call('export', trained, '--budget', '0.0001ms', '--out', 'other', '--device', 'cpu')
    assert told.returncode == 1 and told.stderr.endswith(' ms\n') and 'within a budget of 0.0001; the least that works is ' in told.stderr

@pytest.mark.parametrize('options, why', [
    (('--budget', '0.2'), 'no choice of networks solves every task within a budget of 0.2; the least that works is 1 SNT'),
    (('--networks', 'D'), "task 'E': none of the networks D predicts it"), (('--networks', 'SD'), "network name 'SD': 'S' is not one of the tasks D, E"),
    (('--budget', 1, '--seed', 5), '{run}: no network is trained in it with seed 5'), (('--budget', 1, '--out', '{run}'), "{run}: this folder holds something else, 'campaign.json'; choose another one"),
    (('--budget', 1, '--device', 'abacus'), "device 'abacus': torch cannot use it")])
def test_what_cannot_be_is_said_in_a_sentence(call, trained, options, why):
    told = call('export', trained, *[str(o).format(run=trained) for o in options])
    assert told.returncode == 1 and told.stdout == '' and len(told.stderr.splitlines()) == 1
    assert told.stderr.startswith(f'its_a_match: {why.format(run=trained)}')

def test_no_such_folder(call, tmp_path):
    assert call('export', 'nowhere', '--budget', 1).stderr == 'its_a_match: nowhere: there is no such folder\n'
    assert 'so it is not the folder of a campaign' in call('export', tmp_path, '--budget', 1).stderr

@pytest.mark.parametrize('options, why', [
    ((), 'give either --budget or --networks'), (('--budget', 1, '--networks', 'D'), 'give either --budget or --networks'), (('--budget', 'cheap'), "budget 'cheap': it is not a number"),
    (('--budget', '3s'), "its unit 's' is neither SNT nor ms"), (('--budget', '-1'), 'it is not above 0'), (('--budget', 1, '--batch', 0), '--batch'), (('--budget', 1, '--objective', 'best'), '--objective')])
def test_wrong_usage(call, options, why):
    told = call('export', 'run', *options)
    assert told.returncode == 2 and why in ' '.join(told.stderr.replace('│', ' ').split())
