export default { title: '录像' }
