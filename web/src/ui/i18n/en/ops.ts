export default { title: 'Operations' }
