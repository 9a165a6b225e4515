"Names of tasks and networks: round trips, order, spelling, and what is refused."
import subprocess, sys
from itertools import combinations

import pytest
from hypothesis import given, strategies as st

from its_a_match.tasks import (DICTIONARY, GEOMETRY, LETTERS, SELF_SUPERVISED, TASKONOMY, NetworkName, Task, canonical_name, display_name, get_tasks, network_name,
                               parse_network)

MINE = ('seg', 'depth', 'normals', 'a', 'b')
columns_ = st.sampled_from([LETTERS, MINE])
sizes = st.one_of(st.sampled_from([0.5, 1, 2]), st.floats(1e-4, 1e5).map(lambda s: float(f'{s:g}')))
variants = st.sampled_from(['', 'gradnorm', 'pcgrad-2', '0.5', 'e'])


def test_taskonomy_tasks():
    assert ''.join(LETTERS) == 'SDNKE'
    assert [t.name for t in TASKONOMY] == ['segment_semantic', 'depth_zbuffer', 'normal', 'keypoints2d', 'edge_texture']
    with pytest.raises(AttributeError): TASKONOMY[0].letter = 'X'


@st.composite
def networks(draw):
    "Columns, and a network over them with its tasks in any order."
    columns = draw(columns_)
    tasks = draw(st.lists(st.sampled_from(columns), min_size=1, unique=True))
    injected = draw(st.sampled_from(['', *(c for c in columns if c not in tasks)]))
    return columns, NetworkName(tuple(tasks), draw(sizes), draw(variants), injected)


@given(networks())
def test_round_trip(case):
    columns, n = case
    name = network_name(n.tasks, n.size, n.variant, n.injected, columns=columns)
    ordered = NetworkName(tuple(c for c in columns if c in n.tasks), n.size, n.variant, n.injected)
    assert name.isascii()
    assert parse_network(name, columns) == ordered
    assert parse_network(display_name(name), columns) == ordered
    assert canonical_name(name) == canonical_name(name, columns) == canonical_name(display_name(name)) == name
    assert display_name(display_name(name)) == display_name(name)


@given(networks(), networks())
def test_different_networks_have_different_names(one, two):
    (columns, a), (others, b) = one, two
    if columns != others: return
    names = [network_name(n.tasks, n.size, n.variant, n.injected, columns=columns) for n in (a, b)]
    assert (names[0] == names[1]) == (parse_network(names[0], columns) == parse_network(names[1], columns))
    assert (names[0] == names[1]) == ((set(a.tasks), a.size, a.variant, a.injected) == (set(b.tasks), b.size, b.variant, b.injected))


def test_names_of_the_36_networks():
    names = [network_name(c) for k in range(1, 6) for c in combinations(LETTERS, k)] + [network_name(t, 0.5) for t in LETTERS]
    assert len(set(names)) == 36
    assert names[:7] == ['S', 'D', 'N', 'K', 'E', 'SD', 'SN'] and names[-1] == 'E@0.5'


@pytest.mark.parametrize('name, tasks, expected', [
    ('SDN', LETTERS, NetworkName(('S', 'D', 'N'))),
    ('NDS', LETTERS, NetworkName(('S', 'D', 'N'))),
    ('S@0.5', LETTERS, NetworkName(('S',), 0.5)),
    ('S½', LETTERS, NetworkName(('S',), 0.5)),
    ('S½+x', LETTERS, NetworkName(('S',), 0.5, 'x')),
    ('SDNKE@2+gradnorm', LETTERS, NetworkName(LETTERS, 2, 'gradnorm')),
    ('SDNKE+gradnorm', LETTERS, NetworkName(LETTERS, 1, 'gradnorm')),
    ('S<D', LETTERS, NetworkName(('S',), injected='D')),
    ('S<D@0.5+x', LETTERS, NetworkName(('S',), 0.5, 'x', 'D')),
    ('S<D+x', LETTERS, NetworkName(('S',), 1, 'x', 'D')),
    ('seg+depth', MINE, NetworkName(('seg', 'depth'))),
    ('depth+seg@0.5+gradnorm', MINE, NetworkName(('seg', 'depth'), 0.5, 'gradnorm')),
    ('seg+depth+gradnorm', MINE, NetworkName(('seg', 'depth'), 1, 'gradnorm')),
    ('seg+depth<normals+x', MINE, NetworkName(('seg', 'depth'), 1, 'x', 'normals'))])
def test_forms(name, tasks, expected): assert parse_network(name, tasks) == expected


@pytest.mark.parametrize('name, tasks, part', [
    ('', LETTERS, 'names no task'), ('@0.5', LETTERS, 'names no task'), ('+x', LETTERS, 'names no task'), ('<D', LETTERS, 'names no task'),
    ('SX', LETTERS, "'X'"), ('sd', LETTERS, "'s'"), ('SS', LETTERS, "'S' comes twice"), ('S<S', LETTERS, "'S'"), ('S<Q', LETTERS, "'Q'"),
    ('S<', LETTERS, 'the <'), ('S<D<N', LETTERS, "'D<N'"), ('S@', LETTERS, "''"), ('S@big', LETTERS, "'big'"), ('S@0', LETTERS, '0'),
    ('S@-1', LETTERS, '-1'), ('S@nan', LETTERS, 'nan'), ('S@inf', LETTERS, 'inf'), ('S@0.5@2', LETTERS, "'0.5@2'"), ('S½D', LETTERS, "'0.5D'"),
    ('SD+N', LETTERS, "'N'"), ('SD+', LETTERS, 'the +'), ('SD+a+b', LETTERS, "'a+b'"), ('S D', LETTERS, "' '"),
    ('seg+blur+depth', MINE, "'blur'"), ('seg+x+y', MINE, "'x'"), ('nothing', MINE, "'nothing'"), ('seg++depth', MINE, "''"),
    ('seg@0.5+depth', MINE, "'depth'"), (None, LETTERS, 'not a text'), (float('nan'), LETTERS, 'not a text')])
def test_bad_names_are_refused_in_one_sentence(name, tasks, part):
    with pytest.raises(ValueError) as e: parse_network(name, tasks)
    text = str(e.value)
    assert text.startswith(f'network name {name!r}: ') and part in text and '\n' not in text


@pytest.mark.parametrize('args, part', [
    (((),), 'names no task'), (('SS',), 'twice'), (('SX', 1, '', '', LETTERS), "'X'"), (('S', 0), 'size'), (('S', float('nan')), 'size'),
    (('S', 'big'), "'big'"), (('S', 1, 'D'), "'D'"), (('S', 1, 'a+b'), "'a+b'"), (('S', 1, ' a'), "' a'"), (('S', 1, '', 'S'), "'S'"), (('S', 1e6), 'size'),
    ((['a+b'],), "'a+b'"), ((['seg', ''],), "''"), ((['seg '],), "'seg '")])
def test_bad_parts_are_refused(args, part):
    with pytest.raises(ValueError) as e: network_name(*args)
    assert part in str(e.value) and '\n' not in str(e.value)


def test_full_size_needs_no_size(): assert network_name('S', 1.0) == canonical_name('S@1') == 'S'
def test_other_sizes_are_shown_as_written(): assert display_name('SD@2') == 'SD@2'


@pytest.mark.parametrize('name', ['S@0', 'S@x', 'S@nan', 'S+', 3])
def test_spelling_refuses_what_has_no_size(name):
    with pytest.raises(ValueError): canonical_name(name)
    assert display_name(name) == name  # a user's name that only looks like ours is shown as it is


def test_tasks_need_no_torch():
    code = "import sys, its_a_match.tasks; print({'torch', 'numpy', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout == 'set()\n'


@pytest.mark.parametrize('parts, why', [
    (dict(name=''), 'the name is empty'), (dict(name='a+b'), 'contains one of'), (dict(letter='s'), "the letter 's' is not one of A to Z"),
    (dict(kind='image'), "the kind 'image' is not"), (dict(channels=0), 'channels is 0'), (dict(bits=12), 'bits is 12, not 8 or 16'),
    (dict(scale=0), 'the scale is 0'), (dict(invalid=256), '256 for "no label" does not fit into 8 bits'), (dict(valid=(1, 0)), 'is not below'),
    (dict(kind='classes', vector=True), 'only a dense task'), (dict(per_image=True), 'per_image is for classes'), (dict(normalise='yes'), "normalise is 'yes'")])
def test_a_task_that_contradicts_itself(parts, why):
    with pytest.raises(ValueError) as e: Task(**(dict(name='mine') | parts))
    assert why in str(e.value) and str(e.value).startswith('task ')


def test_tasks_by_name_letter_or_themselves():
    mine = Task('mine', kind='number', channels=3)
    assert (mine.key, mine.label, mine.short, mine.pixels) == ('mine', 'mine', 'mine', False)
    assert get_tasks('EDS') == get_tasks(['edge_texture', 'S', TASKONOMY[1]]) == tuple(TASKONOMY[i] for i in (0, 1, 4))
    assert get_tasks([mine, 'N']) == (TASKONOMY[2], mine) and get_tasks('normal') == get_tasks(TASKONOMY[2]) == (TASKONOMY[2],)
    for wrong in ('X', 'SX', [], '', ['S', 'S'], [3]):
        with pytest.raises(ValueError): get_tasks(wrong)


@pytest.mark.parametrize('parts, why', [
    (dict(term='l3'), "the term 'l3' is not one for dense: l1 or l2"), (dict(kind='number', term='metric'), "the term 'metric' is not one for number: l1 or l2"),
    (dict(kind='classes', channels=4, term='l1'), "the term 'l1' is not one for classes: cross-entropy or metric"),
    (dict(kind='classes', channels=4, per_image=True, term='metric'), "the term 'metric' is not one for classes: cross-entropy")])
def test_terms_that_are_not_of_the_kind(parts, why):
    with pytest.raises(ValueError) as e: Task('mine', **parts)
    assert str(e.value) == f"task 'mine': {why}"


def test_a_task_may_have_a_term():
    assert [Task('mine', term=t).term for t in ('', 'l1', 'l2')] == ['', 'l1', 'l2']
    assert Task('mine', kind='classes', channels=4, term='metric').term == 'metric'
    assert {t.name for t in DICTIONARY if t.term} == {'segment_unsup2d', 'segment_unsup25d'}


def test_dictionary():
    assert DICTIONARY == (*TASKONOMY, *GEOMETRY, *SELF_SUPERVISED) and (len(GEOMETRY), len(SELF_SUPERVISED)) == (7, 4)
    for names in ([t.name for t in DICTIONARY], [t.key for t in DICTIONARY], [t.label for t in DICTIONARY], [t.short for t in DICTIONARY]):
        assert len(set(names)) == 16 and all(names)
    assert [t.key for t in DICTIONARY] == [*LETTERS, *(t.name for t in DICTIONARY[5:])]
    assert max(len(t.short) for t in DICTIONARY) <= 10


def test_tasks_of_the_dictionary_by_name():
    for t in DICTIONARY: assert get_tasks(t.name) == get_tasks([t.key]) == get_tasks(t) == (t,)
    assert [t.key for t in get_tasks(['reshading', 'E', 'denoising', 'normal', 'edge_occlusion'])] == ['N', 'E', 'reshading', 'denoising', 'edge_occlusion']
    with pytest.raises(ValueError, match="task 'reshading': it comes twice"): get_tasks(['reshading', GEOMETRY[1]])
    with pytest.raises(ValueError, match="task 'Reshading': it is none of segment_semantic, S, .*, colorization"): get_tasks('Reshading')
    with pytest.raises(ValueError): get_tasks('reshading,normal')
