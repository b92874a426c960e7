/** An update of what the native engine sampled takes its activations, however many turns and branches an episode has. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import {
  Advantage,
  type Batch,
  Environment,
  Loss,
  PolicyNative,
  Reward,
  Rollout,
  Task,
  Tokenizer,
  Update
} from "quintain"

const tokenizer = Tokenizer.bytes()
const model = {
  vocab_size: tokenizer.vocabularySize,
  hidden_size: 32,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  intermediate_size: 48
}

const turns = (answer: (turn: number) => Environment.Step): Environment.Environment =>
  Environment.multiTurn({
    name: "turns",
    maxTokens: 5,
    maxTurns: 3,
    start: () => 0,
    step: (turn: number) => ({ ...answer(turn), state: turn + 1 })
  })

const environments: ReadonlyArray<readonly [string, Environment.Environment, number]> = [
  ["single-turn", Environment.singleTurn({ maxTokens: 5 }), 1],
  ["multi-turn", turns((turn) => ({ done: false, observation: ` ${turn} ` })), 1],
  ["compacted", turns((turn) => ({ done: false, context: `so far ${turn}: ` })), 3]
]

describe("the share of forwards without computing", () => {
  it.effect.each(environments)("is 1 for %s episodes", ([, environment, branches]) =>
    Effect.gen(function* () {
      const tasks = Task.fromArray([
        { id: "a", prompt: "say a", data: undefined },
        { id: "b", prompt: "say b", data: undefined }
      ])
      const groups = yield* Task.stream(tasks, { seed: 1 }).pipe(
        Stream.take(2),
        Rollout.groups({ environment, tokenizer, seed: 1, size: 3, forTraining: true }),
        Reward.score(({ trajectory }) => trajectory.index),
        Stream.runCollect
      )
      const trajectories = groups.flatMap((group) => group.trajectories.map(({ trajectory }) => trajectory))
      assert.strictEqual(trajectories.length, 6)
      for (const trajectory of trajectories) assert.strictEqual(trajectory.branches.length, branches)
      const batch: Batch.Batch = {
        groups: Advantage.groupRelative()(groups),
        unused: [],
        drawn: 2,
        dropped: { allGood: 0, allBad: 0, unscorable: 0, unscorableTrajectories: 0, failedTrajectories: 0 },
        constant: 0
      }
      const report = yield* Update.make({ loss: Loss.clipped(), learningRate: 1e-3 }).batch(batch, 0)
      assert.strictEqual(report.recordedShare, 1)
      assert.isBelow(report.metrics["sampling/sampling_logp_difference/max"]!, 1e-4)
      // The weights are others now: nothing of the sampling is left.
      const again = yield* Update.make({ loss: Loss.clipped(), learningRate: 1e-3 }).batch(batch, 1)
      assert.strictEqual(again.recordedShare, 0)
    }).pipe(Effect.provide(PolicyNative.layer({ seed: 4, model, tokenizer })))
  )
})
