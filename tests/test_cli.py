"The command line as a user calls it."
import json
import subprocess
import sys

import pytest

from its_a_match.published import published_dir

LOSSES = published_dir()/'which_tasks_val.csv'

@pytest.fixture
def call(programs, tmp_path):
    "Runs `its_a_match` with arguments, from an empty folder."
    def run(*args): return subprocess.run([str(programs/'its_a_match'), *map(str, args)], cwd=tmp_path, capture_output=True, text=True)
    return run

def test_select_draws_the_grouping(call):
    shown = call('select', LOSSES, '--budget', 2.5)
    assert shown.returncode == 0 and shown.stderr == ''
    for part in ('2.5     SDN + N½ + NKE  0.45076', 'N½  cost 0.5', '(N)  K 0.09024  E 0.02609', 'solver: subset-dp'): assert ' '.join(part.split()) in ' '.join(shown.stdout.split())

def test_select_lists_budgets(call):
    lines = call('select', LOSSES, '--budgets', '1:5:0.5').stdout.splitlines()
    assert len(lines) >= 10 and lines[0].split()[:4] == ['budget', 'networks', 'total', 'cost']

def test_json(call):
    one, all_ = (json.loads(call('select', LOSSES, *b, '--json').stdout) for b in (('--budget', 2.5), ('--budgets', '1:5:0.5')))
    assert one['networks'] == ['SDN', 'N@0.5', 'NKE'] and one['solves']['E'] == 'NKE' and one['cost'] == 2.5
    assert len(all_) == 9 and all_[3] == one

def test_options(call):
    test = json.loads(call('select', LOSSES, '--budget', 2.5, '--on', published_dir()/'which_tasks_test.csv', '--json').stdout)
    assert round(test['total'], 3) == .446
    for extra in (['--solver', 'milp'], ['--objective', 'relative'], ['--weight', 'E=5'], ['--require', 'S=.0725'], ['--decoder-cost', '.1']):
        assert call('select', LOSSES, '--budget', 2.5, *extra).returncode == 0, extra

@pytest.mark.parametrize('args', [(), ('--budget', '1', '--budgets', '1:2:1'), ('--budgets', '1:2'), ('--budgets', '2:1:1'), ('--budget', 'two'),
                                  ('--budget', '1', '--weight', 'S'), ('--budget', '1', '--solver', 'magic'), ('--budget', '1', '--nonsense')])
def test_wrong_usage_is_status_2(call, args):
    told = call('select', LOSSES, *args)
    assert told.returncode == 2 and 'Traceback' not in told.stderr and told.stderr

@pytest.mark.parametrize('text, sentence', [
    (None, 'losses.csv: No such file or directory'), ('', 'losses.csv: the file is empty'),
    ('network,cost,S\nS,1,x\n', "losses.csv: network 'S', column 'S': 'x' is not a number"),
    ('network,cost,S\nS,9,.1\n', 'the least that works is 9')])
def test_a_failure_is_one_sentence_and_status_1(call, tmp_path, text, sentence):
    if text is not None: (tmp_path/'losses.csv').write_text(text)
    told = call('select', 'losses.csv', '--budget', 1)
    assert told.returncode == 1 and told.stdout == ''
    assert sentence in told.stderr and told.stderr.count('\n') == 1

def test_program_and_module_are_one(call):
    module = subprocess.run([sys.executable, '-m', 'its_a_match.cli', '--version'], capture_output=True, text=True)
    assert module.stdout == call('--version').stdout != ''
    assert {'select', 'study'} <= set(call('--help').stdout.split())

def test_unknown_study(call): assert (told := call('study', 12)).returncode == 1 and "no study '12'" in told.stderr
