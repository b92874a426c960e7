/** Whether `value` is an object whose own or inherited `key` equals `tag`: for Node's error codes and the like. */
export const hasTag = (value: unknown, key: string, tag: unknown): boolean =>
  typeof value === "object" && value !== null && (value as Record<string, unknown>)[key] === tag
