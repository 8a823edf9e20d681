import { createApp } from 'vue'
import './ui/tokens.css'
import './ui/base.css'
import App from './App.vue'
import { router } from './router'

/**
 * A part of the page could not be loaded: the server was updated under an open page, or is just restarting. A television
 * that nobody attends must get over it, so the page is loaded anew, not faster than every three seconds.
 */
const RELOAD_MS = 3_000
let reloading = false
function loadAnew(event?: Event): void {
  event?.preventDefault()
  if (reloading) return
  reloading = true
  setTimeout(() => location.reload(), RELOAD_MS)
}
addEventListener('vite:preloadError', loadAnew)
router.onError((error) => {
  if (/dynamically imported module|module script|preload/i.test(String(error))) loadAnew()
})

createApp(App).use(router).mount('#app')
