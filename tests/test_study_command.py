"`its_a_match study` as a user calls it; nothing is trained and no notebook runs."
from functools import partial
from importlib import import_module
from inspect import signature

import numpy as np, pandas as pd, pytest

from its_a_match import grouping_methods, report, transfer_results
from its_a_match.models import DEFAULT_MODEL
from its_a_match.recipes import DEFAULT_RECIPE
from its_a_match.report import STUDIES, study_notebooks
from its_a_match.study_command import TRAINED
from its_a_match.transfer_results import SIMILARITY_TABLES

READERS = {'GroupingResults': grouping_methods, 'TransferResults': transfer_results, 'similarity_tables': transfer_results}
READ = {'which-tasks': dict(GroupingResults='r'), 'representation-similarity': dict(TransferResults='r/results', similarity_tables='r/results'), 'taskonomy': dict(TransferResults='r/results')}  # by what, of --run r
ONE, CHOICE = 'it is for one study: name which-tasks, representation-similarity or taskonomy', 'choose among its-a-match, which-tasks, representation-similarity, taskonomy, rooms'
TRAINING = {name: getattr(import_module(f'its_a_match.{module}'), function) for name, (module, function) in TRAINED.items()}
each_study = pytest.mark.parametrize('study', TRAINED)

def trains(monkeypatch, study, f):
    module, function = TRAINED[study]
    monkeypatch.setattr(import_module(f'its_a_match.{module}'), function, f)

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
    def note(study, **options): seen.update(trained=options, study=study)
    monkeypatch.setattr(report, 'run_study', show)
    for study in TRAINED: trains(monkeypatch, study, partial(note, study))
    return seen

@pytest.fixture
def readers(monkeypatch):
    "Readers that find whatever they are to read; the folders that each was given."
    seen = {}
    for name, module in READERS.items(): monkeypatch.setattr(module, name, partial(lambda name, folder: seen.update({name: str(folder)}), name))
    return seen

def said(told): return ' '.join(told.stderr.replace('│', ' ').split())

# ---- usage

@pytest.mark.parametrize('args, sentence', [
    (('--model', 'small'), '--model: it is for --train'), (('rooms', '--data', 'd', '--seeds', 0, '--size', 64, '--leave-out', 'l.csv'), '--data, --seeds, --size, --leave-out: it is for --train'),
    *(((study, '--recipe', 'paper', '--device', 'cpu', '--processes', 1), '--recipe, --device, --processes: it is for --train') for study in TRAINED), (('taskonomy', '--run', 'r', '--size', 64), '--size: it is for --train'),
    (('rooms', '--train'), f'--train: {ONE}'), (('its-a-match', 'rooms', '--train', '--run', 'r'), f'--train: {ONE}'), (('rooms', '--run', 'r'), f'--run: {ONE}'),
    (('--train',), f'--train: {ONE}'), (('--run', 'r'), f'--run: {ONE}'), (('which-tasks', 'taskonomy', '--train'), f'--train: {ONE}'), (('81', '82', 'rooms', '--run', 'r'), f'--run: {ONE}'),
    ((*STUDIES, '--train', '--run', 'r'), f'--train: {ONE}'), (('representation-similarity', '83', '--run', 'r'), f'--run: {ONE}'),
    (('--train', '--seeds', 'a'), "--seeds: 'a' is not a list of numbers, as in 0,1,2"), (('--train', '--seeds', '0,.5'), "'0,.5' is not a list of numbers"), (('--train', '--seeds', ''), 'not a list of numbers'),
    (('--seeds', '0 1'), "'0 1' is not a list of numbers"), (('taskonomy', '--train', '--seeds', '0;1'), "'0;1' is not a list of numbers"),
    (('--train', '--size', 8), '--size'), (('--train', '--processes', 0), '--processes'), (('--only', 81), 'No such option')])
def test_wrong_usage_is_status_2(call, calls, tmp_path, args, sentence):
    told = call('study', *args)
    assert (told.returncode, told.stdout) == (2, '') and sentence in said(told) and not calls and not any(tmp_path.iterdir())

@pytest.mark.parametrize('args', [('nope',), ('12',), ('rooms', 'nope'), ('Rooms',), ('',), *((study, 'nope', '--train') for study in TRAINED), ('taskonomics', '--run', 'r'), ('nope', '--train', '--run', 'r')])
def test_an_unknown_study_is_one_sentence_and_status_1(call, calls, tmp_path, args):
    told = call('study', *args)
    unknown = next(a for a in args if a not in STUDIES)
    assert (told.returncode, told.stdout) == (1, '') and told.stderr == f'its_a_match: there is no study {unknown!r}: {CHOICE}\n'
    assert not calls and not any(tmp_path.iterdir())

@each_study
@pytest.mark.parametrize('args, sentence', [(('--seeds', '-1'), '--seeds: seed -1: it is not a whole number from 0'), (('--recipe', 'slow'), "--recipe: recipe 'slow': it is none of paper, quick, balanced")])
def test_values_that_cannot_be(call, calls, tmp_path, study, args, sentence):
    told = call('study', study, '--train', '--data', tmp_path, *args)
    assert told.returncode == 2 and sentence in said(told) and not calls

def test_the_studies_that_can_be_trained():
    assert {*TRAINED} == {*READ} < {*STUDIES} and STUDIES == {'its-a-match': '80', 'which-tasks': '81', 'representation-similarity': '82', 'taskonomy': '83', 'rooms': '84'}
    assert {study: f.__name__ for study, f in TRAINING.items()} == {study: function for study, (_, function) in TRAINED.items()}

# ---- what it is asked to do

@pytest.mark.parametrize('args, studies', [((), [*STUDIES]), (('rooms',), ['rooms']), (('which-tasks', 80), ['which-tasks', '80']), (('83', 'representation-similarity'), ['83', 'representation-similarity'])])
def test_what_is_shown(call, calls, tmp_path, args, studies):
    told = call('study', *args, '--out', tmp_path/'there')
    assert told.returncode == 0 and calls == dict(shown=(tmp_path/'there', studies, None))
    assert 'networks of our own' in told.stdout and '0.446' in told.stdout and f'1 tables and 0 figures are in {tmp_path}/there' in told.stdout
    assert told.stdout.splitlines()[-1] == str(tmp_path/'there'/'report.html')

@each_study
def test_what_is_trained(call, calls, tmp_path, study):
    given = dict(data='d', seeds='1,2', model='small', recipe='paper', size=64, leave_out='l.csv', device='cpu', processes=2)
    told = call('study', study, '--train', *(x for k, v in given.items() for x in (f"--{k.replace('_', '-')}", v)))
    command = calls['trained'].pop('command')
    assert command == f'its_a_match study {study} --train --data DATA --seeds 1,2 --model small --recipe paper --size 64 --leave-out LIST --device cpu --processes 2'
    assert told.returncode == 0 and {k: str(v) for k, v in calls['trained'].items()} == {k: str(v) for k, v in given.items()} | dict(seeds='[1, 2]', out='out/networks')
    assert calls['study'] == study and [str(x) for x in calls['shown']] == ['out', f'[{study!r}]', 'out/networks']

@each_study
def test_what_is_not_given_is_left_to_the_training(call, calls, study):
    assert call('study', study, '--train', '--out', 'there').returncode == 0 and calls['study'] == study
    assert {k: str(v) for k, v in calls['trained'].items()} == dict(out='there/networks', command=f'its_a_match study {study} --train')

@each_study
def test_where_networks_are(call, calls, readers, study):
    assert call('study', study, '--train', '--run', 'runs/full').returncode == 0 and str(calls['trained']['out']) == str(calls['shown'][2]) == 'runs/full' and calls['shown'][1] == [study]
    assert not readers and calls['study'] == study
    calls.clear()
    assert call('study', study, '--run', 'r').returncode == 0 and 'trained' not in calls and str(calls['shown'][2]) == 'r' and readers == READ[study]

@each_study
def test_the_other_studies_are_shown_beside_it(call, calls, readers, study):
    for args in (('--train',), ('--run', 'out/networks')):
        assert call('study', 'rooms', study, 'its-a-match', *args).returncode == 0
        assert calls.pop('shown')[1] == ['rooms', study, 'its-a-match'] and calls.pop('study', study) == study and calls.pop('trained', {}).get('command') == (f'its_a_match study {study} --train' if args == ('--train',) else None)

@each_study
def test_its_options_are_those_of_the_training(call, calls, study):
    "Else it would end in a TypeError."
    call('study', study, '--train', '--data', 'd', '--seeds', 0, '--model', 'm', '--recipe', 'quick', '--size', 64, '--leave-out', 'l', '--device', 'cpu', '--processes', 1)
    assert len(signature(TRAINING[study]).bind(**calls['trained']).arguments) == 10 and calls['study'] == study

@each_study
def test_defaults_are_those_that_the_help_tells(call, study):
    options, told = {k: p.default for k, p in signature(TRAINING[study]).parameters.items()}, ' '.join(call('study', '--help').stdout.split())
    assert [*options['seeds']] == [0, 1, 2] and '0,1,2 where not given' in told
    for k, usual in dict(model=DEFAULT_MODEL, recipe=DEFAULT_RECIPE).items(): assert options[k] in ((None, usual) if study == 'which-tasks' else (usual,)) and f'{usual} where not given' in told
    assert all(options[k] is None for k in ('data', 'size', 'leave_out', 'device', 'processes')) and study in told

@each_study
@pytest.mark.parametrize('error', [ValueError, OSError, RuntimeError])
def test_a_training_that_fails_is_told_in_a_sentence(call, calls, monkeypatch, study, error):
    def fail(**options): raise error('the disk is full')
    trains(monkeypatch, study, fail)
    told = call('study', study, '--train')
    assert (told.returncode, told.stderr) == (1, 'its_a_match: the disk is full\n') and not calls

@each_study
def test_stopped_by_hand(calls, monkeypatch, capsys, tmp_path, study):
    def stop(**options): raise KeyboardInterrupt
    trains(monkeypatch, study, stop)
    from its_a_match.cli import study as command
    with pytest.raises(KeyboardInterrupt): command([study], tmp_path/'out', train=True)
    assert capsys.readouterr().err == 'its_a_match: stopped; the same command goes on\n' and not calls

# ---- names and numbers

@pytest.mark.parametrize('name, number', STUDIES.items())
def test_names_and_numbers_mean_the_same_notebooks(name, number):
    found = study_notebooks([name])
    assert found == study_notebooks([number]) == sorted(found) and found and all(p.name.startswith(f'{number}_') and p.exists() for p in found)

def test_all_notebooks_of_all_studies(root):
    assert {*study_notebooks()} == {*study_notebooks(STUDIES.values())} == {*(root/'nbs').glob('8*.ipynb')}
    assert [p.name[:2] for p in study_notebooks(['rooms', 'its-a-match'])] == ['84', '80'] and [p.name[:2] for p in study_notebooks(['taskonomy', 'representation-similarity'])] == ['83', '82']

def test_an_unknown_name():
    with pytest.raises(ValueError, match=f"^there is no study '8': {CHOICE}$"): study_notebooks(['80', '8'])

@each_study
@pytest.mark.parametrize('args', [('--train',), ('--run', 'r')])
def test_a_number_is_as_good_as_a_name(call, calls, readers, study, args):
    for names in ((STUDIES[study],), (STUDIES[study], study)):
        assert call('study', *names, *args).returncode == 0 and calls.pop('shown')[1] == [*names]
        assert calls.pop('trained', {}).get('command') == (f'its_a_match study {study} --train' if args == ('--train',) else None) and calls.pop('study', study) == study
    assert readers == ({} if args == ('--train',) else READ[study])

@pytest.mark.parametrize('studies', [['rooms', 'rooms'], ['which-tasks', '81'], ['83', '82', 'taskonomy', 'representation-similarity']])
def test_a_study_named_twice(studies): assert len({*(found := study_notebooks(studies))}) == len(found)

@pytest.mark.parametrize('args', [('--train',), ('--run', 'r')])
def test_an_unknown_study_that_is_to_be_trained_or_read(call, calls, args): assert "no study 'nope'" in call('study', 'nope', *args).stderr and not calls

def test_one_study_as_a_text(): assert study_notebooks('rooms') == study_notebooks(['rooms'])

# ---- results that are there or not

MISSING = {'which-tasks': 'nowhere: there is no losses.csv'} | dict.fromkeys(('representation-similarity', 'taskonomy'), 'nowhere/results/transfers.csv: No such file or directory')

@each_study
def test_a_folder_without_results(call, calls, study):
    assert (told := call('study', study, '--run', 'nowhere')).returncode == 1 and told.stderr.startswith(f'its_a_match: {MISSING[study]}') and told.stderr.count('\n') == 1 and not calls

def test_results_of_which_tasks(call, calls, root):
    assert call('study', 'which-tasks', '--run', root/'data/results/which-tasks').returncode == 0 and calls['shown'][2] == root/'data/results/which-tasks'

def write_results(folder):
    "The least that the readers of both studies of transfer take."
    folder.mkdir(parents=True)
    for name, numbers in SIMILARITY_TABLES.items(): pd.DataFrame(dict(task=['S', 'D'], seed=0) | dict.fromkeys(numbers, [.5, 1])).to_csv(folder/f'{name}.csv', index=False)
    pd.DataFrame(dict(seed=0, target='D', transfer=['S', 'full'], val=[.5, .4], test=[.6, .3])).to_csv(folder/'transfers.csv', index=False)
    np.savez(folder/'ranks.npz', **{f'D {split} 0': np.array([[2, 1]]) for split in ('val', 'test')})

TRANSFERS = ('transfers.csv', 'ranks.npz')

@pytest.mark.parametrize('study, needs', [('representation-similarity', [*TRANSFERS, *(f'{name}.csv' for name in SIMILARITY_TABLES)]), ('taskonomy', TRANSFERS)])
def test_results_of_transfers(call, calls, tmp_path, study, needs):
    write_results(tmp_path/'r'/'results')
    assert call('study', study, '--run', 'r').returncode == 0 and [str(x) for x in calls.pop('shown')] == ['out', f'[{study!r}]', 'r']
    for name in needs:
        (tmp_path/'r'/'results'/name).rename(tmp_path/'aside')
        told = call('study', study, '--run', 'r')
        assert (told.returncode, told.stderr) == (1, f'its_a_match: r/results/{name}: No such file or directory\n') and not calls
        (tmp_path/'aside').rename(tmp_path/'r'/'results'/name)

def test_transfers_are_read_without_tables_of_similarity(call, calls, tmp_path):
    write_results(tmp_path/'r'/'results')
    for name in SIMILARITY_TABLES: (tmp_path/'r'/'results'/f'{name}.csv').unlink()
    assert call('study', 'taskonomy', '--run', 'r').returncode == 0 and calls and call('study', 'representation-similarity', '--run', 'r').returncode == 1

def is_told(call, study, name, why):
    "Whether the file is named in one sentence that says why."
    told = call('study', study, '--run', 'r')
    return told.returncode == 1 and told.stderr.startswith(f'its_a_match: r/results/{name}: {why}') and told.stderr.count('\n') == 1

@pytest.mark.parametrize('study, name, old, new, why', [
    ('representation-similarity', 'starts.csv', 'miou', 'iou', "it is damaged, for it has no column 'miou'"), ('representation-similarity', 'images.csv', '0.5', 'half', "it is damaged, for images is 'half' in row 1"),
    *(('representation-similarity', f'{name}.csv', 'seed', 'run', "it is damaged, for it has no column 'seed'") for name in SIMILARITY_TABLES),
    *((study, 'transfers.csv', 'test', 'tests', "it is damaged, for it has no column 'test'") for study in ('representation-similarity', 'taskonomy'))])
def test_damaged_results(call, calls, tmp_path, study, name, old, new, why):
    write_results(tmp_path/'r'/'results')
    path = tmp_path/'r'/'results'/name
    path.write_text(path.read_text().replace(old, new))
    assert is_told(call, study, name, why) and not calls

@pytest.mark.parametrize('study', ['representation-similarity', 'taskonomy'])
@pytest.mark.parametrize('damage', [lambda held: b'', lambda held: b'no orders', lambda held: held[:-30], lambda held: held.replace(b'NUMPY', b'numpy')], ids=['empty', 'text', 'cut off', 'changed'])
def test_damaged_orders(call, calls, tmp_path, study, damage):
    write_results(tmp_path/'r'/'results')
    path = tmp_path/'r'/'results'/'ranks.npz'
    path.write_bytes(damage(path.read_bytes()))
    assert is_told(call, study, 'ranks.npz', 'it is damaged (') and not calls

@pytest.mark.parametrize('split', ['val', 'test'])
@pytest.mark.parametrize('order', [None, [[1, 2, 3]], [[1]], [2, 1]])
def test_orders_that_do_not_fit(call, calls, tmp_path, split, order):
    "One that is not there, of more or fewer transfers than there are losses of, or not of images."
    write_results(folder := tmp_path/'r'/'results')
    held = {'D val 0': [[2, 1]], 'D test 0': [[2, 1]]} | {f'D {split} 0': order}
    np.savez(folder/'ranks.npz', **{k: v for k, v in held.items() if v is not None})
    assert is_told(call, 'taskonomy', 'ranks.npz', f'it is damaged, for it has no order of the 2 transfers to D on {split} images (seed 0)') and not calls
