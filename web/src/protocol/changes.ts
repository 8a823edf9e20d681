import type { Change } from './types'

/** A change that does not fit what we hold: we missed something, ask for a snapshot. */
export class PathMismatch extends Error {}

const FORBIDDEN = new Set(['__proto__', 'constructor', 'prototype'])
const MAX_DEPTH = 12

type Node = Record<string | number, unknown>

/**
 * Applies numbered changes in place, in order.
 * @throws PathMismatch if a parent on the way is missing or is no object.
 */
export function applyChanges(root: object, changes: readonly Change[]): void {
  for (const change of changes) applyChange(root, change)
}

function applyChange(root: object, { path, value, gone }: Change): void {
  if (!path.length || path.length > MAX_DEPTH) throw new PathMismatch('empty or too deep')
  let node = root as Node
  for (let i = 0; i < path.length; i++) {
    const key = path[i]!
    if (FORBIDDEN.has(String(key))) throw new PathMismatch(String(key))
    if (i === path.length - 1) {
      if (!gone) node[key] = value
      else if (Array.isArray(node)) node.splice(Number(key), 1)
      else delete node[key]
      return
    }
    const next = Object.hasOwn(node, key) ? node[key] : undefined
    if (next === null || typeof next !== 'object') throw new PathMismatch(path.slice(0, i + 1).join('.'))
    node = next as Node
  }
}
