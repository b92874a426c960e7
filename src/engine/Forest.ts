/** Token trees that a policy computes in one call. */

/**
 * A batch as trees of token segments, without padding.
 *
 * `parent` is the index of an earlier segment, or -1. A group's prompt is one segment, and each completion is a child
 * of it. Shapes: T tokens, S segments, N targets.
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
  /** [N] index of the token whose hidden state predicts the target. A position may carry several targets. */
  readonly targetPosition: Uint32Array
  /** [N] token id whose log-probability is computed. */
  readonly targetToken: Uint32Array
}
