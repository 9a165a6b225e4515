"`its_a_match study` as a user calls it; nothing is trained and no notebook runs."
from inspect import signature

import pandas as pd, pytest

from its_a_match import grouping_methods, grouping_study, report
from its_a_match.grouping_study import train_grouping_study
from its_a_match.report import STUDIES, study_notebooks

@pytest.fixture
def calls(monkeypatch):
    "What was to be trained and shown, instead of it; the page is empty."
    seen = {}
    def show(out, studies, started, run):
        out.mkdir(parents=True, exist_ok=True)
        seen['shown'] = out, [*studies], run
        pd.DataFrame(dict(method=['Optimal'], total=[.44612])).to_csv(out/'which_tasks_trained_table_7.csv', index=False)
        (out/'report.html').touch()
        return out/'report.html'
    monkeypatch.setattr(report, 'run_study', show)
    monkeypatch.setattr(grouping_study, 'train_grouping_study', lambda **options: seen.update(trained=options))
    return seen

def said(told): return ' '.join(told.stderr.replace('│', ' ').split())

# ---- usage

@pytest.mark.parametrize('args, sentence', [
    (('--model', 'small'), '--model: it is for --train'), (('rooms', '--data', 'd', '--seeds', 0, '--size', 64, '--leave-out', 'l.csv'), '--data, --seeds, --size, --leave-out: it is for --train'),
    (('which-tasks', '--recipe', 'paper', '--device', 'cpu', '--processes', 1), '--recipe, --device, --processes: it is for --train'),
    (('rooms', '--train'), '--train: it is for the study which-tasks'), (('its-a-match', 'rooms', '--train', '--run', 'r'), '--train: it is for the study which-tasks'),
    (('rooms', '--run', 'r'), '--run: it is for the study which-tasks'),
    (('--train', '--seeds', 'a'), "--seeds: 'a' is not a list of numbers, as in 0,1,2"), (('--train', '--seeds', '0,.5'), "'0,.5' is not a list of numbers"), (('--train', '--seeds', ''), 'not a list of numbers'),
    (('--seeds', '0 1'), "'0 1' is not a list of numbers"), (('--train', '--size', 8), '--size'), (('--train', '--processes', 0), '--processes'), (('--only', 81), 'No such option')])
def test_wrong_usage_is_status_2(call, calls, tmp_path, args, sentence):
    told = call('study', *args)
    assert (told.returncode, told.stdout) == (2, '') and sentence in said(told) and not calls and not any(tmp_path.iterdir())

@pytest.mark.parametrize('args', [('nope',), ('12',), ('rooms', 'nope'), ('Rooms',), ('',), ('which-tasks', 'nope', '--train')])
def test_an_unknown_study_is_one_sentence_and_status_1(call, calls, tmp_path, args):
    told = call('study', *args)
    unknown = next(a for a in args if a not in STUDIES)
    assert (told.returncode, told.stdout) == (1, '') and told.stderr == f"its_a_match: there is no study {unknown!r}: choose among its-a-match, which-tasks, rooms\n"
    assert not calls and not any(tmp_path.iterdir())

# ---- what it is asked to do

@pytest.mark.parametrize('args, studies', [((), [*STUDIES]), (('rooms',), ['rooms']), (('which-tasks', 80), ['which-tasks', '80'])])
def test_what_is_shown(call, calls, tmp_path, args, studies):
    told = call('study', *args, '--out', tmp_path/'there')
    assert told.returncode == 0 and calls == dict(shown=(tmp_path/'there', studies, None))
    assert 'networks of our own' in told.stdout and '0.446' in told.stdout and f'1 tables and 0 figures are in {tmp_path}/there' in told.stdout
    assert told.stdout.splitlines()[-1] == str(tmp_path/'there'/'report.html')

def test_what_is_trained(call, calls, tmp_path):
    given = dict(data='d', seeds='1,2', model='small', recipe='paper', size=64, leave_out='l.csv', device='cpu', processes=2)
    told = call('study', 'which-tasks', '--train', *(x for k, v in given.items() for x in (f"--{k.replace('_', '-')}", v)))
    command = calls['trained'].pop('command')
    assert command == 'its_a_match study which-tasks --train --data DATA --seeds 1,2 --model small --recipe paper --size 64 --leave-out LIST --device cpu --processes 2'
    assert told.returncode == 0 and {k: str(v) for k, v in calls['trained'].items()} == {k: str(v) for k, v in given.items()} | dict(seeds='[1, 2]', out='out/networks')
    assert [str(x) for x in calls['shown']] == ['out', "['which-tasks']", 'out/networks']

def test_where_networks_are(call, calls, monkeypatch):
    assert call('study', '--train', '--run', 'runs/full').returncode == 0 and str(calls['trained']['out']) == str(calls['shown'][2]) == 'runs/full' and calls['shown'][1] == [*STUDIES]
    calls.clear()
    monkeypatch.setattr(grouping_methods, 'GroupingResults', lambda run: run)
    assert call('study', '--run', 'runs/full').returncode == 0 and 'trained' not in calls and str(calls['shown'][2]) == 'runs/full'

def test_its_options_are_those_of_the_training(call, calls):
    "Else it would end in a TypeError."
    call('study', 'which-tasks', '--train', '--data', 'd', '--seeds', 0, '--model', 'm', '--recipe', 'quick', '--size', 64, '--leave-out', 'l', '--device', 'cpu', '--processes', 1)
    assert len(signature(train_grouping_study).bind(**calls['trained']).arguments) == 10

@pytest.mark.parametrize('error', [ValueError, OSError, RuntimeError])
def test_a_training_that_fails_is_told_in_a_sentence(call, calls, monkeypatch, error):
    def fail(**options): raise error('the disk is full')
    monkeypatch.setattr(grouping_study, 'train_grouping_study', fail)
    told = call('study', 'which-tasks', '--train')
    assert (told.returncode, told.stderr) == (1, 'its_a_match: the disk is full\n') and not calls

def test_stopped_by_hand(calls, monkeypatch, capsys, tmp_path):
    def stop(**options): raise KeyboardInterrupt
    monkeypatch.setattr(grouping_study, 'train_grouping_study', stop)
    from its_a_match.cli import study
    with pytest.raises(KeyboardInterrupt): study(['which-tasks'], tmp_path/'out', train=True)
    assert capsys.readouterr().err == 'its_a_match: stopped; the same command goes on\n' and not calls

# ---- names and numbers

@pytest.mark.parametrize('name, number', STUDIES.items())
def test_names_and_numbers_mean_the_same_notebooks(name, number):
    found = study_notebooks([name])
    assert found == study_notebooks([number]) == sorted(found) and found and all(p.name.startswith(f'{number}_') and p.exists() for p in found)

def test_all_notebooks_of_all_studies(root):
    assert {*study_notebooks()} == {*study_notebooks(STUDIES.values())} == {*(root/'nbs').glob('8*.ipynb')}
    assert [p.name[:2] for p in study_notebooks(['rooms', 'its-a-match'])] == ['84', '80']

def test_an_unknown_name():
    with pytest.raises(ValueError, match="^there is no study '8': choose among its-a-match, which-tasks, rooms$"): study_notebooks(['80', '8'])

@pytest.mark.parametrize('args', [('81', '--train'), ('81', '--run', 'r')])
def test_a_number_is_as_good_as_a_name(call, calls, args, monkeypatch):
    monkeypatch.setattr(grouping_methods, 'GroupingResults', lambda run: run)
    assert call('study', *args).returncode == 0 and calls

@pytest.mark.parametrize('args', [('--seeds', '-1'), ('--recipe', 'slow')])
def test_values_that_cannot_be(call, tmp_path, args):
    assert call('study', 'which-tasks', '--train', '--data', tmp_path, *args).returncode == 2

@pytest.mark.parametrize('studies', [['rooms', 'rooms'], ['which-tasks', '81']])
def test_a_study_named_twice(studies): assert len({*(found := study_notebooks(studies))}) == len(found)

def test_an_unknown_study_that_is_to_be_trained(call, calls): assert "no study 'nope'" in call('study', 'nope', '--train').stderr

def test_one_study_as_a_text(): assert study_notebooks('rooms') == study_notebooks(['rooms'])

def test_a_folder_without_results(call, calls):
    assert (told := call('study', '--run', 'nowhere')).returncode == 1 and told.stderr.startswith('its_a_match: nowhere: there is no losses.csv') and not calls
