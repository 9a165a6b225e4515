"The names that `its_a_match` itself has, and the type hints of all that is public."
import ast, importlib, inspect, pkgutil, subprocess, sys
from functools import cached_property
from typing import get_type_hints

import pytest

import its_a_match

def modules():
    "The names of all modules, and of the package itself."
    found = pkgutil.walk_packages(its_a_match.__path__, 'its_a_match.')
    return ['its_a_match', *(m.name for m in found if not m.name.startswith(('its_a_match.data', 'its_a_match.nbs')))]

# The package's own names

def test_names_are_what_the_modules_have():
    for name in its_a_match.__all__:
        assert getattr(its_a_match, name) is getattr(importlib.import_module(f'its_a_match.{its_a_match._HOMES[name]}'), name)

def test_names_are_told_alike_to_people_and_to_type_checkers(root):
    tree = ast.parse((root/'its_a_match/__init__.py').read_text())
    (block,) = [o for o in tree.body if isinstance(o, ast.If)]
    seen = {name.name: o.module.removeprefix('its_a_match.') for o in block.body for name in o.names}
    assert seen == its_a_match._HOMES and sorted(its_a_match.__all__) == sorted(seen)
    assert {*its_a_match.__all__} <= {*dir(its_a_match)} and '__version__' in dir(its_a_match)

def test_no_name_is_a_module():
    "Or it would mean the module as soon as somebody has imported that."
    assert {*its_a_match.__all__} & {m.split('.')[1] for m in modules()[1:]} == set()

def loaded(code):
    "The packages outside the standard library that a fresh Python has loaded after `code`, and no one before."
    code = f"import sys; before = {{*sys.modules}}\n{code}\nprint(*{{m.split('.')[0] for m in {{*sys.modules}} - before}} - sys.stdlib_module_names)"
    return {*subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split()}

def test_import_loads_no_other_package():
    assert loaded('import its_a_match; dir(its_a_match); its_a_match.__version__') == {'its_a_match'}
    assert loaded('from its_a_match import Task') == {'its_a_match'}
    assert 'torch' not in loaded('from its_a_match import read_candidates, select_networks')
    assert 'torch' in loaded('from its_a_match import fit')

def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'its_a_match' has no attribute 'nonsense'"): its_a_match.nonsense
    with pytest.raises(ImportError, match="cannot import name 'nonsense' from 'its_a_match'"): from its_a_match import nonsense # noqa: F401
    assert not hasattr(its_a_match, '__wrapped__')

def test_version_is_that_of_the_settings(root):
    (line,) = [o for o in (root/'settings.ini').read_text().splitlines() if o.startswith('version')]
    assert its_a_match.__version__ == line.split('=')[1].strip()

# Type hints

LATER = []

def functions(module):
    "The public functions of a module, methods with the name of their class."
    for name in getattr(module, '__all__', ()):
        o = getattr(module, name)
        if getattr(o, '__module__', None) != module.__name__: continue
        for k, f in vars(o).items() if inspect.isclass(o) else [('', o)]:
            if k[:1] == '_' and k != '__init__': continue
            f = f.fget if isinstance(f, property) else f.func if isinstance(f, cached_property) else getattr(f, '__func__', f)
            f = inspect.unwrap(f) if callable(f) else f
            if inspect.isfunction(f) and f.__module__.startswith('its_a_match.'): yield f'{name}.{k}'.strip('.'), f

def lacking(f):
    "The parameters of a function that have no type hint, and 'return' if that has none."
    free = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    s = inspect.signature(f)
    names = [p.name for p in s.parameters.values() if p.annotation is p.empty and p.name not in ('self', 'cls') and p.kind not in free]
    return names + ['return']*(s.return_annotation is s.empty and f.__name__ != '__init__')

@pytest.mark.parametrize('name', modules()[1:])
def test_type_hints(name):
    "Every public function says what it takes and gives, in types that there are."
    if name.removeprefix('its_a_match.') in LATER: pytest.skip('still to come')
    found = dict(functions(importlib.import_module(name)))
    assert {n: l for n, f in found.items() if (l := lacking(f))} == {}
    for f in found.values(): get_type_hints(f)
