"The figures: settings only when asked for, any tasks, readable in grey, and drawings that say what the table says."
import io, subprocess, sys

import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest
from hypothesis import given, strategies as st

from its_a_match import figures
from its_a_match.published import match_affinities, which_tasks_losses
from its_a_match.selection import select_networks

@pytest.fixture(autouse=True)
def settings():
    "The style in effect, and no figure left open."
    with plt.rc_context():
        figures.style()
        yield
    plt.close('all')

def test_importing_changes_no_settings():
    code = "import matplotlib as m, matplotlib.pyplot; a = dict(m.rcParams); import its_a_match.figures; assert dict(m.rcParams) == a"
    subprocess.run([sys.executable, '-c', code], check=True)

def square(values, tasks): return pd.DataFrame(values, pd.Index(tasks, name='partner'), pd.Index(tasks, name='target'))

@pytest.mark.parametrize('draw', [
    lambda ax: figures.heatmap(square([[np.nan, .1], [.2, np.nan]], ['my seg', 'my depth']), ax),
    lambda ax: figures.tradeoff(pd.DataFrame({1: [.5, np.nan], 2.5: [.4, np.nan]}, ['a', 'never measured']), ax),
    lambda ax: figures.grouping(['my seg+my depth', 'my depth@0.5'], ax, tasks=['my seg', 'my depth']),
    lambda ax: figures.scatter_pairs([1, 2, np.nan], [1, np.nan, 2], ['a', 'b', 'c'], ax),
    lambda ax: figures.intervals(pd.DataFrame(dict(r=[.1, np.nan])), ax=ax)])
def test_draws_on_the_given_axes(draw):
    ax = plt.subplots()[1]
    assert draw(ax) is ax
    ax.figure.canvas.draw()

@given(st.lists(st.floats(-1e3, 1e3), min_size=6, max_size=6), st.sampled_from([None, 0, 1]))
def test_numbers_stand_out_from_their_cells(values, centre):
    cells = np.full((3, 3), np.nan)
    cells[~np.eye(3, dtype=bool)] = values
    table = square(cells, list('SDN'))
    ax = figures.heatmap(table, centre=centre)
    image = ax.collections[0]
    assert len(ax.texts) == 6
    for text in ax.texts:
        column, row = map(int, text.get_position())  # the middle of a cell
        cell = image.cmap(image.norm(table.iat[row, column]))
        assert abs(figures.luminance(cell) - figures.luminance(text.get_color())) > .4
    plt.close(ax.figure)

def test_a_constant_or_empty_table_has_a_map():
    for value in (0., 3., np.nan):
        for centre in (None, 0): figures.heatmap(square(np.full((2, 2), value), list('SD')), centre=centre).figure.canvas.draw()

@pytest.mark.parametrize('budget', np.arange(1, 5.5, .5))
def test_a_grouping_shows_every_decoder_once(budget):
    "One edge a decoder, solid for the five predictions used, one circle a network."
    losses = which_tasks_losses()
    best = select_networks(losses, budget)
    ax = figures.grouping(best)
    edges = [line.get_linestyle() for line in ax.lines]
    assert len(edges) == losses.loc[list(best.networks)].drop(columns='cost').notna().to_numpy().sum()
    assert edges.count('-') == 5
    assert sum(p.radius**2 for p in ax.patches) == pytest.approx(.3**2 * best.cost)

def test_a_network_that_no_task_uses_is_drawn_dotted():
    "*Which tasks* Table 6 has such a solution (ESA at 3)."
    ax = figures.grouping(['SDNE', 'SDKE', 'NKE'], solves=dict(S='SDNE', D='SDNE', N='NKE', K='NKE', E='NKE'))
    assert [line.get_linestyle() for line in ax.lines].count(':') == 2 + 4
    assert len(ax.patches) == 3

@pytest.mark.parametrize('chosen, options, says', [
    (['SD', 'NK'], dict(tasks=list('SDNKE')), "none of the networks SD, NK solves task 'E'"),
    (['SD', 'NK'], dict(solves=dict(S='NK')), "task 'S' can't be solved by 'NK': it is not one of SD"),
    (['seg+depth'], {}, "network name 'seg+depth': 's' is not one of the tasks S, D, N, K, E")])
def test_a_grouping_that_does_not_fit_is_refused(chosen, options, says):
    with pytest.raises(ValueError, match='(?s)' + says.replace('+', r'\+')): figures.grouping(chosen, **options)

def test_the_same_figure_is_the_same_file():
    def svg():
        file = io.BytesIO()
        figures.heatmap(match_affinities()['LI'], centre=0).figure.savefig(file, format='svg', metadata=dict(Date=None))
        return file.getvalue()
    assert svg() == svg()
