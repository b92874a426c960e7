/** Prompts for the real model. Changing a word changes the figures, which are compared with earlier ones. */

/** Rendered with the chat template, each alone. */
export const CHAT: ReadonlyArray<string> = [
  "What is the capital of France?",
  "Explain in two sentences why the sky is blue.",
  "Write a short poem about a lighthouse.",
  "List three uses of copper.",
  "How many minutes are there in a day?",
  "Give me a recipe for pancakes.",
  "Translate to Spanish: The library opens at nine.",
  "Write a Python function that reverses a string.",
  "Who wrote Romeo and Juliet?",
  "What should I pack for a week in the mountains?"
]

/** Continued as they stand. */
export const PLAIN: ReadonlyArray<string> = [
  "The history of the printing press begins",
  "Once upon a time, in a village by the sea,",
  "def fibonacci(n):\n    ",
  "Water boils at 100 degrees Celsius because",
  "The three branches of government are",
  "1, 1, 2, 3, 5, 8, 13,",
  "Dear Sir or Madam,\n\nI am writing to",
  "In biology, photosynthesis is",
  "| Planet | Moons |\n|---|---|\n| Mars |",
  "Die Hauptstadt von Deutschland ist"
]

/** Written for this purpose, so that no model has seen it. */
export const TEXT = `The ferry to the outer islands leaves at six in the morning, long before the shops on the quay have opened. On
most days it carries mail, a few crates of vegetables, and the teacher who spends half of every week on each of the two larger
islands. The crossing takes a little under three hours when the sea is calm. When it is not, the captain turns back at the
lighthouse and tries again the next day, and nobody complains, because everyone on board knows somebody who once insisted.

The lighthouse itself has been empty for forty years. Its lamp is now a small electric one, driven by a panel on the roof and
switched by a clock, and the rooms below are used by students who come in summer to count the birds. They sleep in bunks, cook
on a single gas ring, and write the numbers down in a ledger that goes back to 1961. In the first year there were about four
thousand pairs of puffins on the northern cliff. In the worst year there were six hundred. Last summer the students counted two
thousand one hundred and thirty, which is the third increase in a row, and they have begun to argue about the reason.

Some of them say that the rats are gone, which is true: a single winter of careful work removed them, and no tracks have been
found in the sand since. Others point to the water, which has been colder by half a degree, so that the small fish on which the
birds feed their young stay near the surface. A third group, the smallest, thinks that the way of counting has changed. If an
observer who used to walk the cliff at noon now walks it at eight in the evening, when the birds return from the sea, then the
number goes up although nothing has happened to the birds. To settle the question they did what should have been done at the
start: for two weeks they counted at noon and in the evening, wrote both numbers down, and computed the ratio between them.

The ratio was 1.4. That is enough to explain the first increase, for which the hour was not recorded, but not the other two,
which were counted by the same person at the same time of day. The report that they wrote is eleven pages long and ends with a
request: whoever comes next should note the hour, the weather, and the name of the observer beside every number. The teacher,
who read it on the ferry, copied that sentence onto the board on Monday morning and asked the children what else one might wish
to know about a number. They filled the board in ten minutes. The best answer, she said later, came from a girl in the second
row, who wanted to know what the person had hoped the number would be.`
