/** The tools of `Toolkit`, and questions for them. */

/** The type of a parameter: text, a whole number, or one of a few words. */
export type Parameter =
  | { readonly kind: "text"; readonly values: ReadonlyArray<string> }
  | { readonly kind: "integer"; readonly low: number; readonly high: number }
  | { readonly kind: "choice"; readonly values: ReadonlyArray<string> }

export interface ToolSpec {
  readonly name: string
  readonly description: string
  readonly parameters: Readonly<Record<string, Parameter>>
  /** Questions with `{parameter}` in place of values; the last one is asked in held-out questions only. */
  readonly questions: readonly [string, string, ...Array<string>]
}

const text = (values: string): Parameter => ({ kind: "text", values: values.split(", ") })
const integer = (low: number, high: number): Parameter => ({ kind: "integer", low, high })
const choice = (values: string): Parameter => ({ kind: "choice", values: values.split(", ") })

const city = text(
  "Paris, Oslo, Lima, Cairo, Tokyo, Madrid, Boston, Delhi, Rome, Dublin, Sydney, Seoul, Vienna, Quito, Berlin, Nairobi"
)
const person = text(
  "Anna, Boris, Carla, David, Elena, Farid, Grace, Hugo, Ines, Jonas, Karin, Liam, Mira, Noah, Olga, Pedro"
)
const product = text(
  "apples, paper, coffee, lamps, pencils, soap, rice, batteries, towels, tea, candles, mugs, honey, scarves, umbrellas, nails"
)
const room = text("kitchen, bedroom, hall, office, garage, bathroom, library, attic, cellar, nursery, studio, balcony")
const language = text("French, German, Spanish, Italian, Polish, Greek, Arabic, Korean, Swedish, Turkish, Dutch, Czech")
const word = text(
  "bread, river, window, cloud, garden, bridge, winter, mirror, forest, letter, silver, market, island, thunder, basket, copper"
)
const song = text(
  "Blue Moon, Yesterday, Summertime, Imagine, Bolero, Clair de Lune, Hallelujah, La Bamba, Greensleeves, Moon River, Fernando, Caravan"
)
const day = choice("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")

/** Tools that are trained on. */
export const TRAINED: readonly [ToolSpec, ...Array<ToolSpec>] = [
  {
    name: "get_weather",
    description: "Current weather in a city",
    parameters: { city, unit: choice("celsius, fahrenheit") },
    questions: [
      "What is the weather in {city} in {unit}?",
      "How warm is it in {city}? Use {unit}.",
      "Tell me today's weather for {city}, in {unit} please."
    ]
  },
  {
    name: "convert_money",
    description: "Converts an amount between currencies",
    parameters: {
      amount: integer(5, 900),
      source: choice("USD, EUR, GBP, JPY"),
      target: choice("CHF, INR, CAD, SEK")
    },
    questions: [
      "Convert {amount} {source} to {target}.",
      "How much is {amount} {source} in {target}?",
      "I have {amount} {source}. What do I get in {target}?"
    ]
  },
  {
    name: "set_timer",
    description: "Starts a timer",
    parameters: {
      minutes: integer(2, 90),
      label: text("pasta, eggs, tea, laundry, bread, nap, rice, workout, homework, pizza, meeting, cake")
    },
    questions: [
      "Set a timer for {minutes} minutes called {label}.",
      "Start a {minutes} minute timer for {label}.",
      "Remind me in {minutes} minutes about {label} with a timer."
    ]
  },
  {
    name: "send_message",
    description: "Sends a short message to a contact",
    parameters: {
      recipient: person,
      message: text(
        "I am late, see you soon, happy birthday, call me, dinner is ready, good luck, on my way, thank you, all done, meet me outside, please wait, good night"
      )
    },
    questions: [
      'Send "{message}" to {recipient}.',
      'Write {recipient} a message: "{message}".',
      'Let {recipient} know: "{message}".'
    ]
  },
  {
    name: "book_table",
    description: "Books a table at a restaurant",
    parameters: { guests: integer(2, 12), day },
    questions: [
      "Book a table for {guests} on {day}.",
      "I need a table for {guests} people on {day}.",
      "Reserve a restaurant table this {day}, we are {guests}."
    ]
  },
  {
    name: "add_to_cart",
    description: "Adds a product to the shopping cart",
    parameters: { product, quantity: integer(1, 40) },
    questions: [
      "Put {quantity} {product} in my cart.",
      "Add {quantity} {product} to the cart.",
      "I want to buy {quantity} {product}."
    ]
  },
  {
    name: "set_light",
    description: "Sets the brightness of a room's light",
    parameters: { room, percent: integer(5, 100) },
    questions: [
      "Set the light in the {room} to {percent} percent.",
      "Dim the {room} light to {percent}%.",
      "Make the {room} light {percent} percent bright."
    ]
  },
  {
    name: "translate_word",
    description: "Translates a word",
    parameters: { word, language },
    questions: [
      "How do you say {word} in {language}?",
      "Translate {word} to {language}.",
      "What is the {language} word for {word}?"
    ]
  },
  {
    name: "play_song",
    description: "Plays a song",
    parameters: { title: song, volume: integer(1, 10) },
    questions: [
      "Play {title} at volume {volume}.",
      "Put on {title}, volume {volume}.",
      "I want to hear {title} with the volume at {volume}."
    ]
  },
  {
    name: "add_numbers",
    description: "Adds two whole numbers",
    parameters: { first: integer(10, 999), second: integer(10, 999) },
    questions: [
      "What is {first} plus {second}?",
      "Add {first} and {second}.",
      "Give me the sum of {first} and {second}."
    ]
  },
  {
    name: "find_train",
    description: "Finds a train between two cities",
    parameters: { origin: city, destination: city },
    questions: [
      "Find a train from {origin} to {destination}.",
      "I need a train from {origin} to {destination}.",
      "How do I get from {origin} to {destination} by train?"
    ]
  },
  {
    name: "create_event",
    description: "Adds an event to the calendar",
    parameters: {
      title: text(
        "dentist, lunch, yoga, interview, concert, haircut, football, review, lesson, party, checkup, picnic"
      ),
      day,
      hour: integer(8, 21)
    },
    questions: [
      "Add {title} to my calendar on {day} at {hour}.",
      "Schedule {title} for {day} at {hour} o'clock.",
      "On {day} at {hour} I have {title}, put it in the calendar."
    ]
  },
  {
    name: "get_population",
    description: "Number of people who live in a city",
    parameters: { city },
    questions: ["How many people live in {city}?", "What is the population of {city}?", "Population of {city}?"]
  },
  {
    name: "set_temperature",
    description: "Sets the heating of a room in degrees",
    parameters: { room, degrees: integer(15, 27) },
    questions: [
      "Heat the {room} to {degrees} degrees.",
      "Set the {room} to {degrees} degrees.",
      "I want {degrees} degrees in the {room}."
    ]
  },
  {
    name: "call_contact",
    description: "Calls a contact by phone",
    parameters: { contact: person, speaker: choice("on, off") },
    questions: [
      "Call {contact} with the speaker {speaker}.",
      "Phone {contact}, speaker {speaker}.",
      "Ring {contact} and turn the speaker {speaker}."
    ]
  },
  {
    name: "count_letters",
    description: "Counts a letter in a word",
    parameters: { word, letter: choice("a, e, i, o, r, t") },
    questions: [
      "How many times does {letter} occur in {word}?",
      "Count the letter {letter} in {word}.",
      "In the word {word}, how often is there the letter {letter}?"
    ]
  }
]

/** Tools that no training task mentions. */
export const UNSEEN: readonly [ToolSpec, ...Array<ToolSpec>] = [
  {
    name: "rent_bike",
    description: "Rents bicycles in a city",
    parameters: { city, bikes: integer(1, 9) },
    questions: ["Rent {bikes} bikes in {city}.", "We need {bikes} bicycles in {city}."]
  },
  {
    name: "water_plants",
    description: "Waters the plants of a room",
    parameters: { room, liters: integer(1, 8) },
    questions: [
      "Give the plants in the {room} {liters} liters of water.",
      "Water the {room} plants with {liters} liters."
    ]
  },
  {
    name: "order_pizza",
    description: "Orders a pizza",
    parameters: {
      size: choice("small, medium, large"),
      topping: text("mushrooms, olives, ham, onions, peppers, spinach")
    },
    questions: ["Order a {size} pizza with {topping}.", "I would like a {size} pizza, topped with {topping}."]
  },
  {
    name: "multiply_numbers",
    description: "Multiplies two whole numbers",
    parameters: { left: integer(10, 99), right: integer(10, 99) },
    questions: ["Multiply {left} by {right}.", "What is {left} times {right}?"]
  },
  {
    name: "define_term",
    description: "Looks a word up in a dictionary",
    parameters: { term: word },
    questions: ["What does {term} mean?", "Look up {term} in the dictionary."]
  },
  {
    name: "lock_door",
    description: "Locks or unlocks the door of a room",
    parameters: { room, action: choice("lock, unlock") },
    questions: ["Please {action} the door of the {room}.", "I want you to {action} the {room} door."]
  },
  {
    name: "book_flight",
    description: "Books a flight on a day",
    parameters: { destination: city, day },
    questions: ["Book me a flight to {destination} on {day}.", "On {day} I fly to {destination}, book it."]
  },
  {
    name: "transfer_money",
    description: "Sends money to a contact",
    parameters: { contact: person, euros: integer(5, 500) },
    questions: ["Send {contact} {euros} euros.", "Transfer {euros} euros to {contact}."]
  }
]
