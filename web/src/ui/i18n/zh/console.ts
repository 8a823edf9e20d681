export default { title: '主席控制台' }
