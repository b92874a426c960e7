import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import {
  Advantage,
  Batch,
  Environment,
  Loss,
  Policy,
  Reward,
  Rollout,
  Sampler,
  SamplerServer,
  Task,
  Tokenizer,
  Update,
  Trajectory
} from "quintain"
import {
  type Behaviour,
  type Exchange,
  type Kind,
  type Sampled,
  serveInference
} from "../../../fixtures/inferenceServer.ts"
import { tabular } from "../../../fixtures/tabularPolicy.ts"
import { versionOf } from "../../../fixtures/versions.ts"
import { updateOf } from "../../../fixtures/updateOf.ts"

const VOCABULARY = 8
const EOS = 7
/** A bigram of no particular shape; adapters and models shift it by the length of their folder's name. */
const logits = (context: ReadonlyArray<number>, weights: string | undefined): ReadonlyArray<number> =>
  Array.from(
    { length: VOCABULARY },
    (_, token) => 2 * Math.sin(3 * context.at(-1)! + 5 * token + (weights?.length ?? 0))
  )
const truth = (context: ReadonlyArray<number>, token: number, temperature = 1, weights?: string) => {
  const scaled = logits(context, weights).map((logit) => logit / temperature)
  return scaled[token]! - Math.log(scaled.reduce((sum, logit) => sum + Math.exp(logit), 0))
}

const kinds: ReadonlyArray<Kind> = ["vllm", "sglang", "llamacpp"]
const completionPath = { vllm: "/v1/completions", sglang: "/generate", llamacpp: "/completion" } as const
const prompt = Uint32Array.of(1, 2, 3)
const request: Sampler.SampleRequest = {
  prompt,
  count: 4,
  maxTokens: 12,
  stopTokens: [EOS],
  key: { seed: 5, stream: "task#0", index: 0 }
}

/** A server and the sampler on it, with quick retries. */
const scene = Effect.fnUntraced(function* (
  behaviour: Partial<Behaviour> & { readonly kind: Kind },
  options: Partial<SamplerServer.ServerOptions> = {}
) {
  const server = yield* Effect.acquireRelease(
    Effect.promise(() => serveInference({ logits, eos: EOS, ...behaviour })),
    (server) => Effect.promise(() => server.close())
  )
  const layer = SamplerServer.layer({
    kind: behaviour.kind,
    url: server.url,
    vocabularySize: VOCABULARY,
    pause: 1,
    retries: 2,
    ...options
  })
  const sampler = Context.get(yield* Layer.build(layer), Sampler.Sampler)
  const sample = (more: Partial<Sampler.SampleRequest> = {}) => sampler.sample({ ...request, ...more })
  const refused = (more?: Partial<Sampler.SampleRequest>) => Effect.flip(sample(more))
  return { server, sampler, sample, refused }
})

const isTrue = (completion: Sampler.Completion, temperature = 1, weights?: string) => {
  const context = Array.from(prompt)
  completion.tokens.forEach((token, t) => {
    assert.closeTo(completion.logprobs[t]!, truth(context, token, temperature, weights), 1e-5)
    context.push(token)
  })
}

/** Polls what the server sees a moment after the client. */
const until = (holds: () => boolean) =>
  Effect.repeat(Effect.sync(holds), { until: (held) => held, schedule: Schedule.spaced(2) })

for (const kind of kinds) {
  describe(`samples of ${kind}`, () => {
    it.live("are token ids with their log-probabilities, the stop token among them", () =>
      Effect.gen(function* () {
        const { sample, server } = yield* scene({ kind })
        const completions = yield* sample({ count: 16 })
        assert.lengthOf(completions, 16)
        for (const completion of completions) {
          isTrue(completion)
          assert.strictEqual(versionOf(completion), 0)
          assert.strictEqual(completion.stopReason, completion.tokens.at(-1) === EOS ? "stop" : "length")
          if (completion.stopReason === "length") assert.lengthOf(completion.tokens, 12)
        }
        const reasons = new Set(completions.map(({ stopReason }) => stopReason))
        assert.deepStrictEqual(reasons, new Set(["stop", "length"] as const), "the test sees both")
        assert.strictEqual(server.log.length, 16, "no probe where nothing depends on it")
      })
    )

    it.live("repeat for the same key, and do not depend on what is asked for beside them", () =>
      Effect.gen(function* () {
        const { sample } = yield* scene({ kind })
        const all = yield* sample({ count: 4 })
        assert.deepStrictEqual(yield* sample({ count: 4 }), all)
        assert.deepStrictEqual(yield* sample({ count: 1, key: { ...request.key, index: 2 } }), [all[2]!])
        const texts = (completions: ReadonlyArray<Sampler.Completion>) => completions.map(({ tokens }) => tokens.join())
        assert.strictEqual(new Set(texts(all)).size, 4)
        assert.notDeepEqual(texts(yield* sample({ key: { ...request.key, seed: 6 } })), texts(all))
        assert.notDeepEqual(texts(yield* sample({ key: { ...request.key, stream: "task#1" } })), texts(all))
      })
    )

    it.live("may be greedy: the most likely tokens, with log-probabilities of temperature 1", () =>
      Effect.gen(function* () {
        for (const processed of [false, true]) {
          const { sample, server } = yield* scene({ kind, processed })
          const [first, second] = yield* sample({ temperature: 0, topK: 3, count: 2 })
          assert.deepStrictEqual(first, second!)
          isTrue(first!)
          assert.strictEqual(server.log.length, 2)
        }
      })
    )

    it.live("end where the context does, as the server says", () =>
      Effect.gen(function* () {
        const spoil = (sampled: Sampled): Sampled => ({
          ...sampled,
          tokens: sampled.tokens.slice(0, 1).map(() => 0),
          logprobs: sampled.logprobs.slice(0, 1),
          finish: "length"
        })
        const { sample } = yield* scene({ kind, spoil })
        const [completion] = yield* sample({ count: 1 })
        assert.strictEqual(completion!.stopReason, "context")
      })
    )

    it.live("at another temperature only where the server tempers what it reports", () =>
      Effect.gen(function* () {
        const { sample, server } = yield* scene({ kind, processed: true })
        for (const completion of [...(yield* sample({ temperature: 0.7 })), ...(yield* sample({ temperature: 1.5 }))]) {
          assert.isAbove(completion.tokens.length, 0)
        }
        isTrue((yield* sample({ temperature: 0.7, count: 1 }))[0]!, 0.7)
        assert.strictEqual(server.log.length, 2 + 9, "probed once")

        const raw = yield* scene({ kind, processed: false })
        const error = yield* raw.refused({ temperature: 0.7 })
        assert.strictEqual(error.reason._tag, "Unsupported")
        const remedy = {
          vllm: "processed_logprobs",
          sglang: "SGLANG_RETURN_ORIGINAL_LOGPROB",
          llamacpp: "temperature 1"
        }
        assert.include(error.message, remedy[kind])
        assert.strictEqual(raw.server.log.length, 2, "nothing was sampled")
        isTrue((yield* raw.sample({ count: 1 }))[0]!)
      })
    )

    it.live("under filters only where what is reported is taken before them", () =>
      Effect.gen(function* () {
        const processed = yield* scene({ kind, processed: true })
        const raw = yield* scene({ kind, processed: false })
        for (const filters of [{ topK: 3 }, { topP: 0.8 }, { minP: 0.2 }]) {
          if (kind === "sglang") isTrue((yield* processed.sample({ ...filters, temperature: 0.8, count: 1 }))[0]!, 0.8)
          else assert.strictEqual((yield* processed.refused(filters)).reason._tag, "Unsupported")
          isTrue((yield* raw.sample({ ...filters, count: 1 }))[0]!)
        }
        const [filtered] = yield* raw.sample({ topK: 1, count: 1 })
        assert.deepStrictEqual(filtered!.tokens, (yield* raw.sample({ temperature: 0, count: 1 }))[0]!.tokens)
      })
    )

    it.live("for evaluation alone: NaN where the log-probabilities would be wrong", () =>
      Effect.gen(function* () {
        const { sample } = yield* scene({ kind, processed: false }, { logprobs: "optional" })
        const [warm] = yield* sample({ temperature: 0.5, count: 1 })
        assert.isTrue(warm!.logprobs.every(Number.isNaN))
        isTrue((yield* sample({ count: 1 }))[0]!)
      })
    )

    it.live("not where the probe tells nothing", () =>
      Effect.gen(function* () {
        const { refused } = yield* scene({ kind, logits: () => Array(VOCABULARY).fill(0) as Array<number> })
        assert.strictEqual((yield* refused({ temperature: 2 })).reason._tag, "Unsupported")
      })
    )
  })

  describe(`answers of ${kind} that are no samples of the request`, () => {
    const cases: ReadonlyArray<readonly [name: string, said: RegExp, behaviour: Partial<Behaviour>]> = [
      ["too few log-probabilities", /tokens/, { spoil: (s) => ({ ...s, logprobs: s.logprobs.slice(1) }) }],
      ["no tokens at all", /tokens/, { spoil: (s) => ({ ...s, tokens: [], logprobs: [] }) }],
      [
        "more tokens than allowed",
        /tokens/,
        {
          spoil: (s) => ({
            ...s,
            tokens: Array(13).fill(1) as Array<number>,
            logprobs: Array(13).fill(-1) as Array<number>
          })
        }
      ],
      ["NaN", /log-prob/, { spoil: (s) => ({ ...s, logprobs: s.logprobs.map(() => Number.NaN) }) }],
      ["positive log-probabilities", /log-prob/, { spoil: (s) => ({ ...s, logprobs: s.logprobs.map(() => 0.1) }) }],
      [
        "a stand-in for minus infinity",
        /log-prob/,
        { spoil: (s) => ({ ...s, logprobs: s.logprobs.map(() => -9999) }) }
      ],
      [
        "ids beyond the vocabulary",
        /beyond the vocabulary/,
        { spoil: (s) => ({ ...s, tokens: s.tokens.map(() => VOCABULARY) }) }
      ],
      [
        "ids that are no whole numbers",
        /beyond the vocabulary/,
        { spoil: (s) => ({ ...s, tokens: s.tokens.map(() => 1.5) }) }
      ],
      ["negative ids", /beyond the vocabulary/, { spoil: (s) => ({ ...s, tokens: s.tokens.map(() => -1) }) }],
      ["no token ids", kind === "sglang" ? /output_token_logprobs/ : /no token ids/, { withoutIds: true }],
      [
        "a stop without its token",
        /stop/,
        { spoil: (s) => ({ ...s, tokens: [1], logprobs: [-1], finish: "stop", matched: kind === "vllm" ? null : EOS }) }
      ],
      [
        "a sample that was broken off",
        /ended the sample for another reason/,
        { spoil: (s) => ({ ...s, tokens: [1], logprobs: [-1], finish: "abort" }) }
      ]
    ]
    for (const [name, said, behaviour] of cases) {
      it.live(name, () =>
        Effect.gen(function* () {
          const { refused, server } = yield* scene({ kind, ...behaviour })
          const error = yield* refused({ count: 1 })
          assert.deepInclude(error, { _tag: "EngineError", operation: "sample" })
          assert.strictEqual(error.reason._tag, "Format")
          assert.match(error.message, said)
          assert.strictEqual(server.log.length, 1, "asking again would not help")
        })
      )
    }

    it.live("a body in another form, and one that is no JSON", () =>
      Effect.gen(function* () {
        for (const [text, said] of [
          ['{"unexpected":true}', /is not (vLLM|SGLang|llama.cpp)'s/],
          ["[]", /is not (vLLM|SGLang|llama.cpp)'s/],
          ['{"choices":[],"meta_info":{},"stop_type":3}', /is not (vLLM|SGLang|llama.cpp)'s/],
          ["<html>gateway</html>", /is not JSON/],
          ['{"choices":[{"logprobs":NaN}]}', /is not JSON/],
          ["", /is not JSON/]
        ] as const) {
          const meddle = ({ response }: Exchange) => {
            response.writeHead(200, { "content-type": "application/json" }).end(text)
            return true
          }
          const { refused } = yield* scene({ kind, meddle })
          const error = yield* refused({ count: 1 })
          assert.strictEqual(error.reason._tag, "Format", text)
          assert.match(error.message, said)
        }
      })
    )
  })

  describe(`when ${kind} fails`, () => {
    it.live("one that hangs is given up at the deadline, whose error names what was awaited", () =>
      Effect.gen(function* () {
        const { refused, server } = yield* scene({ kind, meddle: () => true }, { deadline: 50 })
        const error = yield* refused({ count: 1 })
        assert.strictEqual(error.reason._tag, "Deadline")
        assert.include(error.message, completionPath[kind])
        assert.include(error.message, "50 ms")
        yield* until(() => server.log[0]!.left)
      })
    )

    it.live("one that hangs amid the answer as well", () =>
      Effect.gen(function* () {
        const meddle = ({ response }: Exchange) => {
          response.writeHead(200, { "content-length": 1000 }).write('{"choices"')
          return true
        }
        const { refused, server } = yield* scene({ kind, meddle }, { deadline: 50 })
        assert.strictEqual((yield* refused({ count: 1 })).reason._tag, "Deadline")
        yield* until(() => server.log[0]!.left)
      })
    )

    it.live("a broken connection and a busy server are tried again, and the samples are the same", () =>
      Effect.gen(function* () {
        const calm = yield* (yield* scene({ kind })).sample()
        for (const trouble of [
          ({ response }: Exchange) => response.destroy(),
          ({ response }: Exchange) => {
            response.writeHead(200, { "content-length": 1000 }).write('{"choices"', () => response.destroy())
          },
          ({ response }: Exchange) => response.writeHead(503).end('{"error":{"message":"Loading model"}}'),
          ({ response }: Exchange) => response.writeHead(429, { "retry-after": "0" }).end()
        ]) {
          const { sample, server } = yield* scene({
            kind,
            meddle: (exchange) => exchange.number < 2 && (trouble(exchange), true)
          })
          assert.deepStrictEqual(yield* sample(), calm)
          assert.strictEqual(server.log.length, 6)
        }
      })
    )

    it.live("but not for ever", () =>
      Effect.gen(function* () {
        const meddle = ({ response }: Exchange) => {
          response.writeHead(503).end('{"error":{"message":"Loading\\u001b[2J model"}}')
          return true
        }
        const { refused, server } = yield* scene({ kind, meddle })
        const error = yield* refused({ count: 1 })
        assert.strictEqual(error.reason._tag, "Unavailable")
        assert.include(error.message, "answered 503: Loading [2J model (3 attempts)")
        assert.strictEqual(server.log.length, 3)
        yield* Effect.promise(() => server.close())
        const gone = yield* refused({ count: 1 })
        assert.strictEqual(gone.reason._tag, "Unavailable")
        assert.include(gone.message, "ECONNREFUSED")
      })
    )

    it.live("a refusal is passed on at once, in the server's words", () =>
      Effect.gen(function* () {
        const meddle = ({ response }: Exchange) => {
          response.writeHead(400).end('{"object":"error","message":"maximum context length is 4 tokens"}')
          return true
        }
        const { refused, server } = yield* scene({ kind, meddle })
        const error = yield* refused({ count: 1 })
        assert.strictEqual(error.reason._tag, "Rejected")
        assert.include(error.message, "maximum context length is 4 tokens")
        assert.strictEqual(server.log.length, 1)
      })
    )

    it.live("an answer without end is cut off", () =>
      Effect.gen(function* () {
        const chunk = " ".repeat(2 ** 16)
        let sent = 0
        const meddle = ({ response }: Exchange) => {
          response.writeHead(200)
          const more = () => {
            while (!response.destroyed && response.write(chunk)) sent += chunk.length
            sent += chunk.length
          }
          response.on("drain", more)
          more()
          return true
        }
        const { refused, server } = yield* scene({ kind, meddle })
        assert.strictEqual((yield* refused({ count: 1 })).reason._tag, "Format")
        yield* until(() => server.log[0]!.left)
        assert.isBelow(sent, 2 ** 24)
      })
    )
  })

  describe(`load on ${kind}`, () => {
    it.live("is bounded", () =>
      Effect.gen(function* () {
        const meddle = () => new Promise<boolean>((done) => setTimeout(() => done(false), 5))
        const { sample, server } = yield* scene({ kind, meddle }, { concurrency: 3 })
        const groups = yield* Effect.forEach([0, 1, 2, 3], (seed) => sample({ key: { ...request.key, seed } }), {
          concurrency: "unbounded"
        })
        assert.lengthOf(groups.flat(), 16)
        assert.strictEqual(server.inFlight.most, 3)
      })
    )

    it.live("ends with an interruption: the server sees its client leave, and the next sample has its place", () =>
      Effect.gen(function* () {
        const begun = yield* Deferred.make<void>()
        const meddle = ({ number }: Exchange) => {
          if (number === 1) Deferred.doneUnsafe(begun, Effect.void)
          return number < 2
        }
        const { sample, server } = yield* scene({ kind, meddle }, { concurrency: 2 })
        const fiber = yield* Effect.forkChild(sample({ count: 2 }))
        yield* Deferred.await(begun)
        yield* Fiber.interrupt(fiber)
        yield* until(() => server.log.every(({ left }) => left))
        assert.lengthOf(yield* sample({ count: 2 }), 2)
      })
    )
  })
}

describe("what only some servers do", () => {
  it.live("vLLM: another prompt than was sent is no sample of it", () =>
    Effect.gen(function* () {
      const { refused } = yield* scene({ kind: "vllm", spoil: (s) => ({ ...s, prompt: s.prompt.slice(1) }) })
      assert.strictEqual((yield* refused({ count: 1 })).reason._tag, "Format")
    })
  )

  it.live("vLLM: what another adapter drew is no sample of the one that was asked for", () =>
    Effect.gen(function* () {
      const { refused, sample, sampler } = yield* scene({ kind: "vllm", spoil: (s) => ({ ...s, model: "toy" }) })
      yield* sample({ count: 1 })
      yield* updateOf(sampler)({ version: 1, directory: "/a", kind: "adapter" })
      assert.strictEqual((yield* refused({ count: 1 })).reason._tag, "Format")
    })
  )

  it.live("vLLM, SGLang: a stop string ends a sample, the tokens that complete it stay part of it", () =>
    Effect.gen(function* () {
      for (const kind of ["vllm", "sglang"] as const) {
        const { sample } = yield* scene({ kind })
        // Token 2 is said as "c".
        const completions = yield* sample({ count: 8, stop: ["c"] })
        assert.isTrue(completions.some(({ tokens }) => tokens.at(-1) === 2))
        for (const completion of completions) {
          isTrue(completion)
          assert.isFalse(completion.tokens.subarray(0, -1).includes(2))
          if (completion.tokens.at(-1) === 2) assert.strictEqual(completion.stopReason, "stop")
        }
      }
    })
  )

  it.live("SGLang: a token that it put in place of a broken one is no sample, though it is a stop token", () =>
    Effect.gen(function* () {
      const spoil = (s: Sampled): Sampled => ({
        ...s,
        tokens: [EOS],
        logprobs: [-1],
        finish: "stop",
        matched: "NaN happened"
      })
      const { refused } = yield* scene({ kind: "sglang", spoil })
      const error = yield* refused({ count: 1 })
      assert.strictEqual(error.reason._tag, "Format")
      assert.include(error.message, "NaN happened")
    })
  )

  it.live("SGLang, llama.cpp: the model's own end of text must be among the stop tokens", () =>
    Effect.gen(function* () {
      for (const kind of ["sglang", "llamacpp"] as const) {
        const { refused } = yield* scene({ kind })
        const error = yield* refused({ count: 16, stopTokens: [] })
        assert.strictEqual(error.reason._tag, "Format")
        assert.include(error.message, String(EOS))
      }
      const { sample } = yield* scene({ kind: "vllm" })
      assert.isTrue((yield* sample({ count: 16, stopTokens: [] })).some(({ tokens }) => tokens.includes(EOS)))
    })
  )

  it.live("llama.cpp goes on after a stop token that is not its own: the rest is cut off", () =>
    Effect.gen(function* () {
      const { sample } = yield* scene({ kind: "llamacpp" })
      for (const completion of yield* sample({ count: 16, stopTokens: [2, EOS] })) {
        isTrue(completion)
        const end = completion.tokens.findIndex((token) => token === 2 || token === EOS)
        assert.strictEqual(completion.stopReason, end < 0 ? "length" : "stop")
        if (end >= 0) assert.lengthOf(completion.tokens, end + 1)
      }
      const elsewhere = yield* scene({
        kind: "vllm",
        spoil: (s) => ({ ...s, tokens: [EOS, 1], logprobs: [-1, -1], finish: "length" })
      })
      assert.strictEqual((yield* elsewhere.refused({ count: 1 })).reason._tag, "Format")
    })
  )

  it.live("llama.cpp: stop strings and adapters are refused", () =>
    Effect.gen(function* () {
      const { refused, sampler, server } = yield* scene({ kind: "llamacpp" })
      assert.strictEqual((yield* refused({ stop: ["\n"] })).reason._tag, "Unsupported")
      assert.strictEqual((yield* refused({ adapter: "tools" })).reason._tag, "Unsupported")
      assert.strictEqual(sampler.weights._tag, "Fixed")
      assert.lengthOf(server.log, 0)
    })
  )
})

describe("requests", () => {
  it.live("leave nothing to a server's defaults", () =>
    Effect.gen(function* () {
      for (const kind of kinds) {
        const { sample, server } = yield* scene({ kind }, { apiKey: "secret", model: "toy" })
        yield* sample({ count: 1 })
        const [{ authorization, body }] = server.log as [(typeof server.log)[number]]
        assert.strictEqual(authorization, "Bearer secret")
        const said = JSON.stringify(body)
        for (const name of ["temperature", "top_k", "top_p", "min_p", "presence_penalty", "frequency_penalty"]) {
          assert.include(said, `"${name}"`, `${kind} ${name}`)
        }
        assert.include(said, "[1,2,3]")
      }
    })
  )

  it.live("are not sent where a redirect points", () =>
    Effect.gen(function* () {
      const elsewhere = yield* scene({ kind: "vllm" })
      const meddle = ({ path, response }: Exchange) => {
        response.writeHead(307, { location: `${elsewhere.server.url}${path}` }).end()
        return true
      }
      const { refused } = yield* scene({ kind: "vllm", meddle }, { apiKey: "secret" })
      assert.strictEqual((yield* refused({ count: 1 })).reason._tag, "Unavailable")
      assert.lengthOf(elsewhere.server.log, 0)
    })
  )

  it.live("need an address and whole numbers", () =>
    Effect.gen(function* () {
      const { refused } = yield* scene({ kind: "vllm" }, { url: "localhost 8000" })
      assert.strictEqual((yield* refused()).reason._tag, "Config")
      const layer = SamplerServer.layer({ kind: "vllm", url: "http://localhost:1", concurrency: 0 })
      const error = yield* Effect.flip(Layer.build(layer))
      assert.include(error.message, "concurrency is 0")
      const empty = yield* scene({ kind: "vllm" })
      assert.strictEqual((yield* empty.refused({ prompt: new Uint32Array() })).reason._tag, "Shape")
    })
  )

  it.live("may find out at the start what the log-probabilities are", () =>
    Effect.gen(function* () {
      const { sample, server } = yield* scene({ kind: "vllm", processed: true }, { probe: true })
      assert.lengthOf(server.log, 2)
      yield* sample({ temperature: 0.5, count: 1 })
      assert.lengthOf(server.log, 3)
    })
  )
})

describe("weights", () => {
  const update = (version: number, directory: string, kind: "adapter" | "model" = "adapter") => ({
    version,
    directory,
    kind
  })

  for (const kind of ["vllm", "sglang"] as const) {
    it.live(`${kind} loads an adapter by its path and drops the former one`, () =>
      Effect.gen(function* () {
        const { sample, sampler, server } = yield* scene({ kind })
        for (const [version, directory] of [
          [3, "/a"],
          [4, "/second"]
        ] as const) {
          yield* updateOf(sampler)(update(version, directory))
          assert.deepStrictEqual([...server.adapters.values()], [directory])
          const [completion] = yield* sample({ count: 1 })
          isTrue(completion!, 1, directory)
          assert.strictEqual(versionOf(completion!), version)
          isTrue((yield* sample({ count: 1, adapter: "base" }))[0]!)
        }
      })
    )

    it.live(`${kind} keeps the former one where it refuses, and a lost answer is no failure`, () =>
      Effect.gen(function* () {
        let trouble: ((exchange: Exchange) => void) | undefined
        const { sample, sampler, server } = yield* scene({
          kind,
          meddle: (exchange) => {
            if (trouble === undefined || !exchange.path.endsWith("/load_lora_adapter")) return false
            trouble(exchange)
            return true
          }
        })
        yield* updateOf(sampler)(update(1, "/a"))
        trouble = ({ response }) =>
          kind === "vllm"
            ? response.writeHead(400).end('{"message":"rank 64 is greater than max_lora_rank 16"}')
            : response
                .writeHead(200)
                .end('{"success":false,"error_message":"rank 64 is greater than max_lora_rank 16"}')
        const error = yield* Effect.flip(updateOf(sampler)(update(2, "/second")))
        assert.strictEqual(error.operation, "update")
        assert.strictEqual(error.reason._tag, "Rejected")
        assert.include(error.message, "max_lora_rank 16")
        const [completion] = yield* sample({ count: 1 })
        isTrue(completion!, 1, "/a")
        assert.strictEqual(versionOf(completion!), 1)

        // It loads, but the connection breaks: the next attempt finds the name taken.
        trouble = ({ body, response }) => {
          server.adapters.set(String(body["lora_name"]), String(body["lora_path"]))
          trouble = undefined
          response.destroy()
        }
        yield* updateOf(sampler)(update(3, "/third"))
        isTrue((yield* sample({ count: 1 }))[0]!, 1, "/third")
        assert.deepStrictEqual([...server.adapters.values()], ["/third"])
      })
    )

    it.live(`${kind} is asked to drop them at the end`, () =>
      Effect.gen(function* () {
        const { server } = yield* Effect.gen(function* () {
          const inner = yield* scene({ kind, meddle: ({ path }) => path.endsWith("none") })
          yield* updateOf(inner.sampler)(update(1, "/a"))
          assert.strictEqual(inner.server.adapters.size, 1)
          return inner
        }).pipe(Effect.scoped)
        assert.strictEqual(server.adapters.size, 0)
      })
    )
  }

  it.live("SGLang loads whole models by their path; vLLM says that it does not", () =>
    Effect.gen(function* () {
      const { sample, sampler } = yield* scene({ kind: "sglang" })
      yield* updateOf(sampler)(update(7, "/weights", "model"))
      const [completion] = yield* sample({ count: 1 })
      isTrue(completion!, 1, "/weights")
      assert.strictEqual(versionOf(completion!), 7)
      const other = yield* scene({ kind: "vllm" })
      const error = yield* Effect.flip(updateOf(other.sampler)(update(1, "/weights", "model")))
      assert.strictEqual(error.reason._tag, "Unsupported")
      assert.include(error.message, "lora")
    })
  )

  it.live("change between samples: those in flight end first, those that come meanwhile wait", () =>
    Effect.gen(function* () {
      const begun = yield* Deferred.make<void>()
      const go = Promise.withResolvers<void>()
      const { sample, sampler, server } = yield* scene({
        kind: "sglang",
        meddle: async ({ number, path }) => {
          if (path === "/generate" && number === 0) {
            Deferred.doneUnsafe(begun, Effect.void)
            await go.promise
          }
          return false
        }
      })
      const early = yield* Effect.forkChild(sample({ count: 1 }))
      yield* Deferred.await(begun)
      const pushed = yield* Effect.forkChild(updateOf(sampler)(update(1, "/weights", "model")))
      yield* Effect.sleep(20)
      const late = yield* Effect.forkChild(sample({ count: 1 }))
      yield* Effect.sleep(20)
      assert.lengthOf(server.log, 1)
      go.resolve()
      const [first] = yield* Fiber.join(early)
      yield* Fiber.join(pushed)
      const [second] = yield* Fiber.join(late)
      isTrue(first!)
      assert.strictEqual(versionOf(first!), 0)
      isTrue(second!, 1, "/weights")
      assert.strictEqual(versionOf(second!), 1)
    })
  )

  it.live("of a whole model whose answer was lost are unknown: nothing is sampled until the next update", () =>
    Effect.gen(function* () {
      let trouble = 2
      const { refused, sample, sampler } = yield* scene(
        {
          kind: "sglang",
          meddle: ({ path, response }) => {
            if (path !== "/update_weights_from_disk") return false
            if (trouble === 2) response.destroy()
            else if (trouble === 1) response.writeHead(400).end('{"success":false,"message":"no such folder"}')
            return trouble-- > 0
          }
        },
        { retries: 0 }
      )
      const push = updateOf(sampler)(update(7, "/weights", "model"))
      assert.strictEqual((yield* Effect.flip(push)).reason._tag, "Unavailable")
      assert.strictEqual((yield* refused()).reason._tag, "State")
      assert.strictEqual((yield* Effect.flip(push)).reason._tag, "Rejected")
      const error = yield* refused({ adapter: "base" })
      assert.strictEqual(error.reason._tag, "State")
      assert.include(error.message, "version 7")
      yield* push
      const [completion] = yield* sample({ count: 1 })
      isTrue(completion!, 1, "/weights")
      assert.strictEqual(versionOf(completion!), 7)
    })
  )

  it.live("an interrupted update leaves the former ones", () =>
    Effect.gen(function* () {
      const begun = yield* Deferred.make<void>()
      const { sample, sampler, server } = yield* scene({
        kind: "vllm",
        meddle: ({ body, number, path }) => {
          if (!path.endsWith("/load_lora_adapter") || number > 0) return false
          server.adapters.set(String(body["lora_name"]), String(body["lora_path"]))
          Deferred.doneUnsafe(begun, Effect.void)
          return true
        }
      })
      const fiber = yield* Effect.forkChild(updateOf(sampler)(update(1, "/a")))
      yield* Deferred.await(begun)
      yield* Fiber.interrupt(fiber)
      yield* until(() => server.log[0]!.left)
      const [completion] = yield* sample({ count: 1 })
      isTrue(completion!)
      assert.strictEqual(versionOf(completion!), 0)
      yield* updateOf(sampler)(update(1, "/second"))
      assert.deepStrictEqual([...server.adapters.values()], ["/second"], "what the first left behind is dropped")
    })
  )
})

describe("a pipeline of one's own", () => {
  it.live("rolls out on a server and updates the policy, whose tables both share", () =>
    Effect.gen(function* () {
      const table = tabular(VOCABULARY)
      table.weights.set(table.weights.map((_, i) => Math.sin(7 * i)))
      const row = (token: number) => table.weights.subarray(token * VOCABULARY, (token + 1) * VOCABULARY)
      const { sampler } = yield* scene({ kind: "vllm", logits: (context) => Array.from(row(context.at(-1)!)) })
      const tasks = Task.fromArray([1, 2].map((n) => ({ id: `t${n}`, prompt: Uint32Array.of(n), data: n })))
      const loss = Loss.withImportanceCorrection(Loss.clipped())
      const batches = Task.stream(tasks, { seed: 1 }).pipe(
        Rollout.groups({
          environment: Environment.singleTurn({ maxTokens: 4 }),
          tokenizer: { ...Tokenizer.bytes(), endOfText: EOS },
          size: 16,
          seed: 1
        }),
        // Token 5 is what it is to say.
        Reward.score(({ trajectory }) => Trajectory.policyIds(trajectory).filter((token) => token === 5).length / 4),
        Batch.collect({ groups: 2, advantage: Advantage.groupRelative() }),
        Update.stage({ loss, learningRate: 20 }),
        Stream.take(25)
      )
      const updates = yield* Stream.runCollect(batches).pipe(
        Effect.provide(Layer.succeed(Sampler.Sampler, sampler)),
        Effect.provide(Layer.succeed(Policy.Policy, table.policy))
      )
      const rewards = updates.map(({ batch }) => Batch.metrics(batch)["reward"]!)
      assert.isAbove(rewards.at(-1)!, rewards[0]! + 0.3)
      // Later batches are drawn while the one before them is in its update.
      const [{ report }] = updates as [Update.Updated]
      assert.isBelow(report.metrics["sampling/sampling_logp_difference/max"]!, 1e-5)
      assert.strictEqual(report.metrics["sampling/correction_share"], 0)
    })
  )
})
