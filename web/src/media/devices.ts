/** Which camera, microphone and speaker this computer uses, and how that is remembered. */

export type DeviceKind = 'camera' | 'microphone' | 'speaker'

export interface DeviceChoice {
  id: string
  label: string
}

const KEY = 'lianxin.device.'
const BROWSER_KIND: Record<DeviceKind, MediaDeviceKind> = {
  camera: 'videoinput',
  microphone: 'audioinput',
  speaker: 'audiooutput',
}

export function rememberedDevice(kind: DeviceKind, storage: Storage = localStorage): DeviceChoice | null {
  try {
    const value: unknown = JSON.parse(storage.getItem(KEY + kind) ?? 'null')
    if (value && typeof value === 'object' && 'id' in value && 'label' in value) {
      const { id, label } = value as Record<string, unknown>
      if (typeof id === 'string' && typeof label === 'string') return { id, label }
    }
  } catch {
    /* unreadable memory is no memory */
  }
  return null
}

export function rememberDevice(kind: DeviceKind, choice: DeviceChoice | null, storage: Storage = localStorage): void {
  try {
    if (choice) storage.setItem(KEY + kind, JSON.stringify(choice))
    else storage.removeItem(KEY + kind)
  } catch {
    /* private mode: the choice holds until the page closes */
  }
}

/**
 * The id to open: the remembered id, else a device of the same label (ids change with the browser
 * profile and sometimes with the USB port), else undefined for the system's default.
 */
export function matchDevice(wanted: DeviceChoice | null, present: readonly DeviceChoice[]): string | undefined {
  if (!wanted) return undefined
  const same = present.find((d) => d.id === wanted.id) ?? present.find((d) => d.label !== '' && d.label === wanted.label)
  return same?.id
}

export async function listDevices(kind: DeviceKind): Promise<DeviceChoice[]> {
  if (!navigator.mediaDevices?.enumerateDevices) return []
  const all = await navigator.mediaDevices.enumerateDevices()
  return all
    .filter((d) => d.kind === BROWSER_KIND[kind] && d.deviceId !== '')
    .map((d) => ({ id: d.deviceId, label: d.label }))
}

export async function chosenDevice(kind: DeviceKind): Promise<string | undefined> {
  return matchDevice(rememberedDevice(kind), await listDevices(kind))
}

const RAW_KEY = 'lianxin.audio.raw'

/**
 * Raw sound: the room has a mixing desk with its own echo canceller, so the browser must not touch
 * the signal. `?audio=raw` or `?audio=voice` in the address wins over what is remembered.
 */
export function rawAudio(storage: Storage = localStorage, search: string = location.search): boolean {
  const asked = new URLSearchParams(search).get('audio')
  if (asked === 'raw') return true
  if (asked === 'voice') return false
  try {
    return storage.getItem(RAW_KEY) === '1'
  } catch {
    return false
  }
}

export function rememberRawAudio(raw: boolean, storage: Storage = localStorage): void {
  try {
    storage.setItem(RAW_KEY, raw ? '1' : '0')
  } catch {
    /* as above */
  }
}
