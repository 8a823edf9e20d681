export default {
  product: '连心视频会议',
  failed: '操作没有成功',
  close: '关闭',
  cancel: '取消',
  confirm: '确定',
  retry: '重试',
  loading: '正在载入…',
  signOut: '退出登录',
  language: 'English',
  languageLabel: '切换到英文',
  offline: '与服务器的连接已断开，正在重新连接…',
  recordings: '录像',
  ops: '运维',
  console: '主席控制台',
  micLevel: '话筒电平'
}
