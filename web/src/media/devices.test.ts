import { describe, expect, it } from 'vitest'
import { faultOf } from './capture'
import { matchDevice, rawAudio, rememberDevice, rememberedDevice } from './devices'
import { meterValue } from './sound'

const PRESENT = [
  { id: 'a', label: 'Logitech BRIO' },
  { id: 'b', label: '' },
]

describe('devices', () => {
  it('finds the remembered one by id, then by label, else leaves it to the system', () => {
    expect(matchDevice({ id: 'a', label: 'x' }, PRESENT)).toBe('a')
    expect(matchDevice({ id: 'gone', label: 'Logitech BRIO' }, PRESENT)).toBe('a')
    expect(matchDevice({ id: 'gone', label: '' }, PRESENT)).toBeUndefined()
    expect(matchDevice(null, PRESENT)).toBeUndefined()
  })
  it('survives a broken memory', () => {
    localStorage.setItem('lianxin.device.camera', '{"id":1')
    expect(rememberedDevice('camera')).toBeNull()
    rememberDevice('camera', PRESENT[0]!)
    expect(rememberedDevice('camera')).toEqual(PRESENT[0])
    rememberDevice('camera', null)
    expect(rememberedDevice('camera')).toBeNull()
  })
  it('raw sound: the address wins', () => {
    expect(rawAudio(localStorage, '')).toBe(false)
    expect(rawAudio(localStorage, '?audio=raw')).toBe(true)
  })
  it('turns exceptions into faults with a code', () => {
    expect(faultOf('camera', new DOMException('', 'NotFoundError'))).toEqual({ reason: 'absent', code: 'CAM-01' })
    expect(faultOf('microphone', new DOMException('', 'NotReadableError'))).toEqual({ reason: 'busy', code: 'MIC-02' })
    expect(faultOf('camera', new DOMException('', 'NotAllowedError'))).toEqual({ reason: 'forbidden', code: 'CAM-03' })
    expect(faultOf('camera', 'odd')).toEqual({ reason: 'failed', code: 'CAM-09' })
  })
  it('meter: -60 dBFS is empty, 0 dBFS full', () => {
    expect(meterValue(0)).toBe(0)
    expect(meterValue(0.001)).toBe(0)
    expect(meterValue(1)).toBe(1)
    expect(meterValue(0.1)).toBeCloseTo(2 / 3)
  })
})
