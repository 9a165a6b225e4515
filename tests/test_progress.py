"What a campaign says while it trains: estimates, lines, and that each place gets what suits it."
import io, os, pty, subprocess, sys

import pytest
from hypothesis import given, strategies as st
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from rich.console import Console

from its_a_match.progress import ENDS, Tally, duration, in_log, in_terminal, line, show_progress

def event(status='training', epoch=0, network='SDN', seed=0, losses=None, reason=None, epochs=4):
    return dict(network=network, seed=seed, status=status, epoch=epoch, epochs=epochs, losses=losses, reason=reason)

class Clock:
    now = 0.
    def __call__(self): return self.now

SCRIPT = '''
from its_a_match.progress import show_progress
with show_progress(2) as report:
    for n in ('SDN', 'S@0.5'):
        for e in range(3): report(dict(network=n, seed=1, status='training', epoch=e, epochs=2, losses=dict(S=1.), reason=None))
        report(dict(network=n, seed=1, status='done' if n == 'SDN' else 'failed', epoch=2, epochs=2, losses=None, reason='a [red]\\nreason'))
print('the result')
'''

# the tally

@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 3), st.floats(.1, 100))
def test_steady_work_is_foretold(epochs, before, pace):
    "One network after the other, each epoch as long as its share: the time left is right from the first epoch on."
    clock, n = Clock(), len(epochs)
    tally = Tally(n + before, before, clock=clock)
    for i, total in enumerate(epochs):
        assert tally(event(network=f'n{i}', epochs=total))['done'] == before + i
        for e in range(1, total + 1):
            clock.now += pace/total
            told = tally(event('done' if e == total else 'training', e, f'n{i}', epochs=total))
            assert told['left'] == pytest.approx(pace*(n - i - e/total), abs=1e-6*pace) and told['total'] == n + before
    assert told['done'] == told['total'] and told['left'] == 0

def test_weights():
    clock = Clock()
    tally = Tally(3, 1, {('S', 0): 1, ('SDN', 0): 3}, clock)
    tally(event(network='S'))
    clock.now = 5
    assert tally(event('done', 4, 'S'))['left'] == 15
    tally(event(network='SDN'))
    clock.now = 20
    assert tally(event(epoch=2, network='SDN'))['left'] == pytest.approx(1.5*20/2.5)

def test_what_was_done_before_says_nothing_about_speed():
    clock = Clock()
    tally = Tally(2, clock=clock)
    assert tally(event(epoch=3))['left'] is None
    clock.now = 10
    assert tally(event(epoch=4))['left'] == 40

@pytest.mark.parametrize('status', ENDS)
def test_an_end_counts_once(status):
    tally = Tally(5)
    assert [tally(event(status, 4))['done'] for _ in range(3)] == [1, 1, 1]
    assert tally(event(status, 4, seed=1))['done'] == 2

def test_a_lost_network_goes_on():
    tally = Tally(5)
    tally(event(epoch=2))
    assert tally(event('lost', 2))['done'] == 0

# lines

@pytest.mark.parametrize('status, says', [('training', 'epoch 2 of 4'), ('done', 'done after epoch 2'), ('diverged', 'diverged after epoch 2'),
                                          ('failed', 'failed'), ('lost', 'lost after epoch 2')])
def test_a_line(status, says):
    told = line(Tally(3)(event(status, 2, losses=dict(S=1.23456, D=.5), reason='one\n  two')))
    assert told.startswith(f'SDN (seed 0) {says}') and 'S 1.235, D 0.5' in told and ': one two;' in told and 'of 3 networks' in told
    assert '\n' not in told

@given(st.floats(0, 1e8))
def test_durations_are_near(seconds):
    units = dict(s=1, min=60, h=3600, d=86400)
    words = duration(seconds).split()
    assert sum(int(n)*units[u] for n, u in zip(words[::2], words[1::2])) == pytest.approx(seconds, rel=.26, abs=.5)

def test_a_log_is_short_but_alive():
    clock, out = Clock(), io.StringIO()
    with in_log(out, 5, clock) as show:
        for e in range(100):
            clock.now += 60
            show(Tally(2)(event(epoch=e, epochs=100)))
        show(Tally(2)(event('done', 100, epochs=100)))
    assert len(out.getvalue().splitlines()) == 21

# places

def test_a_terminal_shows_what_trains():
    out = io.StringIO()
    console, tally = Console(file=out, width=60, force_terminal=True, color_system=None), Tally(9)
    with in_terminal(console) as show:
        for e in (event(epoch=1, losses=dict(S=1.5)), event(epoch=1, network='K'), event('failed', 1, 'K', reason='a [red] disk')): show(tally(e))
    assert 'epoch 1 of 4' in out.getvalue() and 'S 1.5' in out.getvalue() and 'K (seed 0) failed: a [red] disk; 1 of 9' in out.getvalue()

def test_standard_output_stays_clean():
    done = subprocess.run([sys.executable, '-c', SCRIPT], capture_output=True, text=True)
    assert done.stdout == 'the result\n'
    assert [l.split(';')[0] for l in done.stderr.splitlines()] == ['SDN (seed 1) done after epoch 2: a [red] reason', 'S@0.5 (seed 1) failed: a [red] reason']

def test_a_bar_in_a_terminal():
    master, slave = pty.openpty()
    done = subprocess.run([sys.executable, '-c', SCRIPT], stdout=subprocess.PIPE, stderr=slave, text=True, env=os.environ | dict(TERM='xterm', COLUMNS='100'))
    os.close(slave)
    shown = os.read(master, 1 << 16).decode()
    os.close(master)
    assert done.stdout == 'the result\n' and '━' in shown and 'SDN (seed 1) done' in shown

@pytest.mark.parametrize('watched', [True, False])
def test_a_notebook_keeps_nothing(watched):
    nb = new_notebook(cells=[new_code_cell(f'get_ipython().kernel._allow_stdin = {watched}\n{SCRIPT}')])
    NotebookClient(nb, kernel_name='python3').execute()
    texts = [o.get('text') or ''.join(o.data.values()) for o in nb.cells[0].outputs]
    assert [t for t in texts if t] == ['the result\n'] and len(texts) == 1 + watched

def test_choices(capsys):
    seen = []
    with show_progress(1, show=seen.append) as report: report(event('done', 4))
    with show_progress(1, show=False) as report: report(event('done', 4))
    assert [e['done'] for e in seen] == [1] and capsys.readouterr() == ('', '')
    with pytest.raises(ValueError, match="'quiet'"), show_progress(1, show='quiet'): pass
