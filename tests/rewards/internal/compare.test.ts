import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import {
  comparisonFault,
  equals,
  outputsMatch,
  valuesMatch,
  type NamedComparison
} from "../../../rewards/internal/compare.ts"
import * as TypedData from "../../../src/sandbox/TypedData.ts"

const { Opaque, PythonFloat, PythonTuple } = TypedData
const tuple = (...items: ReadonlyArray<unknown>) => new PythonTuple(items)
const bytes = (...items: ReadonlyArray<number>) => Uint8Array.from(items)
const tolerance = (absolute: number, relative = 0): NamedComparison => ({ tolerance: { absolute, relative } })
const hole: Array<unknown> = [1]
hole[2] = 1

type Row = readonly [actual: unknown, expected: unknown]
const check = (comparison: NamedComparison, right: ReadonlyArray<Row>, wrong: ReadonlyArray<Row>): void => {
  const show = (row: Row) => `${String(JSON.stringify(comparison))}: ${row.map(String).join(" | ")}`
  for (const row of right) assert.isTrue(valuesMatch(...row, comparison), show(row))
  for (const row of wrong) {
    assert.isFalse(valuesMatch(...row, comparison), show(row))
    assert.isFalse(valuesMatch(...(row.toReversed() as [unknown, unknown]), comparison), show(row))
  }
}

const exactlyRight: ReadonlyArray<Row> = [
  [Number.NaN, Number.NaN],
  [-0, 0],
  [Infinity, Infinity],
  [undefined, undefined],
  [10n, 10n],
  [new PythonFloat(2).value, new PythonFloat(2)],
  [tuple(1, [2]), tuple(1, [2])],
  [bytes(1, 2), bytes(1, 2)],
  [hole, hole.slice()],
  [
    { a: 1, b: [2] },
    { b: [2], a: 1 }
  ],
  [new Date(5), new Date(5)],
  [new Set([1, tuple(2)]), new Set([tuple(2), 1])],
  [
    new Map<unknown, unknown>([
      [tuple(1), { v: 1 }],
      ["k", 1]
    ]),
    new Map<unknown, unknown>([
      ["k", 1],
      [tuple(1), { v: 1 }]
    ])
  ],
  [
    new Map([
      [[1], 1],
      [[1], 2]
    ]),
    new Map([
      [[1], 2],
      [[1], 1]
    ])
  ]
]
const alwaysWrong: ReadonlyArray<Row> = [
  [1, true],
  [0, false],
  [0, null],
  [null, undefined],
  ["", null],
  ["1", 1],
  [[], {}],
  [[], ""],
  [[], new Set()],
  [new Map(), {}],
  [new Map(), new Set()],
  [[1], [1, 2]],
  [
    [1, 2],
    [2, 1, 2]
  ],
  [[undefined], Array(1)],
  [hole, [1, undefined, 1]],
  [tuple(1), tuple(1, 1)],
  [bytes(97), "a"],
  [bytes(97), [97]],
  [bytes(1), bytes(2)],
  [{ a: 1, b: undefined }, { a: 1 }],
  [new Date(5), new Date(6)],
  [new Date(5), 5],
  [new Set([1]), new Set([1, 2])],
  [new Set(["1,2"]), new Set([1, 2])],
  [new Set(["1", "2"]), new Set(['1","2'])],
  [
    new Map([
      [[1], 1],
      [[1], 1]
    ]),
    new Map([
      [[1], 1],
      [[2], 1]
    ])
  ],
  [new Map([["a", 1]]), new Map([["a", 2]])],
  [JSON.parse('{"__proto__":1}'), {}],
  [new Opaque("function"), new Opaque("function")],
  [new Opaque("function"), undefined],
  [new Set([new Opaque("x")]), new Set([new Opaque("x")])],
  [[new Opaque("x")], [new Opaque("x")]],
  [Number.NaN, 0],
  [Infinity, -Infinity],
  [Infinity, 1e308],
  [Number.NaN, null]
]

describe("comparisons of values", () => {
  it("exact: types matter", () => {
    check("exact", exactlyRight, [
      ...alwaysWrong,
      [tuple(1, 2), [1, 2]],
      [tuple(), []],
      [[tuple(1)], [[1]]],
      [new Set([tuple(1)]), new Set([[1]])],
      [3n, 3],
      [0.1 + 0.2, 0.3],
      ["a ", "a"],
      [
        [1, 2],
        [2, 1]
      ]
    ])
    assert.isTrue(equals([{ a: tuple(1) }], [{ a: tuple(1) }]))
  })

  it("json: a tuple is a list, and nothing else changes", () => {
    check(
      "json",
      [...exactlyRight, [tuple(1, [2]), [1, tuple(2)]], [new Set([tuple(1)]), new Set([[1]])]],
      [...alwaysWrong, [tuple(1, 2), [2, 1]], [1.0000001, 1]]
    )
  })

  it("unordered: each item as often", () => {
    check(
      "unordered",
      [
        ...exactlyRight,
        [
          [3, 1, 2, 1],
          [1, 1, 2, 3]
        ],
        [
          [{ a: 1 }, [2]],
          [[2], { a: 1 }]
        ],
        [tuple(1, 2), tuple(2, 1)],
        [
          ["b", "a"],
          ["a", "b"]
        ]
      ],
      [
        ...alwaysWrong,
        [
          [1, 1, 2],
          [1, 2, 2]
        ],
        [
          [1, 2],
          [1, 2, 2]
        ],
        [[[1, 2]], [[2, 1]]],
        [tuple(1, 2), [2, 1]],
        [["a,b"], ["a", "b"]],
        ["ab", "ba"]
      ]
    )
  })

  it("tolerance: numbers anywhere, finite ones only", () => {
    check(
      tolerance(1e-9),
      [
        [0.1 + 0.2, 0.3],
        [[{ a: 0.1 + 0.2 }], [{ a: 0.3 }]],
        [tuple(1 + 1e-12), tuple(new PythonFloat(1))],
        [new Map([["k", 1 + 1e-12]]), new Map([["k", 1]])],
        [3n, 3],
        ["a", "a"],
        [true, true]
      ],
      [
        ...alwaysWrong,
        [1.1, 1],
        [Infinity, Infinity],
        [Number.NaN, Number.NaN],
        [[-Infinity], [-Infinity]],
        [10n ** 400n, Infinity],
        [10n ** 400n, 1e308],
        [tuple(1), [1]],
        [true, 1],
        ["1", 1]
      ]
    )
    assert.isTrue(valuesMatch(101, 100, tolerance(0, 0.01)))
    assert.isFalse(valuesMatch(102, 100, tolerance(0, 0.01)))
    assert.isFalse(valuesMatch(1e-30, 0, tolerance(0, 0.5)))
    assert.isTrue(valuesMatch(10n ** 400n, 10n ** 400n, tolerance(0, 0.5)))
    for (const value of [0, 1, -1e300, Infinity]) assert.isFalse(valuesMatch(Infinity, value, tolerance(1e308, 0.99)))
  })

  it("approximate: blanks, lists, rounding; whole numbers are whole", () => {
    check(
      "approximate",
      [
        [" a \n\t b ", "a b"],
        [{ a: ["x  y"] }, { a: ["x y "] }],
        [tuple(1, "a "), [1, "a"]],
        [0.1 + 0.2, 0.3],
        [1 + 1e-9, 1],
        [Infinity, Infinity]
      ],
      [
        ...alwaysWrong,
        [1_000_000_001, 1_000_000_000],
        ["ab", "a b"],
        ["a", "a b"],
        ["A", "a"],
        ["1.0", "1"],
        [1.00001, 1]
      ]
    )
  })

  it("says what is wrong with a comparison", () => {
    for (const good of ["exact", "json", "unordered", "approximate", tolerance(0), { tolerance: { relative: 0.5 } }]) {
      assert.isUndefined(comparisonFault(good))
    }
    for (const [wrong, text] of [
      ["close", /"close" is none\. Use "exact"/],
      [undefined, /undefined is none/],
      [null, /null is none/],
      [{ tolerance: 0.1 }, /is none/],
      [{ tolerance: { relative: 1 } }, /relative is 1\. Use a number from 0 to below 1/],
      [{ tolerance: { relative: -1 } }, /relative is -1/],
      [{ tolerance: { absolute: Infinity } }, /absolute is Infinity/],
      [{ tolerance: { absolute: Number.NaN } }, /absolute is NaN/],
      [{ tolerance: { absolute: "1" } }, /absolute is 1\. Use a finite number/]
    ] as const) {
      assert.match(comparisonFault(wrong)!, text)
    }
  })

  const data = fc.letrec((tie) => ({
    value: fc.oneof(
      { maxDepth: 4 },
      fc.constantFrom<unknown>(
        null,
        undefined,
        true,
        false,
        0,
        1,
        -1,
        1.5,
        Number.NaN,
        Infinity,
        "",
        "a",
        "1",
        "a,b",
        '"',
        1n
      ),
      fc.array(tie("value"), { maxLength: 3 }),
      fc.array(tie("value"), { maxLength: 3 }).map((items) => new PythonTuple(items)),
      fc.array(tie("value"), { maxLength: 3 }).map((items) => new Set(items)),
      fc.array(fc.tuple(tie("value"), tie("value")), { maxLength: 3 }).map((items) => new Map(items)),
      fc.dictionary(fc.constantFrom("a", "b", "__proto__", "1"), tie("value"), { maxKeys: 3 }),
      fc.uint8Array({ maxLength: 2 })
    )
  })).value

  it("a value is itself after a journey as text, and what is equal writes down equally or in another order", () => {
    fc.assert(
      fc.property(data, data, (left, right) => {
        assert.isTrue(equals(TypedData.decode(TypedData.encode(left)), left))
        assert.strictEqual(equals(left, right), equals(right, left))
        // an independent judge: text with everything sorted
        assert.strictEqual(equals(left, right), sorted(TypedData.encode(left)) === sorted(TypedData.encode(right)))
      }),
      { numRuns: 1000 }
    )
  })

  it("unordered is what sorting says, and a prefix or an excess never passes", () => {
    fc.assert(
      fc.property(fc.array(data, { minLength: 1, maxLength: 5 }), fc.nat(), (items, seed) => {
        const moved = [...items.slice(seed % items.length), ...items.slice(0, seed % items.length)]
        assert.isTrue(valuesMatch(moved, items, "unordered"))
        assert.isFalse(valuesMatch(moved.slice(1), items, "unordered"))
        assert.isFalse(valuesMatch([...moved, items[0]], items, "unordered"))
      })
    )
  })

  it("costs little more than reading, whatever the size", () => {
    const cost = (count: number): number => {
      const members = Array.from({ length: count }, (_, index) => [index % 7, `${index}`])
      const start = process.cpuUsage()
      for (const comparison of ["exact", "unordered", "approximate", tolerance(1)] as const) {
        assert.isTrue(valuesMatch(members, members, comparison))
        assert.isTrue(valuesMatch(new Set(members), new Set(members.toReversed()), comparison))
        const map = members.map((member, index) => [member, index] as const)
        assert.isTrue(valuesMatch(new Map(map), new Map(map.toReversed()), comparison))
      }
      const digits = "7".repeat(count)
      for (const hostile of [
        `${digits}x`,
        `${digits}.${digits}e`,
        " ".repeat(count),
        `${" ".repeat(count)}x`,
        `+${"0".repeat(count)}1`
      ]) {
        outputsMatch(hostile, `${digits}1`, "approximate")
        valuesMatch(hostile, `${hostile} `, "approximate")
      }
      return process.cpuUsage(start).user
    }
    cost(1000)
    const small = cost(4000)
    // quadratic would be 64 times as much
    assert.isBelow(cost(32_000), 24 * small + 1e6)
  })
})

/** Tagged text with the entries of sets, maps and objects in one order; only for what has a single number type. */
const sorted = (text: string): string => {
  const walk = (tagged: unknown): string => {
    if (!Array.isArray(tagged)) return JSON.stringify(tagged)
    const [tag, ...items] = tagged as [string, ...Array<unknown>]
    const own = items.map(walk)
    if (tag === "s") return JSON.stringify([tag, own.toSorted()])
    if (tag === "m" || tag === "o") {
      const pairs = own.flatMap((key, index) => (index % 2 === 0 ? [`${key} ${own[index + 1]}`] : []))
      return JSON.stringify([tag, pairs.toSorted()])
    }
    return JSON.stringify([tag, own])
  }
  return walk(JSON.parse(text))
}

describe("comparisons of printed text", () => {
  const rows = (comparison: NamedComparison, right: ReadonlyArray<Row>, wrong: ReadonlyArray<Row>): void => {
    for (const [actual, expected] of right) {
      assert.isTrue(outputsMatch(actual as string, expected as string, comparison), JSON.stringify([actual, expected]))
    }
    for (const [actual, expected] of wrong) {
      assert.isFalse(outputsMatch(actual as string, expected as string, comparison), JSON.stringify([actual, expected]))
      assert.isFalse(outputsMatch(expected as string, actual as string, comparison), JSON.stringify([expected, actual]))
    }
  }
  const never: ReadonlyArray<Row> = [
    ["", "1\n"],
    ["1\n", "1\n2\n"],
    ["1 2", "1 2 3"],
    ["1\n\n2", "1\n2"],
    ["12", "1 2"],
    ["1 2", "1\n2"],
    ["nan", "1"],
    ["inf", "1"],
    ["1e999", "1"],
    ["1e999", "1e998"],
    ["0x10", "16"],
    ["yes", "no"]
  ]

  it("exact: the same lines", () => {
    rows(
      "exact",
      [
        ["a\nb", "a\nb\n"],
        ["a \r\nb\t\n\n\n", "a\nb"],
        ["", "\n"],
        [" a", " a"]
      ],
      [...never, ["a  b", "a b"], [" a", "a"], ["1.0", "1"]]
    )
  })

  it("unordered: the same lines in any order", () => {
    rows("unordered", [["b\na\n", "a\nb"]], [...never, ["a\na\nb", "a\nb\nb"]])
  })

  it("approximate: the same words, numbers rounded", () => {
    rows(
      "approximate",
      [
        ["a  b", " a b"],
        ["0.30000000000000004", "0.3"],
        ["2", "2.0"],
        ["007", "7"],
        ["+7", "7"],
        ["-0", "0"],
        ["1e3", "1000.0"],
        ["nan", "nan"]
      ],
      [
        ...never,
        ["1000000001", "1000000000"],
        ["0.3001", "0.3"],
        ["a1", "a1.0"],
        ["-7", "7"],
        ["1_000", "1000"],
        ["12345678901234567890", "12345678901234567891"]
      ]
    )
  })

  it("tolerance: numbers within it", () => {
    rows(
      tolerance(0.5),
      [
        ["1.4 x", "1 x"],
        ["10", "10.5"]
      ],
      [...never, ["1.6", "1"], ["1e999", "1e999 "], ["nan", "inf"]]
    )
    assert.isTrue(outputsMatch("99", "100", tolerance(0, 0.01)))
    assert.isFalse(outputsMatch("98", "100", tolerance(0, 0.01)))
  })
})
