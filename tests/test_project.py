"The notebooks, what is made from them, and the rules that hold for all files."
import configparser, os, re, subprocess, sys
from functools import lru_cache
from urllib.parse import urldefrag

import nbformat, pages, pytest
from nbdev.clean import clean_nb

each  = pytest.mark.parametrize('path', pages.notebooks(), ids=lambda p: p.stem)
fresh = lru_cache(None)(pages.execute)  # one execution serves two tests

def run(*command, cwd):
    "Runs a command, and fails with all that it said."
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}
    done = subprocess.run([str(o) for o in command], cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode: pytest.fail(done.stdout, pytrace=False)

def files(folder, pattern): return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob(pattern)}

def differing(a, b): return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))

def test_modules_are_exported(root, copy_to, programs, tmp_path):
    "its_a_match/ holds what the notebooks export, no more and no less."
    copy = copy_to(tmp_path)
    for p in (copy/'its_a_match').rglob('*.py'): p.unlink()
    run(programs/'nbdev_export', cwd=copy)
    assert differing(files(copy/'its_a_match', '*.py'), files(root/'its_a_match', '*.py')) == [], 'run nbdev_export'

def test_notebooks_are_clean(copy_to, programs, tmp_path):
    copy = copy_to(tmp_path)
    run(programs/'nbdev_clean', cwd=copy)
    assert [p.name for p in pages.notebooks() if p.read_bytes() != (copy/'nbs'/p.name).read_bytes()] == [], 'run nbdev_clean'

@each
def test_notebook_shows_its_outputs(path):
    "Outputs are committed, without errors or warnings, and the file is small."
    outputs = [o for c in nbformat.read(path, 4).cells if c.cell_type == 'code' for o in c.outputs]
    assert outputs, 'run make notebooks'
    assert [o for o in outputs if o.output_type == 'error' or o.get('name') == 'stderr'] == []
    assert path.stat().st_size <= 200 * 1024

@pytest.fixture
def runnable(path, request):
    if path.stem == '13_balancing': request.getfixturevalue('nash')

@each
def test_notebook_runs(path, runnable): fresh(path)

def texts(nb):
    "What each code cell shows as text: printed lines, plain and HTML values."
    clean_nb(nb)
    for c in nb.cells:
        if c.cell_type != 'code': continue
        printed = ''.join(o.text for o in c.outputs if o.output_type == 'stream' and o.name == 'stdout')
        values  = [{k: v for k, v in o.data.items() if k.startswith('text/')} for o in c.outputs if 'data' in o]
        yield c.source, printed, values

@each
def test_notebook_outputs_are_current(path, runnable):
    "The committed texts and tables are what the code gives today (pictures are not compared)."
    for old, new in zip(texts(nbformat.read(path, 4)), texts(fresh(path)), strict=True): assert old == new, 'run make notebooks'

def test_no_pyflakes_findings(root):
    run(sys.executable, '-m', 'ruff', 'check', '--isolated', '--select', 'F', '--output-format', 'concise',
        '--extend-exclude', '*.ipynb', '.', cwd=root)

def test_readme_is_current(root, tmp_path):
    pages.readme(tmp_path)
    assert (tmp_path/'README.md').read_text() == (root/'README.md').read_text(), 'run make readme'
    assert differing(files(tmp_path/'nbs/images', 'readme_*'), files(root/'nbs/images', 'readme_*')) == [], 'run make readme'

def test_readme_leaves_code_as_it_is():
    assert pages.relinked("see [`a`](a.ipynb), `d['a']({})` and\n```python\nd['a']({1: 2})\n```\n[b](../b.md)") == \
        "see [`a`](nbs/a.ipynb), `d['a']({})` and\n```python\nd['a']({1: 2})\n```\n[b](b.md)"

def test_markdown_links(root, tracked):
    "Links between the repository's own files lead somewhere."
    links = [(p, o) for p in tracked if p.suffix == '.md' for o in re.findall(r'\]\(([^)\s]+)\)', p.read_text(encoding='utf-8'))]
    assert [f'{p.name}: {o}' for p, o in links if not re.match(r'\w+:|#', o) and not (p.parent/urldefrag(o)[0]).exists()] == []

def test_lock_is_complete(root):
    "constraints.txt pins whatever settings.ini asks for."
    ini = configparser.ConfigParser(delimiters='=', interpolation=None); ini.read(root/'settings.ini')
    named = lambda text: {re.match(r'[\w.-]+', o).group().lower().replace('_', '-') for o in text}
    asked = named(o for k, v in ini['DEFAULT'].items() if k.endswith('requirements') for o in v.split())
    pins  = [o for o in (root/'constraints.txt').read_text().splitlines() if not o.startswith('#')]
    assert all(re.fullmatch(r'[a-z0-9.-]+==[a-z0-9.]+', o) for o in pins) and len(pins) == len(named(pins))
    assert asked - named(pins) == set(), 'run make lock'

def test_no_machine_paths(tracked):
    "The files speak of no folder of the machine that they were written on."
    path = re.compile(rb'(?<![\w.:/~$-])/(work|root|home|Users|opt|tmp|mnt|workspace)/\w')
    found = {str(p): path.search(p.read_bytes()) for p in tracked if p.suffix not in ('.png', '.jpg')}
    assert {p: m.group() for p, m in found.items() if m} == {}
