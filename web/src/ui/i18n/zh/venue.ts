export default { title: '会场' }
