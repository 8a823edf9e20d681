export default {
  product: 'Lianxin',
  failed: 'That did not work',
  close: 'Close',
  cancel: 'Cancel',
  confirm: 'Confirm',
  retry: 'Try again',
  loading: 'Loading…',
  signOut: 'Sign out',
  language: '中文',
  languageLabel: 'Switch to Chinese',
  offline: 'The link to the server is down; reconnecting…',
  recordings: 'Recordings',
  ops: 'Operations',
  console: "Chair's console",
  micLevel: 'Microphone level'
}
