/** A refusal that can be shown to the person: the server's sentence in both languages. */
export class ServerError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    readonly zh: string,
    readonly en: string
  ) {
    super(en || zh || code)
    this.name = 'ServerError'
  }
}

/** No answer came: the server is unreachable or slow. */
export class Unreachable extends ServerError {
  constructor() {
    super(0, 'unreachable', '连不上服务器，请检查网络', 'The server cannot be reached')
    this.name = 'Unreachable'
  }
}
