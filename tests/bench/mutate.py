"""Mutants of a Python function, one change each: operators, comparisons, constants, off by one, removed statements and
calls, swapped branches and arguments, another function, another result. Reads lines of JSON {source, entry, seed, most}
and answers each with a line, an array of functions. Trusted: it parses and writes programs, and runs none."""

import ast
import copy
import json
import random
import sys

OPERATORS = {
    ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Add, ast.FloorDiv], ast.Div: [ast.Mult], ast.FloorDiv: [ast.Mult, ast.Mod],
    ast.Mod: [ast.FloorDiv], ast.Pow: [ast.Mult], ast.BitAnd: [ast.BitOr], ast.BitOr: [ast.BitAnd], ast.BitXor: [ast.BitOr],
    ast.LShift: [ast.RShift], ast.RShift: [ast.LShift],
}
COMPARISONS = {
    ast.Lt: [ast.LtE, ast.Gt], ast.LtE: [ast.Lt, ast.GtE], ast.Gt: [ast.GtE, ast.Lt], ast.GtE: [ast.Gt, ast.LtE],
    ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.In: [ast.NotIn], ast.NotIn: [ast.In], ast.Is: [ast.IsNot], ast.IsNot: [ast.Is],
}
NAMES = {
    "min": "max", "max": "min", "all": "any", "any": "all", "sorted": "list", "sum": "len", "abs": "int", "int": "round", "set": "list",
    "lower": "upper", "upper": "lower", "startswith": "endswith", "endswith": "startswith", "append": "extend", "find": "rfind",
}


def constants(value):
    if value is True or value is False:
        return [not value]
    if isinstance(value, (int, float)):
        return [value + 1, value - 1]
    if isinstance(value, str):
        return [value + "x", value[:-1]] if value else ["x"]
    return []


def changes(node):
    """(kind, what to do to a copy of the node)"""
    if isinstance(node, (ast.BinOp, ast.AugAssign)):
        for other in OPERATORS.get(type(node.op), []):
            yield "operator", lambda own, other=other: setattr(own, "op", other())
    if isinstance(node, ast.Compare):
        for index, op in enumerate(node.ops):
            for other in COMPARISONS.get(type(op), []):
                yield "comparison", lambda own, index=index, other=other: own.ops.__setitem__(index, other())
    if isinstance(node, ast.BoolOp):
        other = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield "operator", lambda own: setattr(own, "op", other())
    if isinstance(node, ast.Constant):
        for value in constants(node.value):
            yield "constant", lambda own, value=value: setattr(own, "value", value)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        at = 0 if len(node.args) == 1 else 1
        for op in (ast.Add, ast.Sub):
            yield "off by one", lambda own, op=op: own.args.__setitem__(at, ast.BinOp(own.args[at], op(), ast.Constant(1)))
    if isinstance(node, ast.Subscript) and not isinstance(node.slice, (ast.Slice, ast.Tuple, ast.Constant)):
        yield "off by one", lambda own: setattr(own, "slice", ast.BinOp(own.slice, ast.Sub(), ast.Constant(1)))
    if isinstance(node, ast.If) and node.orelse:
        yield "branches", lambda own: (lambda body, orelse: (setattr(own, "body", orelse), setattr(own, "orelse", body)))(own.body, own.orelse)
    if isinstance(node, ast.IfExp):
        yield "branches", lambda own: (lambda body, orelse: (setattr(own, "body", orelse), setattr(own, "orelse", body)))(own.body, own.orelse)
    if isinstance(node, (ast.If, ast.While)):
        yield "condition", lambda own: setattr(own, "test", ast.UnaryOp(ast.Not(), own.test))
    if isinstance(node, ast.comprehension) and node.ifs:
        yield "condition", lambda own: own.ifs.__setitem__(0, ast.UnaryOp(ast.Not(), own.ifs[0]))
        yield "condition", lambda own: own.ifs.pop()
    if isinstance(node, ast.Slice):
        for field in ("lower", "upper", "step"):
            if getattr(node, field) is not None:
                yield "off by one", lambda own, field=field: setattr(own, field, ast.BinOp(getattr(own, field), ast.Add(), ast.Constant(1)))
                yield "removal", lambda own, field=field: setattr(own, field, None)
    if isinstance(node, ast.Name) and node.id in NAMES:
        yield "name", lambda own: setattr(own, "id", NAMES[own.id])
    if isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield "name", lambda own: setattr(own, "attr", NAMES[own.attr])
    if isinstance(node, ast.Call) and len(node.args) >= 2:
        yield "arguments", lambda own: own.args.insert(0, own.args.pop(1))
    if isinstance(node, ast.Call) and node.keywords:
        yield "arguments", lambda own: own.keywords.pop()
    if isinstance(node, ast.Return) and node.value is not None:
        yield "return", lambda own: setattr(own, "value", ast.Constant(None))
        yield "return", lambda own: setattr(own, "value", ast.UnaryOp(ast.Not(), own.value))
        yield "return", lambda own: setattr(own, "value", ast.List([own.value], ast.Load()))
        for constant in (0, 1, True, False, ""):
            yield "return", lambda own, constant=constant: setattr(own, "value", ast.Constant(constant))
    for field, value in ast.iter_fields(node):
        # what a call was made of, without the call
        if isinstance(value, ast.Call) and len(value.args) == 1 and not value.keywords:
            yield "removal", lambda own, field=field: setattr(own, field, getattr(own, field).args[0])
        if isinstance(value, ast.UnaryOp):
            yield "removal", lambda own, field=field: setattr(own, field, getattr(own, field).operand)
    for field in ("body", "orelse"):
        block = getattr(node, field, None)
        if isinstance(block, list):
            for index, statement in enumerate(block):
                doc = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
                if not doc and not isinstance(statement, (ast.FunctionDef, ast.Import, ast.ImportFrom, ast.Pass)):
                    yield "removal", lambda own, field=field, index=index: getattr(own, field).__setitem__(index, ast.Pass())


def mutants(source, entry, seed, most):
    tree = ast.parse(source)
    function = next(node for node in reversed(tree.body) if isinstance(node, ast.FunctionDef) and node.name == entry)
    original = ast.unparse(function)
    documentation = {id(node.value) for node in ast.walk(function) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}
    skipped = {id(inner) for outer in [function.args, *([function.returns] if function.returns else [])] for inner in ast.walk(outer)}
    kinds = {}
    for position, node in enumerate(ast.walk(function)):
        if id(node) in documentation or id(node) in skipped:
            continue
        for number, (kind, _) in enumerate(changes(node)):
            kinds.setdefault(kind, []).append((position, number))
    rng = random.Random(seed)
    for sites in kinds.values():
        rng.shuffle(sites)
    # a site of each kind in turn
    order = [site for row in range(max(map(len, kinds.values()), default=0)) for sites in kinds.values() for site in sites[row : row + 1]]
    found, seen = [], {original}
    for position, number in order:
        own = copy.deepcopy(function)
        node = next(node for index, node in enumerate(ast.walk(own)) if index == position)
        list(changes(node))[number][1](node)
        try:
            text = ast.unparse(ast.fix_missing_locations(own))
            compile(text, "mutant", "exec")
        except (SyntaxError, ValueError):
            continue
        if text not in seen:
            seen.add(text)
            found.append(text)
        if len(found) == most:
            break
    return found


for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps(mutants(**request)), flush=True)
