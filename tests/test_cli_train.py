"`its_a_match train` as a user calls it."
import json, os, re, subprocess, sys
from pathlib import Path

import pandas as pd, pytest

from its_a_match.candidates import read_candidates

QUICK = '--model', 'small', '--epochs', 1, '--batch', 16, '--processes', 1

# the plan

def names(told): return told.stdout.splitlines()[0].split()

def test_the_default_benchmark(call):
    told = call('train', 'nowhere', '--plan')
    assert told.returncode == 0 and told.stderr == '' and told.stdout.splitlines()[1] == '15 networks'
    assert names(told) == 'S D N K E SD SN SK SE DN DK DE NK NE KE'.split()

@pytest.mark.parametrize('options, wanted', [
    (('--tasks', 'DE'), 'D E DE'), (('--tasks', 'normal,depth_zbuffer', '--orders', 2), 'DN'), (('--tasks', 'SD', '--orders', 1, '--sizes', '1,0.5'), 'S D S½ D½'),
    (('--tasks', 'SD', '--orders', 1, '--injections'), 'S D S<D D<S'), (('--tasks', 'SDN', '--orders', 3, '--balancing', 'mgda'), 'SDN+mgda'),
    (('--networks', 'SDN S½ S@.3 E<K SDNKE@2+gradnorm'), 'SDN S½ S@0.3 E<K SDNKE@2+gradnorm')])
def test_plans(call, options, wanted):
    shown = ' '.join(names(call('train', 'nowhere', '--plan', *options)))
    assert shown.replace('@1+', '+') == wanted

def test_a_plan_with_seeds(call):
    assert call('train', 'nowhere', '--plan', '--seeds', '0,3').stdout.splitlines()[1] == '15 networks for each of the seeds 0, 3, 30 in all'
    plan = json.loads(call('train', 'nowhere', '--plan', '--networks', 'SD', '--seeds', '0,3', '--json').stdout)
    assert [(p['network'], p['seed'], p['tasks']) for p in plan] == [('SD', 0, ['S', 'D']), ('SD', 3, ['S', 'D'])]

# training

def test_train_and_select(program, tiny_rooms, tmp_path):
    "The losses, the tables, the command that selects from them; and the same again has nothing to train."
    args = 'train', tiny_rooms, '--out', 'a run', '--tasks', 'DE', '--seeds', '0,1', *QUICK
    told = program(*args)
    assert told.returncode == 0, told.stderr
    assert len(told.stderr.splitlines()) == 6 and all(' done after epoch 1' in l for l in told.stderr.splitlines())
    lines = told.stdout.splitlines()
    assert [l.split()[:3] for l in lines[2:8]] == [[n, s, '1'] for s in '01' for n in ('D', 'E', 'DE')]
    assert '6 networks: 6 done' in lines and f"The tables are in {Path('a run')/'candidates'}" in lines
    table = read_candidates(tmp_path/'a run/candidates/test-1.csv')
    assert float(lines[7].split()[-1]) == pytest.approx(table.E['DE'], rel=1e-4)
    import shlex
    assert lines[-1] == "  its_a_match affinity 'a run'"
    chosen = program(*shlex.split(lines[-2])[1:])
    assert chosen.returncode == 0 and 'solver:' in chosen.stdout
    again = program(*args)
    assert (again.returncode, again.stdout, again.stderr) == (0, told.stdout, '')

def test_options_reach_the_networks(call, tiny_rooms, tmp_path):
    told = call('train', tiny_rooms, '--out', 'run', '--networks', 'D@0.5 D<E', '--model', 'small', '--recipe', 'paper', '--epochs', 2, '--batch', 8, '--size', 32,
                '--keep', '0.5', '--precision', 'bf16', '--device', 'cpu', '--processes', 1, '--json')
    assert told.returncode == 0
    about = json.loads((tmp_path/'run/campaign.json').read_text())
    recipe = about['recipe']
    assert (about['model'], about['keep'], recipe['name'], recipe['epochs'], recipe['batch'], recipe['precision']) == ('small', [.5], 'paper', 2, 8, 'bf16')
    assert about['data']['train']['shape'] == [3, 32, 32]
    results = json.loads(told.stdout)
    assert [(r['network'], r['cost'], r['status'], r['reason']) for r in results] == [('D@0.5', .5, 'done', None), ('D<E', 1, 'done', None)]
    assert set(results[0]['losses']) == {'val', 'test'} and list(results[0]['losses']['test']) == ['D']

def test_views_are_left_out(call, tiny_rooms, tmp_path):
    views = sorted((tiny_rooms/'rgb').rglob('*.png'))
    rows = [(p.parent.name, *re.search(r'point_(\d+)_view_(\d+)', p.name).groups()) for p in views[::2]]
    pd.DataFrame(rows, columns=['building', 'point', 'view']).to_csv(tmp_path/'bad.csv', index=False)
    assert call('train', tiny_rooms, '--out', 'run', '--networks', 'D', '--leave-out', 'bad.csv', *QUICK).returncode == 0
    data = json.loads((tmp_path/'run/campaign.json').read_text())['data']
    assert sum(d['views'] for d in data.values()) == len(views)//2

def test_two_processes(call, tiny_rooms, tmp_path):
    told = call('train', tiny_rooms, '--out', 'run', '--tasks', 'D', '--orders', 1, '--seeds', '0,1', *QUICK, '--processes', 2)
    assert told.returncode == 0 and '2 networks: 2 done' in told.stdout

# failures

def test_a_network_that_fails(call, tiny_rooms, tmp_path, monkeypatch):
    "The others are trained, their losses shown; status 1 and its name."
    import its_a_match.assignment as assignment
    sound = assignment.get_model
    def fragile(model, tasks, **how):
        if [t.key for t in tasks] == ['E']: raise ValueError('E is beyond me')
        return sound(model, tasks, **how)
    monkeypatch.setattr(assignment, 'get_model', fragile)
    args = 'train', tiny_rooms, '--out', 'run', '--tasks', 'DE', '--orders', 1, *QUICK
    told = call(*args)
    assert told.returncode == 1 and '2 networks: 1 done, 1 failed' in told.stdout and 'its_a_match select' not in told.stdout
    assert 'E (seed 0) failed: E is beyond me' in told.stderr
    assert told.stderr.splitlines()[-1] == 'its_a_match: 1 of 2 networks failed, E (seed 0) the first; the same command tries again'
    monkeypatch.setattr(assignment, 'get_model', sound)
    told = call(*args)
    assert told.returncode == 0 and '2 networks: 2 done' in told.stdout and 'its_a_match select' in told.stdout

def test_another_recipe_is_refused(call, tiny_rooms):
    args = 'train', tiny_rooms, '--out', 'run', '--networks', 'D', *QUICK
    assert call(*args).returncode == 0
    told = call(*args, '--recipe', 'paper')
    assert (told.returncode, told.stdout) == (1, '') and told.stderr.count('\n') == 1 and 'run: ' in told.stderr and 'recipe' in told.stderr

@pytest.mark.parametrize('args', [
    ('rooms',), ('rooms', '--out', 'rooms/run'), ('rooms', '--plan', '--tasks', 'XY'), ('rooms', '--plan', '--orders', '1-2'), ('rooms', '--plan', '--orders', '6'),
    ('rooms', '--plan', '--sizes', '9'), ('rooms', '--plan', '--sizes', 'half'), ('rooms', '--plan', '--seeds', '-1'), ('rooms', '--plan', '--seeds', '0.5'),
    ('rooms', '--plan', '--networks', 'SX'), ('rooms', '--plan', '--networks', 'SD', '--orders', '2'), ('rooms', '--plan', '--networks', ''),
    ('rooms', '--plan', '--balancing', 'gravity'), ('rooms', '--out', 'run', '--engine', 'slurm'), ('rooms', '--out', 'run', '--recipe', 'slow'),
    ('rooms', '--out', 'run', '--gpus', '1'), ('rooms', '--out', 'run', '--keep', 'half'), ('rooms', '--out', 'run', '--epochs', '0'),
    ('rooms', '--out', 'run', '--processes', '0'), ('rooms', '--out', 'run', '--precision', 'fp8')])
def test_wrong_usage_is_status_2(call, args, tmp_path):
    told = call('train', *args)
    assert told.returncode == 2 and told.stderr and 'Traceback' not in told.stderr and not any(tmp_path.iterdir())

@pytest.mark.parametrize('args, sentence', [
    (('nowhere',), 'nowhere'), (('DATA', '--model', 'huge'), 'huge'), (('DATA', '--keep', '2'), '2'), (('DATA', '--leave-out', 'none.csv'), 'none.csv'),
    (('DATA', '--engine', 'ray', '--address', 'localhost:1'), 'localhost:1: no Ray cluster answers there')])
def test_a_failure_is_one_sentence_and_status_1(call, args, sentence, tiny_rooms):
    told = call('train', *(tiny_rooms if a == 'DATA' else a for a in args), '--out', 'run', '--networks', 'D', '--epochs', 1)
    assert told.returncode == 1 and told.stderr.splitlines()[-1].startswith('its_a_match: ') and sentence in told.stderr

def test_stopped_by_hand(tmp_path, monkeypatch, capsys):
    "Ctrl-C says that the same command goes on."
    def stop(*args, **more): raise KeyboardInterrupt
    monkeypatch.setattr('its_a_match.campaign.run', stop)
    from its_a_match.cli import train
    with pytest.raises(KeyboardInterrupt): train(tmp_path/'rooms', tmp_path/'run')
    assert capsys.readouterr().err == 'its_a_match: stopped; the same command goes on\n'

def test_help(call):
    "It names every option and fits a narrow terminal; nothing heavy is imported for it."
    shown = subprocess.run([sys.executable, '-m', 'its_a_match.cli', 'train', '--help'], capture_output=True, text=True, env=os.environ | dict(COLUMNS='80', TERMINAL_WIDTH='80'))
    assert shown.returncode == 0 and max(map(len, shown.stdout.splitlines())) <= 80 and '--injections' in shown.stdout and 'Which networks' in shown.stdout
