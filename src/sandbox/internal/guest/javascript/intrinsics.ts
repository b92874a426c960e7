/**
 * Intrinsics for the code in a realm, taken before a candidate is loaded. The candidate shares the realm and may replace
 * every global and every method of a prototype, so the files that run beside it call nothing else
 * (`quintain/guest-intrinsics` in scripts/lint.mjs).
 */

/** A literal without a prototype: what a candidate adds to `Object.prototype` is not found on it. */
export type Bare<A> = A & { readonly __proto__: null }

export const { apply, getOwnPropertyDescriptor, getPrototypeOf, ownKeys } = Reflect
export const defineProperty: (object: object, key: PropertyKey, attributes: Bare<PropertyDescriptor>) => boolean =
  Reflect.defineProperty
export const { isArray } = Array
export const { isFinite } = Number
export const { stringify, parse } = JSON
export const ObjectPrototype = Object.prototype
export const ArrayPrototype = Array.prototype
export const PromisePrototype = Promise.prototype
export const DatePrototype = Date.prototype
export const MapPrototype = Map.prototype
export const SetPrototype = Set.prototype
export const dateTime = DatePrototype.getTime
export const mapEach = MapPrototype.forEach
export const setEach = SetPrototype.forEach
export const mapSet = MapPrototype.set
export const setAdd = SetPrototype.add
export const slice = String.prototype.slice
export const then = PromisePrototype.then
export const StringOf = String
export const BigIntOf = BigInt
export const NumberOf = Number
export const PromiseOf = Promise
export const DateOf = Date
export const MapOf = Map
export const SetOf = Set
export const now = Date.now
// oxlint-disable-next-line eslint/no-eval -- called by another name: what it evaluates sees the global scope alone
export const evaluate = eval as (source: string) => unknown
export const global = globalThis as unknown as Record<string, unknown>

/** As an assignment would define it, with whatever setter is inherited. */
export const define = (object: object, key: PropertyKey, value: unknown): boolean =>
  defineProperty(object, key, { __proto__: null, value, writable: true, enumerable: true, configurable: true })

export const hidden = (object: object, key: PropertyKey, value: unknown): boolean =>
  defineProperty(object, key, { __proto__: null, value, writable: true, enumerable: false, configurable: true })
