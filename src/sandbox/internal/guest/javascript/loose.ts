// oxlint-disable-next-line quintain/no-any-value -- printing and comparing read whatever a value has
export type Loose = any
