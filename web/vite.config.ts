import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'
import type { Plugin } from 'vite'
import vue from '@vitejs/plugin-vue'

// `npm run dev` proxies to a running `lianxin serve --no-tls`; LIANXIN_BACKEND names another one.
const backend = process.env['LIANXIN_BACKEND'] ?? 'http://127.0.0.1:8443'

/** `--mode shots`: pictures are drawn instead of received, so that every state can be looked at without a server. */
function drawnPictures(): Plugin {
  const drawn = fileURLToPath(new URL('./tools/fake-session.ts', import.meta.url))
  return { name: 'drawn-pictures', enforce: 'pre', resolveId: (source) => (/\/MediaSession$/.test(source) ? drawn : null) }
}

export default defineConfig(({ mode }) => ({
  plugins: mode === 'shots' ? [drawnPictures(), vue()] : [vue()],
  build: {
    ...(mode === 'shots' ? { outDir: process.env['SHOTS_DIST'] ?? 'dist-shots' } : {}),
    emptyOutDir: true,
    target: 'chrome109', // the last Chromium on the Windows 7 machines that county offices still have
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 800
  },
  server: {
    proxy: {
      '/api': backend,
      '/ws': { target: backend, ws: true },
      '/rtc': { target: backend, ws: true }
    }
  },
  test: { environment: 'happy-dom', include: ['src/**/*.test.ts'] }
}))
