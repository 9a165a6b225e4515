"The names that `its_a_match` itself has, and the type hints of all that is public."
import ast, dataclasses, importlib, inspect, pkgutil, subprocess, sys
from functools import cached_property
from typing import get_args, get_type_hints

import pytest, stubs

import its_a_match

def modules():
    "The names of all modules, and of the package itself."
    found = pkgutil.walk_packages(its_a_match.__path__, 'its_a_match.')
    other = 'its_a_match.data', 'its_a_match.nbs', 'its_a_match._'
    return ['its_a_match', *(m.name for m in found if not m.name.startswith(other))]

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

LATER = []  # to be emptied

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

def for_checkers(module):
    "What a module imports for type checkers alone."
    names = {}
    for o in ast.parse(inspect.getsource(module)).body:
        if isinstance(o, ast.If) and ast.unparse(o.test) == 'TYPE_CHECKING': exec(ast.unparse(o.body), names)
    return names

def hints(o, module):
    found = get_type_hints(o, localns=for_checkers(module), include_extras=True)
    return {k: t for k, t in found.items() if not hasattr(t, '__metadata__')}  # what typer is to know of an option is for the command line

def lacking(f):
    "The parameters of a function that have no type hint, and 'return' if that has none."
    free, s = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD), inspect.signature(f)
    names = [p.name for p in s.parameters.values() if p.annotation is p.empty and p.name not in ('self', 'cls') and p.kind not in free]
    return names + ['return']*(s.return_annotation is s.empty and f.__name__ != '__init__')

def untrue(f):
    "The parameters of a function that are None where nobody says, though their type hints know nothing of it."
    known = hints(f, sys.modules[f.__module__])
    without = [p.name for p in inspect.signature(f).parameters.values() if p.default is None]
    return [n for n in without if n in known and known[n] is not object and type(None) not in get_args(known[n])]

@pytest.mark.parametrize('name', modules()[1:])
def test_type_hints(name):
    "Every public function says what it takes and gives, in types that there are."
    if name.removeprefix('its_a_match.') in LATER: pytest.skip('still to come')
    found = dict(functions(importlib.import_module(name)))
    assert {n: l for n, f in found.items() if (l := lacking(f))} == {}
    assert {n: l for n, f in found.items() if (l := untrue(f))} == {}

@pytest.mark.parametrize('name', modules()[1:])
def test_type_hints_of_fields(name):
    "Of dataclasses, whose hints are those of their arguments."
    if name.removeprefix('its_a_match.') in LATER: pytest.skip('still to come')
    module = importlib.import_module(name)
    for n in getattr(module, '__all__', ()):
        o = getattr(module, n)
        if not (inspect.isclass(o) and dataclasses.is_dataclass(o) and o.__module__ == name): continue
        known = hints(o, module)
        assert [f.name for f in dataclasses.fields(o) if f.default is None and known[f.name] is not object and type(None) not in get_args(known[f.name])] == []

# Stubs, in which type checkers find the methods that a class gets by @patch

def methods(cls):
    "The public methods and properties that a class has itself."
    fields = getattr(cls, '__dataclass_fields__', {})
    kinds  = property, cached_property, staticmethod, classmethod
    return {k for k, v in vars(cls).items() if k[0] != '_' and k not in fields and (inspect.isfunction(v) or isinstance(v, kinds))}

@pytest.mark.parametrize('name', modules()[1:])
def test_stubs_have_every_method(name):
    module = importlib.import_module(name)
    if (text := stubs.stub(inspect.getsource(module) or '#')) is None: return
    said = {o.name: {f.name for f in o.body if isinstance(f, ast.FunctionDef)} for o in ast.parse(text).body if isinstance(o, ast.ClassDef)}
    here = {n: o for n, o in vars(module).items() if inspect.isclass(o) and o.__module__ == name}
    assert {n: lost for n, o in here.items() if (lost := methods(o) - said.get(n, set()))} == {}

def test_stub():
    "A method in its class, without what it does, unless that is to give the object an attribute."
    source = '''
from fastcore.basics import patch
class A:
    "Something."
    n:int=0
    def put(self, x): self.x = x
@patch(as_prop=True)
def half(self:A)->float: return self.n/2
@patch
def more(self:A, by:int=1)->A:
    "Another."
    return A(self.n + by)
def other(a:A)->int: return a.n
@patch
def of_another_module(self:B): return 1
'''
    assert stubs.stub(source) == '''from fastcore.basics import patch

class A:
    """Something."""
    n: int = 0

    def put(self, x):
        self.x = x

    @property
    def half(self) -> float:
        ...

    def more(self, by: int=1) -> A:
        ...

def other(a: A) -> int:
    ...

@patch
def of_another_module(self: B):
    ...
'''
    assert stubs.stub('class A:\n    def more(self): return 1\n') is None
