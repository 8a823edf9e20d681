import { defineConfig } from 'vitest/config'
import vue from '@vitejs/plugin-vue'

// `npm run dev` proxies to a running `lianxin serve --no-tls`; LIANXIN_BACKEND names another one.
const backend = process.env['LIANXIN_BACKEND'] ?? 'http://127.0.0.1:8443'

export default defineConfig({
  plugins: [vue()],
  build: {
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
})
