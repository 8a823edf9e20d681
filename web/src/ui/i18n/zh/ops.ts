export default { title: '运维' }
