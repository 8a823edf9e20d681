import { computed, ref } from 'vue'
import type { ServerError } from '../../protocol/errors'
import zh from './zh'
import en from './en'

export type Locale = 'zh' | 'en'
type Areas = typeof zh
export type TextKey = { [A in keyof Areas & string]: `${A}.${keyof Areas[A] & string}` }[keyof Areas & string]

const STORED = 'lianxin.locale'
const TEXT: Record<Locale, Record<string, Record<string, string>>> = { zh, en }

function stored(): Locale {
  try {
    return localStorage.getItem(STORED) === 'en' ? 'en' : 'zh'
  } catch {
    return 'zh'
  }
}

const current = ref<Locale>(stored())
if (typeof document !== 'undefined') document.documentElement.lang = current.value === 'zh' ? 'zh-CN' : 'en'
export const locale = computed(() => current.value)

export function setLocale(to: Locale): void {
  current.value = to
  try {
    localStorage.setItem(STORED, to)
  } catch {
    // private window: the choice lasts as long as the page
  }
  document.documentElement.lang = to === 'zh' ? 'zh-CN' : 'en'
}

/** The text of a key in the chosen language; {name} is replaced from `values`. */
export function t(key: TextKey, values: Record<string, string | number> = {}): string {
  const [area = '', name = ''] = key.split('.')
  const text = TEXT[current.value][area]?.[name] ?? key
  return text.replace(/\{(\w+)\}/g, (whole, slot: string) => String(values[slot] ?? whole))
}

/** A server's refusal in the chosen language. */
export function say(error: unknown): string {
  const { zh: inChinese, en: inEnglish } = (error ?? {}) as Partial<ServerError>
  if (inChinese) return current.value === 'zh' ? inChinese : inEnglish || inChinese
  return t('common.failed')
}
