"One policy for all tests: fixed seeds, no display, the installed package."
import contextlib, importlib.metadata, importlib.util, os, random, re, shutil, subprocess, sys
from pathlib import Path

import matplotlib, numpy as np, pytest
from hypothesis import settings

import its_a_match

matplotlib.use('Agg')
settings.register_profile('its_a_match', derandomize=True, deadline=None)  # no deadline: numba compiles within a test
settings.load_profile('its_a_match')

def pytest_configure(config):
    try: version = importlib.metadata.version('its_a_match')
    except importlib.metadata.PackageNotFoundError: version = 'no'
    if version != its_a_match.__version__:
        pytest.exit(f'its_a_match {its_a_match.__version__} is to be tested but {version} version is installed: '
                    "run make test, or pip install -e '.[dev]'", 4)

@pytest.fixture(autouse=True)
def seed():
    "The same random numbers in every test, whatever ran before it."
    random.seed(0); np.random.seed(0)

@pytest.fixture
def nash():
    "What needs Nash-MTL is left out where its solver ecos cannot be had: it has no wheel for Python 3.13."
    if importlib.util.find_spec('ecos') is None and sys.version_info >= (3, 13): pytest.skip('Nash-MTL needs ecos, which has no wheel for Python 3.13')

@pytest.fixture(scope='session')
def root(): return Path(__file__).resolve().parents[1]

@pytest.fixture(scope='session')
def programs():
    "The folder of the programs that were installed with this Python, such as its_a_match and nbdev_export."
    return Path(sys.executable).parent

@pytest.fixture(scope='session')
def call_in():
    "`call_in(folder, *arguments)` runs the program there without a process of its own, which saves its start."
    from typer.testing import CliRunner
    from its_a_match.cli import app
    def run(folder, *args):
        with contextlib.chdir(folder): done = CliRunner().invoke(app, list(map(str, args)), env=dict(COLUMNS='300'))
        if done.exception and not isinstance(done.exception, SystemExit): raise done.exception
        done.returncode = done.exit_code
        return done
    return run

@pytest.fixture
def call(call_in, tmp_path):
    "The same in the folder of the test, or in `cwd`."
    return lambda *args, cwd=tmp_path: call_in(cwd, *args)

@pytest.fixture
def program(programs, tmp_path):
    "Runs `its_a_match` with arguments in the folder of the test."
    def run(*args, stderr=subprocess.PIPE, **env):
        return subprocess.run([str(programs/'its_a_match'), *map(str, args)], cwd=tmp_path, stdout=subprocess.PIPE, stderr=stderr, text=True, env=os.environ | env)
    return run

@pytest.fixture(scope='session')
def tracked(root):
    "The files that git tracks or would add; where there is no git, all but what is made from them."
    git = subprocess.run(['git', '-c', 'safe.directory=*', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
                         cwd=root, capture_output=True, text=True)
    if git.returncode == 0: return sorted(p for p in map(root.joinpath, set(git.stdout.split('\0')[:-1])) if p.is_file())
    made = re.compile(r'\.git|\.venv|_docs|_proc|out|build|dist|\..*(_cache|checkpoints)|\.hypothesis|__pycache__|.*\.egg-info')
    return sorted(p for p in root.rglob('*') if p.is_file() and not any(map(made.fullmatch, p.relative_to(root).parts)))

@pytest.fixture(scope='session')
def copy_to(root, tracked):
    "`copy_to(folder)` copies the tracked files there."
    def copy(folder):
        for p in tracked:
            (folder/p.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(p, folder/p.relative_to(root))
        return folder
    return copy

@pytest.fixture(scope='session')
def tiny_rooms(tmp_path_factory):
    "The folder of Rooms `tiny` (12 buildings of 8 views, 64²), rendered once for all tests: read only."
    from its_a_match.rooms import render_rooms
    return render_rooms(tmp_path_factory.mktemp('data')/'tiny', 'tiny')
