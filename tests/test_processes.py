"Work shared out over processes."
import multiprocessing as mp, os, subprocess, sys, time
from threading import Thread

import pytest

from its_a_match.processes import cores, each

def test_results_in_order():
    assert [*each(abs, range(-40, 0), 2)] == [*each(abs, range(-40, 0), 1)] == [*range(40, 0, -1)]

def test_items_are_taken_as_they_are_needed():
    "An endless generator of items is no trouble."
    def endless():
        while True: yield -1
    results = each(abs, endless(), 2)
    assert [next(results) for _ in range(3)] == [1, 1, 1]
    results.close()

def test_errors_reach_the_caller():
    with pytest.raises(ValueError, match="'seven'"): [*each(int, ['7', 'seven', '8'], 2)]
    with pytest.raises(RuntimeError, match='was killed'): [*each(os._exit, [3], 2)]
    with pytest.raises(ValueError, match='^0 processes can do nothing'): [*each(abs, [1], 0)]

def test_a_script_is_not_run_again(tmp_path):
    "Without `if __name__ == '__main__':`, and each line is printed once."
    (tmp_path/'script.py').write_text('from its_a_match.processes import each\nprint("once")\nprint(*each(abs, [-1, -2], 2))\n')
    run = subprocess.run([sys.executable, 'script.py'], cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, 'once\n1 2\n', '')

def test_cores(): assert 1 <= cores() <= os.cpu_count()

@pytest.mark.parametrize('which', [0, 1])
def test_an_idle_process_that_is_killed_holds_nobody_up(which):
    "One of them has the queue to itself while it waits, and would leave the other waiting for ever."
    others = set(mp.active_children())
    work = each(abs, range(4), 2)
    assert [next(work) for _ in range(4)] == [*range(4)]
    time.sleep(.2)
    [*(p for p in mp.active_children() if p not in others)][which].kill()
    end = Thread(target=lambda: list(work), daemon=True)
    end.start()
    end.join(20)
    assert not end.is_alive()
