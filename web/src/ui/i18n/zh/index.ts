import common from './common'
import signin from './signin'
import console from './console'
import venue from './venue'
import recordings from './recordings'
import ops from './ops'

export default { common, signin, console, venue, recordings, ops }
