import { fileURLToPath } from "node:url";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

/** To-device messages to a focus go unencrypted for now: five megabytes of Olm stay out of the page. */
const withoutCrypto: Plugin = {
  name: "without-crypto",
  enforce: "pre",
  resolveId: (source) =>
    source === "@matrix-org/matrix-sdk-crypto-wasm" || source === "./rust-crypto/index.js"
      ? here("src/page/no-crypto.ts")
      : null,
};

export default defineConfig({
  base: "./", // the focus may serve the page below any path
  plugins: [withoutCrypto],
  build: {
    outDir: here("../mautrix_sfu/http/page"),
    emptyOutDir: true,
    target: "es2022",
    chunkSizeWarningLimit: 2000,
  },
  test: { include: ["test/**/*.test.ts"] },
});
