"The package as users get it: built, installed into an empty environment, used outside the repository."
import json, subprocess, sys, venv, zipfile
from pathlib import Path

import pytest

def run(*command, cwd):
    done = subprocess.run([str(o) for o in command], cwd=cwd, text=True, capture_output=True)
    if done.returncode: pytest.fail(f'{command}\n{done.stdout}\n{done.stderr}', pytrace=False)
    return done.stdout

@pytest.fixture(scope='module')
def wheel(copy_to, tmp_path_factory):
    "The wheel, by way of the source distribution, each in an environment of its own."
    dist = tmp_path_factory.mktemp('dist')
    run(sys.executable, '-m', 'build', '--outdir', dist, copy_to(tmp_path_factory.mktemp('repo')), cwd=dist)
    return next(dist.glob('*.whl'))

@pytest.fixture(scope='module')
def user(wheel, root, tmp_path_factory):
    "Runs a program of an environment that holds the wheel alone, from an empty folder."
    home = tmp_path_factory.mktemp('user')
    venv.create(home/'env', with_pip=True)
    programs = home/'env'/('Scripts' if sys.platform == 'win32' else 'bin')
    lock = ['-c', root/'constraints.txt'] if sys.platform == 'linux' else []
    run(programs/'python', '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', *lock, wheel, cwd=home)
    (home/'empty').mkdir()
    return lambda program, *args: run(programs/program, *args, cwd=home/'empty')

def test_wheel_carries_the_tables_and_studies(wheel, root):
    inside = set(zipfile.ZipFile(wheel).namelist())
    tables = {f'its_a_match/{p.parent.relative_to(root).as_posix()}/{p.name}' for folder in ('published', 'results/rooms', 'results/quick', 'results/which-tasks', 'results/transfer') for p in (root/'data'/folder).glob('*.*') if p.suffix != '.py'}
    studies = {f'its_a_match/nbs/{p.name}' for p in [*(root/'nbs').glob('8*.ipynb'), root/'nbs/43_benchmark_report.ipynb']}
    assert any(o.endswith('.csv') for o in tables) and tables | studies <= inside
    assert [o for o in inside if not o.startswith('its_a_match')] == []

def test_wheel_has_what_type_checkers_want(wheel):
    inside = zipfile.ZipFile(wheel)
    assert 'its_a_match/py.typed' in inside.namelist()
    assert 'def on(self, other: pd.DataFrame, ' in inside.read('its_a_match/selection.pyi').decode()
    assert 'def cost(self, score: Score)' in inside.read('its_a_match/affinity/__init__.pyi').decode()

def test_installed_package_is_sound(user): user('python', '-m', 'pip', 'check')

def test_published_tables(user):
    "Figure 3's five full-size single-task networks, read from the installed wheel."
    code = '''
from its_a_match.published import which_tasks_losses
losses = which_tasks_losses()
print(losses.index.is_unique, list(losses.columns[:6]), "site-packages" in __import__("its_a_match").__file__)'''
    assert user('python', '-c', code).split('\n')[0] == "True ['cost', 'S', 'D', 'N', 'K', 'E'] True"

def test_command_line_helps(user):
    assert 'select' in user('its_a_match', '--help')
    assert 'budget' in user('python', '-m', 'its_a_match.cli', 'select', '--help')

LOSSES = '''network,cost,seg,depth,normals
seg,1,0.30,,
depth,1,,0.50,
normals,1,,,0.20
depth+normals,1,,0.40,0.25
normals@0.5,0.5,,,0.22
seg+depth+normals,1,0.50,0.60,0.30
'''  # under 2.5: seg .30, depth+normals .40, normals@0.5 .22

def test_select(user, tmp_path):
    (tmp_path/'losses.csv').write_text(LOSSES)
    found = json.loads(user('its_a_match', 'select', tmp_path/'losses.csv', '--budget', '2.5', '--json'))
    assert sorted(found['networks']) == ['depth+normals', 'normals@0.5', 'seg'] and found['cost'] == 2.5
    assert found['total'] == pytest.approx(0.30 + 0.40 + 0.22)

def test_study(user, tmp_path):
    "The studies run with what a user has installed, and end with the path of a report."
    report = Path(user('its_a_match', 'study', '--out', tmp_path/'out').split()[-1])
    assert report.suffix == '.html' and report.stat().st_size > 10_000 and tmp_path/'out' in report.parents
