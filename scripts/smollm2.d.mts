/** The path of the GGUF file, fetched if need be; undefined, with the reason printed, where it is not to be had. */
export const smollm2: () => Promise<string | undefined>
