# The Python that runs inside a confined interpreter: one text, which the host hands over, so that the interpreter reads no
# file of the sandbox's. It uses built-in modules alone: starting it costs little more than starting Python. The candidate
# shares this process and can change all of it. That gains nothing: what leaves the process counts as the candidate's
# answer and nothing else, and what enters it is the source and one case's input at a time.
#
# Frames come in on descriptor 3: eight hexadecimal digits of length, then JSON. Answers are lines: the number that came
# with the question, a letter, JSON. Values are in the format of TypedData.ts; between two interpreters (`wide`) with more
# tags for Python's own types.
#
# `limit`, the longest answer in bytes, is `maxAnswer` of process.ts.
def _quintain():
    import sys, posix, builtins
    from _json import make_scanner, encode_basestring_ascii as quote

    read, write, BaseExc = posix.read, posix.write, BaseException
    Type, Int, Len, Str, Repr, Bool, Module = type, int, len, str, repr, bool, type(sys)
    limit = 4 * 2**20
    deepest, safe = 190, 2**53 - 1

    class Context:
        strict, object_hook, object_pairs_hook, memo = False, None, None, {}
        parse_float, parse_int = float, int
        parse_constant = {'NaN': float('nan'), 'Infinity': float('inf'), '-Infinity': float('-inf')}.__getitem__

    scan = make_scanner(Context)

    class TooMuch(Exception):
        pass

    class Unfit(Exception):
        pass

    def take(n):
        parts = []
        while n:
            part = read(3, n if n < 1048576 else 1048576)
            if not part:
                posix._exit(0)
            parts.append(part)
            n -= Len(part)
        return b''.join(parts)

    def receive():
        return scan(take(Int(take(8), 16)).decode('utf-8', 'surrogatepass'), 0)[0]

    def send(nonce, kind, payload):
        data = (nonce + kind + payload + '\n').encode('ascii')
        while data:
            data = data[write(3, data) :]

    def unlimited(action, value):
        # the interpreter refuses long numbers for the sake of time; here their length is bounded
        if not hasattr(sys, 'set_int_max_str_digits'):
            return action(value)
        before = sys.get_int_max_str_digits()
        sys.set_int_max_str_digits(0)
        try:
            return action(value)
        finally:
            sys.set_int_max_str_digits(before)

    def encode(value, keep=None):
        out, left, wide = [], [limit], keep is not None

        def put(text):
            left[0] -= Len(text)
            if left[0] < 0:
                raise TooMuch
            out.append(text)

        def items(tag, values, depth):
            if 2 * Len(values) > left[0]:
                raise TooMuch
            put('["' + tag + '"')
            for value in values:
                put(',')
                one(value, depth + 1)
            put(']')

        def entries(tag, value, depth):
            if 4 * dict.__len__(value) > left[0]:
                raise TooMuch
            put('["' + tag + '"')
            for key, item in dict.items(value):
                put(',')
                one(key, depth + 1)
                put(',')
                one(item, depth + 1)
            put(']')

        def texts(tag, *values):
            put('["' + tag + '",' + ','.join([quote(Str(value)) for value in values]) + ']')

        def one(x, depth):
            if depth > deepest:
                raise Unfit('nested too deeply')
            t = Type(x)
            if x is None:
                put('null')
            elif t is Bool:
                put('true' if x else 'false')
            elif t is Int:
                if -safe <= x <= safe:
                    put(Repr(x))
                elif Int.bit_length(x) > 400000:
                    raise TooMuch
                else:
                    put('["i","' + unlimited(Repr, x) + '"]')
            elif t is float:
                if x != x:
                    put('["n","NaN"]')
                elif x in (float('inf'), float('-inf')):
                    put('["n","Infinity"]' if x > 0 else '["n","-Infinity"]')
                elif x == 0 and Repr(x) == '-0.0':
                    put('["n","-0"]')
                elif x.is_integer():
                    put('["f",' + Repr(x) + ']')
                else:
                    put(Repr(x))
            elif t is Str:
                if Len(x) > left[0]:
                    raise TooMuch
                put(quote(x))
            elif t is list:
                items('a', x, depth)
            elif t is tuple:
                items('t', x, depth)
            elif t is bytes or t is bytearray:
                if 2 * Len(x) > left[0]:
                    raise TooMuch
                put('["b","' + x.hex() + '"]')
            elif t is set or t is frozenset:
                items('z' if wide and t is frozenset else 's', x, depth)
            elif t is dict or (not wide and isdict(t)):
                plain = True
                for key in dict.keys(x):
                    if Type(key) is not Str:
                        plain = False
                entries('o' if plain else 'm', x, depth)
            elif wide:
                other(x, t, depth)
            else:
                put('["x",' + quote(nameof(t)[:40]) + ']')

        def other(x, t, depth):
            if t is complex:
                put('["c",')
                one(x.real, depth)
                put(',')
                one(x.imag, depth)
                put(']')
            elif t is range:
                items('r', (x.start, x.stop, x.step), depth)
            elif t is known('decimal', 'Decimal'):
                texts('D', x)
            elif t is known('fractions', 'Fraction'):
                items('F', (x.numerator, x.denominator), depth)
            elif t is known('datetime', 'datetime') and x.tzinfo is None:
                texts('T', 'datetime', x.isoformat())
            elif t is known('datetime', 'date'):
                texts('T', 'date', x.isoformat())
            elif t is known('datetime', 'timedelta'):
                items('E', (x.days, x.seconds, x.microseconds), depth)
            elif t is known('collections', 'deque'):
                items('q', x, depth)
            elif t is known('collections', 'Counter'):
                entries('C', x, depth)
            elif isdict(t):
                entries('O' if t is known('collections', 'OrderedDict') else 'm', x, depth)
            else:
                put('["h",' + keep(x) + ',' + quote(nameof(t)[:40]) + ']')

        one(value, 0)
        return ''.join(out)

    def nameof(t):
        name = Type.__dict__['__name__'].__get__(t)
        return name if Type(name) is Str else '?'

    def known(module, name):
        found = sys.modules.get(module)
        return getattr(found, name, None) if Type(found) is Module else None

    def isdict(t):
        return t is not None and (
            t is known('collections', 'defaultdict')
            or t is known('collections', 'Counter')
            or t is known('collections', 'OrderedDict')
        )

    constants = {'NaN': float('nan'), 'Infinity': float('inf'), '-Infinity': float('-inf'), '-0': -0.0}

    def decode(x, found=None, depth=0):
        if Type(x) is not list:
            # a JavaScript number beyond the safe integers
            return float(x) if Type(x) is Int and not -safe <= x <= safe else x
        if depth > deepest + 10:
            raise Unfit('nested too deeply')
        tag, rest = x[0], x[1:]

        def every():
            return [decode(item, found, depth + 1) for item in rest]

        def pairs():
            values = every()
            return dict(zip(values[::2], values[1::2]))

        if tag == 'a':
            return every()
        if tag == 't':
            return tuple(every())
        if tag == 'o' or tag == 'm':
            return pairs()
        if tag == 'f':
            return float(rest[0])
        if tag == 'n':
            return constants[rest[0]]
        if tag == 'i':
            return unlimited(Int, rest[0])
        if tag == 's':
            return set(every())
        if tag == 'z':
            return frozenset(every())
        if tag == 'b':
            return bytes.fromhex(rest[0])
        if tag == 'u' or (tag == 'h' and not rest):
            return None
        if tag == 'h':
            return found(*rest)
        if tag == 'c':
            return complex(*every())
        if tag == 'r':
            return range(*every())
        if tag == 'q':
            from collections import deque

            return deque(every())
        if tag == 'C':
            from collections import Counter

            return Counter(pairs())
        if tag == 'O':
            from collections import OrderedDict

            return OrderedDict(pairs())
        if tag == 'D':
            from decimal import Decimal

            return Decimal(rest[0])
        if tag == 'F':
            from fractions import Fraction

            return Fraction(*every())
        if tag == 'd':
            from datetime import datetime, timezone, timedelta

            return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=rest[0])
        if tag == 'T':
            import datetime

            return getattr(datetime, 'date' if rest[0] == 'date' else 'datetime').fromisoformat(rest[1])
        if tag == 'E':
            from datetime import timedelta

            return timedelta(*every())
        raise Unfit('a tag without a meaning here')

    def told(fault):
        try:
            text = nameof(Type(fault)) + ': ' + Str(fault)[:400]
        except BaseExc:
            text = 'an exception'
        return text

    def leave(code=None):
        raise SystemExit(code)

    builtins.exit = builtins.quit = leave

    def load(source):
        module = Module('solution')
        sys.modules['solution'] = sys.modules['candidate'] = module
        exec(compile(source, 'solution.py', 'exec', 0, True), module.__dict__)
        return module

    def resolve(module, entry):
        found = module
        for name in entry.split('.'):
            parent, found = found, getattr(found, name, None)
            if found is None and parent is module and Type(getattr(module, 'Solution', None)) is Type:
                found = getattr(module.Solution(), name, None)
            elif Type(parent) is Type and found is not None:
                found = getattr(parent(), name)
        if not callable(found):
            raise NameError('it defines no function ' + entry)
        return found

    def finished(value):
        if nameof(Type(value)) != 'coroutine':
            return value
        import asyncio

        return asyncio.run(value)

    def answered(nonce, action, keep=None):
        try:
            send(nonce, 'v', encode(finished(action()), keep))
        except TooMuch:
            send(nonce, 'o', '"the result is larger than a sandbox hands out"')
        except MemoryError:
            send(nonce, 'm', '"MemoryError"')
        except BaseExc as fault:
            names = [nameof(t) for t in Type.__dict__['__mro__'].__get__(Type(fault))] if keep else None
            text = told(fault)
            send(
                nonce,
                'e',
                '[' + quote(text) + ',[' + ','.join([quote(name) for name in names]) + ']]' if keep else quote(text),
            )

    def serve(nonce, source):
        try:
            module = load(source)
        except MemoryError:
            return send(nonce, 'm', '"MemoryError while loading"')
        except BaseExc as fault:
            return send(nonce, 'l', quote(told(fault)))
        send(nonce, 'v', 'null')
        kept, numbers = {}, {}

        def keep(x):
            number = numbers.get(id(x))
            if number is None:
                number = numbers[id(x)] = Len(kept) + 1
                kept[number] = x
            return Repr(number)

        def find(number, kind=None):
            return getattr(module, number) if Type(number) is Str else kept[number]

        while True:
            frame = receive()
            nonce, kind = frame[0], frame[1]
            if kind == 'call':
                answered(nonce, lambda: resolve(module, frame[2])(*decode(frame[3])))
            elif kind == 'names':
                answered(
                    nonce,
                    lambda: [
                        name
                        for name, own in module.__dict__.items()
                        if Type(name) is Str and name[:1] != '_' and Type(own) is not Module
                    ],
                    keep,
                )
            elif kind == 'get':
                answered(nonce, lambda: getattr(find(frame[2]) if frame[2] else module, frame[3]), keep)
            elif kind == 'invoke':
                answered(nonce, lambda: find(frame[2])(*decode(frame[3], find), **decode(frame[4], find)), keep)

    send('', 'ready', '')
    nonce, mode, source = receive()[:3]
    if mode == 'serve':
        serve(nonce, source)
        posix._exit(0)
    if mode == 'test':
        tools = {
            'send': send,
            'receive': receive,
            'encode': encode,
            'decode': decode,
            'quote': quote,
            'told': told,
            'nonce': nonce,
        }
        rest = receive()
        exec(compile(rest[0], 'quintain-tests', 'exec'), tools)
        tools['run'](source)
        sys.stdout.flush()
        posix._exit(0)
    send(nonce, 'v', 'null')
    posix.close(3)
    return source


def _quintain_program():
    source = _quintain()
    import sys

    sys.argv = ['main.py']
    main = sys.modules['__main__'].__dict__
    del main['_quintain'], main['_quintain_program']
    exec(compile(source, 'main.py', 'exec', 0, True), main)


_quintain_program()
