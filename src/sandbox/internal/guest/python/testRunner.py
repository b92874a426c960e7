# The Python that runs a user's test file, in another confined interpreter than the candidate. `solution` (or `candidate`)
# is a module whose functions and classes are stand-ins. A call travels through the host as data and comes back as data,
# so a test compares with Python's own types and nothing of the candidate's runs here. Arguments arrive there as copies.
# A value that is not data stays there. It can be called, read by attribute and passed back, but it has no truth value, no
# length and equals nothing.
#
# It finds functions `test*`, methods `test*` of classes `Test*` and of unittest's, and bare asserts of the file itself.
# pytest has `raises`, `approx`, `fail` and `mark.parametrize` here, but no fixtures.
#
# driver.py executes this text and provides `send`, `receive`, `encode`, `decode`, `quote`, `told` and `nonce`.
def run(source):
    import sys, builtins, ast, operator

    Module, Function = type(sys), type(run)
    contacts = 0

    class Dead(BaseException):
        pass

    class CandidateError(Exception):
        pass

    def short(value):
        try:
            text = repr(value)
        except Exception as fault:
            text = '<' + type(fault).__name__ + '>'
        return text if len(text) < 200 else text[:120] + ' ... ' + text[-60:]

    def ask(question):
        nonlocal contacts
        contacts += 1
        send(nonce, 'q', question)
        frame = receive()
        kind = frame[0]
        if kind == 'v':
            return decode(frame[1], stand_in)
        if kind == 'e':
            raise fault_of(*frame[1])
        raise Dead(frame[1], frame[2])

    def fault_of(text, names):
        message = text.partition(': ')[2]
        fault = None
        for name in names:
            # raised here, these would end a loop of the test's early
            if name in ('StopIteration', 'StopAsyncIteration'):
                continue
            known = getattr(builtins, name, None)
            if isinstance(known, type) and issubclass(known, Exception):
                try:
                    fault = known(message)
                except TypeError:
                    continue
                break
        if fault is None:
            fault = CandidateError(text)
        fault.names, fault.told = names, text
        return fault

    def keep(value):
        if type(value) is StandIn:
            return value._quintain_target
        raise TypeError('a ' + type(value).__name__ + ' cannot be passed to the candidate')

    class StandIn:
        def __init__(self, target, kind):
            self._quintain_target, self._quintain_kind = target, kind

        def __call__(self, *args, **named):
            return ask(
                '["invoke",' + self._quintain_target + ',' + encode(list(args), keep) + ',' + encode(named, keep) + ']'
            )

        def __getattr__(self, name):
            if name[:2] == '__' or name[:10] == '_quintain_':
                raise AttributeError(name)
            return ask('["get",' + self._quintain_target + ',' + quote(name) + ']')

        def __bool__(self):
            raise TypeError('the candidate returned a ' + self._quintain_kind + ', which is no data')

        def __repr__(self):
            return '<' + self._quintain_kind + ' of the candidate>'

    def stand_in(number, kind):
        if type(number) is not int:
            raise TypeError('a forged object')
        return StandIn(repr(number), str(kind))

    class Solution(Module):
        def __getattr__(self, name):
            # a star import never replaces what the tests compare with
            if name == '__all__':
                return [str(one) for one in ask('["names"]') if not hasattr(builtins, str(one))]
            if name[:2] == '__':
                raise AttributeError(name)
            found = ask('["get","",' + quote(name) + ']')
            # by name: it stays valid should the candidate's process have to be started again
            return StandIn(quote(name), found._quintain_kind) if type(found) is StandIn else found

    sys.modules['solution'], sys.modules['candidate'] = Solution('solution'), Solution('candidate')

    operators = {
        'Eq': ('==', operator.eq),
        'NotEq': ('!=', operator.ne),
        'Lt': ('<', operator.lt),
        'LtE': ('<=', operator.le),
        'Gt': ('>', operator.gt),
        'GtE': ('>=', operator.ge),
        'Is': ('is', operator.is_),
        'IsNot': ('is not', operator.is_not),
        'In': ('in', lambda a, b: a in b),
        'NotIn': ('not in', lambda a, b: a not in b),
    }

    def check(name, left, right, text, message):
        sign, holds = operators[name]
        if not holds(left, right):
            detail = short(left) + ' ' + sign + ' ' + short(right) + ' does not hold: ' + text
            raise AssertionError(detail if message is None else str(message())[:400] + ' (' + detail + ')')

    class Asserts(ast.NodeTransformer):
        def visit_Assert(self, node):
            self.generic_visit(node)
            text = ast.get_source_segment(source, node.test) or ''
            text = ' '.join(text.split())[:200]
            test = node.test
            if not isinstance(test, ast.Compare) or len(test.ops) > 1:
                if node.msg is None:
                    node.msg = ast.Constant('does not hold: ' + text)
                return ast.fix_missing_locations(node)
            none = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
            message = ast.Constant(None) if node.msg is None else ast.Lambda(none, node.msg)
            call = ast.Call(
                ast.Name('_quintain_check', ast.Load()),
                [ast.Constant(type(test.ops[0]).__name__), test.left, test.comparators[0], ast.Constant(text), message],
                [],
            )
            return ast.fix_missing_locations(ast.copy_location(ast.Expr(call), node))

    class Approx:
        def __init__(self, expected, rel=1e-6, abs=1e-12):
            self.expected, self.rel, self.abs = expected, rel, abs

        def __eq__(self, actual):
            return self.near(actual, self.expected)

        def __repr__(self):
            return 'approx(' + short(self.expected) + ')'

        def near(self, actual, expected):
            if isinstance(expected, dict):
                return (
                    isinstance(actual, dict)
                    and actual.keys() == expected.keys()
                    and all(self.near(actual[key], expected[key]) for key in expected)
                )
            if isinstance(expected, (list, tuple)):
                return (
                    type(actual) is type(expected)
                    and len(actual) == len(expected)
                    and all(map(self.near, actual, expected))
                )
            if type(actual) not in (int, float, complex):
                return False
            return actual == expected or abs(actual - expected) <= max(self.rel * abs(expected), self.abs) < float(
                'inf'
            )

    class Raises:
        def __init__(self, expected, *call, match=None, **named):
            self.expected, self.match, self.value = (
                expected if isinstance(expected, tuple) else (expected,),
                match,
                None,
            )
            if call:
                with self:
                    call[0](*call[1:], **named)

        def __enter__(self):
            return self

        def __exit__(self, kind, fault, trace):
            if fault is None:
                raise AssertionError('nothing was raised')
            if isinstance(fault, Dead):
                return False
            names = [quote(name) for name in getattr(fault, 'names', ())]
            if not any(
                one._quintain_target in names
                if type(one) is StandIn
                else isinstance(fault, one) or quote(one.__name__) in names
                for one in self.expected
            ):
                return False
            if self.match is not None:
                import re

                if not re.search(self.match, str(fault)):
                    raise AssertionError(short(str(fault)) + ' does not match ' + short(self.match))
            self.value = fault
            return True

    def parametrize(names, values, **rest):
        if isinstance(names, str):
            names = [name.strip() for name in names.split(',') if name.strip()]

        def mark(function):
            sets = [dict(zip(names, value if len(names) > 1 else (value,))) for value in values]
            before = getattr(function, 'quintain_sets', [{}])
            function.quintain_sets = [{**one, **other} for other in before for one in sets]
            return function

        return mark

    class Mark:
        def __getattr__(self, name):
            return lambda *args, **named: args[0] if len(args) == 1 and callable(args[0]) else lambda function: function

    def fail(reason=''):
        raise AssertionError(reason)

    pytest = sys.modules['pytest'] = Module('pytest')
    pytest.raises, pytest.approx, pytest.fail, pytest.mark = Raises, Approx, fail, Mark()
    pytest.mark.parametrize = parametrize

    def text_of(fault):
        return (getattr(fault, 'told', None) or told(fault)) + (
            ', raised by the candidate' if hasattr(fault, 'names') else ''
        )

    def outcome(action):
        try:
            value = action()
            if hasattr(value, '__await__') and type(value) is not StandIn:
                import asyncio

                asyncio.run(value)
        except Dead as dead:
            return dead.args
        except MemoryError:
            return 'memory', 'MemoryError'
        except AssertionError as fault:
            return 'fail', str(fault)[:1000] or 'an assertion does not hold'
        except BaseException as fault:
            return 'error', text_of(fault)[:1000]
        return 'pass', ''

    def report(index, status, detail):
        send(nonce, 'r', '[' + repr(index) + ',' + quote(status) + ',' + quote(detail) + ']')

    def unfit(detail):
        send(nonce, 'i', quote(detail[:1000]))

    try:
        tree = ast.parse(source, 'tests.py')
        bare = any(
            isinstance(node, ast.Assert)
            for statement in tree.body
            for node in ast.walk(statement)
            if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        )
        calls = any(
            isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call) for statement in tree.body
        )
        code = compile(Asserts().visit(tree), 'tests.py', 'exec', 0, True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as fault:
        return unfit('the test file: ' + told(fault))
    module = sys.modules['tests'] = Module('tests')
    space = module.__dict__
    space['_quintain_check'] = check
    loaded = []

    def load():
        try:
            exec(code, space)
        except BaseException as fault:
            loaded.append(fault)
            raise

    status, detail = outcome(load)
    if loaded and contacts == 0 and status != 'fail':
        return unfit('the test file: ' + told(loaded[0]))

    found = []

    def add(name, function, needed):
        for number, values in enumerate(getattr(function, 'quintain_sets', [None])):
            wanted = function.__code__.co_varnames[
                needed : function.__code__.co_argcount - len(function.__defaults__ or ())
            ]
            found.append(
                (
                    name if values is None else name + '[' + repr(number) + ']',
                    values or {},
                    [one for one in wanted if one not in (values or {})],
                )
            )
            yield len(found) - 1

    actions = {}

    def method(cls, name, case):
        def action(**values):
            instance = cls(name) if case else cls()
            for before in ('setup_method', 'setUp'):
                if callable(getattr(instance, before, None)):
                    getattr(instance, before)(
                        *(
                            [None]
                            if before == 'setup_method' and getattr(instance, before).__code__.co_argcount > 1
                            else []
                        )
                    )
            try:
                return getattr(instance, name)(**values)
            finally:
                for after in ('teardown_method', 'tearDown'):
                    if callable(getattr(instance, after, None)):
                        getattr(instance, after)(
                            *(
                                [None]
                                if after == 'teardown_method' and getattr(instance, after).__code__.co_argcount > 1
                                else []
                            )
                        )

        return action

    for name, value in list(space.items()):
        if type(value) is Function and name[:4] == 'test':
            for index in add(name, value, 0):
                actions[index] = value
        elif isinstance(value, type) and value.__module__ == 'tests':
            unit = sys.modules.get('unittest')
            case = unit is not None and issubclass(value, unit.TestCase)
            if case or name[:4] == 'Test':
                for inner in dir(value):
                    own = getattr(value, inner)
                    if inner[:4] == 'test' and type(own) is Function:
                        for index in add(name + '.' + inner, own, 1):
                            actions[index] = method(value, inner, case)
    own = status != 'pass' or ((bare or calls) and not found)
    if own:
        found.append(('the file itself', {}, []))
    if not found:
        return unfit('the test file has no tests: functions test*, classes Test* or asserts')
    send(nonce, 'n', '[' + ','.join([quote(name) for name, values, missing in found]) + ']')
    if own:
        report(len(found) - 1, status, detail)
    for index, action in actions.items():
        name, values, missing = found[index]
        if missing:
            report(index, 'error', 'there are no fixtures here, such as ' + missing[0])
        else:
            report(index, *outcome(lambda: action(**values)))
