// A teacher in JavaScript: reads requests from standard input and writes replies to standard output, a line each.
// Standard error is free for whatever it wants to say. See leaderboard/PROTOCOL.md.
"use strict";

const lines = require("node:readline").createInterface({ input: process.stdin });

// All randomness comes from the item's seed, so that the same item gives the same examples anywhere.
function random(seed) {
  let state = BigInt(seed) & 0xffffffffffffffffn;
  return (low, high) => {
    state = (state * 6364136223846793005n + 1442695040888963407n) & 0xffffffffffffffffn;
    return low + Number((state >> 33n) % BigInt(high - low + 1));
  };
}

const answers = {
  hello: () => ({
    type: "hello",
    protocol: 1,
    version: "1",
    environments: ["open-ended", "skill-list", "skill-tree"],
    state_blind: true,
  }),

  plan: ({ state }) => ({
    type: "plan",
    plan: { items: [{ count: Math.max(1, state.examples_left), instruction: "sums of two-digit numbers" }] },
  }),

  generate: ({ item }) => {
    const draw = random(item.seed);
    const examples = [];
    for (let i = 0; i < item.count; i++) {
      const [a, b] = [draw(10, 99), draw(10, 99)];
      examples.push({
        prompt: `State the final answer to the following arithmetic problem: ${a} + ${b} =`,
        response: String(a + b),
      });
    }
    return { type: "examples", examples };
  },
};

lines.on("line", (line) => {
  // Seeds have up to 63 bits, which a JavaScript number does not hold: they are read as text.
  const request = JSON.parse(line.replace(/"seed":\s*(\d+)/g, '"seed":"$1"'));
  if (request.type === "bye") process.exit(0);
  let reply;
  try {
    reply = answers[request.type](request);
  } catch (error) {
    reply = { type: "error", message: String(error) };
  }
  process.stdout.write(JSON.stringify({ id: request.id, ...reply }) + "\n");
});
