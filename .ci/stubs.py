"Stubs for type checkers, which do not see the methods that `@patch` gives to a class after it was made (setup.py writes them into the wheel)."
import ast
from pathlib import Path

def patch_of(function):
    "The `@patch` of a function, or None."
    return next((d for d in function.decorator_list if ast.unparse(getattr(d, 'func', d)) == 'patch'), None)

def method(function):
    "A patched function as it would stand in its class."
    how = ast.unparse(mark := patch_of(function))
    kinds = [ast.Name(name) for name, word in (('property', 'as_prop'), ('classmethod', 'cls_method')) if f'{word}=True' in how]
    function.decorator_list = kinds + [d for d in function.decorator_list if d is not mark]
    function.args.args[0].annotation = None
    return function

class Bodiless(ast.NodeTransformer):
    "Leaves out what functions do, but for methods that give an object its attributes."
    def visit_FunctionDef(self, function):
        stored = (o for o in ast.walk(function) if isinstance(o, ast.Attribute) and isinstance(o.ctx, ast.Store))
        if not any(ast.unparse(o.value) == 'self' for o in stored): function.body = [ast.Expr(ast.Constant(...))]
        return function

def stub(source):
    "The text of a stub for a module, each method in its class; None if all methods are in theirs."
    tree, own = ast.parse(source), []
    classes = {o.name: o for o in tree.body if isinstance(o, ast.ClassDef)}
    for o in tree.body:
        home = classes.get(ast.unparse(o.args.args[0].annotation)) if isinstance(o, ast.FunctionDef) and patch_of(o) else None
        (home.body if home else own).append(method(o) if home else o)
    if len(own) == len(tree.body): return
    tree.body = own
    return ast.unparse(ast.fix_missing_locations(Bodiless().visit(tree))) + '\n'

def write_stubs(package):
    "Writes the stubs of a package beside its modules."
    for p in Path(package).rglob('*.py'):
        if text := stub(p.read_text(encoding='utf-8')): p.with_suffix('.pyi').write_text(text, encoding='utf-8')
