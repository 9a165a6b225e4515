"The recipe 'Add a score' of CONTRIBUTING.md does what it says."
import re

import numpy as np, pandas as pd, pytest, torch

from its_a_match.affinity.core import SCORES, Evidence, compute, get_scores
from its_a_match.evaluation import agreement, pairwise_gains
from its_a_match.models import get_model
from its_a_match.published import which_tasks_losses

@pytest.fixture(scope='session')
def blocks(root):
    "The Python blocks of the recipe: the file `my_scores.py`, and how it is used."
    recipe = (root/'CONTRIBUTING.md').read_text(encoding='utf-8').split('### Add a score\n')[1].split('\n### ')[0]
    return re.findall(r'```python\n(.*?)```', recipe, re.S)

@pytest.fixture
def own(blocks, tmp_path, monkeypatch):
    "The score of the recipe, registered by executing its file, for one test only."
    for name in SCORES: monkeypatch.setitem(SCORES, name, SCORES[name])  # the registry is put back afterwards
    before = {*SCORES}
    file = tmp_path/'my_scores.py'
    file.write_text(blocks[0])
    names = dict(__name__='my_scores', __file__=str(file))
    exec(compile(blocks[0], str(file), 'exec'), names)
    (name,) = {*SCORES} - before
    yield name, names
    del SCORES[name]

@pytest.fixture(scope='module')
def networks(): return {k: get_model('small', k, seed=i) for i, k in enumerate('SDNKE')}

def test_recipe_is_one_function_and_one_line(blocks, own):
    name, names = own
    assert len(blocks) == 2
    assert len(re.findall('^def ', blocks[0], re.M)) == len(re.findall('^@', blocks[0], re.M)) == 1
    assert get_scores(name)[name].compute is names['weight_similarity'] and SCORES[name].takes == ['networks']

def test_score_is_computed_and_judged(own, networks):
    name, _ = own
    tables, costs = compute(Evidence(networks=networks), [name])
    w = {k: np.concatenate([p.detach().numpy().ravel() for p in net.encoder.parameters()]) for k, net in networks.items()}
    for a in 'SDNKE':
        for b in 'SDNKE': assert np.isnan(tables[name].loc[b, a]) if a == b else np.isclose(tables[name].loc[b, a], w[a] @ w[b]/np.linalg.norm(w[a])/np.linalg.norm(w[b]), atol=1e-5)
    assert costs.loc[name, 'seconds'] > 0 and costs.loc[name, 'forward'] == 0
    found = agreement(tables, pairwise_gains(which_tasks_losses('test'), baseline='half'))
    assert list(found.index) == [name] and -1 <= found.spearman[name] <= 1

def test_use_in_python_as_written(blocks, own, networks, capsys):
    name, _ = own
    found = dict(networks=networks)
    exec(blocks[1], found)
    want = compute(Evidence(networks=networks), [name], {name: dict(part=.5)})[0][name]
    pd.testing.assert_frame_equal(found['tables'][name], want)
    assert not want.equals(compute(Evidence(networks=networks), [name])[0][name])
    said = capsys.readouterr().out
    assert 'spearman' in said and 'training_seconds' in said and 'partner' in said

def test_twins_and_opposites(own, networks):
    "Equal encoders have 1, opposite ones -1."
    name, _ = own
    twin, opposite = get_model('small', 'D', seed=9), get_model('small', 'N', seed=9)
    with torch.no_grad():
        for p, q, r in zip(networks['S'].encoder.parameters(), twin.encoder.parameters(), opposite.encoder.parameters()):
            q.copy_(p)
            r.copy_(-p)
    found = SCORES[name](dict(N=opposite, D=twin, S=networks['S']))
    assert np.isclose(found.loc['D', 'S'], 1, atol=1e-5) and np.isclose(found.loc['N', 'S'], -1, atol=1e-5)

def test_what_goes_wrong_names_the_score(own, networks, monkeypatch):
    name, names = own
    with pytest.raises(ValueError, match=f"score '{name}': it takes networks, and there are none"): compute(Evidence(), [name])
    with pytest.raises(ValueError, match=f"score '{name}': it has no option 'layer'"): compute(Evidence(networks=networks), [name], {name: dict(layer='code')})
    monkeypatch.setitem(names, 'pairwise', lambda values, keys: pd.DataFrame(values.tolist(), [*keys], [*keys]))
    with pytest.raises(ValueError, match=f"score '{name}'.*diagonal is to be NaN"): compute(Evidence(networks=networks), [name])

def test_registry_is_as_it_was(): assert 'WS' not in SCORES
