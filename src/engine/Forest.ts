/** The token trees that a policy computes in one call. */

/**
 * A batch as a forest of token segments: `parent` is the index of an earlier segment or -1. A group's prompt is one
 * segment however many completions hang from it. No padding anywhere. Shapes: T tokens, S segments, N targets.
 */
export interface Forest {
  /** [T] */
  readonly tokens: Uint32Array
  /** [S] index of a segment's first token. */
  readonly segmentStart: Uint32Array
  /** [S] */
  readonly segmentLength: Uint32Array
  /** [S] index of the parent segment, or -1. */
  readonly segmentParent: Int32Array
  /** [N] index of the token whose hidden state predicts the target; a position may carry several targets. */
  readonly targetPosition: Uint32Array
  /** [N] token id whose log-probability is wanted. */
  readonly targetToken: Uint32Array
}
