"What the program says of itself: help as a person would write it, and completion."
import os, re, shlex, shutil, subprocess

import nbformat, pages, pytest, typer
from typer.main import get_command
from typer.testing import CliRunner

from its_a_match.cli import app
from its_a_match.terminal import PANELS

program_ = get_command(app)
context  = typer.Context(program_, info_name='its_a_match')
names    = program_.list_commands(context)
commands = pytest.mark.parametrize('name', names)

@pytest.fixture
def told():
    "`told(*arguments)`: what the program prints on a terminal of 80 columns."
    def tell(*args, **env):
        done = CliRunner().invoke(app, list(args), prog_name='its_a_match', env=dict(COLUMNS='80', **env))
        assert (done.exit_code, done.stderr) == (0, '')
        return done.stdout
    return tell

def test_commands_come_in_the_order_in_which_they_are_needed(told):
    listed = [name for panel in PANELS.values() for name in panel]
    assert sorted(names) == sorted(listed) and names == [n for n in listed if n in names], 'PANELS of 40_terminal lists every command'
    page = told('--help')
    heads = [page.index(f'─ {panel} ─') for panel in PANELS]
    assert heads == sorted(heads)
    assert re.findall(r'^│ (\w+) +[A-Z]', page, flags=re.M) == names

def test_h_is_help(told): assert told('check', '-h') == told('check', '--help')

def test_without_arguments_it_explains_itself(program):
    done = program()
    assert all(n in done.stdout + done.stderr for n in names) and 'Traceback' not in done.stderr

@commands
def test_every_word_of_help_is_there(name):
    "A sentence for the command, which fits the list, and one for each argument and option."
    command = program_.get_command(context, name)
    assert re.fullmatch(r'[A-Z][^\n]{20,120}\.', command.help), command.help
    for p in (p for p in command.params if not getattr(p, 'hidden', False)):
        assert re.fullmatch(r'\S.*[.…]', p.help), p.name

@commands
def test_help_fits_a_terminal(told, name):
    page = told(name, '--help')
    assert max(map(len, page.splitlines())) <= 80
    assert '<bool>' not in page and '<str>' not in page and 'TEXT' not in page, 'a flag has no type, and a text a name'
    assert re.search(rf'Usage: its_a_match {name} ', page)

@pytest.mark.parametrize('line, found', [
    ('', names), ('se', ['select']), ('select --bu', ['--budget', '--budgets']), ('select --solver b', ['branch-and-bound']),
    ('render --preset ', ['tiny', 'quick', 'large']), ('train --no-g', ['--no-gradients']), ('--ver', ['--version']), ('nothing', [])])
def test_completion(told, line, found):
    asked = told(_ITS_A_MATCH_COMPLETE='complete_bash', COMP_WORDS=f'its_a_match {line}', COMP_CWORD=str(1 + line.count(' ')))
    assert asked.split() == found

@pytest.mark.skipif(not shutil.which('bash'), reason='there is no bash here')
def test_bash_completes(program, programs):
    "What the program gives to bash works there."
    script = program(_ITS_A_MATCH_COMPLETE='source_bash')
    assert (script.returncode, script.stderr) == (0, '')
    line = 'COMP_WORDS=(its_a_match affinity --att) COMP_CWORD=2; _its_a_match_completion its_a_match; echo "${COMPREPLY[@]}"'
    done = subprocess.run(['bash', '-c', script.stdout + line], capture_output=True, text=True, env=os.environ | dict(PATH=f'{programs}:{os.environ["PATH"]}'))
    assert (done.stdout.strip(), done.stderr) == ('--attribution', '')

def written(root):
    "The commands in README.md, CONTRIBUTING.md and the notebooks' prose: file, words, and whether they stand in a block of their own."
    texts = {p.name: p.read_text(encoding='utf-8') for p in (root/'README.md', root/'CONTRIBUTING.md')}
    texts |= {p.name: '\n\n'.join(c.source for c in nbformat.read(p, 4).cells if c.cell_type == 'markdown') for p in pages.notebooks()}
    for name, text in texts.items():
        blocks = '\n'.join(re.findall(r'^```sh\n(.*?)^```', text, flags=re.S | re.M)).replace('\\\n', ' ').splitlines()
        for line, block in [(o, True) for o in blocks] + [(o, False) for o in re.findall(r'(?<!`)`([^`\n]+)`(?!`)', text)]:
            for part in re.split('&&|;', line.split(' #')[0]):
                part = re.sub(r'^\$ |^\S*bin/', '', part.strip())
                if re.match(r'its_a_match \w', part): yield name, shlex.split(part)[1:], block

def misunderstood(words, block):
    "What is wrong with a command, or nothing; of one within a sentence only its options are looked at."
    command, *words = words
    if command not in names: return f'no command {command}'
    command = program_.get_command(context, command)
    known = {o for p in command.get_params(context) for o in (*p.opts, *p.secondary_opts)}
    if unknown := {w.split('=')[0] for w in words if w.startswith('--')} - known: return f'no option {unknown}'
    try: block and not known & {*words} & {'--help'} and command.make_context(command.name, words)
    except Exception as e: return str(e)

def test_commands_that_are_written_down_are_understood(root):
    "Whoever types what the README or a notebook says is not told that there is no such option."
    found = [(name, words, block) for name, words, block in written(root) if words[0] != 'COMMAND']
    assert sum(block for *_, block in found) > 15
    assert [(name, words, wrong) for name, words, block in found if (wrong := misunderstood(words, block))] == []

def test_a_misspelt_command_is_found():
    assert misunderstood(['selct', 'a.csv'], False) and misunderstood(['select', 'a.csv', '--bugdet', '2'], False)
    assert misunderstood(['select', '--budget', '2'], True) and not misunderstood(['select', 'a.csv', '--budget', '2'], True)
