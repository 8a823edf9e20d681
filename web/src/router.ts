import { createRouter, createWebHistory, type RouteRecordRaw } from 'vue-router'
import type { Role, User } from './protocol/types'
import { homeOf, session } from './stores/session'
import { t, type TextKey } from './ui/i18n'

declare module 'vue-router' {
  interface RouteMeta {
    theme: 'dark' | 'light'
    title: TextKey
    roles?: Role[]
  }
}

const routes: RouteRecordRaw[] = [
  { path: '/', component: () => import('./signin/SignInPage.vue'), meta: { theme: 'light', title: 'common.product' } },
  { path: '/signin', component: () => import('./signin/SignInPage.vue'), meta: { theme: 'light', title: 'signin.title' } },
  {
    path: '/console/:meeting?',
    component: () => import('./console/ConsolePage.vue'),
    meta: { theme: 'dark', title: 'console.title', roles: ['host', 'it'] }
  },
  {
    path: '/venue',
    component: () => import('./meet/VenuePage.vue'),
    meta: { theme: 'dark', title: 'venue.title', roles: ['venue'] }
  },
  {
    path: '/recordings',
    component: () => import('./recordings/RecordingsPage.vue'),
    meta: { theme: 'light', title: 'recordings.title', roles: ['host', 'it'] }
  },
  {
    path: '/ops',
    component: () => import('./ops/OpsPage.vue'),
    meta: { theme: 'dark', title: 'ops.title', roles: ['host', 'it'] }
  },
  { path: '/:anything(.*)*', redirect: '/' }
]

export const router = createRouter({ history: createWebHistory(), routes })

/** Everybody has a page of their own; who asks for a page that is not for them is taken there, not refused. */
export function admit(to: { path: string; fullPath: string; meta: { roles?: Role[] } }, user: User | null) {
  if (to.path === '/signin') return user ? homeOf(user) : true
  if (!user) return { path: '/signin', query: to.path === '/' ? {} : { next: to.fullPath } }
  if (to.path === '/' || (to.meta.roles && !to.meta.roles.includes(user.role))) return homeOf(user)
  return true
}

router.beforeEach(async (to) => admit(to, await session.load()))

router.afterEach((to) => {
  document.documentElement.classList.remove('dark', 'light')
  document.documentElement.classList.add(to.meta.theme)
  document.title = `${t(to.meta.title)} · ${t('common.product')}`
})
